"""Names of topics.

Comes in: the configured prefix and a table's names.  Goes out: the names of its topic and of Rowflow's own three.
Two different tables never share a topic: where a name has characters that Kafka doesn't take (or a dot, which separates),
they become ``_`` and a digest of the exact names is appended.
"""

from __future__ import annotations

import hashlib
import re

from schemas.tables import TableName

TOPIC_NAME_LENGTH_MAX = 249
"""Kafka's own limit (org.apache.kafka.common.internals.Topic)."""

_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")


def table_topic(prefix: str, name: TableName) -> str:
    """``<prefix>.<db>.<table>``, or the nearest name that Kafka takes, made unique by a digest."""
    plain = ".".join((prefix, _FOREIGN.sub("_", name.db), _FOREIGN.sub("_", name.table)))
    if plain == f"{prefix}.{name.db}.{name.table}" and len(plain) <= TOPIC_NAME_LENGTH_MAX:
        return plain
    digest = hashlib.sha256(f"{len(name.db)}:{name.db}.{name.table}".encode()).hexdigest()[:12]
    return f"{plain[: TOPIC_NAME_LENGTH_MAX - 13]}-{digest}"


def positions_topic(prefix: str) -> str:
    """Where the reader stands: one partition, compacted."""
    return f"{prefix}.__positions"


def schemas_topic(prefix: str) -> str:
    """Table schemas by fingerprint: one partition, compacted."""
    return f"{prefix}.__schemas"


def jobs_topic(prefix: str) -> str:
    """Jobs and the states of tables: one partition, compacted."""
    return f"{prefix}.__jobs"
