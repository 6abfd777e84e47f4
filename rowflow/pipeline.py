"""All that changes pass through, from the source to the sink, as commands look at it.

Comes in: the settings.  Goes out: one value with a handle on each server; connections are made when they are needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rowflow.feed import Feed
from rowflow.kafka import Kafka
from rowflow.settings import Settings
from rowflow.source import Source
from sink.sql import SessionPool


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Source, Kafka, what the reader writes there of itself, and the sink."""

    source: Source
    kafka: Kafka
    feed: Feed
    sink: SessionPool
    prefix: str


@contextmanager
def pipeline_of(settings: Settings) -> Iterator[Pipeline]:
    """The pipeline that the settings name, for the time of one command.  Raises SettingError."""
    source = Source(settings.require_source())
    sink = SessionPool(settings.require_sink().address)
    kafka_settings = settings.require_kafka()
    kafka = Kafka(kafka_settings)
    try:
        with Feed(kafka, kafka_settings.prefix) as feed:
            yield Pipeline(source, kafka, feed, sink, kafka_settings.prefix)
    finally:
        sink.close()
