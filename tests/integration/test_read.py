"""`rowflow read`: exactly the changes behind the place, the GTID set or the moment that it is told to begin at."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import ServiceAddresses, execute
from tests.messages import refusal, stops_well
from tests.processes import Pipeline, Program, pipeline

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.fixture
def shop(services: ServiceAddresses, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with one table of two rows."""
    with pipeline(services, tmp_path) as made:
        write(made, "CREATE TABLE t (id INT PRIMARY KEY, note TEXT)", "INSERT INTO t (id) VALUES (1), (2)")
        yield made


def write(shop: Pipeline, *statements: str) -> str:
    """Run statements; the GTIDs that the source has afterwards."""
    with shop.source() as source:
        for statement in statements:
            execute(source, statement)
        return str(execute(source, "SELECT @@GLOBAL.gtid_executed")[0][0])


def printed(read: Program) -> list[tuple[str, int]]:
    """The printed changes: their letters and the ids of their rows."""
    # The last line may not be there as a whole yet.
    lines = read.text().rpartition("\n")[0].splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [(event["op"], (event["after"] or event["before"])["id"]) for event in events]


def prints(shop: Pipeline, start: str, changes: list[tuple[str, int]]) -> None:
    """A reading from there prints these changes, and nothing else before or behind them."""
    read = shop.start("read", "--to", "stdout", "--from", start)
    shop.until(lambda: len(printed(read)) >= len(changes), 30, f"{len(changes)} changes")
    assert printed(read) == changes
    stops_well(read)
    assert printed(read) == changes


def test_from_a_place_or_a_gtid_set_what_lies_behind_it_is_printed(shop: Pipeline) -> None:
    with shop.source() as source:
        file, pos = execute(source, "SHOW BINARY LOG STATUS")[0][:2]
    before = write(shop)
    inserted = write(shop, "INSERT INTO t (id) VALUES (3), (4)")
    updated = write(shop, "UPDATE t SET note = 'u' WHERE id = 2")
    write(shop, "DELETE FROM t WHERE id = 1", "INSERT INTO t (id) VALUES (5)")
    first, second, rest = [("c", 3), ("c", 4)], [("u", 2)], [("d", 1), ("c", 5)]
    prints(shop, f"{file}:{pos}", first + second + rest)
    prints(shop, before, first + second + rest)
    prints(shop, updated, rest)
    # A set with a gap: what is missing in it is printed, what is there isn't.
    with shop.source() as source:
        update = execute(source, "SELECT GTID_SUBTRACT(%s, %s)", (updated, inserted))[0][0]
    prints(shop, f"{before},\n{update}", first + rest)


def test_without_a_place_it_begins_now(shop: Pipeline) -> None:
    read = shop.start("read", "--to", "stdout")
    written = [2]

    def shows_something() -> bool:
        written.append(written[-1] + 1)
        write(shop, f"INSERT INTO t (id) VALUES ({written[-1]})")
        return bool(printed(read))

    shop.until(shows_something, 30, "the first change")
    write(shop, "DELETE FROM t WHERE id = 1")
    shop.until(lambda: ("d", 1) in printed(read), 30, "the last change")
    changes = printed(read)
    expected = [*(("c", number) for number in written[1:]), ("d", 1)]
    assert ("c", 1) not in changes
    assert ("c", 2) not in changes
    assert changes == expected[-len(changes) :], "there are gaps"
    stops_well(read)


@pytest.mark.parametrize(
    "start", ["", "yesterday", "binlog.000001", ":4", f"{UUID}:1-", f"{UUID.replace('e', 'g')}:1-5"]
)
def test_nonsense_is_refused_as_usage(shop: Pipeline, start: str) -> None:
    message = refusal(shop, "read", 2, "--to", "stdout", "--from", start)
    assert f"--from takes FILE:POS, like binlog.000002:157, or a GTID set; not {start!r}" in message
