"""What the sink knows of each captured table: ``_rowflow_tables``.

Comes in: a session and a topic.  Goes out: the state of the table's mirror.  A state changes in two ways only: by the
work of a barrier, at which all partitions stand, and together with the partitions' progress (progress.py).  So a
slice whose compare-and-set succeeds has read the state that it was prepared for.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol

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
    """A row of ``_rowflow_tables``; ``functions_fingerprint``: of the functions that computed the whole mirror."""

    topic: str
    table: TableName
    mirror: str
    status: MirrorStatus
    awaited_job: str
    fingerprint: str
    functions_fingerprint: str


class SchemaSource(Protocol):
    """Where table schemas come from: the topic ``<prefix>.__schemas``."""

    def get(self, db: str, table: str, fingerprint: str) -> TableSchema:
        """A schema by its fingerprint; reads the topic again for up to 30 s, then raises StoppedError (W13)."""


_COLUMNS = "topic, db, table_name, mirror, status, awaited_job, fingerprint, functions_fingerprint"


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


def mark_made(session: Session, topic: str, fingerprint: str, functions_fingerprint: str) -> None:
    """The mirror was made anew."""
    session.execute(
        "UPDATE _rowflow_tables SET status = 'made', awaited_job = '', fingerprint = %s, functions_fingerprint = %s"
        " WHERE topic = %s",
        (fingerprint, functions_fingerprint, topic),
    )


def mark_schema(session: Session, topic: str, fingerprint: str) -> None:
    """The mirror follows another version of its table."""
    session.execute("UPDATE _rowflow_tables SET fingerprint = %s WHERE topic = %s", (fingerprint, topic))


def _state(row: Row) -> TableState:
    topic, db, table, mirror, status, awaited_job, fingerprint, functions_fingerprint = row
    return TableState(
        topic, TableName(db, table), mirror, MirrorStatus(status), awaited_job, fingerprint, functions_fingerprint
    )
