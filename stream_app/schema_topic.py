"""Table schemas by fingerprint, as the reader wrote them to ``<prefix>.__schemas``.

Comes in: a fingerprint from an event.  Goes out: the schema.  A fingerprint that isn't there yet is waited for, since the
partitions of one Kafka transaction don't become visible together (exactness.md W13); a Kafka that is away raises
KafkaUnreachable instead, for what it holds is unknown.  Called from slices' threads.
"""

from __future__ import annotations

import threading
import time

from schemas.tables import TableName, TableSchema, schema_key
from schemas.topics import schemas_topic
from stream_app.config import WorkerConfig
from stream_app.errors import SchemaUnknown
from stream_app.kafka import CompactedTopic

WAIT_S = 30.0
LOOK_AGAIN_S = 0.2


class SchemaTopic:
    """A cache of schemas in front of the topic."""

    def __init__(self, config: WorkerConfig) -> None:
        self._topic = schemas_topic(config.prefix)
        self._source = CompactedTopic(config, self._topic)
        self._lock = threading.Lock()
        self._schemas: dict[bytes, TableSchema] = {}

    def get(self, db: str, table: str, fingerprint: str) -> TableSchema:
        """The schema of this table with this fingerprint; waits for it up to 30 s, then raises SchemaUnknown.

        Raises KafkaUnreachable, to be called again, where Kafka doesn't answer.
        """
        key = schema_key(TableName(db, table), fingerprint)
        schema = self._schemas.get(key)
        deadline = time.monotonic() + WAIT_S
        while schema is None:
            with self._lock:
                schema = self._schemas.get(key) or self._read(key)
            if schema is None:
                if time.monotonic() > deadline and self._source.is_whole():
                    raise SchemaUnknown(
                        f"topic {self._topic} holds no schema {fingerprint} of {db}.{table}, though events name it;"
                        f" write it anew and read the table whole: rowflow snapshot {db}.{table}"
                    )
                time.sleep(LOOK_AGAIN_S)
        return schema

    def close(self) -> None:
        """Leave Kafka."""
        self._source.close()

    def _read(self, key: bytes) -> TableSchema | None:
        text = self._source.refresh().get(key)
        if text is None:
            return None
        schema = self._schemas[key] = TableSchema.from_json(text)
        return schema
