"""The slice transport: the one module of this room that knows Faust and aiokafka.

Comes in: what Kafka's brokers hand to aiokafka's fetcher.  Goes out: slices, a partition's fetched records as **one** Faust
message each, for Faust's own path costs about 100 us a message; and a Faust app set up as the rules need it.

Guarantees (exactness.md): read committed only; no silent reset (W2); slices that follow each other without gap, by the
consumer's position, or are dropped (W1, W3); a seek after every assignment, to where the sink stands (W4); a slice without
records where only transaction markers were passed (W5).  Faust's own bookkeeping of offsets and acks is left without work.

Two threads meet here: Faust's main loop, and the consumer's own thread, in which all of aiokafka lives.  What is named
``..._in_thread`` runs there.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, Protocol, cast

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka import TopicPartition as AiokafkaPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    GroupAuthorizationFailedError,
    InvalidSessionTimeoutError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
)
from aiokafka.protocol.commit import OffsetCommitRequest
from faust.auth import SASLCredentials, SSLCredentials
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage

from schemas.errors import RowflowError
from sink.slices import Slice
from stream_app.agents import Delivery
from stream_app.config import WorkerConfig
from stream_app.errors import WorkerRefused, WorkerStopped
from stream_app.places import ChainBrokenError, Places, TopicPartition
from stream_app.tls import context_of

FETCH_WAIT_MS = 100
"""How long a broker may hold a fetch without data.  While it does, partitions that were just drained wait for the next."""
CHECK_EVERY_S = 1.0
UNSOUGHT_PAUSE_S = 0.05
BROKEN_PAUSE_S = 1.0
COMMIT_MARK = "rowflow"
"""The metadata of the offsets that Rowflow commits: others were written by a tool."""
_END_MARK = "\0"
"""Behind what is committed, for librdkafka forgets where metadata ends (see kafka.py)."""
DAY_S = 86_400.0
LEAVE_TIME_S = 3.0
"""So long a worker that ends takes leave of its group."""
SESSION_TIMEOUT_S = 10.0
"""So long a worker that was killed keeps its partitions."""

log = logging.getLogger("rowflow.worker")


class Placing(Protocol):
    """Says where partitions go on; see placement.py."""

    async def find(self, place: TopicPartition, is_current: Callable[[], bool]) -> int | None:
        """The offset to seek to, once there is one."""

    async def out_of_range(self, place: TopicPartition, offset: int) -> None:
        """A sought offset isn't in the log."""


class NoReadOffsets(dict[TP, int | None]):
    """Stands for Faust's map of read offsets, by which it would drop messages in silence: it knows nothing (W3)."""

    def __getitem__(self, key: TP) -> int | None:
        return None

    def __setitem__(self, key: TP, value: int | None) -> None:
        return

    def update(self, *_args: Any, **_kwargs: Any) -> None:
        """Take nothing."""


class ActivePartitions(set[TP]):
    """The partitions to fetch from, as both threads see them at any moment; never counts as empty.

    Faust sleeps for a second where none is active, though a buffer may have room a moment later; and to aiokafka an empty
    set means all partitions.
    """

    def __bool__(self) -> bool:
        return True


class SliceThread(driver.AIOKafkaConsumerThread):
    """The consumer's thread: fetches slices, seeks and commits."""

    consumer: SliceConsumer
    _subscribed: frozenset[str] = frozenset()

    def _create_worker_consumer(self, transport: driver.Transport) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Neither can be set from outside: Faust reads committed only where it writes transactions itself.
        consumer._isolation_level = "read_committed"  # noqa: SLF001
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001
        return consumer

    async def on_thread_stop(self) -> None:
        """Let the consumer go, whatever Kafka says to it; else the worker would wait for this thread up to its deadline.

        aiokafka awaits the requests that it cancels: one that rests after a failure, as while Kafka is away, throws it out.
        And a broker that says nothing is waited for half a minute, for an answer that nobody needs.
        """
        with suppress(asyncio.CancelledError, TimeoutError):
            await asyncio.wait_for(super().on_thread_stop(), LEAVE_TIME_S)

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe once: Faust does it again 45 s after each rebalance, which would be the next rebalance."""
        names = frozenset(topics)
        if names != self._subscribed:
            self._subscribed = names
            await super().subscribe(names)

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> dict[TP, list[Delivery]]:
        try:
            fetched = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
            return self._sliced_in_thread(consumer, active_partitions, fetched or {})
        except (NoOffsetForPartitionError, OffsetOutOfRangeError, ConsumerStoppedError):
            raise
        except (KafkaError, ChainBrokenError):
            # Records of other partitions may have been taken off the fetcher and lost with the exception.
            self.consumer.places.break_all()
            raise

    def _sliced_in_thread(
        self, consumer: AIOKafkaConsumer, active_partitions: set[TP], fetched: Mapping[Any, Sequence[Any]]
    ) -> dict[TP, list[Delivery]]:
        """Make slices of what was fetched, and of the markers that were passed; nothing is awaited here.

        What was fetched is handed over even where the partition is no longer active: its position has moved.
        """
        sliced = {}
        for tp in {*map(_faust_partition, fetched), *tuple(active_partitions)}:
            state = _state(consumer, tp)
            records = fetched.get(tp, ())
            if state is None or not state.has_valid_position:
                continue
            place = TopicPartition(tp.topic, tp.partition)
            first = records[0].offset if records else None
            link = self.consumer.places.hand_over(place, state, first, state.position)
            if link is not None:
                slice_ = Slice(tp.topic, tp.partition, link.start, state.position, records)
                sliced[tp] = [Delivery(slice_, link.epoch)]
        return sliced

    async def seek_in_thread(self, tp: TP, offset: int, epoch: int) -> None:
        """Seek, and begin the chain of this epoch there, with no other step of this thread in between."""
        consumer = self._ensure_consumer()
        state = _state(consumer, tp)
        if state is None:
            return
        consumer.seek(AiokafkaPartition(tp.topic, tp.partition), offset)
        self.consumer.places.begin(TopicPartition(tp.topic, tp.partition), epoch, offset, state)

    def wake(self) -> None:
        """Let a fetch that waits for data look again: a partition became active."""
        self.thread_loop.call_soon_threadsafe(self._wake_in_thread)

    def _wake_in_thread(self) -> None:
        if self._consumer is not None:
            fetcher = self._consumer._fetcher  # noqa: SLF001 - there is no other way to wake it
            for waiter in tuple(fetcher._fetch_waiters):  # noqa: SLF001
                if not waiter.done():
                    waiter.set_result(None)

    async def commit_in_thread(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Tell Kafka's tools where the sink stands; False where that failed, which harms nobody.

        The request is our own: aiokafka's commit takes a refusal during a rebalance for a lost membership, joins anew as
        another member, and so begins the next rebalance, in which the next commit is refused.
        """
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator  # noqa: SLF001 - the generation is not to be had otherwise
        by_topic: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for place, offset in offsets.items():
            if _state(consumer, TP(*place)) is not None:
                by_topic[place.topic].append((place.partition, offset, COMMIT_MARK + _END_MARK))
        if not by_topic:
            return True
        node = coordinator.coordinator_id
        if node is None or coordinator.generation < 0:
            return False
        request = OffsetCommitRequest(
            coordinator.group_id,
            coordinator.generation,
            coordinator.member_id,
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            list(by_topic.items()),
        )
        try:
            answer = await consumer._client.send(node, request)  # noqa: SLF001 - as above
        except (KafkaError, TimeoutError) as error:
            log.debug("offsets were not committed to Kafka: %s", type(error).__name__)
            return False
        return not any(code for _, partitions in answer.topics for _, code in partitions)

    async def check_in_thread(self) -> None:
        """Raise what aiokafka keeps for a user that asks: until it is taken, the consumer has no part in its group."""
        consumer = self._consumer
        if consumer is not None and consumer._coordinator is not None:  # noqa: SLF001 - Faust never asks
            consumer._coordinator.check_errors()  # noqa: SLF001
            fetching = consumer._fetcher.error_future  # noqa: SLF001
            if fetching.done():
                fetching.result()
                raise ConsumerStoppedError

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's search for stuck partitions: it takes those that wait at a barrier or for the sink for stuck."""


def _faust_partition(partition: AiokafkaPartition) -> TP:
    return TP(partition.topic, partition.partition)


def _state(consumer: AIOKafkaConsumer, tp: TP) -> Any:
    """The consumer's own state of an assigned partition in the present assignment, or None."""
    subscription = consumer._subscription.subscription  # noqa: SLF001 - positions are not to be had otherwise
    assignment = subscription.assignment if subscription is not None else None
    if assignment is None or not assignment.active:
        return None
    partition = AiokafkaPartition(tp.topic, tp.partition)
    return assignment.state_value(partition) if partition in assignment.tps else None


class SliceConsumer(driver.Consumer):
    """Faust's consumer, with slices for messages."""

    _thread: SliceThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = NoReadOffsets()
        transport = cast(SliceTransport, self.transport)
        self.places = transport.places
        self._placing = transport.placing
        self._fail = transport.fail
        self._sought_epoch: dict[TP, int] = {}
        self._placing_tasks: set[asyncio.Task[None]] = set()

    def _new_consumer_thread(self) -> SliceThread:
        return SliceThread(self, loop=self.loop, beacon=self.beacon)

    async def perform_seek(self) -> None:
        """Place every assigned partition; Faust calls this after each rebalance and gives it little time (W4)."""
        for tp in self.assignment():
            self.seek_anew(TopicPartition(tp.topic, tp.partition))

    def seek_anew(self, place: TopicPartition) -> None:
        """Pause a partition, make its slices worthless, and go on where the sink says, as soon as it does."""
        self.pause_partitions({TP(*place)})
        epoch = self.places.raise_epoch(place)
        self._spawn(self._seek_when_placed(place, epoch))

    async def _seek_when_placed(self, place: TopicPartition, epoch: int) -> None:
        tp = TP(*place)
        offset = await self._placing.find(place, lambda: self.places.is_current(place, epoch))
        if offset is None or tp not in self.assignment() or not self.places.is_current(place, epoch):
            return
        self._sought_epoch[tp] = epoch
        await self.seek(tp, offset)
        if self.places.is_current(place, epoch):
            self.resume_partitions({tp})

    async def _seek(self, partition: TP, offset: int) -> None:
        await self._thread.call_thread(self._thread.seek_in_thread, partition, offset, self._sought_epoch[partition])

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Make the slices of what is taken away worthless, before anything else."""
        for tp in revoked:
            self.places.raise_epoch(TopicPartition(tp.topic, tp.partition))
        await super().on_partitions_revoked(revoked)

    def on_buffer_drop(self, tp: TP) -> None:
        """Faust would fetch again from a partition whose buffer has room; not while it is paused."""
        super().on_buffer_drop(tp)
        if tp in self._paused_partitions:
            self._active_partitions.discard(tp)
        else:
            self._thread.wake()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Fetch from partitions again, at once."""
        super().resume_partitions(tps)
        self._thread.wake()

    def _reset_state(self) -> None:
        super()._reset_state()
        self._active_partitions = ActivePartitions()

    async def commit_stored(self, offsets: Mapping[TopicPartition, int]) -> bool:
        """Commit to Kafka what the sink has stored; False: not now."""
        done: bool = await self._thread.call_thread(self._thread.commit_in_thread, offsets)
        return done

    @faust.Service.task
    async def _watch_membership(self) -> None:
        # Not a task of the app: those wait for the first assignment, which may be what doesn't come.
        while not self.should_stop:
            await self.sleep(CHECK_EVERY_S)
            await self._check_membership()

    async def _check_membership(self) -> None:
        """Notice what has ended the consumer's part in its group; else the worker would stay, alive and deaf."""
        try:
            await self._thread.call_thread(self._thread.check_in_thread)
        except GroupAuthorizationFailedError:
            self._fail(WorkerRefused(f"Kafka: no right to use group {self.app.conf.id}: grant Read on it to this user"))
        except InvalidSessionTimeoutError:
            self._fail(
                WorkerRefused(
                    f"Kafka takes no session of {SESSION_TIMEOUT_S:.0f} s: in the broker's configuration set"
                    f" group.min.session.timeout.ms to {SESSION_TIMEOUT_S * 1000:.0f} at most"
                )
            )
        except (KafkaError, ConsumerStoppedError) as error:
            if isinstance(error, KafkaError) and error.retriable:
                log.warning("the group is joined anew: %s", type(error).__name__)
            else:
                self._fail(RowflowError(f"Kafka: this worker was put out of its group: {type(error).__name__}"))

    async def _getmany(
        self,
        active_partitions: set[TP] | None,
        timeout: float,  # noqa: ASYNC109 - Faust's signature
    ) -> dict[TP, list[Delivery]]:
        try:
            fetched: Mapping[TP, list[Delivery]] = await super()._getmany(active_partitions, timeout)
        except (KafkaError, ChainBrokenError) as error:
            await self._recover(error)
            return {}
        return {tp: deliveries for tp, deliveries in fetched.items() if self._is_current(tp, deliveries[0])}

    def _is_current(self, tp: TP, delivery: Delivery) -> bool:
        return self.places.is_current(TopicPartition(tp.topic, tp.partition), delivery.epoch)

    async def _recover(self, error: Exception) -> None:
        """Go on after a failed fetch, or end the worker where that would lose records."""
        if isinstance(error, ConsumerStoppedError):
            raise error
        if isinstance(error, NoOffsetForPartitionError):
            # Assigned, not sought yet, and the group has committed nothing: Faust's pause doesn't reach the fetcher.
            await asyncio.sleep(UNSOUGHT_PAUSE_S)
        elif isinstance(error, OffsetOutOfRangeError):
            for tp, offset in error.args[0].items():
                place = TopicPartition(tp.topic, tp.partition)
                if self.places.is_sought(place):
                    self.seek_nevermore(place, offset)
            await asyncio.sleep(UNSOUGHT_PAUSE_S)
        elif isinstance(error, RecordTooLargeError):
            self._fail(WorkerStopped(f"Kafka: a record is larger than a fetch may be: {error}"))
        elif isinstance(error, TopicAuthorizationFailedError):
            self._fail(WorkerRefused(f"Kafka: no right to read topic {error.args[0]}: grant Read on it to this user"))
        else:
            log.warning("fetch failed, seeking anew: %s", type(error).__name__)
            await asyncio.sleep(BROKEN_PAUSE_S)
            await self.perform_seek()

    def seek_nevermore(self, place: TopicPartition, offset: int) -> None:
        """Pause a partition for good: the worker is about to stop over it (W2)."""
        self.pause_partitions({TP(*place)})
        self.places.raise_epoch(place)
        self._spawn(self._placing.out_of_range(place, offset))

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        delivery: Delivery = record
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            delivery.slice.end - 1,
            0.0,
            0,
            None,
            b"",
            cast(bytes, delivery),
            None,
            0,
            0,
            tp,
            generation_id=self.app.consumer_generation_id,
        )

    def highwater(self, tp: TP) -> int:
        """For Faust's monitor only; its own way fails for a partition that was taken away a moment ago."""
        state = _state(self._thread._ensure_consumer(), tp)  # noqa: SLF001 - Faust's own way to it
        return state.highwater or 0 if state is not None else 0

    def verify_event_path(self, now: float, tp: TP) -> None:
        """See the thread's."""

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._placing_tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[None]) -> None:
        self._placing_tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            failure = error if isinstance(error, RowflowError) else RowflowError(f"worker: {type(error).__name__}")
            self._fail(failure)


class SliceTransport(driver.Transport):
    """Faust's transport over aiokafka, with a :class:`SliceConsumer`."""

    Consumer = SliceConsumer

    def __init__(self, app: faust.App, places: Places, placing: Placing, fail: Callable[[RowflowError], None]) -> None:
        self.places = places
        self.placing = placing
        self.fail = fail
        super().__init__(app.conf.broker_consumer, app)


class _Untouched(faust.Codec):
    """Deliveries are no bytes: they pass through Faust's decoding as they are."""

    def _loads(self, s: Any) -> Any:
        return s


class _App(faust.App):
    """Faust's app without Faust's tables: it makes no directories for them."""

    async def on_first_start(self) -> None:
        """Nothing; Faust makes its directories here."""


def build_app(
    config: WorkerConfig,
    *,
    group: str,
    topics: Sequence[str],
    places: Places,
    placing: Placing,
    handle: Callable[[Delivery, Callable[[TopicPartition], None]], Awaitable[None]],
    fail: Callable[[RowflowError], None],
) -> faust.App:
    """A Faust app with one agent, which has one isolated stream for each assigned partition of ``topics``."""
    faust.serializers.codecs.register("slice", _Untouched())
    app = _App(
        group,
        broker=[f"kafka://{server.strip()}" for server in config.bootstrap_servers.split(",")],
        broker_credentials=_credentials(config.kafka_options),
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        stream_buffer_maxsize=2,
        consumer_auto_offset_reset="none",
        consumer_max_fetch_size=config.slice_bytes_max,
        broker_max_poll_records=config.slice_rows_max,
        broker_session_timeout=SESSION_TIMEOUT_S,
        broker_heartbeat_interval=2.0,
        broker_max_poll_interval=DAY_S,
    )
    app.transport = SliceTransport(app, places, placing, fail)
    channel = app.topic(
        *topics, key_type=bytes, key_serializer="raw", value_type=bytes, value_serializer="slice", acks=False
    )

    @app.agent(channel, name="slices", isolated_partitions=True)
    async def write_slices(stream: faust.StreamT[Delivery]) -> None:
        # Cancelled: the partition was taken away, or the worker ends.  Were it told to Faust while a slice is in its
        # thread, Faust would take it for a crash and start a second stream for the partition.
        with suppress(asyncio.CancelledError):
            async for event in stream.events():
                await handle(event.value, cast(SliceConsumer, app.consumer).seek_anew)

    return app


def _credentials(options: Mapping[str, str]) -> SASLCredentials | SSLCredentials | None:
    """Faust's form of librdkafka's security settings."""
    context = context_of(options)
    if options.get("security.protocol", "plaintext").lower().startswith("sasl"):
        return SASLCredentials(
            username=options.get("sasl.username"),
            password=options.get("sasl.password"),
            mechanism=options.get("sasl.mechanism", options.get("sasl.mechanisms", "PLAIN")),
            ssl_context=context,
        )
    return SSLCredentials(context) if context is not None else None


class _Worker(faust.Worker):
    """Faust's worker, silent, telling when a signal came."""

    def __init__(self, app: faust.App, on_signal: Callable[[], None]) -> None:
        super().__init__(app, quiet=True, override_logging=False, redirect_stdouts=False)
        self.spinner = None
        self._on_signal = on_signal

    def _on_sigint(self) -> None:
        self._on_sigterm()

    def _on_sigterm(self) -> None:
        self._on_signal()
        super()._on_sigterm()


def run_app(app: faust.App, on_signal: Callable[[], None]) -> NoReturn:
    """Run Faust's worker in this thread until a signal; always ends by SystemExit."""
    _Worker(app, on_signal).execute_from_commandline()
