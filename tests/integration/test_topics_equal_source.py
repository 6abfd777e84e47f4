"""A seeded workload, rebuilt from the topics by a plain consumer, equals what SELECT returns.

The reader is killed in the middle, so that restarts are in it too; the workload's tables are empty when they are first read,
so that every event must join to the one before.
"""

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import oracle
from tests.helpers import ServiceAddresses, connected, execute, wait_until
from tests.processes import Pipeline, pipeline
from tests.topics import Event, read_topics
from tests.workload import TABLES, Workload, create_tables


def by_topic(events: list[Event]) -> dict[str, list[Event]]:
    found: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        found[event.topic].append(event)
    return found


def test_topics_rebuilt_by_a_plain_consumer_equal_what_select_returns(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        create_tables(source)
        reader = shop.start("reader")
        shop.wait_followed(*TABLES)
        writers = [Workload(services.source_root_url, shop.database, seed, first_rows=40) for seed in (1, 2)]
        for writer in writers:
            writer.start()
        for _ in range(2):
            _wait_committed(writers[0], 100)
            reader.must_run()
            reader.kill()
            reader = shop.start("reader")
        _wait_committed(writers[0], 100)
        counts = writers[0].stop() + writers[1].stop()
        execute(source, "BEGIN")
        execute(source, "COMMIT")
        shop.wait_read()
        assert reader.stop() == 0

        read = read_topics(services.bootstrap_servers, shop.table_topics())
        events = by_topic(read)
        for table in TABLES:
            found = events[shop.topic(table)]
            oracle.report(oracle.topic_differences(source, shop.database, table, found))
            oracle.report(oracle.broken_histories(found, complete=True))
            oracle.report(oracle.doubled(found))
            oracle.report(oracle.without_tombstone(found))
            oracle.report(oracle.unlike_schema_files(found))
        audited = sum(event.op == "c" for event in events[shop.topic("audit")])
        assert audited == counts["committed"]
        assert not counts["lost"]
        for kind in ("rolled back", "savepoint", "empty", "key change", "key swap", "insert", "update", "delete"):
            assert counts[kind] > 10, f"the workload had too little of: {kind}"
        changed, findings = oracle.key_changes(read)
        oracle.report(findings)
        # A swap changes three keys; a statement may change many.
        assert changed >= counts["key change"] + 3 * counts["key swap"]
        changes = [event for event in read if event.value is not None and event.op not in ("m", "t", "r")]
        rows = Counter(event.value["source"]["gtid"] for event in changes if event.value is not None)
        assert sum(count > 2 for count in rows.values()) > 10, (
            "too few transactions have several rows besides their audit"
        )


@pytest.mark.parametrize(
    ("how", "statements"),
    [
        ("compressed", ["SET SESSION binlog_transaction_compression = ON"]),
        ("tagged GTIDs", ["SET gtid_next = 'AUTOMATIC:tag'"]),
    ],
)
def test_fault_s9_d11_sessions_of_other_kinds_are_followed(
    services: ServiceAddresses, tmp_path: Path, how: str, statements: list[str]
) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        reader = shop.start("reader")
        shop.wait_followed("ints")
        for statement in statements:
            execute(source, statement)
        _write_a_little(lambda sql: execute(source, sql))
        execute(source, "FLUSH LOGS")
        reader.kill()
        execute(source, "INSERT INTO ints VALUES (1000, 1), (1001, 2)")
        execute(source, "UPDATE ints SET amount = -amount")
        shop.start("reader")
        shop.wait_read()
        _must_equal(shop, "ints")


def test_fault_s16_s17_rolled_back_parts_and_xa_in_one_phase(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        execute(source, "CREATE TABLE plain (id INT PRIMARY KEY, amount BIGINT) ENGINE=MyISAM")
        shop.start("reader")
        shop.wait_followed("ints", "plain")
        execute(source, "SET SESSION gtid_next = 'AUTOMATIC'")
        execute(source, "XA START 'one'")
        execute(source, "INSERT INTO ints VALUES (1, 1), (2, 2)")
        execute(source, "XA END 'one'")
        execute(source, "XA COMMIT 'one' ONE PHASE")
        execute(source, "INSERT INTO plain VALUES (1, 1)")
        execute(source, "BEGIN")
        execute(source, "INSERT INTO ints VALUES (3, 3)")
        execute(source, "SAVEPOINT here")
        execute(source, "INSERT INTO ints VALUES (4, 4)")
        execute(source, "ROLLBACK TO here")
        execute(source, "COMMIT")
        shop.wait_read()
        _must_equal(shop, "ints")
        _must_equal(shop, "plain")


def _wait_committed(writer: Workload, more: int) -> None:
    enough = writer.counts["committed"] + more
    wait_until(lambda: writer.counts["committed"] >= enough, 60, f"{more} more transactions")


def _write_a_little(run: Callable[[str], object]) -> None:
    for start in range(0, 300, 30):
        run("BEGIN")
        run(f"INSERT INTO ints VALUES {', '.join(f'({number}, {number})' for number in range(start, start + 30))}")
        run(f"UPDATE ints SET amount = amount + 1 WHERE id % 2 = {start % 2}")
        run(f"UPDATE ints SET id = id + 5000 WHERE id = {start}")
        run(f"DELETE FROM ints WHERE id = {start + 7}")
        run("COMMIT")


def _must_equal(shop: Pipeline, table: str) -> None:
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic(table)])
    with connected(shop.addresses.source_root_url) as source:
        oracle.report(oracle.topic_differences(source, shop.database, table, events))
    oracle.report(oracle.broken_histories(events, complete=True))
    oracle.report(oracle.doubled(events))
