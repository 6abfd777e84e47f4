"""The whole way exactly once, through crashes: killed readers and workers, crash points, servers restarted.

While clients write, two threads do their deeds: one kills readers, one kills workers and changes their number, 1 -> 3 -> 2;
between them MySQL and then Kafka are restarted.  Each death lands while there is lag: the process stands still at a seeded
moment or a named point; what is there then, and not read or stored before the SIGKILL, is not read or stored behind it.
"""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest
from confluent_kafka import IsolationLevel

from servers.kafka import KafkaServer
from servers.mysql import MysqlServer
from sink.progress import prepare_tables
from sink.sql import SessionPool
from tests import oracle
from tests.decode_stand import address_of
from tests.faults.crashing import NEVER, PASSED, launcher
from tests.helpers import ServiceAddresses, connected, execute
from tests.processes import Pipeline, Program, pipeline
from tests.topics import Event, read_topics
from tests.workload import TABLES, Workload, create_tables

SIGNAL = "SIGKILL"
KAFKA_OPEN = ("in_kafka_transaction", "before_kafka_commit")
SINK_OPEN = ("in_sink_transaction", "before_sink_commit")
PASSAGES_MAX = 5
BATCH = 3
WRITTEN_MAX = 25
LANDED_TRIES = 8
DIES_S = 90.0
SESSION_S = 3.0
CATCH_UP_S = 120.0
GOES_ON = " goes on from "
HAS_PARTITIONS = " seek "


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
        [SIGNAL, "in_kafka_transaction", "after_kafka_commit"],
        ["before_sink_commit", "in_sink_transaction", "after_sink_commit", SIGNAL],
        3,
    ),
    Deaths(
        ["in_kafka_transaction", SIGNAL, "in_kafka_transaction"],
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
            return self.shop.start(command, launcher=launcher(point, passage, "SIGSTOP", SESSION_S))

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
        choice = self._readers_choice
        for reader in self.shop.of("reader"):
            assert reader.stop() == 0, reader.tail()
        for point in points:
            if point == SIGNAL:
                reader = self._start_reader()
                self._let_write(choice.randrange(1, WRITTEN_MAX))
                reader.suspend()
            else:
                reader = self.start("reader", point, choice.randrange(1, PASSAGES_MAX + 1))
                self._standing([(reader, point)])
                assert point not in KAFKA_OPEN or self._kafka_transaction_is_open(), f"{point}: all is committed"
            self._kill_behind_source(reader)
            self.deaths[point] += 1
        # Servers are restarted next: a reader that can't reach Kafka at its start is refused, with exit code 3.
        self._start_reader()

    def _start_reader(self) -> Program:
        reader = self.start("reader")
        self.shop.until(lambda: GOES_ON in reader.text(), DIES_S, "the reader to go on")
        return reader

    def _kill_behind_source(self, reader: Program) -> None:
        """SIGKILL to a reader that stands still: what the source had before is not committed after it."""
        end = self.shop.until(self._uncommitted_end, DIES_S, "the source to have more than is committed")
        reader.kill()
        committed = self.shop.committed_place()
        assert committed is None or (end is not None and committed < end), f"committed {committed} behind {end}"

    def _uncommitted_end(self) -> tuple[int, int] | None:
        """The binlog's end, where it lies behind what is committed."""
        end = self.shop.binlog_place()
        committed = self.shop.committed_place()
        return end if committed is None or committed < end else None

    def _kafka_transaction_is_open(self) -> bool:
        """Whether the brokers hold records that are not committed, nor aborted."""
        return self.shop.log_ends(isolation=IsolationLevel.READ_COMMITTED) != self.shop.log_ends()

    # ---- workers ----

    def _kill_workers(self, points: Sequence[str], count: int) -> None:
        left = list(points)
        missed = 0
        while left:
            if left[0] == SIGNAL:
                dying = [(self._suspended_worker(count), left.pop(0))]
            else:
                self._keep_workers(count - 1)
                # Several at a time where several are to run: the group waits for the dead of a batch together.
                batch = list(takewhile(lambda point: point != SIGNAL, left[: BATCH if count > 1 else 1]))
                del left[: len(batch)]
                choice = self._workers_choice
                dying = [(self.start("worker", point, choice.randrange(1, PASSAGES_MAX + 1)), point) for point in batch]
            while dying:
                worker, point = self._standing(dying)
                assert point not in SINK_OPEN or self._sink_transaction_is_open(worker), f"{point}: no open transaction"
                dying.remove((worker, point))
                if self._kill_behind_logs(worker):
                    self.deaths[point] += 1
                else:
                    # Others have stored all of it meanwhile: such a death doesn't count.
                    left.insert(0, point)
                    missed += 1
                    assert missed < LANDED_TRIES, f"{missed} deaths of workers have landed while there was no lag"
        self._keep_workers(count)

    def _suspended_worker(self, count: int) -> Program:
        """One of the workers, standing still at a seeded moment."""
        self._keep_workers(count)
        self._all_have_partitions()
        self._let_write(self._workers_choice.randrange(1, WRITTEN_MAX))
        worker = self._workers_choice.choice(self.shop.of("worker"))
        worker.suspend()
        return worker

    def _kill_behind_logs(self, worker: Program) -> bool:
        """SIGKILL to a worker that stands still; whether what the logs had before is not stored after it."""
        ends = self.shop.until(self._unstored_ends, DIES_S, "the logs to have more than the sink holds")
        worker.kill()
        progress = self.shop.progress()
        return any(progress.get(place, 0) < end for place, end in ends.items())

    def _unstored_ends(self) -> dict[tuple[str, int], int]:
        """The logs' ends, where they lie behind what is stored."""
        progress = self.shop.progress()
        return {place: end for place, end in self.shop.log_ends().items() if end > progress.get(place, 0)}

    def _sink_transaction_is_open(self, worker: Program) -> bool:
        """Whether a session of the worker's holds a row of the progress."""
        with self.shop.sink() as sink:
            return bool(
                execute(
                    sink,
                    "SELECT 1 FROM performance_schema.data_locks AS locks"
                    " JOIN performance_schema.threads AS thread ON thread.thread_id = locks.thread_id"
                    " JOIN performance_schema.session_connect_attrs AS attributes"
                    " ON attributes.processlist_id = thread.processlist_id AND attributes.attr_name = '_pid'"
                    " WHERE locks.object_schema = %s AND locks.object_name = '_rowflow_progress'"
                    " AND locks.lock_type = 'RECORD' AND locks.lock_status = 'GRANTED' AND attributes.attr_value = %s",
                    (self.shop.sink_schema, str(worker.process.pid)),
                )
            )

    def _keep_workers(self, count: int) -> None:
        running = self.shop.of("worker")
        for worker in running[count:]:
            assert worker.stop() == 0, worker.tail()
        for _ in range(count - len(running)):
            self.start("worker")

    def _all_have_partitions(self) -> None:
        workers = self.shop.of("worker")
        self.shop.until(lambda: all(HAS_PARTITIONS in worker.text() for worker in workers), DIES_S, "all to have work")

    # ---- both ----

    def _standing(self, dying: Sequence[tuple[Program, str]]) -> tuple[Program, str]:
        """The first that has come to its point, with all of its threads standing still."""

        def found() -> tuple[Program, str] | None:
            return next(
                (one for one in dying if one[1] == SIGNAL or f"{PASSED} {one[1]}" in one[0].text()),
                None,
            )

        standing = self.shop.until(found, DIES_S, f"{[point for _, point in dying]} to be passed")
        assert standing is not None
        standing[0].suspend()
        return standing

    def _let_write(self, transactions: int) -> None:
        enough = self._written() + transactions
        self.shop.until(lambda: self._written() >= enough, DIES_S, f"{transactions} transactions")

    def _written(self) -> int:
        return sum(writer.counts["committed"] for writer in self.writers)

    def restart(self, server: MysqlServer | KafkaServer, address: str) -> None:
        """Restart a server under work; each process must have felt it: its log names the address from then on."""
        running = self.shop.of("reader") + self.shop.of("worker")
        self._all_have_partitions()
        begins = [len(program.text()) for program in running]
        lost = sum(writer.counts["lost"] for writer in self.writers)
        server.restart()
        for program, begin in zip(running, begins, strict=True):
            assert address in program.text()[begin:], f"{program.name} hasn't felt the restart:\n{program.tail()}"
        if isinstance(server, MysqlServer):
            assert sum(writer.counts["lost"] for writer in self.writers) > lost, "no writer has felt the restart"

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
            Workload(mysql.root_url, shop.database, seed + number, per_s=15, first_rows=50) for number in range(2)
        ]
        killing = Killing(shop, seed, writers)
        for writer in writers:
            writer.start()
        restarts: list[Callable[[], None]] = [
            lambda: killing.restart(mysql, f"127.0.0.1:{mysql.port}"),
            lambda: killing.restart(kafka, kafka.bootstrap_servers),
            lambda: None,
        ]
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
    """Have the bookkeeping tables made as a worker makes them, then watch the progress from its first row on."""
    pool = SessionPool(replace(address_of(shop.addresses.sink_root_url), database=shop.sink_schema))
    with pool.lend() as session:
        prepare_tables(session)
    pool.close()
    with shop.sink() as sink:
        oracle.watch_progress(sink)


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
