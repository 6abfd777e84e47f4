"""Where a partition goes on: read from the sink, never from Kafka (exactness.md W4).

Comes in: a partition that was assigned, missed its compare-and-set, or stands at a barrier.  Goes out: the offset to seek
to, once there is one: the sink is asked for ever while it is away, and a partition that entered a barrier waits until the
barrier is done, looking again each second (B1).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from typing import TypeVar

from schemas.errors import RowflowError
from sink import progress
from sink.errors import LockConflict, Unreachable
from sink.slices import Target
from sink.sql import SessionPool
from stream_app.errors import KafkaUnreachable, RestartNeeded
from stream_app.kafka import TopicLookup
from stream_app.places import TopicPartition
from stream_app.stopping import Stopping
from stream_app.waiting import BackOff

BARRIER_LOOK_S = 1.0

Result = TypeVar("Result")

log = logging.getLogger("rowflow.worker")


class StoredOffsets:
    """What the sink has stored and Kafka wasn't told yet; only for Kafka's tools to see."""

    def __init__(self) -> None:
        self._offsets: dict[TopicPartition, int] = {}

    def note(self, place: TopicPartition, offset: int) -> None:
        """The sink stands at ``offset`` here."""
        self._offsets[place] = offset

    def pending(self) -> dict[TopicPartition, int]:
        """What is to be committed."""
        return dict(self._offsets)

    def committed(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Kafka has taken these."""
        for place, offset in offsets.items():
            if self._offsets.get(place) == offset:
                del self._offsets[place]


class Placement:
    """Finds the offset that a partition is to be sought to."""

    def __init__(
        self,
        *,
        pool: SessionPool,
        target: Target,
        facts: Mapping[str, progress.TopicFacts],
        stored: StoredOffsets,
        lookup: TopicLookup,
        stopping: Stopping,
        executor: Executor,
    ) -> None:
        self._pool = pool
        self._target = target
        self._facts = facts
        self._stored = stored
        self._lookup = lookup
        self._stopping = stopping
        self._executor = executor

    async def find(self, place: TopicPartition, is_current: Callable[[], bool]) -> int | None:
        """The partition's next offset, once it may go on; None when ``is_current`` no longer holds."""
        back_off = BackOff()
        waits_at = ""
        while is_current() and not self._stopping.begun:
            try:
                found = await self._in_thread(lambda: self._look(place))
            except (Unreachable, LockConflict, KafkaUnreachable) as error:
                back_off.report(log, "topic=%s partition=%d no progress yet: %s", place.topic, place.partition, error)
                await back_off.sleep()
                continue
            except RowflowError as error:
                self._stopping.fail(error)
                return None
            if isinstance(found, int):
                log.info("seek topic=%s partition=%d offset=%d", place.topic, place.partition, found)
                self._stored.note(place, found)
                return found
            if found != waits_at:
                waits_at = found
                log.info("waits topic=%s partition=%d barrier=%s", place.topic, place.partition, found)
            await asyncio.sleep(BARRIER_LOOK_S)
        return None

    async def out_of_range(self, place: TopicPartition, offset: int) -> None:
        """The log doesn't hold the offset that was sought: the loud stop of W2."""
        facts = self._facts[place.topic]
        while not self._stopping.begun:
            try:
                now = await self._in_thread(lambda: self._lookup.facts(place.topic, facts.table))
            except KafkaUnreachable:
                await asyncio.sleep(BARRIER_LOOK_S)
                continue
            log_range = (
                progress.LogRange(0, 0) if now is None else now.logs.get(place.partition, progress.LogRange(0, 0))
            )
            self._stopping.fail(progress.outside_the_log(*place, offset, log_range, facts.table))

    def _look(self, place: TopicPartition) -> int | str:
        """The next offset, or the id of the barrier that the partition has to wait at."""
        facts = self._facts[place.topic]
        stands = self._read(place)
        if stands.open_barrier is not None:
            if not self._target.try_to_finish(place.topic, stands.open_barrier, len(facts.logs)):
                return stands.open_barrier
            stands = self._read(place)
            if stands.open_barrier is not None:
                return stands.open_barrier
        return stands.next_offset

    def _read(self, place: TopicPartition) -> progress.Progress:
        with self._pool.lend() as session:
            stands = progress.read(session, *place)
        if stands is None:
            raise RestartNeeded(f"topic {place.topic} [{place.partition}] has no progress any more: beginning anew")
        facts = self._facts[place.topic]
        if stands.topic_id != facts.topic_id:
            raise progress.foreign_topic(facts, stands.topic_id)
        return stands

    def _in_thread(self, work: Callable[[], Result]) -> Awaitable[Result]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)
