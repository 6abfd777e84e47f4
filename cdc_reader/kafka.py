"""Kafka as the reader uses it; the one module of this room that imports confluent_kafka.

Comes in: messages and positions.  Goes out: Kafka transactions, the records of Rowflow's own topics, topics made and
checked.  Errors are mapped: not reached is BrokerAway, refused at start BrokerRefused, fenced BrokerFenced.

Guarantees: a transaction is committed as a whole or not at all; what ``read_committed`` consumers see ends with it.
Rules R1 to R3, R5, P1 to P3 of the fault list.
"""
# ruff: noqa: SLF001 - librdkafka's own error codes are named with an underscore

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdc_reader.batches import Batch
from cdc_reader.config import KafkaConfig
from cdc_reader.errors import BrokerAway, BrokerFenced, BrokerRefused, BrokerStopped
from schemas.brokers import BrokerFailures, not_authorized
from schemas.topics import jobs_topic, positions_topic, schemas_topic

TRANSACTION_TIMEOUT_MS = 60_000
_CALL_TIMEOUT_S = 5.0
_TELL_EVERY_S = 10.0
_POSITIONS_SEGMENT_BYTES = 16 * 1024 * 1024
_RECORD_BYTES_MAX = 16 * 1024 * 1024
"""One event; producer, topic and consumers agree on it."""
_READ_BACK_RECORDS = 64
_CONSUME_S = 0.05
"""librdkafka waits for so long even where the records that are there have come."""
_END_WAIT_MS, _FOLLOW_WAIT_MS = 50, 1_000
"""How long a broker holds a fetch without data: little where the end is waited for, which is told only then."""
_LOOK_S = 2.0
_POLL_EVERY = 5_000
_PRODUCED_TOGETHER = 1_000
UNAUTHORIZED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
}
_OPERATIONS = (
    "Create, Read and Write on topics that begin with PREFIX., Write on transactional ids that begin with rowflow-PREFIX, "
    "and Describe on groups that begin with rowflow-PREFIX-"
)


log = logging.getLogger(__name__)
_library_log = logging.getLogger("librdkafka")
"""What librdkafka itself logs; errors that matter come as exceptions too."""


class Record(NamedTuple):
    """A record of one of Rowflow's own topics."""

    offset: int
    key: bytes
    value: bytes | None


def _client_options(config: KafkaConfig) -> dict[str, Any]:
    return {"bootstrap.servers": config.bootstrap_servers, "error_cb": lambda _: None, "logger": _library_log}


def _fatal_or_away(cause: KafkaError) -> Exception:
    """The room's own error for one of librdkafka's."""
    code = cause.code()
    if code in (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH):
        return BrokerFenced(f"Kafka has fenced this reader: {cause.str()}")
    if code in UNAUTHORIZED:
        return BrokerRefused(not_authorized("the reader", cause.str(), _OPERATIONS))
    return BrokerAway(f"Kafka: {cause.str()}")


def _too_large(batch: Batch, size: int) -> BrokerStopped:
    table = batch.table
    ways_on = (
        f"; shorten the row, then rowflow snapshot {table} --start-over; or leave the table out with "
        f'"!{table}" in [source] tables, and start again'
    )
    return BrokerStopped(
        f"an event for topic {batch.topic} has {size} bytes, and a Kafka record {_RECORD_BYTES_MAX} at most"
        f"{ways_on if table else ''}"
    )


class TransactionalProducer:
    """The producer with the reader's transactional id; making one fences any older one (R1)."""

    def __init__(self, config: KafkaConfig, stopping: threading.Event) -> None:
        """Initialises the transactions, which finishes or aborts what an older reader left open; raises BrokerAway.

        ``stopping``: once it is set, a broker that doesn't answer isn't waited for any longer.
        """
        self._stopping = stopping
        options = {
            **_client_options(config),
            "transactional.id": f"rowflow-{config.prefix}",
            "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 5,
            "message.max.bytes": _RECORD_BYTES_MAX,
            "queue.buffering.max.messages": 200_000,
            "queue.buffering.max.kbytes": 96 * 1024,
            **config.producer,
        }
        self._producer = Producer(options)
        self._since_poll = 0
        self.open_since_s = 0.0
        self.rows = 0
        self._forget_waiting()
        self._retried(self._producer.init_transactions, 30.0)

    def _retried(self, call: Any, timeout_s: float) -> None:
        """Calls one of the transaction calls until it is done; librdkafka says which errors may be tried again."""
        deadline = time.monotonic() + timeout_s
        told_s = -_TELL_EVERY_S
        while True:
            try:
                call(_CALL_TIMEOUT_S)
                return
            except KafkaException as error:
                if not error.args[0].retriable() or time.monotonic() > deadline or self._stopping.is_set():
                    raise _fatal_or_away(error.args[0]) from error
                if time.monotonic() - told_s > _TELL_EVERY_S:
                    told_s = time.monotonic()
                    log.warning("Kafka doesn't answer: %s; waiting for it", error.args[0].str())

    @property
    def open(self) -> bool:
        """Whether a Kafka transaction is open."""
        return self.open_since_s > 0

    def add(self, batches: Sequence[Batch]) -> None:
        """Puts messages into the open transaction, which it begins where none is; raises BrokerAway, BrokerFenced.

        They are handed to librdkafka many at a time: each call that finds its threads asleep wakes them (32 us a message
        with one at a time, 4 us with many: measured).
        """
        try:
            if not self.open:
                self._producer.begin_transaction()
                self.open_since_s = time.monotonic()
            self._waiting += batches
            rows = sum(len(batch.messages) for batch in batches)
            self._waiting_rows += rows
            self.rows += rows
            if self._waiting_rows >= _PRODUCED_TOGETHER:
                self._produce_waiting()
        except KafkaException as error:
            raise _fatal_or_away(error.args[0]) from error

    def _produce_waiting(self) -> None:
        for batch in self._waiting:
            self._produce(batch)
        self._forget_waiting()

    def _forget(self) -> None:
        """The transaction is over, one way or the other."""
        self.open_since_s = 0.0
        self.rows = 0
        self._forget_waiting()

    def _forget_waiting(self) -> None:
        self._waiting: list[Batch] = []
        self._waiting_rows = 0

    def _produce(self, batch: Batch) -> None:
        produce = self._producer.produce
        topic, messages, _, partition = batch
        for message in messages:
            _, key, value, headers = message
            while True:
                try:
                    if headers is None:
                        produce(topic, value, key, partition)
                    else:
                        produce(topic, value, key, partition, headers=list(headers))
                    break
                except BufferError:
                    self._wait_for_room()
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE:
                        raise
                    raise _too_large(batch, len(key) + len(value or b"")) from error
        self._since_poll += len(messages)
        if self._since_poll >= _POLL_EVERY:
            self._since_poll = 0
            self._producer.poll(0)

    def _wait_for_room(self) -> None:
        """The queue is full: the same message again, until the transaction's own time is up (P1)."""
        self._producer.poll(0.1)
        if self._stopping.is_set() or time.monotonic() - self.open_since_s > TRANSACTION_TIMEOUT_MS / 1000:
            raise BrokerAway("Kafka takes no messages: the transaction's time is up")

    def commit(self) -> None:
        """Commits the open transaction; raises BrokerAway where its outcome is unknown or it was aborted."""
        try:
            self._produce_waiting()
            self._retried(self._producer.commit_transaction, TRANSACTION_TIMEOUT_MS / 1000)
        except KafkaException as error:
            raise _fatal_or_away(error.args[0]) from error
        finally:
            self._forget()

    def abort(self) -> None:
        """Gives the open transaction up; raises BrokerAway, BrokerFenced."""
        if self.open:
            self._forget()
            self._producer.purge()
            self._retried(self._producer.abort_transaction, 30.0)

    def close(self) -> None:
        """Lets the producer go without waiting for what is in it; an open transaction times out or is fenced."""
        self._producer.purge()
        with warnings.catch_warnings():
            # Closing aborts what is open, and warns where a fenced producer can't.
            warnings.simplefilter("ignore", RuntimeWarning)
            self._producer.close()


class Log:
    """Reads one of Rowflow's own topics (one partition) with read_committed, from the beginning and then on."""

    def __init__(self, config: KafkaConfig, topic: str) -> None:
        self._config = config
        self._topic = topic
        self._consumer = self._assigned(OFFSET_BEGINNING, _END_WAIT_MS)
        self._end = 0
        """Where the last reading to the end came to."""
        self._follows = False

    def _assigned(self, offset: int, wait_ms: int) -> Consumer:
        consumer = Consumer(
            {
                **_client_options(self._config),
                "group.id": f"rowflow-{self._config.prefix}-reader",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "fetch.wait.max.ms": wait_ms,
                **self._config.consumer,
            }
        )
        consumer.assign([TopicPartition(self._topic, 0, offset)])
        return consumer

    def to_end(self, timeout_s: float = 30.0) -> list[Record]:
        """All committed records up to the partition's end as it is when it is reached; raises BrokerAway."""
        records: list[Record] = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            for message in self._consumer.consume(1_000, _CONSUME_S):
                error = message.error()
                if error is None:
                    records.append(_record(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    self._end = message.offset() or 0
                    return records
                elif not error.retriable():
                    raise _fatal_or_away(error)
        raise BrokerAway(f"{self._topic} could not be read to its end in {timeout_s:g} s")

    def new(self) -> list[Record]:
        """The records that have come since :meth:`to_end`; never waits.

        From the first call on the broker holds a fetch until there is something: it is asked once a second, not twenty times.
        """
        if not self._follows:
            self._consumer.close()
            self._consumer, self._follows = self._assigned(self._end, _FOLLOW_WAIT_MS), True
        return [_record(message) for message in self._consumer.consume(1_000, 0) if message.error() is None]

    def back_from_end(self) -> Iterator[Record]:
        """Records from the end backwards; for a topic that grows with every commit (R2)."""
        try:
            low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=10.0)
        except KafkaException as error:
            raise _fatal_or_away(error.args[0]) from error
        end, span = high, _READ_BACK_RECORDS
        while end > low:
            start = max(low, end - span)
            self._consumer.assign([TopicPartition(self._topic, 0, start)])
            yield from reversed([record for record in self.to_end() if record.offset < end])
            end, span = start, span * 8

    def close(self) -> None:
        """Ends the consumer."""
        self._consumer.close()


def _record(message: Message) -> Record:
    return Record(message.offset() or 0, message.key() or b"", message.value())


class Topics:
    """Makes and checks topics."""

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        # How a broker wants to be spoken to stands among the consumer's options, for this client too.
        options = {**_client_options(config), "error_cb": self._note_error}
        self._admin = AdminClient({**options, "socket.timeout.ms": 10_000, **config.consumer})
        self._refused_login = ""
        self._failures = BrokerFailures()

    def _note_error(self, error: KafkaError) -> None:
        """Why a broker isn't reached only librdkafka's own thread learns: a call just takes too long."""
        self._failures.note(error.str())
        if error.code() == KafkaError._AUTHENTICATION:
            self._refused_login = error.str()

    def reach(self, timeout_s: float, stopping: threading.Event) -> None:
        """Waits for a broker that answers, or until ``stopping`` is set.

        Raises BrokerRefused naming the address, or the advertised one that can't be reached.
        """
        deadline = time.monotonic() + timeout_s
        servers = self._config.bootstrap_servers
        while not stopping.is_set():
            try:
                self._admin.describe_cluster(request_timeout=_LOOK_S).result()
                return
            except KafkaException as error:
                self._admin.poll(0)
                if self._refused_login:
                    raise BrokerRefused(
                        f"Kafka at {servers} refuses the login: {self._refused_login}; mend the sasl or ssl options in "
                        "[kafka.consumer] and [kafka.producer]"
                    ) from error
                if time.monotonic() > deadline:
                    reason = error.args[0].str()
                    raise BrokerRefused(self._failures.not_reached(servers, reason)) from error

    def ids(self, names: Sequence[str]) -> dict[str, str]:
        """Kafka's ids of those of the topics that exist (W7)."""
        return {name: topic_id for name, (topic_id, _) in self._described(names).items()}

    def _described(self, names: Sequence[str]) -> dict[str, tuple[str, int]]:
        found: dict[str, tuple[str, int]] = {}
        if not names:
            return found
        try:
            described = self._admin.describe_topics(TopicCollection(list(names)), request_timeout=_CALL_TIMEOUT_S)
            for name, future in described.items():
                try:
                    topic = future.result()
                    found[name] = (str(topic.topic_id), len(topic.partitions))
                except KafkaException as error:
                    if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                        raise
        except KafkaException as error:
            raise _fatal_or_away(error.args[0]) from error
        return found

    def ensure(self, wanted: Mapping[str, int], settings: Mapping[str, str]) -> dict[str, str]:
        """Makes what is missing of the topics, with their partitions; their ids.

        Raises BrokerRefused where one that exists has another number of partitions: keys would move.
        """
        found = self._described(list(wanted))
        for name, (_, partitions) in found.items():
            if partitions != wanted[name]:
                raise BrokerRefused(
                    f"topic {name} has {partitions} partitions and [kafka] partitions says {wanted[name]}: keys would move; "
                    f"set partitions = {partitions}, or take another prefix"
                )
        missing = [name for name in wanted if name not in found]
        if missing:
            self._create(
                [
                    NewTopic(name, wanted[name], self._config.replication_factor, config=dict(settings))
                    for name in missing
                ]
            )
            deadline = time.monotonic() + 10.0
            while len(found) < len(wanted) and time.monotonic() < deadline:
                found = self._described(list(wanted))
        return {name: topic_id for name, (topic_id, _) in found.items()}

    def _create(self, topics: list[NewTopic]) -> None:
        for future in self._admin.create_topics(topics, request_timeout=10.0).values():
            try:
                future.result()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                    raise _fatal_or_away(error.args[0]) from error

    def ensure_own(self) -> dict[str, str]:
        """``__positions``, ``__schemas`` and ``__jobs``: one partition each, compacted (R2)."""
        prefix = self._config.prefix
        compact = {"cleanup.policy": "compact", "max.message.bytes": str(_RECORD_BYTES_MAX)}
        ids = self.ensure({positions_topic(prefix): 1}, {**compact, "segment.bytes": str(_POSITIONS_SEGMENT_BYTES)})
        return ids | self.ensure({schemas_topic(prefix): 1, jobs_topic(prefix): 1}, compact)

    def ensure_tables(self, names: Sequence[str]) -> dict[str, str]:
        """The topics of captured tables."""
        settings = {
            "cleanup.policy": "delete",
            "retention.ms": str(self._config.retention_ms),
            "max.message.bytes": str(_RECORD_BYTES_MAX),
        }
        return self.ensure(dict.fromkeys(names, self._config.partitions), settings) if names else {}
