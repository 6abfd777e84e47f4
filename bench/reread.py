"""Reading a whole table again, beside Debezium's incremental snapshot of the same table on the same servers.

In: how many books.  Out: rows/s into Kafka of a job on four connections and of an incremental snapshot, at rest and while
2,000 rows a second are written; then the job with two workers, up to its receipt, which says how late the stream was.
One of the two runs at a time.  What came into Kafka is counted before a figure counts.
`.venv/bin/python -m bench.reread --help`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from confluent_kafka import OFFSET_BEGINNING
from rich.console import Console
from rich.table import Table

from bench import debezium
from bench.books import SteadyWriter, fill_large, steady_writes
from bench.stand import PREFIX, Stand, cpu_s, log_of, reading, until

COMMAND = ".venv/bin/python -m bench.reread"
_SEEDS = (1, 2, 3, 4)


class Rereads:
    """The table, its rereads, and what they took."""

    def __init__(self, stand: Stand, rows: int, writes_per_s: float) -> None:
        self.stand, self._books, self._writes_per_s = stand, rows, writes_per_s
        self.table = Table(title=f"shop.books read again, {rows:,} rows")
        for title in (
            "",
            "writes/s",
            "rows",
            "s",
            "rows/s",
            "rows per CPU s",
            "lag ms p50, p99",
        ):
            self.table.add_column(title, justify="left" if not title else "right")

    def of_debezium(self) -> None:
        """Into Kafka, twice each: the first time warms its JVM up."""
        with debezium.running(self.stand) as peer:
            peer.read_again()
            for writes_per_s in (0.0, self._writes_per_s):
                with self._written(writes_per_s) as written:
                    before_s = cpu_s(peer.program.pid)
                    seconds, rows = peer.read_again()
                    self._add("Debezium, into Kafka", written(), rows, seconds, cpu_s(peer.program.pid) - before_s, "")

    def of_rowflow(self) -> None:
        """Into Kafka, and then into the results as well."""
        for what, commands in (
            ("Rowflow, into Kafka", ["reader"]),
            ("Rowflow, into results", ["reader", "worker", "worker"]),
        ):
            for writes_per_s in (0.0, self._writes_per_s):
                with self.stand.running(*commands) as programs:
                    until(lambda: b"goes on from" in log_of("reader").read_bytes(), "the reader to begin")
                    if len(commands) > 1:
                        self.stand.run("wait", "--timeout", "60")
                    with self._written(writes_per_s) as written:
                        before_s = sum(cpu_s(program.pid) for program in programs)
                        job = self._job(receipt=len(commands) > 1)
                        used_s = sum(cpu_s(program.pid) for program in programs) - before_s
                        late = f"{job['lag_p50_ms']}, {job['lag_p99_ms']}"
                        self._add(what, written(), job["rows_read"], job["seconds"], used_s, late)
            self.stand.settle()

    def _job(self, *, receipt: bool) -> dict[str, Any]:
        """Read the table again; the job as it ends, or its receipt, with its seconds."""
        begin_s = time.monotonic()
        if receipt:
            printed = self.stand.run("snapshot", "shop.books", "--wait", "--json")
            found: dict[str, Any] = json.loads(printed.splitlines()[-1])["receipt"]
            return {**found, "seconds": time.monotonic() - begin_s}
        job_id = f"again-{self.table.row_count}"
        self.stand.run("snapshot", "shop.books", "--id", job_id)
        self._until_done(job_id)
        jobs = map(json.loads, self.stand.run("jobs", "--json").splitlines())
        done = next(job for job in jobs if job["id"] == job_id)
        begin, end = (datetime.fromisoformat(done[name]) for name in ("started_at", "finished_at"))
        return {**done, "seconds": (end - begin).total_seconds()}

    def _until_done(self, job_id: str) -> None:
        """Return when the job is done; its own topic is looked at, for a command takes CPU that the reader could have."""
        jobs = {(f"{PREFIX}.__jobs", 0): OFFSET_BEGINNING}
        with reading(self.stand.services.kafka.bootstrap_servers, jobs) as consumer:

            def is_done() -> bool:
                states = [json.loads(message.value() or b"{}") for message in consumer.consume(100, timeout=0.2)]
                return any(state.get("id") == job_id and state.get("status") == "done" for state in states)

            until(is_done, "the job")

    @contextmanager
    def _written(self, rows_per_s: float) -> Iterator[Callable[[], float]]:
        """Writers meanwhile; gives what they have achieved since."""
        connect = self.stand.connect
        writers = [
            SteadyWriter(connect(), self._books, rows_per_s / len(_SEEDS), seed=seed) for seed in _SEEDS if rows_per_s
        ]
        begin_s = time.time()
        with steady_writes(writers):
            yield lambda: sum(writer.per_s(begin_s, time.time()) for writer in writers)

    def _add(self, what: str, written: float, rows: int, seconds: float, used_s: float, late: str) -> None:
        figures = (
            f"{written:,.0f}",
            f"{rows:,}",
            f"{seconds:.1f}",
            f"{rows / seconds:,.0f}",
            f"{rows / used_s:,.0f}",
            late,
        )
        self.table.add_row(what, *figures)


def main() -> None:
    """Fill the table, read it again in both ways, and print the figures."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, epilog=f"example: {COMMAND} --rows 200000",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the table (default: 1,000,000)")
    parser.add_argument("--writes", type=float, default=2_000, help="rows a second written meanwhile (default: 2,000)")
    given = parser.parse_args()
    stand, console = Stand(), Console()
    try:
        stand.start()
        fill_large(stand.connect(), given.rows)
        rereads = Rereads(stand, given.rows, given.writes)
        with console.status("Debezium reads ..."):
            rereads.of_debezium()
        with console.status("Rowflow reads ..."):
            stand.settle()
            rereads.of_rowflow()
        console.print(rereads.table)
    finally:
        stand.stop()


if __name__ == "__main__":
    main()
