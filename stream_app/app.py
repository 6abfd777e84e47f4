"""A worker process from its start to its exit code.

Comes in: the worker's settings, and what makes the target that slices are written to.  Goes out: an exit code, after a
signal or a failure.  The start: the sink's tables; the captured tables' topics (waited for); progress rows for them
(exactness.md W6, W7); then Faust's worker, and beside it the tasks that tell Kafka what is stored, send requested jobs, and
watch for new topics.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import NoReturn, Protocol, TypeVar, cast

from schemas.errors import RowflowError
from schemas.topics import jobs_topic
from sink import progress
from sink.errors import LockConflict, Unreachable
from sink.slices import Target
from sink.sql import SessionPool
from stream_app.agents import SliceWriter
from stream_app.config import WorkerConfig
from stream_app.errors import KafkaUnreachable, RestartNeeded, WorkerRefused
from stream_app.kafka import RequestSender, TopicLookup
from stream_app.placement import Placement, StoredOffsets
from stream_app.places import Places
from stream_app.schema_topic import SchemaTopic
from stream_app.stopping import Stopping
from stream_app.topics import CapturedTopics
from stream_app.transport import COMMIT_MARK, SliceConsumer, build_app, run_app
from stream_app.waiting import BackOff

COMMIT_EVERY_S = 0.5
SEND_EVERY_S = 1.0
WATCH_EVERY_S = 2.0
THREADS_MAX = 64
LOG_END_PATIENCE_S = 30.0
"""So long a log may end before the progress of its partition: a leader that has just begun may not know the end yet."""
HOUSEKEEPING_THREADS = 16
QUIET_LOGGERS = {
    "aiokafka": logging.ERROR,
    "faust": logging.ERROR,
    "mode": logging.WARNING,
    "asyncio": logging.CRITICAL,
    "stream_app.transport": logging.ERROR,
}
"""Of the libraries that run in here: at DEBUG they log what they fetched, values included."""

Result = TypeVar("Result")

log = logging.getLogger("rowflow.worker")


class TargetFactory(Protocol):
    """Makes what slices are written to, once per worker."""

    def __call__(self, config: WorkerConfig, pool: SessionPool, schemas: SchemaTopic, /) -> Target:
        """The target of this worker."""


class _Ended(SystemExit):
    """A signal came before Faust's worker handles them; asyncio and Faust let a SystemExit through."""


def run_worker(config: WorkerConfig, make_target: TargetFactory, watch: Callable[[], None]) -> int:
    """Run a worker in this thread until SIGTERM, SIGINT or a failure; returns its exit code.

    ``watch`` is called every few seconds, in a thread; what it raises ends the worker.
    To be the process's main business: threads that hang are cut off, with the process, at the deadline.
    """
    for name, level in QUIET_LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    stopping = Stopping(config.stop_timeout_s)

    def end(_number: int, _frame: FrameType | None) -> NoReturn:
        stopping.begin()
        raise _Ended

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        _Worker(config, make_target, watch, stopping).run()
    except _Ended:
        return stopping.finish()
    except SystemExit as ended:
        return stopping.finish(ended.code if isinstance(ended.code, int) else 1)
    except RowflowError as error:
        return stopping.finish_with(error)


class _Worker:
    """What one worker process holds."""

    def __init__(
        self,
        config: WorkerConfig,
        make_target: TargetFactory,
        watch: Callable[[], None],
        stopping: Stopping,
    ) -> None:
        self._config = config
        self._make_target = make_target
        self._watch = watch
        self._stopping = stopping
        self._pool = SessionPool(config.sink.address)
        self._lookup = TopicLookup(config)
        self._captured = CapturedTopics(config, self._lookup)
        self._sender = RequestSender(config, jobs_topic(config.prefix))
        self._schemas = SchemaTopic(config)
        self._places = Places()
        self._stored = StoredOffsets()
        self._deadline = time.monotonic() + config.start_timeout_s
        self._housekeeping = ThreadPoolExecutor(HOUSEKEEPING_THREADS, "housekeeping")

    def run(self) -> NoReturn:
        """Start, then hand this thread to Faust's worker."""
        sink_id = self._reached(self._prepare_sink)
        group = progress.consumer_group(self._config.prefix, sink_id)
        # The admin client learns whether Kafka is reached by its advertised address too, and lets us see the topic.
        self._reached(lambda: self._lookup.topic_ids([jobs_topic(self._config.prefix)]))
        facts = self._wait_for_topics()
        for topic in facts.values():
            self._hold_progress(topic)
        self._reached(lambda: self._report_foreign_offsets(group, facts))
        partitions = sum(len(topic.logs) for topic in facts.values())
        log.info("worker group=%s topics=%d partitions=%d", group, len(facts), partitions)
        target = self._reached(lambda: self._make_target(self._config, self._pool, self._schemas))
        placement = Placement(
            pool=self._pool,
            target=target,
            facts=facts,
            stored=self._stored,
            lookup=self._lookup,
            stopping=self._stopping,
            executor=self._housekeeping,
        )
        writer = SliceWriter(
            pool=self._pool,
            target=target,
            places=self._places,
            stored=self._stored,
            stopping=self._stopping,
            # Twice the partitions: the threads of a lost assignment may hang on while the next one begins.
            executor=ThreadPoolExecutor(min(2 * partitions + 2, THREADS_MAX), "slices"),
        )
        app = build_app(
            self._config,
            group=group,
            topics=sorted(facts),
            places=self._places,
            placing=placement,
            handle=writer.handle,
            fail=self._stopping.fail,
        )

        for pause_s, step in (
            (COMMIT_EVERY_S, lambda: self._commit(cast(SliceConsumer, app.consumer))),
            (SEND_EVERY_S, lambda: self._in_thread(self._send_requests)),
            (WATCH_EVERY_S, lambda: self._in_thread(lambda: self._captured.watch(facts))),
            (WATCH_EVERY_S, lambda: self._in_thread(self._watch)),
        ):
            app.task(partial(self._every, pause_s, step))

        run_app(app, self._stopping.begin)

    def _reached(self, step: Callable[[], Result]) -> Result:
        """Do a step of the start, again while Kafka or the sink is away, up to the deadline."""
        back_off = BackOff()
        while True:
            try:
                return step()
            except (Unreachable, LockConflict, KafkaUnreachable) as error:
                if time.monotonic() > self._deadline:
                    away = self._what_is_away(error)
                    raise WorkerRefused(f"not reached within {self._config.start_timeout_s:.0f} s: {away}") from error
                back_off.report(log, "waiting: %s", error)
                back_off.block()

    def _what_is_away(self, error: Exception) -> str:
        """An error of a server that is away, with what to do about it."""
        if isinstance(error, KafkaUnreachable):
            return self._lookup.not_reached(str(error))
        return f"{error}; start it, or mend [sink] url" if isinstance(error, Unreachable) else str(error)

    def _prepare_sink(self) -> str:
        with self._pool.lend() as session:
            return progress.prepare_tables(session)

    def _wait_for_topics(self) -> Mapping[str, progress.TopicFacts]:
        back_off = BackOff()
        while True:
            facts = self._reached(self._captured.facts)
            if facts:
                return facts
            back_off.report(log, "no captured table in topic %s yet: waiting", jobs_topic(self._config.prefix))
            back_off.block()
            self._deadline = time.monotonic() + self._config.start_timeout_s

    def _hold_progress(self, topic: progress.TopicFacts) -> None:
        """Have rows for all partitions of a topic; none may lie behind its log's end."""
        deadline = time.monotonic() + LOG_END_PATIENCE_S
        while offsets := self._reached(lambda: self._ensure_progress(topic)):
            try:
                # Asked for after the rows were read: a log's end only grows, so by now it is there if it ever was.
                progress.hold_against_ends(self._reached(lambda: self._facts_now(topic)), offsets)
                return
            except progress.BehindTheLogEnd as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("looking again: %s", error)
                time.sleep(1.0)

    def _ensure_progress(self, topic: progress.TopicFacts) -> Mapping[int, int]:
        with self._pool.lend() as session:
            return progress.ensure(session, self._config.sink, topic, time.time_ns() // 1_000_000)

    def _facts_now(self, topic: progress.TopicFacts) -> progress.TopicFacts:
        facts = self._lookup.facts(topic.topic, topic.table)
        if facts is None or facts.topic_id != topic.topic_id:
            raise RestartNeeded(f"topic {topic.topic} is gone, or was made again: beginning anew")
        return facts

    def _report_foreign_offsets(self, group: str, facts: Mapping[str, progress.TopicFacts]) -> None:
        """Say of offsets that a tool wrote into the group that they don't count."""
        places = [(topic, partition) for topic, of_topic in facts.items() for partition in of_topic.logs]
        for place in self._lookup.committed(group, places):
            if place.metadata != COMMIT_MARK:
                log.warning(
                    "topic=%s partition=%d: a tool set the group's offset to %d; it doesn't count, the sink's progress does",
                    place.topic,
                    place.partition,
                    place.offset,
                )

    async def _every(self, pause_s: float, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step again and again; what is away is waited for, what is wrong ends the worker."""
        back_off = BackOff()
        while not self._stopping.begun:
            await asyncio.sleep(pause_s)
            try:
                await step()
            except (Unreachable, LockConflict, KafkaUnreachable) as error:
                back_off.report(log, "%s", error)
            except RowflowError as error:
                self._stopping.fail(error)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._housekeeping, work)

    async def _commit(self, consumer: SliceConsumer) -> None:
        pending = self._stored.pending()
        if pending and await consumer.commit_stored(pending):
            self._stored.committed(pending)

    def _send_requests(self) -> None:
        with self._pool.lend() as session:
            session.begin()
            for request in progress.pending_requests(session):
                self._sender.send(request.key, request.value)
                progress.mark_sent(session, request)
                log.info("job requested id=%s", request.id)
            session.commit()
