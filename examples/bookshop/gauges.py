"""How fast and how far behind: what the live table shows.

In: the sink's progress, the logs' ends, the workload's stamps.  Out: numbers per partition.

The lag is measured, not guessed: the age of a stamp at the moment when it shows up in the results, or, while a partition
stands still, the age of the oldest stamp that has not come yet.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from examples.bookshop.stage import TABLE, TOPIC, rows
from examples.bookshop.topic import Topic
from servers.mysql import Connection

_RATE_OVER_S = 1.0


@dataclass(frozen=True, slots=True)
class PartitionGauge:
    """One partition; ``lag_ms`` is None before the first stamp."""

    partition: int
    next_offset: int
    end_offset: int
    rows_per_s: float
    lag_ms: float | None


@dataclass(slots=True)
class _Stamps:
    """How many stamps have come into a partition, and how old the last one was when it came."""

    arrived: int = 0
    lag_ms: float | None = None


class Gauges:
    """Looks again and again; on a connection of its own."""

    def __init__(self, sink: Connection, topic: Topic, pulse_books: Sequence[int], pulses: list[datetime]) -> None:
        """Take the ``pulse_books`` in the order of the partitions that hold them."""
        self._sink = sink
        self._topic = topic
        self._mirror = TABLE.partition(".")[2]
        self._pulse_books = tuple(pulse_books)
        self._pulses = pulses
        self._stamps = [_Stamps() for _ in pulse_books]
        self._history: list[tuple[float, dict[int, tuple[int, int]]]] = []

    def look_for_stamps(self) -> None:
        """See which stamps have come; to be called often, for a stamp's age is taken when it is seen."""
        known = list(self._pulses)
        found = rows(self._sink, f"SELECT id, updated_at FROM {self._mirror} WHERE id IN %s", (self._pulse_books,))
        now = datetime.now(UTC).replace(tzinfo=None)
        stamped = {cast("int", book): cast("datetime", stamp) for book, stamp in found}
        for book, stamps in zip(self._pulse_books, self._stamps, strict=True):
            arrived = bisect_right(known, stamped.get(book, datetime.min))  # noqa: DTZ901 - MySQL's are naive too, in UTC
            if arrived > stamps.arrived:
                stamps.arrived = arrived
                stamps.lag_ms = _ms(now, known[arrived - 1])
            elif arrived < len(known):
                stamps.lag_ms = max(stamps.lag_ms or 0.0, _ms(now, known[arrived]))

    def has_caught_up_with(self, moment: datetime) -> bool:
        """Whether a stamp that is later than this has come into every partition."""
        needed = bisect_right(self._pulses, moment) + 1
        return all(stamps.arrived >= needed for stamps in self._stamps)

    def read(self) -> list[PartitionGauge]:
        """All partitions as they are now."""
        now_s = time.monotonic()
        found = rows(
            self._sink, "SELECT partition_id, next_offset, records FROM _rowflow_progress WHERE topic = %s", (TOPIC,)
        )
        progress = {partition: (at, records) for partition, at, records in cast("list[tuple[int, int, int]]", found)}
        self._history.append((now_s, progress))
        while len(self._history) > 2 and now_s - self._history[1][0] > _RATE_OVER_S:
            del self._history[0]
        then_s, then = self._history[0]
        return [
            PartitionGauge(
                partition=partition,
                next_offset=progress.get(partition, (0, 0))[0],
                end_offset=end,
                rows_per_s=(progress.get(partition, (0, 0))[1] - then.get(partition, (0, 0))[1])
                / max(now_s - then_s, 0.001),
                lag_ms=self._stamps[partition].lag_ms,
            )
            for partition, end in sorted(self._topic.ends().items())
        ]


def _ms(later: datetime, earlier: datetime) -> float:
    return (later - earlier).total_seconds() * 1000
