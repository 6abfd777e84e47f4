"""What a worker asks Kafka at its start: what its group has committed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import stream_app.kafka
from servers.kafka import KafkaServer
from stream_app.kafka import UNREADABLE

_ASK = """
import sys
from schemas.addresses import MysqlAddress
from sink.config import SinkConfig
from stream_app.config import WorkerConfig
from stream_app.errors import KafkaUnreachable
from stream_app.kafka import TopicLookup

sink = SinkConfig(MysqlAddress("127.0.0.1", 3306, "nobody", ""), "p")
lookup = TopicLookup(WorkerConfig("p", sys.argv[1], sink))
for _ in range(5):
    try:
        print(lookup.committed("nobodys", [("p.shop.books", number) for number in range(3)]))
    except KafkaUnreachable as error:
        print(error)
"""


def test_a_broker_that_is_nobodys_coordinator_yet_ends_no_worker(own_kafka: Callable[..., KafkaServer]) -> None:
    """The first to ask a new broker for a group: librdkafka's admin client dies of that answer, each time."""
    broker = own_kafka()
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, broker.bootstrap_servers],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 0, asked.stderr
    assert len(asked.stdout.splitlines()) == 5


class _Overread:
    """What confluent-kafka makes of a C string whose end was lost: seen once, in a worker's start under torture."""

    @property
    def metadata(self) -> str:
        return b"rowflow\xc8\xc8".decode()


def test_what_stands_behind_metadata_in_memory_ends_no_worker() -> None:
    assert stream_app.kafka._metadata(_Overread()) == UNREADABLE  # type: ignore[arg-type]
