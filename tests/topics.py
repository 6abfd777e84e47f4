"""A plain Kafka consumer: what any tool that reads committed records sees of topics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from tests.helpers import unique_name, wait_until

_TO_END_S = 60.0
_BATCH = 5_000
_LOOK_S = 0.02
"""`consume` waits so long for a batch to become full."""


class Event(NamedTuple):
    """One record; ``key`` and ``value`` are parsed, ``key_bytes`` is as it stands there."""

    topic: str
    partition: int
    offset: int
    key_bytes: bytes
    key: dict[str, Any]
    value: dict[str, Any] | None
    headers: dict[str, bytes]

    @property
    def op(self) -> str:
        """The letter of the change; empty for a tombstone."""
        return self.value["op"] if self.value is not None else ""

    @property
    def place(self) -> tuple[int, int, int]:
        """Where in the binlog it comes from: file number, offset, row."""
        assert self.value is not None
        source = self.value["source"]
        return int((source["file"] or "0").rpartition(".")[2]), source["pos"], source["row"]


@contextmanager
def consumer(bootstrap_servers: str) -> Iterator[Consumer]:
    """A consumer of committed records in a group of its own that never commits."""
    made = Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": unique_name("test"),
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
    )
    try:
        yield made
    finally:
        made.close()


def read_topics(bootstrap_servers: str, topics: Sequence[str]) -> list[Event]:
    """All committed records of topics, from their logs' begins to their ends; each partition in its order."""
    with consumer(bootstrap_servers) as reader:
        metadata = reader.list_topics(timeout=10).topics
        places = [
            TopicPartition(topic, number, OFFSET_BEGINNING) for topic in topics for number in metadata[topic].partitions
        ]
        if not places:
            return []
        reader.assign(places)
        open_places = {(place.topic, place.partition) for place in places}
        events: list[Event] = []
        deadline = time.monotonic() + _TO_END_S
        while open_places:
            assert time.monotonic() < deadline, f"no end of {sorted(open_places)} within {_TO_END_S:g} s"
            for message in reader.consume(_BATCH, _LOOK_S):
                error = message.error()
                place = (message.topic(), message.partition())
                if error is None:
                    events.append(_event(message))
                elif error.code() == KafkaError._PARTITION_EOF:
                    open_places.discard(place)
                else:
                    raise AssertionError(f"{place}: {error.str()}")
        return events


@contextmanager
def following(bootstrap_servers: str, topic: str) -> Iterator[Callable[[], list[Event]]]:
    """What each call gives: the committed records that have come since the last one; none while there is no topic."""
    with consumer(bootstrap_servers) as reader:
        places: list[TopicPartition] = []

        def new() -> list[Event]:
            if not places:
                metadata = reader.list_topics(timeout=10).topics
                if topic in metadata:
                    places.extend(
                        TopicPartition(topic, number, OFFSET_BEGINNING) for number in metadata[topic].partitions
                    )
                    reader.assign(places)
            messages = reader.consume(_BATCH, _LOOK_S) if places else []
            return [_event(message) for message in messages if message.error() is None]

        yield new


def last_value(bootstrap_servers: str, topic: str) -> dict[str, Any] | None:
    """The value of the last committed record of a topic of one partition; None where there is no topic or no record."""
    with consumer(bootstrap_servers) as reader:
        if topic not in reader.list_topics(timeout=10).topics:
            return None
        ends = wait_until(lambda: _watermarks(reader, topic), _TO_END_S, f"a leader of {topic}")
        low, high = ends or (0, 0)
        span = 50
        while high > low:
            start = max(low, high - span)
            reader.assign([TopicPartition(topic, 0, start)])
            found = [message.value() for message in _to_end(reader)]
            if found:
                value: dict[str, Any] = json.loads(found[-1])
                return value
            if start == low:
                return None
            span *= 8
        return None


def committed_offsets(
    bootstrap_servers: str, group: str, places: Iterable[tuple[str, int]]
) -> dict[tuple[str, int], int]:
    """What a group has committed, as Kafka's tools see it; not by the admin client, whose question may end the process."""
    wanted = [TopicPartition(*place) for place in places]
    asking = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "log_level": 0})

    def answer() -> list[TopicPartition] | None:
        try:
            return asking.committed(wanted, timeout=10)
        except KafkaException:
            return None

    try:
        found = wait_until(answer, _TO_END_S, f"the coordinator of {group}") or []
        return {(place.topic, place.partition): place.offset for place in found if place.offset >= 0}
    finally:
        asking.close()


def _watermarks(reader: Consumer, topic: str) -> tuple[int, int] | None:
    """Where a log begins and ends; None while a broker that was restarted doesn't lead it yet."""
    try:
        return reader.get_watermark_offsets(TopicPartition(topic, 0), timeout=10)
    except KafkaException:
        return None


def _to_end(reader: Consumer) -> Iterator[Any]:
    deadline = time.monotonic() + _TO_END_S
    while True:
        assert time.monotonic() < deadline, f"no end within {_TO_END_S:g} s"
        for message in reader.consume(_BATCH, _LOOK_S):
            error = message.error()
            if error is None:
                yield message
            elif error.code() == KafkaError._PARTITION_EOF:
                return
            else:
                raise AssertionError(error.str())


def _event(message: Any) -> Event:
    value = message.value()
    return Event(
        message.topic(),
        message.partition(),
        message.offset(),
        message.key(),
        json.loads(message.key()),
        None if value is None else json.loads(value),
        dict(message.headers() or ()),
    )
