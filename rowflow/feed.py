"""What the reader has written about itself into Kafka: its position, the jobs, the tables' states.

Comes in: the topics ``<prefix>.__positions`` and ``<prefix>.__jobs``.  Goes out: the last committed state of each.
"""

from __future__ import annotations

from typing import Self

from cdc_reader.positions import Position
from rowflow.kafka import Kafka
from schemas.jobs import JobRecords
from schemas.topics import jobs_topic, positions_topic


class Feed:
    """The reader's own topics, read once and then followed."""

    def __init__(self, kafka: Kafka, prefix: str) -> None:
        self._positions = kafka.follow(positions_topic(prefix), tail=True)
        self._jobs = kafka.follow(jobs_topic(prefix))
        self.position: Position | None = None
        """The last committed; None while no reader has ever run."""
        self._records = JobRecords()
        self.tables = self._records.tables
        self.jobs = self._records.states
        self.requests = self._records.requests

    def refresh(self) -> None:
        """Take in what was committed since the last call.  Raises UnreachableError."""
        for _, value in self._positions.new_records():
            if value is not None:
                self.position = Position.from_json(value)
        for key, value in self._jobs.new_records():
            if value is not None:
                self._records.take(key, value)

    def close(self) -> None:
        """Give the connections up."""
        self._positions.close()
        self._jobs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
