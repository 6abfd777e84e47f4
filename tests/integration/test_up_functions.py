"""A functions.py that is written while `rowflow up` runs."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers import ServiceAddresses, execute
from tests.messages import run_command, stops_well
from tests.processes import Pipeline, pipeline

LENGTH = """
from rowflow import computed

@computed("{}.t")
def length(row: dict) -> int:
    return len(row["note"]) + {}
"""


def test_changed_functions_are_told_of_and_the_printed_command_renews_the_rows(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    functions = tmp_path / "functions.py"
    with pipeline(services, tmp_path, {"stream": {"functions": str(functions), "workers": 1}}) as shop:
        functions.write_text(LENGTH.format(shop.database, 0))
        write(
            shop,
            "CREATE TABLE t (id INT PRIMARY KEY, note TEXT)",
            "INSERT INTO t VALUES (1, 'a'), (2, 'bb'), (3, 'ccc')",
        )
        up = shop.start("up")
        shop.wait()
        assert lengths(shop) == [(1, 1), (2, 2), (3, 3)]

        functions.write_text(LENGTH.format(shop.database, 100))
        shop.until(lambda: "worker 1 is back" in up.text(), 30, "the worker to begin anew")
        write(shop, "UPDATE t SET note = 'CCC' WHERE id = 3")
        shop.wait()
        assert lengths(shop) == [(1, 1), (2, 2), (3, 103)]
        command = f"rowflow snapshot {shop.database}.t"
        (notice,) = notices(shop)
        assert notice.endswith(command)
        check = shop.run("check")
        assert (check.returncode, "2 rows computed by an earlier functions.py" in check.stdout) == (1, True), (
            check.stdout
        )
        assert command in check.stdout

        run_command(shop, notice)
        shop.wait()
        assert lengths(shop) == [(1, 101), (2, 102), (3, 103)]
        assert notices(shop) == []
        check = shop.run("check")
        assert (check.returncode, "0 differences in 3 rows" in check.stdout) == (0, True), check.stdout

        functions.write_text("def length(:\n")
        shop.until(lambda: "functions.py:1: " in up.text(), 30, "the warning")
        write(shop, "INSERT INTO t VALUES (4, 'dddd')")
        shop.until(lambda: lengths(shop)[-1] == (4, 104), 30, "the new row")
        assert up.text().count("functions.py:1: ") == 1
        assert up.text().count("worker 1 is back") == 1
        stops_well(up)


def write(shop: Pipeline, *statements: str) -> None:
    """Run statements on the source."""
    with shop.source() as source:
        for statement in statements:
            execute(source, statement)


def lengths(shop: Pipeline) -> list[tuple[object, ...]]:
    """What the mirror has in the computed column."""
    with shop.sink() as sink:
        return execute(sink, "SELECT id, length FROM t ORDER BY id")


def notices(shop: Pipeline) -> list[str]:
    """What `status` wants to be known, all else being well."""
    shown = shop.run("status", "--json")
    assert shown.returncode == 0, shown.stdout
    found: list[str] = json.loads(shown.stdout)["notices"]
    return found
