"""Kafka for the commands: the one module of this room that knows the client library.

Comes in: the settings.  Goes out: whole compacted topics, where logs begin and end, topics' ids, and one thing written,
job requests.  Nothing here joins a consumer group or commits offsets.

Guarantees: Rowflow's own topics are read ``read_committed`` to the partition's end as the broker reports it
(exactness.md R1), ends of logs ``read_uncommitted`` (C1); a broker that doesn't answer is an error within
:data:`ANSWER_TIME_S`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from cdc_reader.kafka import UNAUTHORIZED
from rowflow.errors import UnreachableError
from rowflow.settings import KafkaSettings
from schemas.brokers import BrokerFailures, not_authorized
from schemas.errors import RefusedError, SettingError

log = logging.getLogger(__name__)
_library_log = logging.getLogger("librdkafka")
_library_log.setLevel(logging.ERROR)

ANSWER_TIME_S = 10.0
_TAIL_RECORDS = 200
_POLL_S = 0.1
_OPERATIONS = "Read and Write on topics that begin with PREFIX., and Describe on groups that begin with rowflow-PREFIX-"

Options = Mapping[str, str | int | float | bool]

RESERVED = frozenset(
    {
        "bootstrap.servers",
        "metadata.broker.list",
        "transactional.id",
        "enable.idempotence",
        "acks",
        "request.required.acks",
        "partitioner",
        "message.timeout.ms",
        "delivery.timeout.ms",
        "enable.gapless.guarantee",
        "group.id",
        "isolation.level",
        "auto.offset.reset",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.partition.eof",
    }
)
"""Options that exactness depends on, or that have a setting of their own."""


class LogEnds(NamedTuple):
    """A partition's log: the offset of its first record and the one behind its last, committed or not; its topic's id."""

    begin: int
    end: int
    topic_id: str = ""


class TopicShape(NamedTuple):
    """A topic as Kafka describes it."""

    topic_id: str
    partitions: int


def check_options(settings: KafkaSettings) -> None:
    """Refuse options that librdkafka doesn't know or that Rowflow sets itself.  Raises SettingError."""
    for section, options in (("kafka.producer", settings.producer), ("kafka.consumer", settings.consumer)):
        for name in sorted(RESERVED.intersection(options)):
            raise SettingError(f"[{section}] \"{name}\" can't be set: Rowflow's guarantees rest on the value it has")
    _client(Producer, "kafka.producer", {**settings.producer})
    _client(Consumer, "kafka.consumer", {**settings.consumer, "group.id": "none"}).close()


def _client(kind: type[Any], section: str, options: Mapping[str, Any]) -> Any:
    """Make a client; what librdkafka says against its options is told without their values."""
    try:
        return kind(dict(options), logger=_library_log)
    except KafkaException as error:
        raise SettingError(f"[{section}] can't be right: {error.args[0].str()}") from None
    except (TypeError, ValueError) as error:
        raise SettingError(f"[{section}] can't be right: {error}") from None


class Kafka:
    """The brokers, for one command.  Clients are made when they are first needed."""

    def __init__(self, settings: KafkaSettings) -> None:
        check_options(settings)
        self._settings = settings
        self._base: dict[str, Any] = {"bootstrap.servers": settings.bootstrap_servers, "log_level": 3}
        self._failures = BrokerFailures()
        options = {**settings.consumer, **self._base, "error_cb": self._note_error}
        self._admin = _client(AdminClient, "kafka.consumer", options)

    def _note_error(self, error: KafkaError) -> None:
        """Why a broker isn't reached only librdkafka's own thread learns: a call just takes too long."""
        self._failures.note(error.str())

    def shapes(self, topics: Iterable[str]) -> dict[str, TopicShape]:
        """Id and number of partitions of those topics that there are."""
        wanted = sorted(set(topics))
        if not wanted:
            return {}
        found = {}
        for topic, future in self._admin.describe_topics(
            TopicCollection(wanted), request_timeout=ANSWER_TIME_S
        ).items():
            try:
                description = future.result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    continue
                raise self.translated(error.args[0]) from None
            found[topic] = TopicShape(str(description.topic_id), len(description.partitions))
        return found

    def log_ends(self, topics: Iterable[str]) -> dict[tuple[str, int], LogEnds]:
        """Where the logs of all partitions of those topics begin and end, by topic and partition."""
        shapes = self.shapes(topics)
        partitions = [
            TopicPartition(topic, partition) for topic, shape in shapes.items() for partition in range(shape.partitions)
        ]
        begins = self._offsets(partitions, OffsetSpec.earliest())
        ends = self._offsets(partitions, OffsetSpec.latest())
        return {place: LogEnds(begins[place], ends[place], shapes[place[0]].topic_id) for place in begins}

    def send(self, topic: str, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Write records and wait until the broker has all of them."""
        options = {**self._settings.producer, **self._base, "acks": "all", "enable.idempotence": True}
        producer: Producer = _client(Producer, "kafka.producer", options)
        refused: list[KafkaError] = []

        def note(error: KafkaError | None, _: Message) -> None:
            if error is not None:
                refused.append(error)

        for key, value in records:
            producer.produce(topic, value=value, key=key, on_delivery=note)
        try:
            left = producer.flush(ANSWER_TIME_S)
        except SystemError as error:
            # confluent-kafka has a failure of the whole producer raised already when it calls ``note``.
            cause = error.__cause__
            if not isinstance(cause, KafkaException):
                raise
            raise self.translated(cause.args[0]) from None
        if refused:
            raise self.translated(refused[0])
        if left:
            raise self.unreachable(f"a record for {topic} was not taken within {ANSWER_TIME_S:.0f} s")

    def follow(self, topic: str, *, tail: bool = False) -> TopicFollower:
        """Read a topic of one partition; ``tail``: only its last records."""
        options = {
            **self._settings.consumer,
            **self._base,
            "group.id": f"rowflow-{self._settings.prefix}-commands",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 20,
        }
        return TopicFollower(self, _client(Consumer, "kafka.consumer", options), topic, tail=tail)

    def _offsets(self, partitions: list[TopicPartition], spec: OffsetSpec) -> dict[tuple[str, int], int]:
        if not partitions:
            return {}
        futures = self._admin.list_offsets(
            dict.fromkeys(partitions, spec),
            isolation_level=IsolationLevel.READ_UNCOMMITTED,
            request_timeout=ANSWER_TIME_S,
        )
        try:
            return {(place.topic, place.partition): future.result().offset for place, future in futures.items()}
        except KafkaException as error:
            raise self.translated(error.args[0]) from None

    def unreachable(self, reason: str) -> UnreachableError:
        """The error for brokers that don't do what they were asked for in time."""
        self._admin.poll(0)
        return UnreachableError(self._failures.not_reached(self._settings.bootstrap_servers, reason))

    def translated(self, error: KafkaError) -> RefusedError:
        """The error for what librdkafka says."""
        if error.code() in UNAUTHORIZED:
            return RefusedError(not_authorized("this command", error.str(), _OPERATIONS))
        return self.unreachable(error.str())


class TopicFollower:
    """A topic of one partition: what stands in it, and again what has come since."""

    def __init__(self, kafka: Kafka, consumer: Consumer, topic: str, *, tail: bool) -> None:
        self._kafka = kafka
        self._consumer = consumer
        self._topic = topic
        self._tail = tail
        self._next_offset: int | None = None

    def new_records(self) -> list[tuple[bytes, bytes | None]]:
        """Keys and values of the committed records that came since the last call; none while there is no topic."""
        if self._next_offset is None:
            ends = self._kafka.log_ends([self._topic]).get((self._topic, 0))
            if ends is None:
                return []
            self._next_offset = max(ends.begin, ends.end - _TAIL_RECORDS) if self._tail else ends.begin
            self._consumer.assign([TopicPartition(self._topic, 0, self._next_offset)])
        else:
            self._consumer.resume([TopicPartition(self._topic, 0)])
            self._consumer.seek(TopicPartition(self._topic, 0, self._next_offset))
        try:
            return self._read_to_end()
        finally:
            # Nobody waits for what comes now: else the broker would be asked fifty times a second.
            self._consumer.pause([TopicPartition(self._topic, 0)])

    def _read_to_end(self) -> list[tuple[bytes, bytes | None]]:
        """What lies between the next offset and the end; a seek makes the broker's end known again."""
        records: list[tuple[bytes, bytes | None]] = []
        next_offset = self._next_offset
        deadline_s = time.monotonic() + ANSWER_TIME_S
        while time.monotonic() < deadline_s:
            message = self._consumer.poll(_POLL_S)
            if message is None:
                continue
            error = message.error()
            if error is None:
                records.append((message.key() or b"", message.value()))
                next_offset = (message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the library's public name for it
                # Only now: what a broken-off call has read, the next one has to give.
                self._next_offset = next_offset
                return records
            elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                raise self._kafka.translated(error)
        raise self._kafka.unreachable(f"{self._topic} was not read to its end within {ANSWER_TIME_S:.0f} s")

    def close(self) -> None:
        """Give the connection up."""
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
