"""`rowflow reader`."""

from __future__ import annotations

from cdc_reader import reader as cdc_reader_main
from rowflow.configs import reader_config
from rowflow.kafka import check_options
from rowflow.lifeline import has_lifeline, hold_lifeline, was_restarted
from rowflow.memory import search_garbage_seldom
from rowflow.options import settings_command
from rowflow.preflight import check_sink
from rowflow.settings import Settings


@settings_command("reader", "source", "kafka", "jobs", example="rowflow reader --config rowflow.toml")
def reader(settings: Settings) -> int:
    """Read the binlog into Kafka, until it is stopped: one process, for containers."""
    hold_lifeline()
    check_options(settings.require_kafka())
    if settings.sink is not None and not has_lifeline():
        check_sink(settings, with_mirrors=True)
    search_garbage_seldom()
    return cdc_reader_main.run(reader_config(settings, restarted=was_restarted()))
