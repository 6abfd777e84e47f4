"""What barriers ask for: mirrors made, emptied, given new columns, and freed of what isn't on the source.

Comes in: a barrier at which all partitions stand, on a session that holds the topic's lock and has no transaction open.  Goes
out: DDL, and what is to be written down in one transaction with the barrier's end.  All of it may be done again (B1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from schemas.events import Barrier, BarrierKind
from schemas.tables import TableSchema
from sink import dead_letters, mirror_tables, seen_keys
from sink.barriers import Bookkeeping
from sink.column_types import SinkDialect
from sink.computed import ComputedFunctions
from sink.ddl import SecondaryIndex
from sink.errors import SinkStopped
from sink.sql import Session
from sink.tables import (
    MirrorStatus,
    SchemaSource,
    TableState,
    mark_given_up,
    mark_made,
    mark_schema,
    mark_whole,
    read_state,
)


class BarrierWork:
    """The work of all kinds of barriers, for one worker."""

    def __init__(
        self,
        schemas: SchemaSource,
        dialect: SinkDialect,
        functions: ComputedFunctions,
        look_at_functions: Callable[[], None],
    ) -> None:
        """``look_at_functions``: raises where the functions are no longer those of their file."""
        self._schemas = schemas
        self._dialect = dialect
        self._functions = functions
        self._look_at_functions = look_at_functions

    def __call__(self, session: Session, topic: str, barrier: Barrier, field: bytes) -> Bookkeeping:
        """What a barrier asks for; returns what is to be written down with it."""
        state = read_state(session, topic)
        table, mirror = state.table, state.mirror
        computed = self._functions.columns(table)
        if barrier.kind is BarrierKind.BEGIN:
            schema = self._schemas.get(table.db, table.table, barrier.fingerprint)
            return self._begin(session, state, barrier, schema, _indexes(topic, field))
        if barrier.kind in {BarrierKind.END, BarrierKind.CANCEL}:
            return self._end(session, state, barrier)
        if barrier.kind is BarrierKind.SCHEMA:
            old = self._schemas.get(table.db, table.table, state.fingerprint)
            new = self._schemas.get(table.db, table.table, barrier.fingerprint)
            mirror_tables.follow(session, old, new, mirror, self._dialect, computed)
            return lambda session: mark_schema(session, topic, barrier.fingerprint)
        if barrier.kind is BarrierKind.TRUNCATE:
            mirror_tables.empty(session, table, mirror)
        return lambda _session: None

    def _begin(
        self,
        session: Session,
        state: TableState,
        barrier: Barrier,
        schema: TableSchema,
        indexes: Sequence[SecondaryIndex],
    ) -> Bookkeeping:
        """A whole-table job begins: a mirror that fits stays, and keys are noted; any other is made anew, and is empty."""
        # Another worker may have brought the partition here, with the functions that there are now.
        self._look_at_functions()
        computed = self._functions.columns(state.table)
        fits = mirror_tables.fits(session, schema, state.mirror, self._dialect, computed)
        # One without rows, as this very work leaves it when it isn't kept, and is done again, has no keys to be told apart.
        kept = fits and mirror_tables.has_rows(session, state.mirror)
        complete = kept and state.status is MirrorStatus.MADE and not state.awaited_job
        if kept:
            mirror_tables.add_indexes(session, schema, state.mirror, self._dialect, indexes)
            seen_keys.begin(session, state.topic, barrier.job, schema, self._dialect)
        else:
            mirror_tables.make_anew(session, schema, state.mirror, self._dialect, computed, indexes)
            seen_keys.forget_others(session, state.topic, barrier.job)

        def begun(session: Session) -> None:
            functions_fingerprint = self._functions.fingerprint_for(state.table)
            mark_made(session, state.topic, barrier, functions_fingerprint, noting=kept, complete=complete)
            if kept:
                dead_letters.begin_rereading(session, state.topic)
            else:
                dead_letters.outdate(session, state.topic)

        return begun

    def _end(self, session: Session, state: TableState, barrier: Barrier) -> Bookkeeping:
        """A whole-table job has ended: what wasn't noted is deleted, unless it was cancelled."""
        if barrier.job not in {state.noting_job, state.awaited_job}:
            return lambda _session: None
        whole = barrier.kind is BarrierKind.END
        if barrier.job == state.noting_job:
            if whole:
                schema = self._schemas.get(state.table.db, state.table.table, barrier.fingerprint)
                seen_keys.end(session, barrier.job, schema, state.mirror)
            seen_keys.drop(session, barrier.job)

        def ended(session: Session) -> None:
            (mark_whole if whole else mark_given_up)(session, state.topic)
            dead_letters.end_rereading(session, state.topic, whole=whole)

        return ended


def _indexes(topic: str, field: bytes) -> list[SecondaryIndex]:
    """The plain indexes that a begin barrier brings along, if it does."""
    try:
        return [SecondaryIndex.from_dict(index) for index in orjson.loads(field).get("indexes", ())]
    except (KeyError, TypeError, ValueError) as error:
        raise SinkStopped(
            f"topic {topic}: the begin barrier's indexes can't be read: {type(error).__name__}"
        ) from error
