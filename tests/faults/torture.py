"""Seeded torture of the slice transport: everything that takes partitions away from workers, at random moments.

``python -m tests.faults.torture SEED SECONDS DIRECTORY`` plays it on servers of its own and prints the report.  While a
writer commits and aborts transactions, workers are killed, ended, stopped and continued, started; positions and progress are
moved back; the sink's server is restarted, killed and stalled.  One row for each record shows doubles and holes, a trigger on
the progress rows shows whether the moves join.  Every kind of deed is done once, in a drawn order, then kinds are drawn.

Between two deeds nothing is waited for: they are paced, by the clock.  An outage lasts for so many records of the writer's.
"""

import dataclasses
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from servers.kafka import KafkaServer
from servers.mysql import MysqlServer
from tests.faults.counted import Stage, Writer
from tests.helpers import connected, execute, unique_name, wait_until
from tests.topics import committed_offsets

CATCH_UP_S = 90.0
WORKERS_MAX = 3
GONE_S = 12.0
PACE_S = (0.5, 3.0)
OUTAGE_S = 60.0
ALL_DEEDS = {"kill -9", "SIGTERM", "SIGSTOP", "seek back", "replay", "sink restart", "sink kill -9", "sink stall"}


@dataclasses.dataclass
class Report:
    """What happened and what was found; lists of findings are empty where all held."""

    seed: int
    committed: int = 0
    aborted: int = 0
    seen: int = 0
    distinct: int = 0
    barriers: int = 0
    finished: int = 0
    moves: int = 0
    catch_up_s: float = 0.0
    deeds: Counter[str] = dataclasses.field(default_factory=Counter)
    replayed: int = 0
    broken_chains: list[str] = dataclasses.field(default_factory=list)
    out_of_order: list[str] = dataclasses.field(default_factory=list)
    died: list[str] = dataclasses.field(default_factory=list)
    exit_codes: list[int] = dataclasses.field(default_factory=list)
    lag: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every event took effect once, in order, and the workers stayed alive."""
        return (
            self.seen == self.distinct == self.committed > 0
            and self.barriers == self.finished > 0
            and not (self.broken_chains or self.out_of_order or self.died or any(self.exit_codes) or self.lag)
        )


class Torture:
    """One run."""

    def __init__(self, stage: Stage, mysql: MysqlServer, seed: int) -> None:
        self._stage = stage
        self._mysql = mysql
        self._random = random.Random(seed)
        self._report = Report(seed)
        self._ended: set[int] = set()
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._writer = Writer(stage, seed + 1, barriers=0.03)
        self._pace = threading.Event()
        """Never set: it ends no pause."""
        self._deeds: list[tuple[str, float, Callable[[], None]]] = [
            ("start", 0.25, self._start_if_few),
            ("kill -9", 0.30, self._kill),
            ("SIGTERM", 0.12, self._terminate),
            ("SIGSTOP", 0.12, self._suspend),
            ("seek back", 0.07, self._seek_back),
            ("replay", 0.06, self._replay),
            ("sink restart", 0.03, self._restart_sink),
            ("sink kill -9", 0.02, self._kill_sink),
            ("sink stall", 0.03, self._stall_sink),
        ]
        self._missing = sorted(ALL_DEEDS)
        self._random.shuffle(self._missing)

    def run(self, duration_s: float) -> Report:
        """Torture for so long, and until each deed was done, let it catch up, and look."""
        stage, report, writer = self._stage, self._report, self._writer
        writer.start()
        try:
            self._start()
            wait_until(lambda: self._rows("SELECT 1 FROM _rowflow_progress"), 30, "progress rows")
            stage.watch_progress()
            self._start()
            until = time.monotonic() + duration_s
            while time.monotonic() < until or self._missing:
                self._pace.wait(self._random.uniform(*PACE_S))
                self._run_due()
                self._note_deaths()
                self._do_something()
        finally:
            for _, action in self._later:
                action()
            writer.stop()
        self._note_deaths()
        if not self._alive():
            self._start()
        began = time.monotonic()
        wait_until(stage.caught_up, CATCH_UP_S, "the sink to stand at the logs' ends")
        report.catch_up_s = time.monotonic() - began
        report.committed, report.aborted, report.barriers = writer.committed, writer.aborted, writer.barriers
        self._look()
        self._look_at_lag()
        report.exit_codes = stage.end_workers()
        return report

    def _do_something(self) -> None:
        if not self._alive():
            self._start()
            return
        if self._missing:
            name = self._missing.pop(0)
        else:
            name = self._random.choices([name for name, _, _ in self._deeds], [weight for _, weight, _ in self._deeds])[
                0
            ]
        next(deed for known, _, deed in self._deeds if known == name)()
        if name in ALL_DEEDS and not self._report.deeds[name]:
            self._missing.append(name)

    def _start(self) -> None:
        self._stage.start_worker()
        self._report.deeds["start"] += 1

    def _start_if_few(self) -> None:
        if len(self._alive()) < WORKERS_MAX:
            self._start()

    def _kill(self) -> None:
        worker = self._random.choice(self._alive())
        self._ended.add(worker.pid)
        worker.kill()
        self._report.deeds["kill -9"] += 1

    def _terminate(self) -> None:
        worker = self._random.choice(self._alive())
        self._ended.add(worker.pid)
        worker.send_signal(signal.SIGCONT)
        worker.terminate()
        self._report.deeds["SIGTERM"] += 1

        due_s = time.monotonic() + GONE_S

        def must_be_gone() -> None:
            try:
                worker.wait(max(0.0, due_s - time.monotonic()))  # the torture may be over before
            except subprocess.TimeoutExpired:
                self._report.died.append(f"{worker.pid} still there {GONE_S:g} s after SIGTERM")
                worker.kill()

        self._later.append((due_s, must_be_gone))

    def _suspend(self) -> None:
        worker = self._random.choice(self._alive())
        worker.send_signal(signal.SIGSTOP)
        self._report.deeds["SIGSTOP"] += 1
        self._later.append(
            (
                time.monotonic() + self._random.uniform(3, 25),
                lambda: worker.send_signal(signal.SIGCONT) if worker.poll() is None else None,
            )
        )

    def _seek_back(self) -> None:
        self._random.choice(self._alive()).send_signal(signal.SIGHUP)
        self._report.deeds["seek back"] += 1

    def _replay(self) -> None:
        """Move one partition's results and progress back together, to where some earlier slice began.

        Not back over a barrier, for that was entered and finished.
        """
        here = "topic = %s AND partition_id = %s"
        with connected(self._mysql.root_url, self._stage.schema) as root:
            root.begin()
            place = self._random.choice(
                execute(root, "SELECT topic, partition_id FROM _rowflow_progress ORDER BY 1, 2")
            )
            execute(root, f"SELECT 1 FROM _rowflow_progress WHERE {here} FOR UPDATE", place)
            last_barrier = f"SELECT MAX(record_offset) FROM seen WHERE {here} AND number LIKE 'barrier%%'"
            begins = execute(
                root,
                f"SELECT begins FROM intervals WHERE {here} AND begins > COALESCE(({last_barrier}), -1)"
                " ORDER BY id DESC LIMIT 20",
                (*place, *place),
            )
            if not begins:
                return
            back_to = (*place, begins[-1][0])
            gone = execute(root, f"SELECT COUNT(*) FROM seen WHERE {here} AND record_offset >= %s", back_to)
            execute(root, f"DELETE FROM seen WHERE {here} AND record_offset >= %s", back_to)
            execute(root, f"UPDATE _rowflow_progress SET next_offset = %s WHERE {here}", (begins[-1][0], *place))
            execute(root, f"DELETE FROM intervals WHERE {here} AND (ends > %s OR begins > ends)", back_to)
            root.commit()
            self._report.replayed += gone[0][0]
        self._report.deeds["replay"] += 1

    def _restart_sink(self) -> None:
        self._mysql.restart()
        self._report.deeds["sink restart"] += 1

    def _kill_sink(self) -> None:
        self._mysql.kill()
        self._let_write(self._random.randrange(10_000))
        self._mysql.start()
        self._report.deeds["sink kill -9"] += 1

    def _stall_sink(self) -> None:
        self._mysql.suspend()
        self._let_write(self._random.randrange(4_000, 16_000))
        self._mysql.resume()
        self._report.deeds["sink stall"] += 1

    def _let_write(self, records: int) -> None:
        enough = self._writer.committed + records
        wait_until(lambda: self._writer.committed >= enough, OUTAGE_S, f"{records} more records")

    def _alive(self) -> list[subprocess.Popen[bytes]]:
        return [w for w in self._stage.workers if w.poll() is None and w.pid not in self._ended]

    def _run_due(self) -> None:
        now = time.monotonic()
        due = [action for at, action in self._later if at <= now]
        self._later = [(at, action) for at, action in self._later if at > now]
        for action in due:
            action()

    def _note_deaths(self) -> None:
        for worker in self._stage.workers:
            if worker.poll() is not None and worker.pid not in self._ended:
                self._ended.add(worker.pid)
                self._report.died.append(f"{worker.pid} ended by itself with {worker.returncode}")

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        with connected(self._mysql.root_url, self._stage.schema) as root:
            exists = execute(root, "SHOW TABLES LIKE '\\_rowflow\\_progress'")
            return execute(root, sql) if exists else []

    def _look(self) -> None:
        report = self._report
        report.seen = self._rows("SELECT COUNT(*) FROM seen WHERE number NOT LIKE 'barrier%'")[0][0]
        report.distinct = self._rows("SELECT COUNT(DISTINCT number) FROM seen WHERE number NOT LIKE 'barrier%'")[0][0]
        report.finished = self._rows("SELECT COUNT(*) FROM finished")[0][0]
        report.moves = self._rows("SELECT COUNT(*) FROM intervals")[0][0]
        stood: dict[tuple[str, int], int] = {}
        for topic, partition, begins, ends in self._rows(
            "SELECT topic, partition_id, begins, ends FROM intervals ORDER BY id"
        ):
            before = stood.get((topic, partition))
            if (before is not None and before != begins) or ends <= begins:
                report.broken_chains.append(f"{topic} [{partition}]: {begins} to {ends} after {before}")
            stood[topic, partition] = ends
        if stood != self._stage.log_ends():
            report.broken_chains.append("the last moves don't end at the logs' ends")
        last: dict[tuple[str, int], int] = {}
        for topic, partition, offset in self._rows("SELECT topic, partition_id, record_offset FROM seen ORDER BY id"):
            if offset <= last.get((topic, partition), -1):
                report.out_of_order.append(f"{topic} [{partition}]: {offset} after {last[topic, partition]}")
            last[topic, partition] = offset

    def _look_at_lag(self) -> None:
        """What Kafka's tools would show, once the workers had time to commit."""
        sink_id = self._rows("SELECT id FROM _rowflow_sink")[0][0]
        group = f"rowflow-{self._stage.prefix}-{sink_id}"

        def lag() -> dict[str, int]:
            ends = self._stage.log_ends()
            committed = committed_offsets(self._stage.bootstrap_servers, group, ends)
            return {
                f"{place}": end - committed.get(place, 0) for place, end in ends.items() if end != committed.get(place)
            }

        try:
            wait_until(lambda: not lag(), 15, "lag 0 in Kafka")
        except AssertionError:
            self._report.lag = lag()


def play(seed: int, duration_s: float, directory: Path) -> Report:
    """Start servers below ``directory``, run, and end them."""
    mysql = MysqlServer(directory / "mysql", {"innodb_buffer_pool_size": "128M", "innodb_redo_log_capacity": "64M"})
    kafka = KafkaServer(directory / "kafka")
    schema = unique_name("results")
    stage = None
    try:
        mysql.start()
        kafka.start()
        with connected(mysql.root_url) as root:
            execute(root, f"CREATE DATABASE {schema}")
        stage = Stage(
            unique_name("torture"),
            kafka.bootstrap_servers,
            mysql.root_url,
            mysql.url("root", mysql.root_password, schema),
            schema,
            log_directory=directory,
        )
        stage.set_up()
        return Torture(stage, mysql, seed).run(duration_s)
    finally:
        if stage is not None:
            stage.kill_workers()
        kafka.stop()
        mysql.stop()


if __name__ == "__main__":
    found = play(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3]))
    sys.stdout.write(f"{found}\n")
    sys.exit(0 if found.held else 1)
