"""The two sides of a comparison: what runs a table's SELECTs.

Comes in: plans and sessions.  Goes out: rows whose values are of one form on both sides.

Both sides may be used by several threads.  Failures are those of the rooms whose
sessions are used, but for a table or column that is gone: TableChangedError.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdc_reader.sql import NO_SUCH_TABLE, QueryFailed, SourceSession
from check.errors import TableChangedError
from check.plans import Key, Row, SidePlan
from sink.errors import StatementFailed
from sink.sql import SessionPool

_GONE = frozenset({*NO_SUCH_TABLE, 1054})
"""No such table, schema, column."""

Run = Callable[[str], Sequence[Row]]


@dataclass(frozen=True, slots=True)
class TableSide:
    """A table on one side."""

    plan: SidePlan
    run: Run

    def page(self, cursor: Key | None, rows_max: int) -> list[Row]:
        """The next rows behind a cursor, in this side's key order, each with its cursor at the end."""
        return self._normal(self.run(self.plan.page(cursor, rows_max)))

    def lookup(self, keys: Sequence[Key]) -> dict[Key, Row]:
        """The rows that have these keys, by their keys' bytes; it may hold other rows, which the server finds equal."""
        parts = len(self.plan.keys)
        found: dict[Key, Row] = {}
        for statement in self.plan.lookups(keys):
            found.update((row[:parts], row) for row in self._normal(self.run(statement)))
        return found

    def _normal(self, rows: Sequence[Row]) -> list[Row]:
        """The same rows with doubles as floats: the source gives their text (shortest that is exact), the sink floats."""
        places = self.plan.floating
        if not places:
            return list(rows)
        normal = []
        for row in rows:
            values = list(row)
            for place in places:
                value = values[place]
                if value is not None:
                    values[place] = float(value)
            normal.append(tuple(values))
        return normal


def run_on_source(session: SourceSession) -> Run:
    """Runs SELECTs on the source, one at a time."""
    lock = threading.Lock()

    def run(statement: str) -> Sequence[Row]:
        try:
            with lock:
                return session.rows(statement)
        except QueryFailed as error:
            raise _told("source", error.code, error) from None

    return run


def run_on_sink(pool: SessionPool) -> Run:
    """Runs SELECTs on the sink, each on a session of the pool: one of our own would be closed by the server when idle."""

    def run(statement: str) -> Sequence[Row]:
        try:
            with pool.lend() as session:
                return session.fetch(statement)
        except StatementFailed as error:
            raise _told("sink", error.code, error) from None

    return run


def _told(side: str, code: int, error: Exception) -> Exception:
    if code in _GONE:
        return TableChangedError(f"it was changed or dropped on the {side} while it was compared")
    return error
