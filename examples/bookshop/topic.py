"""What a plain Kafka consumer sees of the topic: committed records and where the logs end.

In: brokers and a topic.  Out: offsets.  Nothing is committed to any group.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient

from examples.bookshop.errors import DemoError

_ANSWER_S = 30.0
_BATCH = 5_000
_GATHER_S = 0.1
"""So long the client waits for a full batch, though the logs' ends have come: the last one of a log is never full."""


class Topic:
    """One topic; to be closed."""

    def __init__(self, bootstrap_servers: str, name: str, partitions: int) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": "bookshop-demo",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 20,
                "log_level": 0,
            }
        )
        self._places = [TopicPartition(name, number, OFFSET_BEGINNING) for number in range(partitions)]

    def close(self) -> None:
        """Let the brokers go."""
        self._consumer.close()

    def ends(self) -> dict[int, int]:
        """The offset behind each partition's last record, markers of transactions included."""
        return {place.partition: self._watermarks(place)[1] for place in self._places}

    def begins(self) -> dict[int, int]:
        """The offset of each partition's first record."""
        return {place.partition: self._watermarks(place)[0] for place in self._places}

    def offsets(self) -> Mapping[int, Sequence[int]]:
        """The offsets of all committed records, by partition, in order."""
        found: dict[int, list[int]] = defaultdict(list)
        for message in self._messages():
            found[_number(message.partition())].append(_number(message.offset()))
        return found

    def a_book_of_each_partition(self) -> list[int]:
        """The number of one book in every partition, in their order; DemoError where a partition has none."""
        found: dict[int, int] = {}
        for message in self._messages():
            book = json.loads(message.key() or b"{}").get("id")
            if isinstance(book, int):
                found.setdefault(_number(message.partition()), book)
            if len(found) == len(self._places):
                return [found[partition] for partition in sorted(found)]
        raise DemoError(f"only partitions {sorted(found)} of topic {self._places[0].topic} hold books")

    def _messages(self) -> Iterator[Message]:
        """All committed records, from the logs' begins to their ends."""
        with self._assigned():
            left = {place.partition for place in self._places}
            answered_s = time.monotonic()
            while left:
                messages = self._consumer.consume(_BATCH, _GATHER_S)
                if messages:
                    answered_s = time.monotonic()
                elif time.monotonic() - answered_s > _ANSWER_S:
                    raise DemoError(f"no answer from Kafka within {_ANSWER_S:.0f} s")
                for message in messages:
                    error = message.error()
                    if error is None:
                        yield message
                    elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - the client's only name for it
                        left.discard(_number(message.partition()))
                    else:
                        raise DemoError(f"Kafka: {error.str()}")

    @contextmanager
    def _assigned(self) -> Iterator[None]:
        self._consumer.assign(self._places)
        try:
            yield
        finally:
            self._consumer.unassign()

    def _watermarks(self, place: TopicPartition) -> tuple[int, int]:
        answer: tuple[int, int] | None = self._consumer.get_watermark_offsets(place, timeout=_ANSWER_S)
        if answer is None:
            raise DemoError(f"no answer from Kafka within {_ANSWER_S:.0f} s")
        return answer


def names_of_topics(bootstrap_servers: str) -> list[str]:
    """All topics that there are."""
    return list(AdminClient({"bootstrap.servers": bootstrap_servers}).list_topics(timeout=_ANSWER_S).topics)


def _number(value: int | None) -> int:
    """What a record that was fetched always has."""
    assert value is not None
    return value
