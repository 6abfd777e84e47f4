"""A real worker that counts: one row for each record of each slice, so that doubles and holes show.

``python -m tests.faults.counting_worker PREFIX BOOTSTRAP_SERVERS SINK_URL SLICE_ROWS LOG_END_PATIENCE_S``.  A barrier is a
record whose value begins with ``barrier:``.  On SIGHUP all partitions are sought back behind the transport's back, as a
broken client would.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn
from unittest.mock import patch
from urllib.parse import unquote, urlsplit

from aiokafka import TopicPartition as AiokafkaPartition

from schemas.addresses import MysqlAddress
from schemas.events import Barrier, BarrierKind
from sink.config import SinkConfig
from sink.slices import Slice
from sink.sql import Session, SessionPool
from stream_app import app, transport
from stream_app.app import run_worker
from stream_app.config import WorkerConfig
from stream_app.places import TopicPartition
from stream_app.schema_topic import SchemaTopic

BARRIER = b"barrier:"
EARLY_SIGTERM = "ROWFLOW_TEST_EARLY_SIGTERM"


@dataclass(frozen=True, slots=True)
class CountedSlice:
    """A slice as rows of ``seen``; cut behind its first barrier."""

    topic: str
    partition: int
    end: int
    barrier: Barrier | None
    rows: list[tuple[str, int, int, str, int]]

    def apply(self, session: Session) -> None:
        """Insert the rows, and the barrier's entry."""
        if self.rows:
            text = b",".join(session.literal(row) for row in self.rows)
            session.execute(b"INSERT INTO seen (topic, partition_id, record_offset, number, worker) VALUES " + text)
        if self.barrier is not None:
            session.execute(
                "INSERT INTO _rowflow_barriers (topic, barrier_id, partition_id, barrier, entered_at)"
                " VALUES (%s, %s, %s, '', UTC_TIMESTAMP(3))",
                (self.topic, self.barrier.id, self.partition),
            )


class CountingTarget:
    """Counts records, and barriers when all partitions stand there."""

    def __init__(self, pool: SessionPool) -> None:
        self._pool = pool

    def prepare(self, slice_: Slice) -> CountedSlice:
        """Turn records into rows."""
        rows, end, barrier = [], slice_.end, None
        for record in slice_.records:
            value = record.value or b""
            rows.append((slice_.topic, slice_.partition, record.offset, value.decode(), os.getpid()))
            if value.startswith(BARRIER):
                barrier = Barrier(value.removeprefix(BARRIER).decode().partition("/")[0], BarrierKind.TRUNCATE, "")
                end = record.offset + 1
                break
        return CountedSlice(slice_.topic, slice_.partition, end, barrier, rows)

    def try_to_finish(self, topic: str, barrier_id: str, partitions: int) -> bool:
        """Mark a barrier done, once, where all partitions have entered it."""
        with self._pool.lend() as session:
            session.begin()
            entered = session.fetch(
                "SELECT done FROM _rowflow_barriers WHERE topic = %s AND barrier_id = %s FOR UPDATE",
                (topic, barrier_id),
            )
            if len(entered) < partitions:
                return False
            if not entered[0][0]:
                session.execute("INSERT INTO finished (topic, barrier_id) VALUES (%s, %s)", (topic, barrier_id))
                session.execute(
                    "UPDATE _rowflow_barriers SET done = 1 WHERE topic = %s AND barrier_id = %s", (topic, barrier_id)
                )
            session.commit()
            return True


def make_target(_config: WorkerConfig, pool: SessionPool, _schemas: SchemaTopic) -> CountingTarget:
    """What run_worker asks for."""
    return CountingTarget(pool)


def sink_address(url: str) -> MysqlAddress:
    """The parts of a mysql:// URL."""
    parts = urlsplit(url)
    return MysqlAddress(
        parts.hostname or "",
        parts.port or 3306,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        parts.path.lstrip("/"),
    )


def seek_back_on_sighup() -> None:
    """Let SIGHUP move aiokafka's positions back without a word to the transport."""
    original = transport.SliceThread.on_start

    async def on_start(self: transport.SliceThread) -> None:
        await original(self)
        loop = asyncio.get_running_loop()

        def seek_back() -> None:
            consumer = self._ensure_consumer()
            for partition in consumer.assignment():
                state = transport._state(consumer, partition)
                if state is not None and state.has_valid_position:
                    consumer.seek(AiokafkaPartition(*partition), max(state.position - 50, 0))

        hooks.append(lambda: loop.call_soon_threadsafe(seek_back))

    hooks: list[Callable[[], object]] = []
    signal.signal(signal.SIGHUP, lambda *_: [hook() for hook in hooks])
    setattr(transport.SliceThread, "on_start", on_start)  # noqa: B010 - a plain assignment is none to mypy


def stale_commit_on_sigwinch() -> None:
    """Let SIGWINCH send the next commit as of an earlier generation, as one is that meets a rebalance on its way."""
    original = transport.SliceThread.commit_in_thread
    asked: list[bool] = []

    async def commit_in_thread(self: transport.SliceThread, offsets: Mapping[TopicPartition, int]) -> bool:
        coordinator = self._ensure_consumer()._coordinator
        present = coordinator.generation
        if not asked:
            return await original(self, offsets)
        asked.clear()
        coordinator.generation = stale = present - 1
        try:
            return await original(self, offsets)
        finally:
            logging.getLogger("rowflow.worker").info("stale commit answered")
            if coordinator.generation == stale:
                coordinator.generation = present

    signal.signal(signal.SIGWINCH, lambda *_: asked.append(True))
    setattr(transport.SliceThread, "commit_in_thread", commit_in_thread)  # noqa: B010 - as above


def sigterm_before_its_handler() -> None:
    """Let SIGTERM come while the loop runs a callback, before Faust's worker handles it: asyncio catches what is raised."""
    original = transport._Worker.execute_from_commandline

    def execute_from_commandline(self: transport._Worker) -> NoReturn:
        self.loop.call_soon(os.kill, os.getpid(), signal.SIGTERM)
        original(self)

    setattr(transport._Worker, "execute_from_commandline", execute_from_commandline)  # noqa: B010 - as above


def main(prefix: str, bootstrap_servers: str, sink_url: str, slice_rows: str, log_end_patience_s: str) -> int:
    """Run until a signal."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s",
        datefmt="%H:%M:%S",
    )
    patch.object(app, "LOG_END_PATIENCE_S", float(log_end_patience_s)).start()
    seek_back_on_sighup()
    stale_commit_on_sigwinch()
    if EARLY_SIGTERM in os.environ:
        sigterm_before_its_handler()
    sink = SinkConfig(sink_address(sink_url), prefix)
    config = WorkerConfig(prefix, bootstrap_servers, sink, slice_rows_max=int(slice_rows))
    return run_worker(config, make_target, lambda: None)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
