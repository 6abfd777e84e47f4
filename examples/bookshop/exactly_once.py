"""The proof that every event took effect exactly once.

In: the sink, from before its first event; the topic at the end.  Out: what is wrong, nothing if all is right.

Triggers write down every move of `_rowflow_progress` inside the very transaction that moves it, so a move that was rolled
back leaves no trace.  Then two things must hold.  The moves of each partition join from offset 0 to its log's end: no gap,
no overlap.  And each move handled as many records as a plain consumer finds between its two offsets: none lost, none twice.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple, cast

from examples.bookshop.errors import DemoError
from examples.bookshop.stage import Stage, rows
from servers.mysql import Connection

LOG_SCHEMA = "bookshop_demo"
"""A schema of its own, so that the results hold nothing of the demo's."""

_LOOK_EVERY_S = 0.005
_LOG = f"""
CREATE TABLE {LOG_SCHEMA}.moves (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  topic VARCHAR(249) NOT NULL,
  partition_id INT NOT NULL,
  begins BIGINT NOT NULL,
  ends BIGINT NOT NULL,
  records BIGINT NOT NULL)
"""
_WRITE = f"INSERT INTO {LOG_SCHEMA}.moves (topic, partition_id, begins, ends, records) VALUES"
_TRIGGERS = {
    "INSERT": f"{_WRITE} (NEW.topic, NEW.partition_id, 0, NEW.next_offset, NEW.records)",
    "UPDATE": f"{_WRITE} (NEW.topic, NEW.partition_id, OLD.next_offset, NEW.next_offset, NEW.records - OLD.records)",
    "DELETE": f"{_WRITE} (OLD.topic, OLD.partition_id, OLD.next_offset, 0, 0)",
}


class Move(NamedTuple):
    """A partition's progress went from one offset to another and handled so many records."""

    partition: int
    begins: int
    ends: int
    records: int


def watch(stage: Stage, must_go_on: Callable[[], None], timeout_s: float) -> None:
    """Wait for `_rowflow_progress` to be made, then write down all that happens to it."""
    deadline_s = time.monotonic() + timeout_s
    with closing(stage.sink()) as sink:
        rows(sink, f"DROP DATABASE IF EXISTS {LOG_SCHEMA}")
        rows(sink, f"CREATE DATABASE {LOG_SCHEMA}")
        rows(sink, _LOG)
        while not rows(sink, "SHOW TABLES LIKE '\\_rowflow\\_progress'"):
            must_go_on()
            if time.monotonic() > deadline_s:
                raise DemoError(f"no worker has made its tables within {timeout_s:.0f} s")
            time.sleep(_LOOK_EVERY_S)
        for event, statement in _TRIGGERS.items():
            rows(
                sink,
                f"CREATE TRIGGER bookshop_demo_{event.lower()} AFTER {event} ON _rowflow_progress FOR EACH ROW {statement}",
            )


def moves_of(sink: Connection, topic: str) -> list[Move]:
    """All moves that were written down, in order."""
    statement = f"SELECT partition_id, begins, ends, records FROM {LOG_SCHEMA}.moves WHERE topic = %s ORDER BY id"
    return [Move(*cast("tuple[int, int, int, int]", row)) for row in rows(sink, statement, (topic,))]


def findings(moves: Iterable[Move], ends: Mapping[int, int], offsets: Mapping[int, Sequence[int]]) -> list[str]:
    """What is wrong with the moves, in words.

    ``ends``: where each partition's log ends.  ``offsets``: its committed records, in order.
    """
    found = []
    by_partition: dict[int, list[Move]] = defaultdict(list)
    for move in moves:
        by_partition[move.partition].append(move)
    for partition, end in sorted(ends.items()):
        stands_at = 0
        held = offsets.get(partition, ())
        for move in by_partition[partition]:
            lies_there = bisect_left(held, move.ends) - bisect_left(held, move.begins)
            if move.begins != stands_at:
                found.append(f"partition {partition}: it stood at {stands_at}, the next move begins at {move.begins}")
            if move.ends < move.begins:
                found.append(f"partition {partition}: back from {move.begins} to {move.ends}")
            elif move.records != lies_there:
                found.append(
                    f"partition {partition}, {move.begins} to {move.ends}: {move.records} records handled,"
                    f" {lies_there} lie there"
                )
            stands_at = move.ends
        if stands_at != end:
            found.append(f"partition {partition}: the moves end at {stands_at}, the log at {end}")
    return found
