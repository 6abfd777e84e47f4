"""First reads while clients write the same keys: exactness.md J1 to J4."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import MySQLdb
import pytest

from tests import oracle
from tests.helpers import ServiceAddresses, connect, connected, execute
from tests.processes import Pipeline, pipeline
from tests.topics import Event, read_topics

pytestmark = pytest.mark.soak

WRITERS = 8
CHANGES = 6
_AT_A_TIME = 2_000
TRIES = 6


def make_table(shop: Pipeline, rows: int) -> None:
    """A table in which every change of a key has a higher version than all before it, also behind a delete."""
    with shop.source() as source:
        execute(
            source, "CREATE TABLE fire (id INT PRIMARY KEY, version BIGINT NOT NULL, payload VARCHAR(200) NOT NULL)"
        )
        for start in range(0, rows, _AT_A_TIME):
            values = ", ".join(
                f"({number}, 0, 'row {number}')" for number in range(start, min(rows, start + _AT_A_TIME))
            )
            execute(source, f"INSERT INTO fire VALUES {values}")


class FireWriter(threading.Thread):
    """Changes keys of its own, one in :data:`WRITERS`, as fast as the server commits."""

    def __init__(self, url: str, database: str, number: int, rows: int, changes: int) -> None:
        super().__init__(name=f"fire-{number}", daemon=True)
        self._connection = connect(url, database)
        self._number, self._rows, self._changes = number, rows, changes
        self._random = random.Random(number)
        self._enough = threading.Event()
        self.written = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write until told to stop."""
        version = 0
        try:
            while not self._enough.is_set():
                execute(self._connection, "BEGIN")
                for _ in range(self._changes):
                    version += 1
                    self._change(self._random.randrange(self._rows // WRITERS) * WRITERS + self._number, version)
                execute(self._connection, "COMMIT")
                self.written += self._changes
        except MySQLdb.Error as error:
            self.failure = error
        finally:
            self._connection.close()

    def _change(self, key: int, version: int) -> None:
        kind = self._random.random()
        if kind < 0.1:
            execute(self._connection, "UPDATE fire SET version = %s WHERE id = %s", (version, key))
            execute(self._connection, "DELETE FROM fire WHERE id = %s", (key,))
        else:
            execute(
                self._connection,
                "INSERT INTO fire VALUES (%s, %s, 'new') AS new ON DUPLICATE KEY UPDATE version = new.version",
                (key, version),
            )

    def stop(self) -> int:
        """End; gives the number of changes."""
        self._enough.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure
        return self.written


@contextmanager
def under_fire(shop: Pipeline, rows: int, changes: int = CHANGES, delay_us: int = 20_000) -> Iterator[list[FireWriter]]:
    """Writers on all keys, with a group commit that takes ``delay_us``."""
    with connected(shop.addresses.source_root_url) as root:
        execute(root, "SET GLOBAL binlog_group_commit_sync_delay = %s", (delay_us,))
        writers = [
            FireWriter(shop.addresses.source_root_url, shop.database, number, rows, changes)
            for number in range(WRITERS)
        ]
        try:
            for writer in writers:
                writer.start()
            yield writers
        finally:
            for writer in writers:
                writer.stop()
            execute(root, "SET GLOBAL binlog_group_commit_sync_delay = 0")


def older_reads(events: list[Event]) -> list[str]:
    """The ``r`` events that are older than an event of their key before them."""
    newest: dict[bytes, int] = {}
    findings = []
    for event in events:
        if event.value is None or event.op in ("m", "t"):
            continue
        row = event.value["after"] or event.value["before"]
        if event.op == "r" and row["version"] < newest.get(event.key_bytes, -1):
            findings.append(f"offset {event.offset} of [{event.partition}]: r of version {row['version']}")
        newest[event.key_bytes] = max(newest.get(event.key_bytes, -1), row["version"] + (event.op == "d"))
    return findings


def rows_published(shop: Pipeline) -> int:
    """How many rows the first read has published, as ``__jobs`` says."""
    topic = f"{shop.prefix}.__jobs"
    if topic not in shop.admin.list_topics(timeout=10).topics:
        return 0
    states = [
        event.value for event in read_topics(shop.addresses.bootstrap_servers, [topic]) if event.key["kind"] == "state"
    ]
    return int(states[-1]["rows_read"]) if states and states[-1] else 0


def first_read_under_fire(services: ServiceAddresses, directory: Path, rows: int) -> None:
    """The whole of it: writers on the same keys, the reader killed twice in the middle, all equal at the end."""
    with pipeline(services, directory) as shop:
        make_table(shop, rows)
        with under_fire(shop, rows) as writers:
            reader = shop.start("reader")
            for part in (0.2, 0.5):
                shop.until(lambda least=part: rows_published(shop) > rows * least, 120, f"{part:.0%} of the rows")  # type: ignore[misc]
                reader.kill()
                assert rows_published(shop) < rows * 0.9, "the first read was over before the kill"
                reader = shop.start("reader")
            shop.wait_followed("fire", timeout_s=120)
            worker = shop.start("worker")
            written = sum(writer.written for writer in writers)
        shop.wait(120)
        assert written > rows // 20, "the writers wrote too little"
        events = read_topics(services.bootstrap_servers, [shop.topic("fire")])
        with shop.source() as source, shop.sink() as sink:
            oracle.report(oracle.topic_differences(source, shop.database, "fire", events))
            oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["fire"]))
        oracle.report(older_reads(events))
        oracle.report(oracle.broken_histories(events, complete=False))
        oracle.report(oracle.doubled(events))
        assert sum(event.op == "r" for event in events) > rows // 2
        assert [program.stop() for program in (reader, worker)] == [0, 0]


def test_rule_j2_a_first_read_under_fire_with_the_reader_killed_twice(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    first_read_under_fire(services, tmp_path, rows=60_000)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_rule_j2_a_large_first_read_under_fire(services: ServiceAddresses, tmp_path: Path) -> None:
    first_read_under_fire(services, tmp_path, rows=200_000)


def test_rule_j1_a_window_that_is_not_waited_for_loses_updates(services: ServiceAddresses, tmp_path: Path) -> None:
    """The test above would notice: without the wait, a read finds rows older than what the stream has passed."""
    rows = 8_000
    for attempt in range(TRIES):
        with pipeline(services, tmp_path / str(attempt)) as shop:
            make_table(shop, rows)
            with under_fire(shop, rows, changes=40):
                shop.start("reader", launcher=("tests.faults.broken", "low_not_waited_for"))
                shop.wait_followed("fire")
            events = read_topics(services.bootstrap_servers, [shop.topic("fire")])
            if older_reads(events):
                return
    pytest.fail(f"{TRIES} first reads without the wait, and none has lost an update")
