"""Publishes batches and positions: one Kafka transaction for both, one claim at a time.

Comes in: batches of whole source transactions (or parts of a large one) and the position behind them.  Goes out: Kafka
transactions, each of which ends with a record in ``<prefix>.__positions``.

Guarantees: the last committed position is exactly what the committed events lead up to.  Rules R1, R3, R5, R6.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from cdc_reader.batches import Batch
from cdc_reader.config import KafkaConfig
from cdc_reader.errors import BrokerStopped
from cdc_reader.kafka import Log, TransactionalProducer
from cdc_reader.positions import POSITION_KEY, Position
from schemas.topics import positions_topic

log = logging.getLogger(__name__)


def last_position(config: KafkaConfig) -> Position | None:
    """The last committed position, with its writer's claim; None where none was ever committed.  Raises BrokerAway."""
    positions = Log(config, positions_topic(config.prefix))
    try:
        for record in positions.back_from_end():
            if record.key == POSITION_KEY and record.value is not None:
                return Position.from_json(record.value)
        return None
    finally:
        positions.close()


class Publisher:
    """Owns the producer and the last committed position."""

    def __init__(
        self, config: KafkaConfig, instance: str, now_ms: Callable[[], int], stopping: threading.Event
    ) -> None:
        """Fences any older reader (R1); raises BrokerAway or BrokerStopped.  ``stopping``: see TransactionalProducer."""
        self._config = config
        self._instance = instance
        self._now_ms = now_ms
        self._topic = positions_topic(config.prefix)
        self._producer = TransactionalProducer(config, stopping)
        try:
            self.committed: Position | None = last_position(config)
        except Exception:
            self._producer.close()
            raise
        self.topic_ids = ""

    @property
    def open(self) -> bool:
        """Whether a Kafka transaction is open."""
        return self._producer.open

    @property
    def open_since_s(self) -> float:
        """Since when it is, on the monotonic clock."""
        return self._producer.open_since_s

    @property
    def rows(self) -> int:
        """The messages in it."""
        return self._producer.rows

    def add(self, batches: Sequence[Batch]) -> None:
        """Puts batches into the open transaction."""
        self._producer.add(batches)

    def commit(self, position: Position) -> None:
        """Writes the position and commits; raises BrokerAway, BrokerFenced."""
        self._commit(replace(position, topic_ids=self.topic_ids))

    def claim(self) -> None:
        """Commits the last position again under this instance (R1); a fenced reader finds out here (R6)."""
        self._commit(self.committed or Position("", 0, "", ""))

    def stands_at(self, position: Position) -> bool:
        """Whether the last committed position says that already."""
        wanted = replace(position, topic_ids=self.topic_ids)
        committed = self.committed
        return committed is not None and replace(committed, ts_ms=wanted.ts_ms, instance=wanted.instance) == wanted

    def _commit(self, position: Position) -> None:
        stamped = replace(position, ts_ms=self._now_ms(), instance=self._instance)
        self._producer.add([Batch(self._topic, [(0, POSITION_KEY, stamped.to_json(), None)], None, 0)])
        self._producer.commit()
        self.committed = stamped

    def abort(self) -> None:
        """Gives the open transaction up."""
        self._producer.abort()

    def close(self) -> None:
        """Lets the producer go."""
        self._producer.close()


def check_fenced(config: KafkaConfig, instance: str, times: int) -> None:
    """After a fencing, the one of that number: returns where it was this reader's own time-out (R5).

    Raises BrokerStopped where another took over.
    """
    position = last_position(config)
    if position is not None and position.instance != instance:
        raise BrokerStopped(
            f"another reader has taken over prefix {config.prefix} (at {position}); only one may run for a prefix: "
            "stop one of them, or give this one another [kafka] prefix"
        )
    log.warning(
        "the Kafka transaction timed out while this reader stood still (%d since its start); it goes on from %s",
        times,
        position,
    )
