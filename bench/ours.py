"""Rowflow alone, on servers of its own: rows/s and rows per CPU second, binlog to topic and topic to sink.

In: how many rows.  Out: two workloads on the 14-column books table, with JSON, decimals and text of several scripts, each
read by one reader and then written by two workers: `bulk` (inserts, 200 rows a transaction) and `oltp` (one row a
transaction: 70 % update, 20 % insert, 10 % delete).  Time and CPU count from the first row to the last, start-up left out.
`.venv/bin/python -m bench.ours --help`.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import orjson
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from MySQLdb.connections import Connection
from rich.console import Console
from rich.table import Table

from bench.books import fill_bulk, fill_oltp
from bench.stand import PREFIX, TOPIC, Stand, cpu_s, log_of, place, reading, until

COMMAND = ".venv/bin/python -m bench.ours"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one part of the way took."""

    what: str
    rows: int
    seconds: float
    own_cpu_s: float
    server_cpu_s: dict[str, float]


class Bench:
    """What is measured, and where all of it stands."""

    def __init__(self, stand: Stand) -> None:
        """Take running servers with nothing to be read any more."""
        self.stand = stand
        self.measured: list[Measured] = []
        self._last_position = ("", 0)
        bootstrap_servers = stand.services.kafka.bootstrap_servers
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        self._open = ExitStack()
        positions = {(f"{PREFIX}.__positions", 0): OFFSET_BEGINNING}
        self._positions = self._open.enter_context(reading(bootstrap_servers, positions))

    def close(self) -> None:
        """Let go of Kafka."""
        self._open.close()

    def workload(self, name: str, rows: int, fill: Callable[[Connection, int], None]) -> None:
        """Fill the binlog while nothing reads it, then measure both parts of the way; at the end all is in the sink."""
        fill(self.stand.connect(), rows)
        end = self.stand.binlog_end()
        with self.stand.running("reader") as readers:
            until(lambda: b"goes on from" in log_of("reader").read_bytes(), "the reader to begin")
            self._measure(f"binlog to topic, {name}", rows, readers, lambda: self._position() >= end)
        ends = self._log_ends()
        before = self._progress()
        with self.stand.running("worker", "worker") as workers:
            until(lambda: self._progress() != before, "the workers to begin")
            self._measure(f"topic to sink, {name}", rows, workers, lambda: self._progress() == ends)

    def table(self) -> Table:
        """What was measured."""
        table = Table(title="Rowflow alone, CPU seconds of the servers beside")
        for title in ("", "rows", "s", "rows/s", "rows per CPU s", "MySQL CPU s", "Kafka CPU s"):
            table.add_column(title, justify="left" if not title else "right")
        for part in self.measured:
            table.add_row(
                part.what, f"{part.rows:,}", f"{part.seconds:.1f}", f"{part.rows / part.seconds:,.0f}",
                f"{part.rows / part.own_cpu_s:,.0f}", *(f"{used_s:.1f}" for used_s in part.server_cpu_s.values()),
            )  # fmt: skip
        return table

    def _measure(self, what: str, rows: int, programs: list[subprocess.Popen[bytes]], done: Callable[[], bool]) -> None:
        servers = {"MySQL": self.stand.services.mysql.pid, "Kafka": self.stand.services.kafka.pid}
        started_s = time.monotonic()
        own_s = sum(cpu_s(program.pid) for program in programs)
        before_s = {name: cpu_s(pid or 0) for name, pid in servers.items()}
        until(done, what)
        self.measured.append(
            Measured(
                what,
                rows,
                time.monotonic() - started_s,
                sum(cpu_s(program.pid) for program in programs) - own_s,
                {name: cpu_s(pid or 0) - before_s[name] for name, pid in servers.items()},
            )
        )

    def _position(self) -> tuple[str, int]:
        """The last committed position; the consumer stays, and is given only what is new."""
        for message in self._positions.consume(1000, timeout=0):
            if message.error() is None and (value := message.value()):
                position = orjson.loads(value)
                self._last_position = place((position["file"], position["pos"]))
        return self._last_position

    def _progress(self) -> dict[int, int]:
        rows = self.stand.rows("SELECT partition_id, next_offset FROM results._rowflow_progress")
        return {int(str(partition)): int(str(offset)) for partition, offset in rows}

    def _log_ends(self) -> dict[int, int]:
        partitions = self._admin.list_topics(timeout=10).topics[TOPIC].partitions
        found = self._admin.list_offsets({TopicPartition(TOPIC, number): OffsetSpec.latest() for number in partitions})
        return {place.partition: future.result().offset for place, future in found.items()}


def main() -> None:
    """Run both workloads and print the figures."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, epilog=f"example: {COMMAND} --rows 200000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=200_000, help="rows of each workload (default: 200,000)")
    rows = parser.parse_args().rows
    stand = Stand()
    try:
        stand.start()
        stand.settle()
        bench = Bench(stand)
        bench.workload("bulk", rows, fill_bulk)
        bench.workload("oltp", rows, fill_oltp)
        bench.close()
        Console().print(bench.table())
    finally:
        stand.stop()


if __name__ == "__main__":
    main()
