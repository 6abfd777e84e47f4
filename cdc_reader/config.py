"""What a reader has to know, already validated; made by the command line from the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from schemas.addresses import MysqlAddress
from schemas.patterns import TablePatterns

DAY_MS = 24 * 3600 * 1000

OnUndecodable = Literal["stop", "dead-letter"]


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """The source and what is captured of it; ``server_id`` is unique among all replicas and readers of the source."""

    address: MysqlAddress
    patterns: TablePatterns
    server_id: int
    on_undecodable: OnUndecodable = "stop"
    heartbeat_s: float = 1.0
    read_timeout_s: float = 10.0
    """Nothing at all received for so long, no heartbeat either: the connection is dead."""
    reach_timeout_s: float = 30.0
    """A server that isn't reached for so long since the start is refused, unless ``restarted``."""


@dataclass(frozen=True, slots=True)
class KafkaConfig:
    """Brokers, topics, and librdkafka's own options passed through."""

    bootstrap_servers: str
    prefix: str
    partitions: int
    producer: Mapping[str, str] = field(default_factory=dict, repr=False)
    consumer: Mapping[str, str] = field(default_factory=dict, repr=False)
    retention_ms: int = 7 * DAY_MS
    replication_factor: int = 1


@dataclass(frozen=True, slots=True)
class ReaderConfig:
    """All of it, with the limits of a Kafka transaction and of a shard."""

    source: SourceConfig
    kafka: KafkaConfig
    restarted: bool = False
    """Started again by a supervisor: a server that is away is waited for."""
    transaction_rows: int = 20_000
    transaction_bytes: int = 16 * 1024 * 1024
    """Of the binlog; as JSON it is three to five times as much."""
    transaction_time_s: float = 1.0
    part_rows: int = 20_000
    job_connections: int = 4
    """So many shards are read at the same time."""
    job_rows_per_s: int = 0
    """All of them together read no more; 0: as many as they can."""
    job_threads_running_max: int = 0
    """No shard is begun while the source runs more statements (its Threads_running); 0: always."""
    shard_rows: int = 5_000
    shard_bytes: int = 8 * 1024 * 1024
