"""Rowflow alone, on servers of its own: rows/s and rows per CPU second, binlog to topic and topic to sink.

In: how many rows.  Out: two workloads on the 14-column books table, with JSON, decimals and text of several scripts, each
read by one reader and then written by two workers: `bulk` (inserts, 200 rows a transaction) and `oltp` (one row a
transaction: 70 % update, 20 % insert, 10 % delete).  Time and CPU count from the first row to the last, start-up left out.
`.venv/bin/python -m bench.ours --help`.  Linux only (/proc).

MySQL doesn't wait for the disk at a commit here, so that what is measured is Rowflow: Kafka doesn't either, by its default.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import MySQLdb
import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from MySQLdb.connections import Connection
from rich.console import Console
from rich.progress import track
from rich.table import Table

from examples.bookshop.books import INSERT
from servers.services import Services

COMMAND = ".venv/bin/python -m bench.ours"
DIRECTORY = Path(".local/bench")
MYSQL_OPTIONS = {"sync_binlog": "0", "innodb_flush_log_at_trx_commit": "2", "innodb_buffer_pool_size": "1G"}
TOPIC = "bookshop.shop.books"
ROWS_A_TRANSACTION = 200
_LOOK_EVERY_S = 0.02
_DEADLINE_S = 600.0
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

_WORDS = [
    "数据",
    "流水线",
    "微服务",
    "架构",
    "book",
    "data",
    "the",
    "quick",
    "brown",
    "fox",
    "pipeline",
    "stream",
    "river",
    "change",
    "capture",
]

# One round trip for many transactions: the server's own loop is several times as fast as a client.
_OLTP = """
CREATE PROCEDURE shop.oltp(rows_wanted INT, last_id INT)
BEGIN
  DECLARE done INT DEFAULT 0;
  DECLARE chance INT;
  WHILE done < rows_wanted DO
    SET chance = done MOD 10;
    IF chance < 7 THEN
      UPDATE shop.books SET stock = stock + 1, price = price + 0.01 WHERE id = 1 + done * 7919 MOD last_id;
    ELSEIF chance < 9 THEN
      INSERT INTO shop.books (isbn, title, author, price, stock, tags)
      VALUES (CONCAT('T', done), '书 title', '某人', 12.5, 3, '{"a": [1, 2, 3]}');
    ELSE
      DELETE FROM shop.books WHERE id = last_id + (done - 9) DIV 10 * 2 + 1;
    END IF;
    SET done = done + 1;
  END WHILE;
END
"""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one part of the way took."""

    what: str
    rows: int
    seconds: float
    own_cpu_s: float
    server_cpu_s: dict[str, float]


class Bench:
    """The servers, the settings, and what is measured."""

    def __init__(self) -> None:
        shutil.rmtree(DIRECTORY, ignore_errors=True)
        self.services = Services(DIRECTORY, mysql_options=MYSQL_OPTIONS)
        self.console = Console()
        self.measured: list[Measured] = []
        self._last_position = ("", 0)

    def start(self) -> None:
        """Start the servers and the first read of the table."""
        self.services.start()
        self._settle()
        self._positions = Consumer(
            {
                "bootstrap.servers": self.services.kafka.bootstrap_servers,
                "group.id": "bench",
                "enable.auto.commit": False,
            }
        )
        self._positions.assign([TopicPartition("bookshop.__positions", 0, OFFSET_BEGINNING)])

    def stop(self) -> None:
        """End the servers and remove their data."""
        self._positions.close()
        self.services.stop()
        shutil.rmtree(DIRECTORY)

    def workload(self, name: str, rows: int, fill: Callable[[Connection, int], None]) -> None:
        """Fill the binlog while nothing reads it, then measure both parts of the way; at the end all is in the sink."""
        fill(self._mysql(), rows)
        end = self._binlog_end()
        with self._running("reader") as readers:
            self._until(lambda: b"goes on from" in self._log("reader"), "the reader to begin")
            self._measure(f"binlog to topic, {name}", rows, readers, lambda: self._position() >= end)
        ends = self._log_ends()
        before = self._progress()
        with self._running("worker", "worker") as workers:
            self._until(lambda: self._progress() != before, "the workers to begin")
            self._measure(f"topic to sink, {name}", rows, workers, lambda: self._progress() == ends)

    def show(self) -> None:
        """Print what was measured."""
        table = Table(title="Rowflow alone, CPU seconds of the servers beside")
        for title in ("", "rows", "s", "rows/s", "rows per CPU s", "MySQL CPU s", "Kafka CPU s"):
            table.add_column(title, justify="left" if not title else "right")
        for part in self.measured:
            table.add_row(
                part.what, f"{part.rows:,}", f"{part.seconds:.1f}", f"{part.rows / part.seconds:,.0f}",
                f"{part.rows / part.own_cpu_s:,.0f}", *(f"{cpu_s:.1f}" for cpu_s in part.server_cpu_s.values()),
            )  # fmt: skip
        self.console.print(table)

    def _settle(self) -> None:
        """Everything that is in the binlog so far is in the sink, and nothing runs."""
        with self._running("reader", "worker"):
            subprocess.run(self._command("wait", "--timeout", "300"), check=True, stdout=subprocess.DEVNULL)

    def _measure(self, what: str, rows: int, programs: list[subprocess.Popen[bytes]], done: Callable[[], bool]) -> None:
        servers = {"MySQL": self.services.mysql.pid, "Kafka": self.services.kafka.pid}
        started_s = time.monotonic()
        own_s = sum(_cpu_s(program.pid) for program in programs)
        before_s = {name: _cpu_s(pid or 0) for name, pid in servers.items()}
        self._until(done, what)
        self.measured.append(
            Measured(
                what,
                rows,
                time.monotonic() - started_s,
                sum(_cpu_s(program.pid) for program in programs) - own_s,
                {name: _cpu_s(pid or 0) - before_s[name] for name, pid in servers.items()},
            )
        )

    @contextmanager
    def _running(self, *commands: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        programs = []
        for command in commands:
            with (DIRECTORY / f"{command}.log").open("wb") as log:
                programs.append(
                    subprocess.Popen(self._command(command), stdout=log, stderr=log, start_new_session=True)
                )
        try:
            yield programs
        finally:
            for program in programs:
                program.send_signal(signal.SIGTERM)
            for program in programs:
                program.wait(30)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "rowflow.main", *arguments, "--config", str(DIRECTORY / "rowflow.toml")]

    def _until(self, done: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + _DEADLINE_S
        while not done():
            if time.monotonic() > deadline_s:
                raise SystemExit(f"gave up waiting for {what}; see the logs in {DIRECTORY}")
            time.sleep(_LOOK_EVERY_S)

    def _log(self, command: str) -> bytes:
        return (DIRECTORY / f"{command}.log").read_bytes()

    def _mysql(self) -> Connection:
        return self.services.mysql.connect()

    def _rows(self, statement: str) -> list[tuple[object, ...]]:
        connection = self._mysql()
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        except MySQLdb.ProgrammingError:
            return []
        finally:
            connection.close()

    def _binlog_end(self) -> tuple[str, int]:
        return _place(self._rows("SHOW BINARY LOG STATUS")[0])

    def _position(self) -> tuple[str, int]:
        """The last committed position; the consumer stays, and is given only what is new."""
        for message in self._positions.consume(1000, timeout=0):
            if message.error() is None and (value := message.value()):
                position = orjson.loads(value)
                self._last_position = _place((position["file"], position["pos"]))
        return self._last_position

    def _progress(self) -> dict[int, int]:
        rows = self._rows("SELECT partition_id, next_offset FROM results._rowflow_progress")
        return {int(str(partition)): int(str(offset)) for partition, offset in rows}

    def _log_ends(self) -> dict[int, int]:
        admin = AdminClient({"bootstrap.servers": self.services.kafka.bootstrap_servers})
        partitions = admin.list_topics(timeout=10).topics[TOPIC].partitions
        found = admin.list_offsets({TopicPartition(TOPIC, number): OffsetSpec.latest() for number in partitions})
        return {place.partition: future.result().offset for place, future in found.items()}


def fill_bulk(connection: Connection, rows: int) -> None:
    """Insert rows, so many a transaction."""
    connection.autocommit(False)  # noqa: FBT003
    first = _books(connection) + 1
    chance = random.Random(first)
    for begin in track(range(first, first + rows, ROWS_A_TRANSACTION), "inserting"):
        with connection.cursor() as cursor:
            cursor.executemany(INSERT, [_book(number, chance) for number in range(begin, begin + ROWS_A_TRANSACTION)])
        connection.commit()


def fill_oltp(connection: Connection, rows: int) -> None:
    """Change one row a transaction."""
    connection.autocommit(True)  # noqa: FBT003
    last = _books(connection)
    with connection.cursor() as cursor:
        cursor.execute(_OLTP)
        cursor.execute("CALL shop.oltp(%s, %s)", (rows, last))


def _book(number: int, chance: random.Random) -> tuple[object, ...]:
    """A book with about 300 bytes of values: short texts, a JSON object with a list in it, a text of twenty words."""
    return (
        number,
        f"{number:013d}",
        " ".join(chance.choices(_WORDS, k=5)),
        " ".join(chance.choices(_WORDS, k=2)),
        chance.choice(("人民邮电", "O'Reilly", None)),
        f"{chance.uniform(5, 200):.2f}",
        chance.choice(("USD", "EUR", "CNY")),
        chance.randrange(1000),
        chance.random() * 5,
        json.dumps(
            {"genre": chance.choice(_WORDS), "pages": chance.randrange(1000), "tags": chance.choices(_WORDS, k=3)}
        ),
        " ".join(chance.choices(_WORDS, k=20)),
        date(2000 + chance.randrange(26), 1, 1),
    )


def _books(connection: Connection) -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT MAX(id) FROM shop.books")
        return int(cursor.fetchall()[0][0])


def _place(row: Sequence[object]) -> tuple[str, int]:
    """Files of one run have names of equal length, which compare as their numbers do."""
    return str(row[0]), int(str(row[1]))


def _cpu_s(pid: int) -> float:
    """What a process has used so far, with its threads (proc(5): utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def main() -> None:
    """Run both workloads and print the figures."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, epilog=f"example: {COMMAND} --rows 200000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=200_000, help="rows of each workload (default: 200,000)")
    rows = parser.parse_args().rows
    bench = Bench()
    try:
        bench.start()
        bench.workload("bulk", rows, fill_bulk)
        bench.workload("oltp", rows, fill_oltp)
        bench.show()
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
