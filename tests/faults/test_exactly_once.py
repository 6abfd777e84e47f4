"""The whole way exactly once, through crashes: killed readers and workers, crash points, servers restarted.

While clients write, two threads do their deeds: one kills readers, one kills workers and changes their number, 1 -> 3 -> 2;
between them MySQL and then Kafka are restarted.  Each death lands while there is lag: the source has more than the reader
has committed, the logs have more than the sink holds.
"""

from __future__ import annotations

import random
import signal
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest

from servers.kafka import KafkaServer
from servers.mysql import MysqlServer
from tests import oracle
from tests.faults.crashing import NEVER, PASSED, launcher
from tests.helpers import ServiceAddresses, connected, execute
from tests.processes import Pipeline, Program, pipeline
from tests.topics import Event, read_topics
from tests.workload import TABLES, Workload, create_tables

SIGNAL = "SIGKILL"
LANDED_TRIES = 8
DIES_S = 90.0
SESSION_S = 3.0
CATCH_UP_S = 120.0


class Deaths(NamedTuple):
    """What a phase has in store: crash points or SIGNAL, in order, and how many workers there are."""

    readers: Sequence[str]
    workers: Sequence[str]
    worker_count: int


SHORT = (
    Deaths(
        ["in_kafka_transaction", SIGNAL, "before_kafka_commit", "in_kafka_transaction"],
        ["in_sink_transaction", SIGNAL],
        1,
    ),
    Deaths(
        [SIGNAL, "in_kafka_transaction", "after_kafka_commit", SIGNAL],
        ["before_sink_commit", "in_sink_transaction", "after_sink_commit", SIGNAL],
        3,
    ),
    Deaths(
        [SIGNAL, "in_kafka_transaction", "in_kafka_transaction", SIGNAL],
        ["in_sink_transaction", "in_sink_transaction", "in_sink_transaction", SIGNAL],
        2,
    ),
)
LONG = tuple(
    Deaths(
        ["in_kafka_transaction", "before_kafka_commit", "after_kafka_commit", SIGNAL, SIGNAL] * 3,
        ["in_sink_transaction", "before_sink_commit", "after_sink_commit", SIGNAL, SIGNAL] * 3,
        count,
    )
    for count in (1, 3, 2)
)


@dataclass
class Killing:
    """Kills in a pipeline; what it does is drawn from ``seed``."""

    shop: Pipeline
    seed: int
    writers: Sequence[Workload]
    deaths: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._readers_choice = random.Random(self.seed)
        self._workers_choice = random.Random(self.seed + 1)
        self._lock = threading.Lock()

    def start(self, command: str, point: str = NEVER, passage: int = 0) -> Program:
        """Start a reader or worker, dying at a point or not."""
        with self._lock:
            return self.shop.start(command, launcher=launcher(point, passage, session_s=SESSION_S))

    def play(self, deaths: Deaths) -> None:
        """One phase: both threads' deeds, at the same time."""
        with ThreadPoolExecutor(2) as threads:
            deeds: list[Callable[[], None]] = [
                lambda: self._kill_readers(deaths.readers),
                lambda: self._kill_workers(deaths.workers, deaths.worker_count),
            ]
            for done in [threads.submit(deed) for deed in deeds]:
                done.result()

    # ---- readers ----

    def _kill_readers(self, points: Sequence[str]) -> None:
        for point in points:
            for reader in self.shop.of("reader"):
                assert reader.stop() == 0, reader.tail()
            if point == SIGNAL:
                self._kill_reader_somewhere()
            else:
                dying = self.start("reader", point, self._readers_choice.randrange(1, 12))
                self._must_die(dying, point)
                assert self.shop.reader_lags(), f"{point}: no lag"
            self.deaths[point] += 1
        begin = self.shop.committed_place()
        self.start("reader")
        # Servers are restarted next: a reader that can't reach Kafka at its start is refused, with exit code 3.
        self._wait_change(self.shop.committed_place, begin, "the last reader to go on")

    def _kill_reader_somewhere(self) -> None:
        """SIGKILL; it lands when what the source had before is not committed after it."""
        for _ in range(LANDED_TRIES):
            reader = self.start("reader")
            begin = self.shop.committed_place()
            self._wait_change(self.shop.committed_place, begin, "the reader to go on")
            self._let_write(self._readers_choice.randrange(1, 25))
            end = self.shop.binlog_place()
            reader.kill()
            committed = self.shop.committed_place()
            if committed is not None and committed < end:
                return
        raise AssertionError(f"no kill of the reader in {LANDED_TRIES} has landed while there was lag")

    # ---- workers ----

    def _kill_workers(self, points: Sequence[str], count: int) -> None:
        left = list(points)
        missed = 0
        while left:
            self._keep_workers(count - 1)
            if left[0] == SIGNAL:
                left.pop(0)
                self._kill_worker_somewhere(count)
                continue
            # Two at a time where that many are to run: each waits for its partitions.
            batch = [left.pop(0)]
            while left and left[0] != SIGNAL and len(batch) < count - 1:
                batch.append(left.pop(0))
            dying = [self.start("worker", point, self._workers_choice.randrange(1, 12)) for point in batch]
            for program, point in zip(dying, batch, strict=True):
                self._must_die(program, point)
            if self.shop.sink_lag() > 0:
                self.deaths.update(batch)
                continue
            # The commit was of a look at the progress, and nothing waited: such a death doesn't count.
            missed += 1
            assert missed < LANDED_TRIES, f"no death at {batch} in {LANDED_TRIES} has landed while there was lag"
            left = [*batch, *left]
        self._keep_workers(count)

    def _kill_worker_somewhere(self, count: int) -> None:
        """SIGKILL; it lands when the sink is behind the logs just before and just after it."""
        for _ in range(LANDED_TRIES):
            self._keep_workers(count)
            begin = self.shop.progress()
            self._wait_change(self.shop.progress, begin, "the workers to go on")
            self._let_write(self._workers_choice.randrange(1, 25))
            self.shop.until(lambda: self.shop.sink_lag() > 0, DIES_S, "lag")
            self._workers_choice.choice(self.shop.of("worker")).kill()
            if self.shop.sink_lag() > 0:
                self.deaths[SIGNAL] += 1
                return
        raise AssertionError(f"no kill of a worker in {LANDED_TRIES} has landed while there was lag")

    def _keep_workers(self, count: int) -> None:
        running = self.shop.of("worker")
        for worker in running[count:]:
            assert worker.stop() == 0, worker.tail()
        for _ in range(count - len(running)):
            self.start("worker")

    # ---- both ----

    def _let_write(self, transactions: int) -> None:
        enough = self._written() + transactions
        self.shop.until(lambda: self._written() >= enough, DIES_S, f"{transactions} transactions")

    def _wait_change(self, look: Callable[[], object], begin: object, what: str) -> None:
        self.shop.until(lambda: look() != begin, DIES_S, what)

    def _written(self) -> int:
        return sum(writer.counts["committed"] for writer in self.writers)

    def _must_die(self, program: Program, point: str) -> None:
        assert program.ended(DIES_S) == -signal.SIGKILL, program.tail()
        assert f"{PASSED} {point}" in program.text()

    def must_go_on(self) -> None:
        """Return when the reader has committed, and the sink stored, what there is now."""
        self.shop.wait_read(CATCH_UP_S)
        ends = self.shop.log_ends()

        def stored() -> bool:
            progress = self.shop.progress()
            return all(progress.get(place, 0) >= end for place, end in ends.items())

        self.shop.until(stored, CATCH_UP_S, "the sink to come to the logs' ends")


def torture(mysql: MysqlServer, kafka: KafkaServer, directory: Path, phases: Sequence[Deaths], seed: int) -> Killing:
    """Play the phases, with MySQL restarted behind the first and Kafka behind the second; then hold all against all."""
    address = ServiceAddresses(
        mysql.root_url, kafka.bootstrap_servers, f"{mysql.root_url}/results", *[mysql.root_url] * 2
    )
    with pipeline(address, directory) as shop:
        with shop.source() as source:
            create_tables(source)
        _prepare_trigger(shop)
        shop.start("reader")
        shop.wait_followed(*TABLES)
        writers = [
            Workload(mysql.root_url, shop.database, seed + number, per_s=30, first_rows=50) for number in range(2)
        ]
        killing = Killing(shop, seed, writers)
        for writer in writers:
            writer.start()
        restarts: list[Callable[[], None]] = [mysql.restart, kafka.restart, lambda: None]
        for deaths, restart in zip(phases, restarts, strict=True):
            killing.play(deaths)
            restart()
            killing.must_go_on()
        for writer in writers:
            writer.stop()
        shop.wait(CATCH_UP_S)
        verify(shop)
        assert [program.stop() for program in shop.of("reader") + shop.of("worker")] == [0, 0, 0]
        return killing


def _prepare_trigger(shop: Pipeline) -> None:
    """Let a worker that has nothing to do make the bookkeeping tables, then watch the progress from its first row on."""
    worker = shop.start("worker")
    shop.until(lambda: _has_progress_table(shop), 30, "the bookkeeping tables")
    worker.stop()
    with shop.sink() as sink:
        oracle.watch_progress(sink)


def _has_progress_table(shop: Pipeline) -> bool:
    with shop.sink() as sink:
        return bool(execute(sink, "SHOW TABLES LIKE '\\_rowflow\\_barriers'"))


def verify(shop: Pipeline) -> None:
    """No event missing or double; the sink is the source; the progress went from 0 to the logs' ends without a gap."""
    events: dict[str, list[Event]] = defaultdict(list)
    for event in read_topics(shop.addresses.bootstrap_servers, shop.table_topics()):
        events[event.topic].append(event)
    with shop.source() as source, shop.sink() as sink:
        for table in TABLES:
            found = events[shop.topic(table)]
            oracle.report(oracle.doubled(found))
            oracle.report(oracle.broken_histories(found, complete=True))
            oracle.report(oracle.topic_differences(source, shop.database, table, found))
        audited = [event.key["id"] for event in events[shop.topic("audit")] if event.op == "c"]
        assert sorted(audited) == [row[0] for row in execute(source, "SELECT id FROM audit ORDER BY id")]
        oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, TABLES))
        oracle.report(oracle.broken_moves(sink, shop.log_ends()))


def _play(directory: Path, phases: Sequence[Deaths], seed: int) -> Killing:
    mysql = MysqlServer(directory / "mysql", {"innodb_buffer_pool_size": "128M", "innodb_redo_log_capacity": "128M"})
    kafka = KafkaServer(directory / "kafka", {"group.min.session.timeout.ms": "1000"})
    try:
        with ThreadPoolExecutor(2) as threads:
            for started in [threads.submit(mysql.start), threads.submit(kafka.start)]:
                started.result()
        with connected(mysql.root_url) as root:
            execute(root, "SELECT 1")
        return torture(mysql, kafka, directory / "shop", phases, seed)
    finally:
        kafka.stop()
        mysql.stop()


def _assert_deaths(killing: Killing, least: int) -> None:
    deaths = killing.deaths
    assert sum(deaths.values()) >= least, dict(deaths)
    assert deaths["in_kafka_transaction"] >= 5, dict(deaths)
    assert deaths["in_sink_transaction"] >= 5, dict(deaths)
    for point in ("before_kafka_commit", "after_kafka_commit", "before_sink_commit", "after_sink_commit"):
        assert deaths[point] >= 1, dict(deaths)


@pytest.mark.timeout(480)
def test_exactly_once_through_twenty_deaths(tmp_path: Path) -> None:
    _assert_deaths(_play(tmp_path, SHORT, seed=20261124), least=20)


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [11, 12, 13])
def test_exactly_once_through_ninety_deaths(tmp_path: Path, seed: int) -> None:
    _assert_deaths(_play(tmp_path, LONG, seed), least=90)
