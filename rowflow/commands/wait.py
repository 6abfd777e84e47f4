"""`rowflow wait`."""

from __future__ import annotations

import click

from rowflow.feed import Feed
from rowflow.kafka import Kafka
from rowflow.options import settings_command
from rowflow.settings import Settings
from rowflow.source import Source
from rowflow.waiting import Deadline, wait_until_held
from sink.sql import SessionPool


@settings_command("wait", "source", "kafka", "sink", example="rowflow wait --timeout 60")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0), metavar="S", help="Give up after S seconds (exit 1)."
)
def wait(settings: Settings, timeout_s: float | None) -> int:
    """Return when the sink holds all that the source has committed by now.

    Exit 1 if not in time, or at once if a captured table stands still.
    """
    deadline = Deadline.within(timeout_s)
    source = Source(settings.require_source())
    sink = SessionPool(settings.require_sink().address)
    kafka_settings = settings.require_kafka()
    kafka = Kafka(kafka_settings)
    try:
        with Feed(kafka, kafka_settings.prefix) as feed:
            wait_until_held(kafka, feed, source, sink, kafka_settings.prefix, deadline)
    finally:
        sink.close()
    return 0
