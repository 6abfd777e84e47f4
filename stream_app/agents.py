"""One slice, one transaction, again and again until it is in or given up.

Comes in: deliveries of the transport, one partition's after another, different partitions' at the same time.  Goes out:
what the target writes, with the partition's progress, in one transaction of the sink; then the offset that Kafka's tools
may be told.  Guarantees that no exception leaves the agent (Faust would count the slice as done), that a slice of an older
epoch is not committed (exactness.md W3, W10), and that after a missed compare-and-set the partition is sought anew (W1).
"""

from __future__ import annotations

import asyncio
import bisect
import logging
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from enum import Enum, auto
from operator import attrgetter

from schemas.errors import RowflowError
from sink import progress
from sink.errors import LockConflict, StatementFailed, Unreachable
from sink.slices import Prepared, Slice, Target
from sink.sql import SessionPool
from stream_app.errors import KafkaUnreachable, WorkerStopped
from stream_app.placement import StoredOffsets
from stream_app.places import Places, TopicPartition
from stream_app.stopping import Stopping
from stream_app.waiting import BackOff

log = logging.getLogger("rowflow.worker")


@dataclass(frozen=True, slots=True)
class Delivery:
    """A slice on its way from the transport to the agent, with the epoch that it belongs to."""

    slice: Slice
    epoch: int


class Outcome(Enum):
    """What became of a slice."""

    STORED = auto()
    AT_BARRIER = auto()
    """Stored up to a barrier; the partition waits there."""
    MISSED = auto()
    """The partition doesn't stand where the slice starts."""
    GIVEN_UP = auto()
    """The epoch was raised meanwhile; nothing was written."""


class SliceWriter:
    """Writes slices to a target."""

    def __init__(
        self,
        *,
        pool: SessionPool,
        target: Target,
        places: Places,
        stored: StoredOffsets,
        stopping: Stopping,
        executor: Executor,
    ) -> None:
        self._pool = pool
        self._target = target
        self._places = places
        self._stored = stored
        self._stopping = stopping
        self._executor = executor

    async def handle(self, delivery: Delivery, seek_anew: Callable[[TopicPartition], None]) -> None:
        """Bring one slice into the sink, however long that takes; ``seek_anew`` places its partition again."""
        slice_ = delivery.slice
        place = TopicPartition(slice_.topic, slice_.partition)

        def is_current() -> bool:
            return self._places.is_current(place, delivery.epoch) and not self._stopping.begun

        attempt = Attempt(slice_, self._pool, self._target, is_current)
        back_off = BackOff()
        while is_current():
            try:
                outcome = await asyncio.get_running_loop().run_in_executor(self._executor, attempt.run)
            except (Unreachable, LockConflict, KafkaUnreachable) as error:
                back_off.report(log, "topic=%s partition=%d start=%d: %s", *place, slice_.start, error)
                await back_off.sleep()
                continue
            except RowflowError as error:
                self._stopping.fail(_with_place(error, slice_))
                return
            except Exception as error:  # noqa: BLE001 - whatever it is must end the process, not the agent
                _log_trace(error)
                self._stopping.fail(RowflowError(f"{_where(slice_)}: {type(error).__name__} (see the log)"))
                return
            if outcome in {Outcome.STORED, Outcome.AT_BARRIER}:
                self._stored.note(place, attempt.end)
            if outcome is Outcome.MISSED:
                log.info("missed topic=%s partition=%d start=%d end=%d", *place, slice_.start, slice_.end)
            if outcome in {Outcome.MISSED, Outcome.AT_BARRIER} and is_current():
                seek_anew(place)
            return


class Attempt:
    """A slice's way into the sink, to be run in a thread, again after a failed transaction.

    A run after a COMMIT of unknown outcome misses its compare-and-set if that COMMIT was done (W11).
    """

    def __init__(self, slice_: Slice, pool: SessionPool, target: Target, is_current: Callable[[], bool]) -> None:
        self._slice = slice_
        self._pool = pool
        self._target = target
        self._is_current = is_current
        self._prepared: Prepared | None = None

    @property
    def end(self) -> int:
        """Where the partition stands after it."""
        return self._slice.end if self._prepared is None else self._prepared.end

    def run(self) -> Outcome:
        """Prepare it if there is something to prepare, then write it in one transaction."""
        slice_ = self._slice
        if self._prepared is None and slice_.records:
            self._prepared = self._target.prepare(slice_)
        prepared = self._prepared
        with self._pool.lend() as session:
            session.begin()
            if not progress.advance(
                session,
                slice_.topic,
                slice_.partition,
                slice_.start,
                self.end,
                records=_records_before(slice_, self.end),
            ):
                return Outcome.MISSED
            if prepared is not None:
                prepared.apply(session)
            if not self._is_current():
                return Outcome.GIVEN_UP
            session.commit()
        return Outcome.STORED if prepared is None or prepared.barrier is None else Outcome.AT_BARRIER


def _records_before(slice_: Slice, end: int) -> int:
    """The number of records below an offset."""
    if end == slice_.end:
        return len(slice_.records)
    return bisect.bisect_left(slice_.records, end, key=attrgetter("offset"))


def _where(slice_: Slice) -> str:
    return f"topic {slice_.topic} [{slice_.partition}] offsets {slice_.start} to {slice_.end - 1}"


def _with_place(error: RowflowError, slice_: Slice) -> RowflowError:
    """A statement that the sink refuses for good is a loud stop; all else says itself what it is."""
    if isinstance(error, StatementFailed):
        return WorkerStopped(f"{_where(slice_)}: {error}")
    return error


def _log_trace(error: Exception) -> None:
    """Log where an unforeseen error came from, without its own text, which may hold values."""
    log.error("%s at\n%s", type(error).__name__, "".join(traceback.format_tb(error.__traceback__)))
