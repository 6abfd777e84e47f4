"""What a worker has to be told.

Comes in: validated settings.  Goes out: one frozen value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.patterns import TablePatterns
from sink.config import SinkConfig


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """Settings of one worker process; all workers of one sink have the same."""

    prefix: str
    bootstrap_servers: str
    sink: SinkConfig
    kafka_options: Mapping[str, str] = field(default_factory=dict)
    """``[kafka.consumer]``, in librdkafka's names; of these the security settings reach the slice transport too."""
    patterns: TablePatterns | None = None
    """Which tables are captured, where this worker was told; None: all that the reader captures."""
    slice_rows_max: int = 2_000
    slice_bytes_max: int = 2 * 1024 * 1024
    """What is fetched of a partition at a time; a single larger record still comes."""
    start_timeout_s: float = 30.0
    """So long Kafka and the sink may be away at the start; later they are waited for."""
    stop_timeout_s: float = 8.0
    """A worker told to stop is gone after this, whatever its threads still wait for."""
