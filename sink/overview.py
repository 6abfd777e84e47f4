"""What can be seen of the sink without touching it, for `status` and `wait`.

Comes in: a session.  Goes out: progress, open barriers and tables as they are committed.  Only SELECTs, and no
transaction; a sink that no worker has prepared yet is empty, not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeVar

import orjson

from schemas.events import Barrier
from sink import dead_letters
from sink.errors import StatementFailed
from sink.sql import Row, Session
from sink.tables import TableState, all_states

Found = TypeVar("Found")

_NO_SUCH_TABLE = 1146


class PartitionProgress(NamedTuple):
    """A partition's row: the next offset, how many records were handled so far, when (UTC) it changed last, topic's id."""

    next_offset: int
    records: int
    changed_at: datetime
    topic_id: str = ""


class WaitingBarrier(NamedTuple):
    """A barrier that isn't done: the partitions that stand at it, and since when (UTC) the first of them does."""

    topic: str
    barrier: Barrier
    partitions: tuple[int, ...]
    since: datetime


def progress(session: Session) -> dict[tuple[str, int], PartitionProgress]:
    """All rows of ``_rowflow_progress``, by topic and partition."""
    rows = _rows(
        session, "SELECT topic, partition_id, next_offset, records, changed_at, topic_id FROM _rowflow_progress"
    )
    return {(topic, partition): PartitionProgress(*rest) for topic, partition, *rest in rows}


def waiting_barriers(session: Session) -> list[WaitingBarrier]:
    """The barriers that partitions wait at."""
    rows = _rows(
        session,
        "SELECT topic, barrier, partition_id, entered_at FROM _rowflow_barriers WHERE done = 0"
        " ORDER BY topic, barrier_id, partition_id",
    )
    waiting: dict[tuple[str, bytes], list[tuple[int, datetime]]] = {}
    for topic, barrier, partition, entered_at in rows:
        waiting.setdefault((topic, barrier), []).append((partition, entered_at))
    return [
        WaitingBarrier(
            topic,
            Barrier.from_dict(orjson.loads(barrier)),
            tuple(partition for partition, _ in entered),
            min(since for _, since in entered),
        )
        for (topic, barrier), entered in waiting.items()
    ]


def open_letters(session: Session) -> dict[str, int]:
    """How many dead letters are open, by topic."""
    return _if_there(lambda: dead_letters.open_letters(session), {})


def unwritten_rows(session: Session, topic: str, first_row: int, end_row: int) -> int:
    """How many rows of a job, by the numbers that its events have, became dead letters instead of rows of the mirror."""
    return _if_there(lambda: dead_letters.unwritten_rows(session, topic, first_row, end_row), 0)


def tables(session: Session) -> list[TableState]:
    """What the sink knows of each captured table."""
    return _if_there(lambda: all_states(session), [])


def sink_id(session: Session) -> str | None:
    """The sink's id; None where no worker has made it yet."""
    rows = _rows(session, "SELECT id FROM _rowflow_sink WHERE one = 1")
    return str(rows[0][0]) if rows else None


def _rows(session: Session, statement: str) -> tuple[Row, ...]:
    return _if_there(lambda: session.fetch(statement), ())


def _if_there(read: Callable[[], Found], otherwise: Found) -> Found:
    """What a SELECT finds, or ``otherwise`` where its table isn't there yet."""
    try:
        return read()
    except StatementFailed as error:
        if error.code == _NO_SUCH_TABLE:
            return otherwise
        raise
