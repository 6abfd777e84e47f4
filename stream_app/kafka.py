"""What a worker asks Kafka beside its slices: the one module of this room that knows confluent-kafka.

Comes in: names of topics.  Goes out: their ids and log ranges, the records of the compacted topics, what a group has
committed; and requests into ``<prefix>.__jobs``.  All calls block, and raise KafkaUnreachable where Kafka doesn't answer.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from schemas.brokers import BrokerFailures, not_authorized
from schemas.errors import RowflowError
from schemas.tables import TableName
from sink.progress import LogRange, TopicFacts
from stream_app.config import WorkerConfig
from stream_app.errors import KafkaUnreachable, WorkerRefused

ANSWER_TIMEOUT_S = 10.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()
_LATEST: OffsetSpec = OffsetSpec.latest()
_UNAUTHORIZED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_OPERATIONS = (
    "Read on topics that begin with PREFIX., Write on topics that begin with PREFIX.__jobs, and Read on groups that begin "
    "with rowflow-PREFIX-"
)
_MISSING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.UNKNOWN_TOPIC_ID, KafkaError.RESOURCE_NOT_FOUND}

UNREADABLE = "?"
"""Metadata that a tool wrote, with something behind it that is no text."""

_client_log = logging.getLogger("rowflow.worker.librdkafka")
_client_log.setLevel(logging.CRITICAL)


class Committed(NamedTuple):
    """The offset that a group has committed in a partition, and what was written beside it."""

    topic: str
    partition: int
    offset: int
    metadata: str


def client_options(config: WorkerConfig) -> dict[str, Any]:
    """What every client of this process is made with."""
    return {
        **config.kafka_options,
        "bootstrap.servers": config.bootstrap_servers,
        "logger": _client_log,
    }


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except KafkaException as exception:
        raise _worker_error(what, exception.args[0]) from exception
    except TimeoutError as exception:
        raise KafkaUnreachable(f"Kafka: {what}: no answer within {ANSWER_TIMEOUT_S:.0f} s") from exception


def _worker_error(what: str, error: KafkaError) -> RowflowError:
    """The room's own error for one of librdkafka's."""
    if error.code() in _UNAUTHORIZED:
        return WorkerRefused(not_authorized("the worker", f"{what}: {error.name()}", _OPERATIONS))
    return KafkaUnreachable(f"Kafka: {what}: {error.name()}")


class TopicLookup:
    """Ids, partitions and log ranges of topics, and the committed offsets of a group."""

    def __init__(self, config: WorkerConfig) -> None:
        self._config = config
        self._failures = BrokerFailures()
        options: dict[str, Any] = {**client_options(config)}
        options |= {"socket.timeout.ms": int(ANSWER_TIMEOUT_S * 1000), "error_cb": self._note_error}
        self._admin = AdminClient(options)

    def _note_error(self, error: KafkaError) -> None:
        """Why a broker isn't reached only librdkafka's own thread learns: a call just takes too long."""
        self._failures.note(error.str())

    def not_reached(self, reason: str) -> str:
        """Brokers that can't be reached, in words that say what mends it."""
        self._admin.poll(0)
        return self._failures.not_reached(self._config.bootstrap_servers, reason)

    def topic_ids(self, topics: Iterable[str]) -> dict[str, tuple[str, int]]:
        """By topic: Kafka's id of it and the number of its partitions; topics that don't exist are left out."""
        names = list(topics)
        found: dict[str, tuple[str, int]] = {}
        if not names:
            return found
        with _translated("describing topics"):
            for name, future in self._admin.describe_topics(TopicCollection(names)).items():
                try:
                    description = future.result(ANSWER_TIMEOUT_S)
                except KafkaException as exception:
                    if exception.args[0].code() not in _MISSING:
                        raise
                else:
                    found[name] = (str(description.topic_id), len(description.partitions))
        return found

    def facts(self, topic: str, table: TableName) -> TopicFacts | None:
        """What the sink's progress is held against; None where there is no such topic."""
        described = self.topic_ids([topic]).get(topic)
        if described is None:
            return None
        topic_id, partitions = described
        places = [TopicPartition(topic, partition) for partition in range(partitions)]
        with _translated(f"offsets of {topic}"):
            begins = _results(self._admin.list_offsets(dict.fromkeys(places, _EARLIEST)))
            ends = _results(self._admin.list_offsets(dict.fromkeys(places, _LATEST)))
        logs = {
            place.partition: LogRange(begin.offset, end.offset)
            for place, begin, end in zip(places, begins, ends, strict=True)
        }
        return TopicFacts(topic, topic_id, table, logs)

    def committed(self, group: str, places: Iterable[tuple[str, int]]) -> list[Committed]:
        """What a group has committed in these partitions.

        A consumer of that group asks, which never joins it.  The admin client's own question ends the process with a
        segmentation fault where the broker answers that it isn't the group's coordinator, as a new one does at first
        (librdkafka 2.16.1; known as issue 374 of confluent-kafka-javascript).
        """
        options = {**client_options(self._config), "group.id": group, "enable.auto.commit": False}
        consumer = Consumer(options)
        try:
            with _translated(f"offsets of group {group}"):
                found = consumer.committed([TopicPartition(*place) for place in places], timeout=ANSWER_TIMEOUT_S)
        finally:
            consumer.close()
        return [
            Committed(place.topic, place.partition, place.offset, _metadata(place))
            for place in found
            if place.offset >= 0
        ]


def _metadata(place: TopicPartition) -> str:
    """What was committed with an offset, up to its end mark.

    librdkafka 2.16.1 copies metadata without the NUL behind it (rd_kafka_topic_partition_list_copy), and confluent-kafka
    reads it up to one: what stood in that memory before may come along, text or not.  A NUL of its own ends it.
    """
    try:
        return place.metadata or ""
    except UnicodeDecodeError:
        return UNREADABLE


def _results(futures: Mapping[TopicPartition, Future[Any]]) -> list[Any]:
    return [future.result(ANSWER_TIMEOUT_S) for future in futures.values()]


class CompactedTopic:
    """The last record of every key in a topic of one partition, read committed, kept up to date on request."""

    def __init__(self, config: WorkerConfig, topic: str) -> None:
        self._topic = topic
        self._place = TopicPartition(topic, 0)
        self._lock = threading.Lock()
        self._records: dict[bytes, bytes] = {}
        self._assigned = False
        self._reached_end = False
        self._end = 0
        self._consumer = Consumer(
            {
                **client_options(config),
                "group.id": f"rowflow-{config.prefix}-worker",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "allow.auto.create.topics": False,
            }
        )

    def refresh(self) -> Mapping[bytes, bytes]:
        """Read on to the end of what is committed; returns values by key.  A topic that isn't there yet is empty."""
        with self._lock:
            if not self._assigned and not self._begin():
                return {}
            if self._reached_end:
                # A seek makes the broker say anew where the end is.
                self._consumer.resume([self._place])
                self._consumer.seek(TopicPartition(self._topic, 0, self._end))
            self._read_to_end()
            # Until the next call nobody waits for what comes: else the broker would be asked twenty times a second.
            self._consumer.pause([self._place])
            return dict(self._records)

    def _read_to_end(self) -> None:
        while True:
            message = self._consumer.poll(ANSWER_TIMEOUT_S)
            if message is None:
                self._assigned = False
                raise KafkaUnreachable(f"Kafka: no answer for {self._topic} within {ANSWER_TIMEOUT_S:.0f} s")
            error = message.error()
            if error is None:
                self._take(message.key(), message.value())
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its only name
                self._reached_end = True
                self._end = message.offset() or 0
                return
            else:
                self._assigned = False
                raise _worker_error(self._topic, error)

    def is_whole(self) -> bool:
        """Whether the last refresh came to the end that the broker names now; raises KafkaUnreachable."""
        with self._lock, _translated(f"the end of {self._topic}"):
            if not self._assigned:
                return self._topic not in self._consumer.list_topics(timeout=ANSWER_TIMEOUT_S).topics
            offsets = self._consumer.get_watermark_offsets(TopicPartition(self._topic, 0), timeout=ANSWER_TIMEOUT_S)
            return self._reached_end and offsets[1] <= self._end

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()

    def _begin(self) -> bool:
        """Read from the beginning, if the topic is there."""
        with _translated(f"looking for {self._topic}"):
            self._assigned = self._topic in self._consumer.list_topics(timeout=ANSWER_TIMEOUT_S).topics
        self._reached_end = False
        self._records.clear()
        if self._assigned:
            self._consumer.assign([TopicPartition(self._topic, 0, OFFSET_BEGINNING)])
            self._consumer.resume([self._place])
        return self._assigned

    def _take(self, key: bytes | None, value: bytes | None) -> None:
        if key is None:
            return
        if value is None:
            self._records.pop(key, None)
        else:
            self._records[key] = value


class RequestSender:
    """Sends job requests; a record is in Kafka when :meth:`send` returns."""

    def __init__(self, config: WorkerConfig, topic: str) -> None:
        self._topic = topic
        self._producer = Producer({**client_options(config), "acks": "all", "enable.idempotence": True})

    def send(self, key: bytes, value: bytes) -> None:
        """Write one record to the topic's only partition."""
        failures: list[KafkaError] = []

        def note(error: KafkaError | None, _message: object) -> None:
            if error is not None:
                failures.append(error)

        with _translated(f"writing to {self._topic}"):
            self._producer.produce(self._topic, value, key, partition=0, on_delivery=note)
        try:
            left = self._producer.flush(ANSWER_TIMEOUT_S)
        except SystemError as error:
            # confluent-kafka has a failure of the whole producer raised already when it calls ``note``.
            cause = error.__cause__
            if not isinstance(cause, KafkaException):
                raise
            raise _worker_error(f"writing to {self._topic}", cause.args[0]) from None
        if failures:
            raise _worker_error(f"writing to {self._topic}", failures[0])
        if left:
            raise KafkaUnreachable(f"Kafka: a record for {self._topic} was not taken; it will be sent again")
