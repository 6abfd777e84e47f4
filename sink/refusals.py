"""Running a statement over many rows, of which the server may refuse some.

Comes in: a batch, on a session in the slice's transaction.  Goes out: the rows that the server refuses, each with a
reason; all others are written.  A refused statement is undone as a whole and tried again over each half, so n guilty
rows among m cost about n log m statements.
"""

from __future__ import annotations

from sink.errors import ValueRefused
from sink.fold import Failure
from sink.sql import Session
from sink.statements import Batch

_SAVEPOINT = "rowflow_batch"

_NO_DEFAULT = 1364
"""ER_NO_DEFAULT_FOR_FIELD: not the row's fault but the table's."""


def write(session: Session, batch: Batch) -> list[Failure]:
    """Run a batch; returns the rows that are refused for their values.  Any other failure is raised."""
    # A warning is a refusal too, and comes when the statement has been done: hence the savepoint.
    session.execute(f"SAVEPOINT {_SAVEPOINT}")
    return _write(session, batch, 0, len(batch.rows))


def _write(session: Session, batch: Batch, start: int, end: int) -> list[Failure]:
    try:
        session.execute(batch.statement(start, end))
    except ValueRefused as error:
        if error.code == _NO_DEFAULT:
            raise
        session.execute(f"ROLLBACK TO SAVEPOINT {_SAVEPOINT}")
        if end - start == 1:
            return [Failure(batch.rows[start].record, f"the sink refuses the row: {error}")]
        middle = (start + end) // 2
        first = _write(session, batch, start, middle)
        session.execute(f"SAVEPOINT {_SAVEPOINT}")
        return first + _write(session, batch, middle, end)
    return []
