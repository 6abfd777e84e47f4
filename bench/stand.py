"""What measurements stand on: servers of their own in `.local/bench`, Rowflow's processes, and where the source ends.

In: nothing.  Out: running servers and processes, each with a log file; what a plain client sees of them.  Linux only (/proc).

MySQL doesn't wait for the disk at a commit here, so that what is measured is Rowflow: Kafka doesn't either, by its default.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import MySQLdb
from confluent_kafka import Consumer, TopicPartition
from MySQLdb.connections import Connection

from servers.services import Services

DIRECTORY = Path(".local/bench")
MYSQL_OPTIONS = {"sync_binlog": "0", "innodb_flush_log_at_trx_commit": "2", "innodb_buffer_pool_size": "1G"}
PREFIX = "bookshop"
TOPIC = f"{PREFIX}.shop.books"
_LOOK_EVERY_S = 0.02
_DEADLINE_S = 600.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

T = TypeVar("T")


class Stand:
    """The servers, the settings, and what runs on them."""

    def __init__(self) -> None:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        self.services = Services(DIRECTORY, mysql_options=MYSQL_OPTIONS)

    def start(self) -> None:
        """Start the servers, with `shop.books` in them.  From here on SIGTERM ends this process as Ctrl-C does."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.services.start()

    def stop(self) -> None:
        """End the servers and remove their data."""
        self.services.stop()
        shutil.rmtree(DIRECTORY)

    def settle(self) -> None:
        """Everything that is in the binlog so far is in the sink, and nothing runs."""
        with self.running("reader", "worker"):
            self.run("wait", "--timeout", "300")

    @contextmanager
    def running(self, *commands: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        """Rowflow's processes, by their commands, until the end of the block."""
        with started({command: self._command(command) for command in commands}, commands) as programs:
            yield programs

    def run(self, *arguments: str) -> str:
        """Run `rowflow ARGUMENTS` to its end; what it printed."""
        done = subprocess.run(self._command(*arguments), stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"rowflow {' '.join(arguments)} ended with {done.returncode}; see the logs in {DIRECTORY}")
        return done.stdout

    def connect(self) -> Connection:
        """A connection of the root user, for source and sink."""
        return self.services.mysql.connect()

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        """What a statement gives; nothing where its table is not there yet."""
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        except MySQLdb.ProgrammingError:
            return []
        finally:
            connection.close()

    def binlog_end(self) -> tuple[str, int]:
        """Where the source's binlog ends."""
        return place(self.rows("SHOW BINARY LOG STATUS")[0])

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "rowflow.main", *arguments, "--config", str(DIRECTORY / "rowflow.toml")]


@contextmanager
def started(commands: dict[str, list[str]], names: Sequence[str] = ()) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes by their names (one several times: ``names``), until the end of the block."""
    programs = []
    for name in names or commands:
        with log_of(name).open("wb") as log:
            programs.append(subprocess.Popen(commands[name], stdout=log, stderr=log, start_new_session=True))
    try:
        yield programs
    finally:
        for program in programs:
            program.send_signal(signal.SIGTERM)
        for program in programs:
            program.wait(30)


@contextmanager
def reading(bootstrap_servers: str, places: dict[tuple[str, int], int]) -> Iterator[Consumer]:
    """A consumer of topics' partitions from some offsets on."""
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": "bench", "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in places.items()])
    try:
        yield consumer
    finally:
        consumer.close()


def log_of(name: str) -> Path:
    """The log file of a process."""
    return DIRECTORY / f"{name}.log"


def until(look: Callable[[], T], what: str) -> T:
    """The first true value of ``look``."""
    deadline_s = time.monotonic() + _DEADLINE_S
    while not (found := look()):
        if time.monotonic() > deadline_s:
            raise SystemExit(f"gave up waiting for {what}; see the logs in {DIRECTORY}")
        time.sleep(_LOOK_EVERY_S)
    return found


def place(row: Sequence[object]) -> tuple[str, int]:
    """A place in the binlog, to be compared: files of one run have names of equal length."""
    return str(row[0]), int(str(row[1]))


def cpu_s(pid: int) -> float:
    """What a process has used so far, with its threads (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
