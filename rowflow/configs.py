"""From the settings to what the rooms ask for.

Comes in: the settings.  Goes out: the frozen configuration of each room, and the functions of
``functions.py``, which are run for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from cdc_reader.config import KafkaConfig, ReaderConfig, SourceConfig
from check.config import CheckConfig
from rowflow.settings import KafkaSettings, Settings
from schemas.patterns import TablePatterns
from sink.computed import ComputedFunctions, load
from sink.config import SinkConfig
from stream_app.config import WorkerConfig
from stream_app.functions import FunctionsWatch

REACH_TIME_S = 30.0
"""So long a server may be away at the start; a process that was started again waits without end."""

_HOUR_MS = 3_600_000


def librdkafka_options(options: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    """Options as librdkafka's own texts: ``true``, ``5``."""
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in options.items()}


def kafka_config(settings: KafkaSettings) -> KafkaConfig:
    """What the reader has to know of Kafka."""
    return KafkaConfig(
        bootstrap_servers=settings.bootstrap_servers,
        prefix=settings.prefix,
        partitions=settings.partitions,
        producer=librdkafka_options(settings.producer),
        consumer=librdkafka_options(settings.consumer),
        retention_ms=settings.retention_hours * _HOUR_MS if settings.retention_hours >= 0 else -1,
    )


def source_config(settings: Settings) -> SourceConfig:
    """What the reader has to know of the source.  Raises SettingError."""
    source = settings.require_source()
    return SourceConfig(source.address, source.patterns, source.server_id, source.on_undecodable)


def reader_config(settings: Settings, *, restarted: bool) -> ReaderConfig:
    """All that the reader has to know.  Raises SettingError."""
    return ReaderConfig(
        source_config(settings),
        kafka_config(settings.require_kafka()),
        restarted=restarted,
        job_connections=settings.jobs.connections,
        job_rows_per_s=settings.jobs.rows_per_s,
        job_threads_running_max=settings.jobs.threads_running_max,
    )


def sink_config(settings: Settings) -> SinkConfig:
    """All that the sink has to know.  Raises SettingError."""
    return SinkConfig(
        address=settings.require_sink().address,
        prefix=settings.require_kafka().prefix,
        table_name=settings.require_sink().table_name,
        dead_letters_in_a_row_max=settings.stream.dead_letters_in_a_row_max,
    )


def sink_functions(settings: Settings) -> ComputedFunctions:
    """The computed columns' functions; runs their file.  Raises SettingError."""
    if settings.stream.functions is None:
        return ComputedFunctions()
    return load(settings.stream.functions, _patterns(settings))


def functions_watch(settings: Settings, loaded: ComputedFunctions) -> Callable[[], None]:
    """Raises RestartNeeded when ``functions.py`` has other functions than those that were loaded."""
    if settings.stream.functions is None:
        return lambda: None
    return FunctionsWatch(settings.stream.functions, _patterns(settings), loaded.fingerprint).look


def worker_config(settings: Settings, *, restarted: bool) -> WorkerConfig:
    """All that a worker has to know.  Raises SettingError."""
    kafka = settings.require_kafka()
    return WorkerConfig(
        prefix=kafka.prefix,
        bootstrap_servers=kafka.bootstrap_servers,
        sink=sink_config(settings),
        kafka_options=librdkafka_options(kafka.consumer),
        patterns=_patterns(settings),
        start_timeout_s=math.inf if restarted else REACH_TIME_S,
    )


def check_config(settings: Settings) -> CheckConfig:
    """All that a comparison has to know.  Raises SettingError."""
    source = settings.require_source()
    return CheckConfig(source.address, source.patterns, sink_config(settings), settings.stream.functions)


def _patterns(settings: Settings) -> TablePatterns | None:
    """Which tables are captured, where the settings say."""
    return None if settings.source is None else settings.source.patterns
