"""Keys that are prefixes of columns: the prefix is the record key, by the binlog and by shards, in the sink and in check."""

from __future__ import annotations

import base64
from pathlib import Path

from tests import oracle
from tests.helpers import ServiceAddresses, execute
from tests.processes import pipeline
from tests.topics import read_topics


def code(text: bytes) -> str:
    return base64.b64encode(text).decode()


def test_a_change_behind_the_prefix_is_one_update_of_one_key(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(
            source,
            "CREATE TABLE named (name VARCHAR(40) CHARACTER SET utf8mb4, code VARBINARY(9), n INT,"
            " PRIMARY KEY (name(5), code(2)))",
        )
        execute(source, "INSERT INTO named VALUES ('žížala 1', 'abcd', 1), ('100%_x', 'q%_', 2), ('žíž', 'a', 3)")
        shop.start("reader")
        shop.wait_followed("named")
        shop.start("worker")
        shop.wait()
        execute(source, "INSERT INTO named VALUES ('žížala 2', 'xyz', 4), ('behind', 'abc', 5)")
        execute(
            source, "UPDATE named SET name = CONCAT(name, ' longer'), code = CONCAT(code, '-') WHERE n IN (1, 2, 4)"
        )
        execute(source, "UPDATE named SET name = 'other' WHERE n = 3")
        execute(source, "DELETE FROM named WHERE n = 5")
        shop.wait()
        events = read_topics(services.bootstrap_servers, [shop.topic("named")])
        found = [
            (event.op, event.key["name"], event.key["code"]) for event in events if event.op in ("r", "c", "u", "d")
        ]
        first, second, third, fourth = (
            ("žížal", code(b"ab")), ("100%_", code(b"q%")), ("žíž", code(b"a")), ("žížal", code(b"xy")),
        )  # fmt: skip
        behind, other = ("behin", code(b"ab")), ("other", code(b"a"))
        wanted = [("r", *key) for key in (first, second, third)] + [("u", *key) for key in (first, second, fourth)]
        wanted += [("c", *key) for key in (fourth, behind, other)] + [("d", *key) for key in (third, behind)]
        assert sorted(found) == sorted(wanted)
        with shop.sink() as sink:
            oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["named"]))
            assert shop.run("check").returncode == 0
            execute(sink, "DELETE FROM named WHERE n = 1")
        checked = shop.run("check")
        assert checked.returncode == 1
        assert "žížal" in checked.stdout
