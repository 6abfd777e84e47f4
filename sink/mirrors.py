"""Mirrors: what slices of captured tables come to in the sink.

Comes in: slices of one partition.  Goes out: upserts and deletes of the last change per key, keys noted for a whole-table
job, dead letters, and entries at barriers, all within the slice's transaction; barriers' work is in barrier_work.py.

What a slice may do depends on its table's state (tables.py): a new table's topic begins with the begin barrier that
makes the mirror, else it is a loud stop; a table that awaits a job passes everything over up to that job's begin
barrier. Preparing does all the parsing, folding, computing and rendering; applying sends what is ready, and may be
done again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from schemas.errors import StoppedError
from schemas.events import Barrier, BarrierKind
from schemas.tables import TableSchema
from sink import barriers, dead_letters
from sink.barrier_work import BarrierWork
from sink.column_types import SinkDialect
from sink.computed import ComputedFunctions, RowComputer
from sink.config import SinkConfig
from sink.errors import SinkStopped, StatementFailed
from sink.fold import BarrierRecord, Change, Failure, Folded, earlier, find_barrier, fold, undecodable
from sink.refusals import write
from sink.seen_keys import SeenForm
from sink.slices import Record, Slice
from sink.sql import Session, SessionPool
from sink.statements import Batch, DeleteForm, Literal, RenderedRow, UpsertForm, key_order, literals_of, render
from sink.tables import MirrorStatus, SchemaSource, TableState, read_state
from sink.values import UnreadableError

_STATEMENT_RESERVE_BYTES = 64 * 1024
"""What a statement has besides its rows, at most: head and tail name every column up to three times."""

# No such table, unknown column, column without a default: somebody changed the mirror by hand.
_CHANGED_BY_HAND = frozenset({1054, 1146, 1364})


class MirrorWriter:
    """Makes statements for one mirror at one version of its table."""

    def __init__(
        self,
        schema: TableSchema,
        mirror: str,
        dialect: SinkDialect,
        functions: ComputedFunctions,
        noting_job: str = "",
    ) -> None:
        """``noting_job``: a whole-table job to which the keys of what is written are told."""
        self.schema = schema
        computed = functions.by_table.get(schema.name, ())
        names = [function.column.name for function in computed]
        self._upsert = UpsertForm(schema, mirror, names, row_alias=dialect.has_row_alias)
        self._delete = DeleteForm(schema, mirror)
        self._computer = RowComputer(schema, computed) if computed else None
        self._key_of_row = key_order(schema, schema.columns)
        self._seen = SeenForm(schema, noting_job) if noting_job else None

    def notes(self, changes: Sequence[Change], literal: Literal) -> list[Batch]:
        """The statements that note the keys of changes for a whole-table job, in key order.

        Of a row that can't be written the key is noted too: what the mirror has of it stays.
        """
        if self._seen is None:
            return []
        literals = literals_of(literal)
        keyed = []
        for record, row, gone in changes:
            if not gone:
                with suppress(UnreadableError):
                    key = _whole(self._seen.parameters(row))
                    keyed.append(_Keyed(key, RenderedRow(render(key, literals), record)))
        return list(self._seen.batches(_in_key_order(keyed)))

    def batches(
        self, changes: Sequence[Change], literal: Literal, row_bytes_max: int
    ) -> tuple[list[Batch], list[Failure]]:
        """The statements for folded changes, in key order, deletes first; and the changes that can't be made.

        Raises RowTooLongError where a row needs more than ``row_bytes_max``.
        """
        literals = literals_of(literal)
        upserts: list[_Keyed] = []
        deletes: list[_Keyed] = []
        failures: list[Failure] = []
        for record, row, gone in changes:
            try:
                if gone:
                    key = _whole(self._delete.parameters(row))
                    deletes.append(_Keyed(key, RenderedRow(self._delete.condition(key, literals), record)))
                    continue
                values = self._upsert.parameters(row)
                key = _whole(self._key_of_row(values))
                if self._computer is not None:
                    values += self._computer.parameters(row)
                text = render(values, literals)
            except UnreadableError as error:
                failures.append(Failure(record, error.reason, error.detail))
                continue
            if len(text) > row_bytes_max:
                raise RowTooLongError(record.offset, len(text) + _STATEMENT_RESERVE_BYTES)
            upserts.append(_Keyed(key, RenderedRow(text, record)))
        batches = [
            *self._delete.batches(_in_key_order(deletes)),
            *self._upsert.batches(_in_key_order(upserts), row_bytes_max),
        ]
        return batches, failures


class _Keyed(NamedTuple):
    """A rendered row, and the key that it is ordered by."""

    key: tuple[object, ...]
    row: RenderedRow


def _in_key_order(rows: list[_Keyed]) -> list[RenderedRow]:
    """The rows by their keys.  Among keys of which one isn't of its column's type there is no order."""
    try:
        rows.sort(key=attrgetter("key"))
    except TypeError:
        rows.sort(key=lambda keyed: keyed.row.record.key or b"")
    return [row for _, row in rows]


class RowTooLongError(Exception):
    """A row doesn't fit into one statement of the server."""

    def __init__(self, offset: int, statement_bytes: int) -> None:
        super().__init__(offset, statement_bytes)
        self.offset = offset
        self.statement_bytes = statement_bytes


@dataclass(frozen=True, slots=True)
class PreparedSlice:
    """A slice whose statements are ready.  Applying it changes nothing in it."""

    topic: str
    partition: int
    start: int
    end: int
    records: Sequence[Record]
    batches: Sequence[Batch]
    notes: Sequence[Batch]
    """Of keys, for the whole-table job that the table stands in."""
    failures: Sequence[Failure]
    undecodable: Sequence[Failure]
    """Records that are written, with NULL for the columns that could not be decoded, and filed as letters too."""
    cut: BarrierRecord | None
    render: Callable[[Session, Sequence[Record]], _Rendered]
    """What takes the place of changes that the server refuses: the ones before them."""
    runs: dead_letters.RunCounter
    dead_letters_in_a_row_max: int

    @property
    def barrier(self) -> Barrier | None:
        """The barrier at which the slice ends."""
        return None if self.cut is None else self.cut.barrier

    def apply(self, session: Session) -> None:
        """Write rows, letters and the entry at the barrier, inside the transaction that is open."""
        failed = {failure.record.offset: failure for failure in self.failures}
        altered = list(self.undecodable)
        refused = self._written(session, self.batches)
        while refused:
            failed.update((failure.record.offset, failure) for failure in refused)
            before = self.render(session, earlier(self.records, refused, failed))
            failed.update((failure.record.offset, failure) for failure in before.failures)
            altered += undecodable(before.changes)
            refused = self._written(session, before.batches)
        # A key that is refused is no key of the mirror either.
        self._written(session, self.notes)
        run = self.runs.longest(self.topic, self.partition, self.start, self.end, self.records, failed)
        if run.length > self.dead_letters_in_a_row_max:
            reason = failed[run.last_offset].reason
            raise dead_letters.too_many(self.topic, self.partition, run, reason, self.dead_letters_in_a_row_max)
        letters = {failure.record.offset: failure for failure in altered} | failed
        dead_letters.file_letters(session, self.topic, self.partition, (letters[offset] for offset in sorted(letters)))
        if self.cut is not None:
            barriers.enter(session, self.topic, self.partition, self.cut)

    def _written(self, session: Session, batches: Sequence[Batch]) -> list[Failure]:
        """Run the batches; returns the rows that the server refuses."""
        try:
            return [failure for batch in batches for failure in write(session, batch)]
        except StatementFailed as error:
            if error.code in _CHANGED_BY_HAND:
                raise self._changed_by_hand(error) from error
            raise

    def _changed_by_hand(self, error: StatementFailed) -> SinkStopped:
        return SinkStopped(
            f"topic {self.topic} [{self.partition}] offset {self.start}: the mirror isn't as Rowflow made it: {error}\n"
            "Start the worker again: it names what differs and the statement that mends it"
        )


@dataclass(frozen=True, slots=True)
class StoppedSlice:
    """A slice that can't be gone on from, if the partition stands where it starts.

    That is known only in the transaction, after the compare-and-set: a worker that was away for a while may hold slices
    which others have stored since, up to and beyond a barrier, and these stop nobody.
    """

    end: int
    stop: StoppedError
    barrier: Barrier | None = None

    def apply(self, _session: Session) -> None:
        """Stop loudly."""
        raise self.stop


class _Cut(NamedTuple):
    """Which records of a slice are to be done, and the barrier behind them."""

    records: Sequence[Record]
    barrier: BarrierRecord | None
    end: int


class _Rendered(NamedTuple):
    """What the records of a slice come to."""

    batches: list[Batch]
    notes: list[Batch]
    failures: list[Failure]
    changes: list[Change]


class MirrorTarget:
    """What the worker writes slices to (:class:`sink.slices.Target`)."""

    def __init__(
        self,
        *,
        config: SinkConfig,
        pool: SessionPool,
        schemas: SchemaSource,
        dialect: SinkDialect,
        functions: ComputedFunctions,
        look_at_functions: Callable[[], None],
    ) -> None:
        """``look_at_functions`` raises where there are others by now: what this worker gives would be out of date."""
        self._config = config
        self._pool = pool
        self._schemas = schemas
        self._dialect = dialect
        self._functions = functions
        self._look_at_functions = look_at_functions
        self._barrier_work = BarrierWork(schemas, dialect, functions, look_at_functions)
        self._runs = dead_letters.RunCounter()
        self._writers: dict[TableState, MirrorWriter] = {}
        self._writers_lock = threading.Lock()

    def prepare(self, slice_: Slice) -> PreparedSlice | StoppedSlice:
        """Parse, fold, compute and render.  Where going on would guess, applying what is given raises StoppedError."""
        try:
            return self._prepare(slice_)
        except StoppedError as stop:
            return StoppedSlice(slice_.end, stop)

    def _prepare(self, slice_: Slice) -> PreparedSlice:
        self._look_at_functions()
        with self._pool.lend() as session:
            state = read_state(session, slice_.topic)
            cut = _cut(slice_, state)
            rendered = self._rendered(session, slice_, state, cut.records)
        if cut.barrier is not None and cut.barrier.barrier.kind is not BarrierKind.TRUNCATE:
            # Here, where it may take its time: while the barrier's work waited, its connection would idle away.
            self._schemas.get(state.table.db, state.table.table, cut.barrier.barrier.fingerprint)
        return PreparedSlice(
            topic=slice_.topic,
            partition=slice_.partition,
            start=slice_.start,
            end=cut.end,
            records=[record for record in cut.records if record.value is not None],
            batches=rendered.batches,
            notes=rendered.notes,
            failures=rendered.failures,
            undecodable=undecodable(rendered.changes),
            cut=cut.barrier,
            render=lambda session, records: self._rendered(session, slice_, state, records),
            runs=self._runs,
            dead_letters_in_a_row_max=self._config.dead_letters_in_a_row_max,
        )

    def try_to_finish(self, topic: str, barrier_id: str, partitions: int) -> bool:
        """Whether the barrier is done; see :func:`sink.barriers.try_to_finish`."""
        return barriers.try_to_finish(self._pool, topic, barrier_id, partitions, self._barrier_work)

    def _rendered(self, session: Session, slice_: Slice, state: TableState, records: Sequence[Record]) -> _Rendered:
        """Where a key's last change can't be made, the one before it counts, as if the slice had ended between them."""
        rendered = _Rendered([], [], [], [])
        while records:
            folded = fold(records, state.fingerprint)
            if folded.foreign:
                raise _foreign(slice_, state, folded)
            writer = self._writer(state)
            rendered.notes.extend(writer.notes(folded.changes, session.literal))
            batches, failures = self._batches(session, slice_, writer, folded)
            rendered.batches.extend(batches)
            rendered.failures.extend((*folded.failures, *failures))
            rendered.changes.extend(folded.changes)
            failed = {failure.record.offset for failure in rendered.failures}
            records = earlier(records, failures, failed)
        return rendered

    def _batches(
        self, session: Session, slice_: Slice, writer: MirrorWriter, folded: Folded
    ) -> tuple[Sequence[Batch], Sequence[Failure]]:
        row_bytes_max = session.server.max_packet_bytes - _STATEMENT_RESERVE_BYTES
        try:
            return writer.batches(folded.changes, session.literal, row_bytes_max)
        except RowTooLongError as error:
            raise dead_letters.too_long_for_packet(
                slice_.topic, slice_.partition, error.offset, error.statement_bytes
            ) from None

    def _writer(self, state: TableState) -> MirrorWriter:
        with self._writers_lock:
            writer = self._writers.get(state)
        if writer is None:
            schema = self._schemas.get(state.table.db, state.table.table, state.fingerprint)
            writer = MirrorWriter(schema, state.mirror, self._dialect, self._functions, state.noting_job)
            with self._writers_lock:
                self._writers[state] = writer
        return writer


def _cut(slice_: Slice, state: TableState) -> _Cut:
    """What of a slice counts, by its table's state.  Raises SinkStopped."""
    records = slice_.records
    if state.status is MirrorStatus.AWAITING:
        return _from_awaited(slice_, state.awaited_job)
    try:
        found = find_barrier(records)
    except ValueError as error:
        raise SinkStopped(
            f"topic {slice_.topic} [{slice_.partition}] offsets {slice_.start} to {slice_.end - 1}: {error}."
            f"  Read the table whole: rowflow snapshot {state.table} --start-over"
        ) from None
    begins = found is not None and found[0] == 0 and found[1].barrier.kind is BarrierKind.BEGIN
    if state.status is MirrorStatus.NEW and records and not begins:
        raise SinkStopped(
            f"topic {slice_.topic} [{slice_.partition}] offset {records[0].offset}: the first record should be the"
            f" barrier at which the mirror of {state.table} is made, and is another."
            f"  Read the table whole: rowflow snapshot {state.table} --start-over"
        )
    if found is None:
        return _Cut(records, None, slice_.end)
    place, barrier = found
    return _Cut(records[:place], barrier, barrier.record.offset + 1)


def _from_awaited(slice_: Slice, job: str) -> _Cut:
    """Nothing, up to the begin barrier of the awaited job; what isn't a readable barrier is passed over too."""
    for place, record in enumerate(slice_.records):
        try:
            found = find_barrier(slice_.records[place : place + 1])
        except ValueError:
            continue
        if found is not None and found[1].barrier.kind is BarrierKind.BEGIN and found[1].barrier.job == job:
            return _Cut((), found[1], record.offset + 1)
    return _Cut((), None, slice_.end)


def _foreign(slice_: Slice, state: TableState, folded: Folded) -> SinkStopped:
    fingerprint, offset = min(folded.foreign.items(), key=lambda found: found[1])
    return SinkStopped(
        f"topic {slice_.topic} [{slice_.partition}] offset {offset}: the event has schema {fingerprint}, the mirror of"
        f" {state.table} has {state.fingerprint}, and no barrier lay between."
        f"  Read the table whole: rowflow snapshot {state.table} --start-over"
    )


def _whole(key: Sequence[object]) -> tuple[object, ...]:
    """A key as what rows are ordered by; raises UnreadableError where a part of it is NULL."""
    if None in key:
        raise UnreadableError("a column of the key is NULL")
    return tuple(key)
