"""Rowflow's own processes, as users start them, and where they stand: what the black-box tests are played on.

Comes in: addresses of servers and settings.  Goes out: a ``rowflow.toml`` of its own, running processes with a log file
each, and what a plain client sees of positions, progress and lag.  Nothing of the product is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

import MySQLdb
from confluent_kafka import ConsumerGroupState, IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from MySQLdb.connections import Connection

from tests.helpers import (
    ServiceAddresses,
    connect,
    connected,
    delete_topics,
    drop_database,
    execute,
    suspend,
    unique_name,
    wait_until,
)
from tests.preloaded import Forked, Process, run_to_end
from tests.topics import committed_offsets, last_value, read_topics

ROOT = Path(__file__).resolve().parents[1]
END_S = 10.0
SETTINGS_VARIABLES = "ROWFLOW_"
RESTARTED = {"ROWFLOW_LIFELINE": "1", "ROWFLOW_RESTARTED": "1"}

T = TypeVar("T")
Setting = str | int | float | Sequence[str] | Mapping[str, Any]


@dataclass(slots=True)
class Program:
    """One process of Rowflow; its output goes to ``log``."""

    name: str
    process: Process
    log: Path
    lifeline: IO[bytes] | None = None
    """Its stdin, of one that lives no longer than that is open."""

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(END_S)

    def suspend(self) -> None:
        """SIGSTOP; returns when it stands."""
        suspend(self.process.pid)

    def resume(self) -> None:
        """SIGCONT."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; its exit code, negative for a signal.  One that is not gone in time is killed and fails the test."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        return self.ended(END_S)

    def ended(self, timeout_s: float) -> int:
        """The exit code, once it ends by itself."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} runs after {timeout_s:g} s; its log ends:\n{self.tail()}") from None
        if self.lifeline is not None:
            self.lifeline.close()
        return code

    def tail(self, lines: int = 25) -> str:
        """The end of its log."""
        return "\n".join(self.text().splitlines()[-lines:])

    def must_run(self) -> None:
        """Fail if it has ended."""
        if not self.running:
            raise AssertionError(f"{self.name} ended with {self.process.poll()}; its log ends:\n{self.tail()}")


@dataclass
class Pipeline:
    """A source database, a prefix and a sink schema, with the processes that join them."""

    directory: Path
    addresses: ServiceAddresses
    database: str
    sink_schema: str
    prefix: str
    settings: Mapping[str, Mapping[str, Setting]] = field(default_factory=dict)
    """Over those that are written anyway: by section and name."""
    programs: list[Program] = field(default_factory=list)
    runs: int = 0

    # ---- settings and processes ----

    @property
    def config(self) -> Path:
        """The settings' file."""
        return self.directory / "rowflow.toml"

    def write_config(self, settings: Mapping[str, Mapping[str, Setting]] | None = None) -> None:
        """Write the settings' file, with ``settings`` over the pipeline's own."""
        sections: dict[str, dict[str, Setting]] = {
            "source": {"url": self.addresses.source_url, "tables": [f"{self.database}.*"], "server_id": _server_id()},
            "kafka": {"bootstrap_servers": self.addresses.bootstrap_servers, "prefix": self.prefix, "partitions": 3},
            "sink": {"url": f"{self.addresses.sink_url.rpartition('/')[0]}/{self.sink_schema}"},
            "stream": {"workers": 2},
        }
        for given in (self.settings, settings or {}):
            for section, values in given.items():
                sections.setdefault(section, {}).update(values)
        text = [
            line
            for section, values in sections.items()
            for line in (f"[{section}]", *(f"{json.dumps(name)} = {_toml(value)}" for name, value in values.items()))
        ]
        self.directory.mkdir(parents=True, exist_ok=True)
        self.config.write_text("\n".join(text) + "\n", encoding="utf-8")

    def start(
        self, command: str, *arguments: str, launcher: Sequence[str] = ("rowflow.main",), restarted: bool = False
    ) -> Program:
        """Start ``rowflow COMMAND``; ``launcher``: a module, and its own arguments, that does so in its own way.

        ``restarted``: as `up` starts a child again, which lives no longer than its stdin is open.
        """
        name = f"{command}-{len(self.programs)}"
        log = self.directory / f"{name}.log"
        words = [*launcher, command, "--config", str(self.config), *arguments]
        log.write_bytes(b"")
        if restarted:
            program = self._start_anew(name, words, log)
        else:
            program = Program(name, Forked(words, ROOT, environment(), log), log)
        self.programs.append(program)
        return program

    def _start_anew(self, name: str, words: Sequence[str], log: Path) -> Program:
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *words], cwd=ROOT, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
                env={**environment(), **RESTARTED}, start_new_session=True,
            )  # fmt: skip
        return Program(name, process, log, process.stdin)

    def run(self, *arguments: str, timeout_s: float = 60.0, answer: str = "") -> subprocess.CompletedProcess[str]:
        """Run ``rowflow ARGUMENTS`` to its end."""
        command, *rest = arguments
        words = ["rowflow.main", command, "--config", str(self.config), *rest]
        if not answer:
            self.runs += 1
            return run_to_end(words, ROOT, environment(), self.directory / f"{command}-run-{self.runs}", timeout_s)
        return subprocess.run(
            [sys.executable, "-m", *words],
            cwd=ROOT, env=environment(), input=answer, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip

    def wait(self, timeout_s: float = 60.0) -> None:
        """``rowflow wait`` must succeed."""
        done = self.run("wait", "--timeout", f"{timeout_s:g}", timeout_s=timeout_s + 20)
        if done.returncode:
            logs = "\n".join(f"--- {program.name}:\n{program.tail(12)}" for program in self.programs)
            raise AssertionError(f"wait ended with {done.returncode}: {done.stderr}\n{logs}")

    def receipt(self, table: str, *arguments: str, timeout_s: float = 60.0) -> dict[str, Any]:
        """The receipt of ``rowflow snapshot TABLE ARGUMENTS``, which must succeed; one asked for by its ``--id`` runs once."""
        words = ("snapshot", f"{self.database}.{table}", *arguments, "--wait", "--json")
        done = self.run(*words, timeout_s=timeout_s)
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])["receipt"]
        return found

    def of(self, command: str) -> list[Program]:
        """The running processes of a command, oldest first."""
        return [program for program in self.programs if program.running and program.name.startswith(f"{command}-")]

    def must_run(self) -> None:
        """Fail if a process has ended by itself; one that was killed or told to stop has not."""
        for program in self.programs:
            if program.process.poll() not in (None, 0, -signal.SIGKILL):
                program.must_run()

    def end(self) -> None:
        """Leave no process behind."""
        for program in self.programs:
            if program.running:
                # By itself too: one that was forked just now has no process group of its own yet.
                for kill in (os.killpg, os.kill):
                    with contextlib.suppress(ProcessLookupError):
                        kill(program.process.pid, signal.SIGKILL)
            program.ended(END_S)

    # ---- where everything stands ----

    @cached_property
    def admin(self) -> AdminClient:
        """A client of the brokers."""
        return AdminClient({"bootstrap.servers": self.addresses.bootstrap_servers, "log_level": "0"})

    def topic(self, table: str) -> str:
        """The topic of a table of the source database."""
        return f"{self.prefix}.{self.database}.{table}"

    def table_topics(self) -> list[str]:
        """The topics of captured tables that there are."""
        begin = f"{self.prefix}.{self.database}."
        return sorted(name for name in self.admin.list_topics(timeout=10).topics if name.startswith(begin))

    def log_ends(
        self, topics: Sequence[str] | None = None, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED
    ) -> dict[tuple[str, int], int]:
        """Where the logs of captured tables end, markers included, for readers of everything or of what is committed."""
        metadata = self.admin.list_topics(timeout=10).topics
        wanted = self.table_topics() if topics is None else topics
        places = [TopicPartition(topic, number) for topic in wanted for number in metadata[topic].partitions]
        if not places:
            return {}
        found = self.admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()), isolation_level=isolation)
        return {(place.topic, place.partition): future.result().offset for place, future in found.items()}

    def progress(self) -> dict[tuple[str, int], int]:
        """The next offsets that the sink holds; empty where it has no progress yet."""
        with self.sink() as connection:
            if not execute(connection, "SHOW TABLES LIKE '\\_rowflow\\_progress'"):
                return {}
            rows = execute(connection, "SELECT topic, partition_id, next_offset FROM _rowflow_progress")
        return {(topic, partition): offset for topic, partition, offset in rows}

    def sink_lag(self) -> int:
        """How many offsets the sink is behind the logs' ends."""
        progress = self.progress()
        return sum(max(0, end - progress.get(place, 0)) for place, end in self.log_ends().items())

    def binlog_place(self) -> tuple[int, int]:
        """Where the source's binlog ends: file number and offset."""
        with connected(self.addresses.source_root_url) as connection:
            file, pos = execute(connection, "SHOW BINARY LOG STATUS")[0][:2]
        return place_order(file, pos)

    def committed_place(self) -> tuple[int, int] | None:
        """What the reader's last committed position says; None where there is none."""
        value = last_value(self.addresses.bootstrap_servers, f"{self.prefix}.__positions")
        return place_order(value["file"], value["pos"]) if value is not None else None

    def reader_lags(self) -> bool:
        """Whether the source has more than the reader has committed."""
        end = self.binlog_place()
        committed = self.committed_place()
        return committed is None or committed < end

    def until(self, condition: Callable[[], T], timeout_s: float, what: str) -> T:
        """As ``wait_until``; fails at once if a process ends by itself."""

        def looked() -> T:
            self.must_run()
            return condition()

        return wait_until(looked, timeout_s, what)

    def table_states(self) -> dict[str, dict[str, Any]]:
        """The last states of captured tables in ``__jobs``, by the table's name."""
        states = {}
        jobs = f"{self.prefix}.__jobs"
        if jobs in self.admin.list_topics(timeout=10).topics:
            for event in read_topics(self.addresses.bootstrap_servers, [jobs]):
                if event.key["kind"] == "table" and event.value is not None:
                    states[event.value["table"]] = event.value
        return states

    def job_states(self, job_id: str = "") -> list[dict[str, Any]]:
        """How far jobs were, one state after the other, as ``__jobs`` has it; of one job, or of all."""
        jobs = f"{self.prefix}.__jobs"
        if jobs not in self.admin.list_topics(timeout=10).topics:
            return []
        events = read_topics(self.addresses.bootstrap_servers, [jobs])
        states = [event.value for event in events if event.key["kind"] == "state" and event.value]
        return [state for state in states if job_id in ("", state["id"])]

    def wait_followed(self, *tables: str, timeout_s: float = 60.0) -> None:
        """Return when the first reads of these tables are published to their ends."""

        def followed() -> bool:
            states = self.table_states()
            return all(states.get(table, {}).get("status") == "followed" for table in tables)

        self.until(followed, timeout_s, f"the first reads of {', '.join(tables)}")

    def wait_read(self, timeout_s: float = 60.0) -> None:
        """Return when the reader has committed what the source has now."""
        end = self.binlog_place()

        def reached() -> bool:
            committed = self.committed_place()
            return committed is not None and committed >= end

        self.until(reached, timeout_s, f"the reader to come to {end}")

    def group_lag(self) -> dict[tuple[str, int], int]:
        """What Kafka's tools show as lag, where it is not 0."""
        group = self._group()
        ends = self.log_ends()
        committed = committed_offsets(self.addresses.bootstrap_servers, group, ends)
        return {place: end - committed.get(place, 0) for place, end in ends.items() if committed.get(place) != end}

    def members(self) -> int:
        """How many workers the group has, by Kafka's tools; 0 while it shares out the partitions, or isn't there yet."""
        try:
            group = self._group()
            found = self.admin.describe_consumer_groups([group])[group].result()
        except (MySQLdb.ProgrammingError, IndexError, KafkaException):
            return 0
        return len(found.members) if found.state is ConsumerGroupState.STABLE else 0

    def _group(self) -> str:
        with self.sink() as connection:
            sink_id = execute(connection, "SELECT id FROM _rowflow_sink")[0][0]
        return f"rowflow-{self.prefix}-{sink_id}"

    @contextlib.contextmanager
    def sink(self) -> Iterator[Connection]:
        """A plain root connection to the sink's schema."""
        with connected(self.addresses.sink_root_url, self.sink_schema) as connection:
            yield connection

    @contextlib.contextmanager
    def source(self) -> Iterator[Connection]:
        """A plain root connection to the source's database."""
        with connected(self.addresses.source_root_url, self.database) as connection:
            yield connection

    def connect_source(self) -> Connection:
        """As :meth:`source`, to be closed by the caller."""
        return connect(self.addresses.source_root_url, self.database)

    def connect_sink(self) -> Connection:
        """As :meth:`sink`, to be closed by the caller."""
        return connect(self.addresses.sink_root_url, self.sink_schema)


@contextlib.contextmanager
def pipeline(
    addresses: ServiceAddresses, directory: Path, settings: Mapping[str, Mapping[str, Setting]] | None = None
) -> Iterator[Pipeline]:
    """A pipeline on an empty database and an empty sink schema of its own; at the end nothing is left of it."""
    database, sink_schema, prefix = unique_name("shop"), unique_name("results"), unique_name("bookshop")
    with connected(addresses.source_root_url) as source:
        execute(source, f"CREATE DATABASE {database} CHARACTER SET utf8mb4")
    with connected(addresses.sink_root_url) as sink:
        execute(sink, f"CREATE DATABASE {sink_schema} CHARACTER SET utf8mb4")
    made = Pipeline(directory, addresses, database, sink_schema, prefix, settings or {})
    made.write_config()
    try:
        yield made
    finally:
        made.end()
        drop_database(addresses.source_root_url, database)
        drop_database(addresses.sink_root_url, sink_schema)
        delete_topics(addresses.bootstrap_servers, prefix)


def waiting_workers(shop: Pipeline) -> list[tuple[int, int]]:
    """The sessions of the sink schema that wait for a row lock: session id and the client's process id.

    Not by information_schema.innodb_trx, which is a copy: one that was read within the last 0.1 s isn't made anew.
    """
    with shop.sink() as sink:
        rows = execute(
            sink,
            "SELECT DISTINCT thread.processlist_id, attributes.attr_value FROM performance_schema.data_lock_waits AS waits"
            " JOIN performance_schema.threads AS thread ON thread.thread_id = waits.requesting_thread_id"
            " JOIN performance_schema.session_connect_attrs AS attributes"
            " ON attributes.processlist_id = thread.processlist_id AND attributes.attr_name = '_pid'"
            " WHERE thread.processlist_db = %s",
            (shop.sink_schema,),
        )
    return [(int(session), int(pid)) for session, pid in rows]


def place_order(file: str, pos: int) -> tuple[int, int]:
    """A place in the binlog as what it is ordered by."""
    return int(file.rpartition(".")[2] or 0), pos


def environment() -> dict[str, str]:
    """This process's environment without settings of Rowflow: a pipeline has a file."""
    return {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS_VARIABLES)}


def resident_bytes(pid: int) -> int:
    """The most memory that a process ever held (proc(5): VmHWM)."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"/proc says nothing of process {pid}")


def children(pid: int) -> list[int]:
    """The process ids of a process's children (proc(5))."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]


def _server_id() -> int:
    """A server_id that no other pipeline on this machine has now."""
    return int.from_bytes(os.urandom(3), "big") + 10_000


def _toml(value: Setting) -> str:
    """A value as TOML; JSON's texts, numbers and lists are."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(name)} = {_toml(part)}" for name, part in value.items()) + "}"
    return json.dumps(list(value)) if isinstance(value, list | tuple) else json.dumps(value)
