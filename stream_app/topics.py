"""Which topics a worker reads: those of the captured tables, as ``<prefix>.__jobs`` names them.

Comes in: the records of ``__jobs``.  Goes out: by topic, its table and what Kafka says of it; and, while the worker runs,
an end of the worker when that changed: a new captured table (Faust would take 45 s to subscribe to its topic), or a topic
that was deleted and made again (exactness.md W7).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from schemas.jobs import TableState, TableStatus, parse_job_record
from schemas.tables import TableName
from schemas.topics import jobs_topic, table_topic
from sink.progress import TopicFacts, foreign_topic
from stream_app.config import WorkerConfig
from stream_app.errors import RestartNeeded
from stream_app.kafka import CompactedTopic, TopicLookup

log = logging.getLogger("rowflow.worker")


class CapturedTopics:
    """The captured tables' topics.  All methods block."""

    def __init__(self, config: WorkerConfig, lookup: TopicLookup) -> None:
        self._prefix = config.prefix
        self._patterns = config.patterns
        self._lookup = lookup
        self._jobs = CompactedTopic(config, jobs_topic(config.prefix))

    def tables(self) -> dict[str, TableName]:
        """The captured tables by topic, as far as the reader has begun with them."""
        found = {}
        for key, value in self._jobs.refresh().items():
            record = parse_job_record(key, value)
            if isinstance(record, TableState) and self._is_captured(record):
                found[table_topic(self._prefix, record.name)] = record.name
        return found

    def _is_captured(self, state: TableState) -> bool:
        return state.status != TableStatus.LEFT_OUT and (self._patterns is None or self._patterns.matches(state.name))

    def facts(self) -> dict[str, TopicFacts]:
        """By topic, what Kafka says of it; empty where no table is captured yet."""
        asked = ((topic, self._lookup.facts(topic, table)) for topic, table in sorted(self.tables().items()))
        return {topic: facts for topic, facts in asked if facts is not None}

    def watch(self, known: Mapping[str, TopicFacts]) -> None:
        """Look whether the topics are still those that the worker began with; raises where they aren't."""
        tables = self.tables()
        ids = self._lookup.topic_ids(tables)
        for topic, (topic_id, _partitions) in sorted(ids.items()):
            if topic not in known:
                raise RestartNeeded(f"new captured table {tables[topic]}: beginning anew with its topic {topic}")
            if topic_id != known[topic].topic_id:
                facts = known[topic]
                raise foreign_topic(TopicFacts(topic, topic_id, facts.table, facts.logs), facts.topic_id)
        for topic in sorted(tables.keys() & known.keys() - ids.keys()):
            log.warning("topic=%s is gone from Kafka", topic)

    def close(self) -> None:
        """Leave Kafka."""
        self._jobs.close()
