"""What the sink knows of each captured table: ``_rowflow_tables``.

Comes in: a session and a topic.  Goes out: the state of the table's mirror.  A state changes in two ways only: by the
work of a barrier, at which all partitions stand, and together with the partitions' progress (progress.py).  So a
slice whose compare-and-set succeeds has read the state that it was prepared for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

from schemas.events import Barrier
from schemas.tables import TableName, TableSchema
from sink.errors import SinkStopped
from sink.sql import Row, Session


class MirrorStatus(StrEnum):
    """What may happen to a mirror."""

    NEW = "new"
    """There is none yet; the topic's first record is the begin barrier that makes it."""
    AWAITING = "awaiting"
    """Everything is passed over up to the begin barrier of the awaited job."""
    MADE = "made"
    """It is there, with the schema ``fingerprint``."""


class TableState(NamedTuple):
    """A row of ``_rowflow_tables``; ``functions_fingerprint``: of the functions that computed the whole mirror.

    ``awaited_job``: of a mirror that is made, the job that fills it, until that has ended; empty: it is complete.
    ``noting_job``: the job between whose barriers the table stands, where the keys of what is written are noted; else empty.
    """

    topic: str
    table: TableName
    mirror: str
    status: MirrorStatus
    awaited_job: str
    fingerprint: str
    functions_fingerprint: str
    noting_job: str = ""


class SchemaSource(Protocol):
    """Where table schemas come from: the topic ``<prefix>.__schemas``."""

    def get(self, db: str, table: str, fingerprint: str) -> TableSchema:
        """A schema by its fingerprint; reads the topic again for up to 30 s, then raises StoppedError (W13)."""


_COLUMNS = "topic, db, table_name, mirror, status, awaited_job, fingerprint, functions_fingerprint, noting_job"


def read_state(session: Session, topic: str) -> TableState:
    """The state of a topic's table; raises SinkStopped where there is none."""
    rows = session.fetch(f"SELECT {_COLUMNS} FROM _rowflow_tables WHERE topic = %s", (topic,))
    if not rows:
        raise SinkStopped(
            f"topic {topic}: the sink's table _rowflow_tables has no row for it, although records came."
            "  Start the worker again: it makes what is missing"
        )
    return _state(rows[0])


def all_states(session: Session) -> list[TableState]:
    """The states of all captured tables, by topic."""
    return [_state(row) for row in session.fetch(f"SELECT {_COLUMNS} FROM _rowflow_tables ORDER BY topic")]


def mark_made(
    session: Session, topic: str, barrier: Barrier, functions_fingerprint: str, *, noting: bool, complete: bool
) -> None:
    """A job has begun with the barrier; where the mirror isn't ``complete``, the job is what makes it so."""
    awaited_job, noting_job = "" if complete else barrier.job, barrier.job if noting else ""
    session.execute(
        "UPDATE _rowflow_tables SET status = 'made', fingerprint = %s, functions_fingerprint = %s, awaited_job = %s,"
        " noting_job = %s WHERE topic = %s",
        (barrier.fingerprint, functions_fingerprint, awaited_job, noting_job, topic),
    )


def mark_whole(session: Session, topic: str) -> None:
    """The job has ended: the mirror is complete."""
    session.execute("UPDATE _rowflow_tables SET noting_job = '', awaited_job = '' WHERE topic = %s", (topic,))


def mark_given_up(session: Session, topic: str) -> None:
    """The job was cancelled: what it was to fill stays incomplete, else the mirror is as it was."""
    session.execute("UPDATE _rowflow_tables SET noting_job = '' WHERE topic = %s", (topic,))


def mark_schema(session: Session, topic: str, fingerprint: str) -> None:
    """The mirror follows another version of its table."""
    session.execute("UPDATE _rowflow_tables SET fingerprint = %s WHERE topic = %s", (fingerprint, topic))


def _state(row: Row) -> TableState:
    topic, db, table, mirror, status, awaited_job, *rest = row
    return TableState(topic, TableName(db, table), mirror, MirrorStatus(status), awaited_job, *rest)
