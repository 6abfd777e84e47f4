"""Loud stops at events that can't be followed: what the message prints is run, whereupon the next start succeeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import orjson
import pytest

from tests.helpers import ServiceAddresses, execute
from tests.messages import goes_on, message_of, row_arrives, run_command, stops_well
from tests.processes import Pipeline, pipeline
from tests.topics import read_topics

CANARY = "canary-77f1"


@pytest.fixture
def shop(services: ServiceAddresses, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with one table of one row."""
    with pipeline(services, tmp_path) as made:
        with made.source() as source:
            execute(source, "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(40) CHARACTER SET greek, facts JSON)")
            execute(source, "INSERT INTO t (id) VALUES (1)")
        yield made


def write(shop: Pipeline, *statements: str) -> None:
    """Run statements in one session of the source."""
    with shop.source() as source:
        for statement in statements:
            execute(source, statement)


PARTIAL_JSON = "SET SESSION binlog_row_value_options = 'PARTIAL_JSON'"


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["SET SESSION binlog_row_image = 'MINIMAL'", f"UPDATE t SET note = '{CANARY}'"], "binlog_row_image"),
        (["SET SESSION binlog_format = 'STATEMENT'", f"UPDATE t SET note = '{CANARY}'"], "binlog_format"),
        (
            [
                f"UPDATE t SET facts = JSON_OBJECT('a', REPEAT('{CANARY}', 99), 'b', 1)",
                PARTIAL_JSON,
                "UPDATE t SET facts = JSON_SET(facts, '$.b', 2)",
            ],
            "binlog_row_value_options",
        ),
        (["XA START 'x'", f"UPDATE t SET note = '{CANARY}'", "XA END 'x'", "XA PREPARE 'x'", "XA COMMIT 'x'"], "XA"),
    ],
    ids=["row_image", "statement", "partial_json", "xa"],
)
def test_event_that_cant_be_followed_is_a_loud_stop(shop: Pipeline, statements: Sequence[str], words: str) -> None:
    reader = goes_on(shop, with_job=True)
    write(shop, *(statement.replace("'x'", f"'{shop.prefix}'") for statement in statements))
    message = message_of(shop, reader, 4)
    assert words in message
    assert "binlog." in message, "it says where"
    assert CANARY not in message
    run_command(shop, message)
    stops_well(goes_on(shop, with_job=True))


def test_fault_d13_text_invalid_in_its_character_set_stops_until_the_setting_is_made(shop: Pipeline) -> None:
    reader = goes_on(shop, with_job=True)
    write(shop, f"INSERT INTO t VALUES (100, CONCAT(X'D2', '{CANARY}'), JSON_OBJECT('a', 1))")
    message = message_of(shop, reader, 4)
    assert f"column note of {shop.database}.t" in message
    assert CANARY not in message
    assert CANARY.encode().hex() not in message
    found = re.search(r'on_undecodable = "([a-z-]+)"', message)
    assert found is not None
    shop.write_config({"source": {"on_undecodable": found[1]}})
    worker = shop.start("worker")
    reader = goes_on(shop, with_job=False)
    # The other way: a table that is read whole meets the same row in its shard.
    assert shop.run("snapshot", f"{shop.database}.t", "--id", "again").returncode == 0
    shop.until(lambda: "job again is done" in reader.text(), 30, "the job")
    shop.wait()
    with shop.sink() as sink:
        assert execute(sink, "SELECT note, facts->'$.a' FROM t WHERE id = 100") == [(None, "1")]
        letters = execute(sink, "SELECT status, `key`, reason, headers FROM _rowflow_dead_letters ORDER BY `offset`")
    for letter, status in zip(letters, ["outdated", "open"], strict=True):
        assert letter[:2] == (status, b'{"id":100}')
        assert letter[2].endswith("stored as NULL: note")
        assert CANARY.encode().hex().encode() in letter[3]
    stops_well(reader, worker)
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic("t")])
    found_rows = [event for event in events if event.value and event.key == {"id": 100}]
    assert [event.op for event in found_rows] == ["c", "r"]
    for event in found_rows:
        assert event.value is not None
        assert event.value["after"]["note"] is None
        assert dict(event.headers)["rowflow.undecodable"] == orjson.dumps({"note": f"d2{CANARY.encode().hex()}"})


@pytest.mark.parametrize(
    ("alter", "mend"),
    [
        ("ALTER TABLE t DROP PRIMARY KEY", "ALTER TABLE t ADD PRIMARY KEY (id)"),
        ("ALTER TABLE t MODIFY note INT", ""),
    ],
    ids=["key", "type"],
)
def test_table_that_cant_be_followed_stands_still_and_its_command_mends_it(
    shop: Pipeline, alter: str, mend: str
) -> None:
    write(shop, "CREATE TABLE other (id INT PRIMARY KEY)")
    reader = goes_on(shop, with_job=True)
    worker = shop.start("worker")
    shop.wait()
    write(shop, alter, "INSERT INTO t (id) VALUES (200)")
    waited = shop.run("wait", "--timeout", "30")
    assert (waited.returncode, "stands still" in waited.stderr) == (1, True), waited.stderr
    status = shop.run("status")
    assert status.returncode == 1
    assert f"{shop.database}.t stands still" in status.stdout
    row_arrives(shop, "other")
    if mend:
        write(shop, mend)
    run_command(shop, " ".join(status.stdout.split()))
    shop.until(lambda: reader.text().count(f" is done: {shop.database}.t,") == 2, 30, "the job")
    shop.wait()
    assert shop.run("status").returncode == 0
    with shop.sink() as sink:
        assert (200,) in execute(sink, "SELECT id FROM t")
    stops_well(reader, worker)
