"""The captured tables and their states: which are followed, as what, and what a change of one means.

Comes in: the records of ``__jobs`` and ``__schemas`` as of the last committed position, TABLE_MAPs with another fingerprint,
statements.  Goes out: barriers and records to publish in the place where the change stands, and wishes: tables to look at,
jobs to run.

A table is *pending* until its first read begins: its events aren't published, for the job reads what they did.  It is
*followed* from the job's begin barrier on.  It *stands still* when it can't be followed; nothing of it is published then
until a job asked for by name begins.  No I/O here: in-memory state is thrown away with an aborted Kafka transaction and
read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from cdc_reader.batches import Batch, Origin, barrier_batches, source_head
from cdc_reader.errors import SourceStopped
from cdc_reader.statements import Kind, Statement
from schemas.events import Barrier, BarrierKind
from schemas.jobs import JobRecord, JobRequest, TableState, TableStatus
from schemas.patterns import TablePatterns
from schemas.tables import TableName, TableSchema
from schemas.topics import jobs_topic, schemas_topic, table_topic

LOOK_AT_SCHEMA, LOOK_AT_ROWS = "schema", "rows"
"""What :attr:`schemas.jobs.TableState.look` says."""


@dataclass(slots=True)
class FollowedTable:
    """One captured table; mutable, owned by the reader's one thread."""

    name: TableName
    topic: str
    publishing: bool = False
    fingerprint: str = ""
    schema: TableSchema | None = None
    state: TableState | None = None
    windows: list[set[bytes]] = field(default_factory=list)
    """For each open window the keys that were published since it began (exactness.md J2); they may overlap (J3)."""
    barriers: int = 0
    """How many barriers were published in this run: a window in which it changes is void (J3)."""


@dataclass(slots=True)
class Wishes:
    """What the jobs are to do at the next boundary."""

    looks: dict[TableName, bool] = field(default_factory=dict)
    """Tables whose schema is to be looked at; True where rows may have changed without row events."""
    jobs: list[JobRequest] = field(default_factory=list)
    rescan: bool = False
    """Whether there may be new captured tables."""


class FollowedTables:
    """All captured tables of a reader."""

    def __init__(
        self,
        patterns: TablePatterns,
        prefix: str,
        partitions: int,
        is_transactional: Callable[[TableName], bool],
        *,
        lower_case: bool,
    ) -> None:
        """``lower_case``: the server's lower_case_table_names isn't 0, so names in statements come in any case."""
        self._patterns = patterns
        self._prefix = prefix
        self._partitions = partitions
        self._is_transactional = is_transactional
        self._lower_case = lower_case
        self._tables: dict[TableName, FollowedTable] = {}
        self._left_out: list[TableState] = []
        self.wishes = Wishes()

    # ---- states ----

    def load(self, states: Iterable[TableState], schemas: dict[tuple[TableName, str], TableSchema]) -> None:
        """Takes over what was committed; a table that was left out for a time is new again, for it has missed events."""
        for state in states:
            table = self.table(state.name)
            if table is None and state.status != TableStatus.LEFT_OUT:
                self._left_out.append(replace(state, status=TableStatus.LEFT_OUT.value, reason="", fingerprint=""))
            if table is None or state.status == TableStatus.LEFT_OUT:
                continue
            table.state = state
            table.fingerprint = state.fingerprint
            table.schema = schemas.get((state.name, state.fingerprint))
            table.publishing = state.status != TableStatus.STANDS_STILL
            if table.publishing and state.look:
                self.wishes.looks[state.name] = state.look == LOOK_AT_ROWS

    def table(self, name: TableName) -> FollowedTable | None:
        """The captured table of that name, pending where it is new; None where the patterns don't match it."""
        found = self._tables.get(name)
        if found is None and self._patterns.matches(name):
            found = self._tables[name] = FollowedTable(name, table_topic(self._prefix, name))
        return found

    def left_out_records(self) -> list[Batch]:
        """The states of tables that the patterns no longer match: to be published before anything is read without them."""
        return [self.job_record(state) for state in self._left_out]

    def all(self) -> list[FollowedTable]:
        """All that were met so far."""
        return list(self._tables.values())

    # ---- what the stream asks ----

    def find(self, name: TableName) -> FollowedTable | None:
        """As the stream meets a TABLE_MAP; a table that is new gets a first read."""
        table = self.table(name)
        if table is not None and table.state is None:
            self.wishes.rescan = True
        return table

    def transactional(self, name: TableName) -> bool:
        """Whether the table's engine undoes its rows at a ROLLBACK."""
        return self._is_transactional(name)

    def changed(self, name: TableName, schema: TableSchema, origin: Origin) -> list[Batch]:
        """The table has another schema from here on: a barrier for new columns, else the table stands still."""
        table = self._tables[name]
        if not table.publishing or table.fingerprint == schema.fingerprint:
            return []
        added = schema.columns_added_since(table.schema) if table.schema is not None else None
        if not added or table.state is None:
            return self.stand_still(
                table,
                f"its schema has changed at {origin.file}:{origin.pos} in another way than by new columns",
                origin,
            )
        barrier = Barrier(
            f"schema-{origin.file}-{origin.pos}-{schema.fingerprint}",
            BarrierKind.SCHEMA,
            schema.fingerprint,
            table.fingerprint,
        )
        state = replace(table.state, fingerprint=schema.fingerprint, since_ms=origin.now_ms)
        request = JobRequest(name.db, name.table, f"{barrier.id}-{name}", "schema change", origin.now_ms, fresh=False)
        self.wishes.jobs.append(request)
        table.fingerprint, table.schema = schema.fingerprint, schema
        return [
            self.schema_record(schema),
            *self.barrier(table, barrier, origin),
            self.set_state(table, state),
            self.job_record(request),
        ]

    def unfollowable(self, name: TableName, why: str, origin: Origin) -> list[Batch]:
        """The table has a column that isn't known: it alone stands still."""
        return self.stand_still(self._tables[name], f"{why} (at {origin.file}:{origin.pos})", origin)

    def statement(self, statement: Statement, origin: Origin) -> list[Batch]:
        """What a statement means for the captured tables that it names; raises SourceStopped for logged DML."""
        if statement.database:
            database = self._as_stored(TableName(statement.database, "")).db
            named = [table for table in self._tables.values() if table.name.db == database]
            return self._gone(named, f"DROP DATABASE at {origin.file}:{origin.pos}", origin)
        names = [self._as_stored(name) for name in statement.tables]
        named = [self._tables[name] for name in names if name in self._tables]
        if statement.kind is Kind.DML:
            self._refuse_statement(named, origin)
            return []
        if statement.kind is Kind.TRUNCATE:
            return [batch for table in named if table.publishing for batch in self._truncated(table, origin)]
        batches: list[Batch] = []
        if statement.kind is Kind.GONE:
            batches = self._gone(named, f"it was dropped, renamed or replaced at {origin.file}:{origin.pos}", origin)
        for table in named:
            if table.publishing:
                batches += self._look_again(table, reshaped=statement.kind is Kind.RESHAPED)
        if any(self._may_be_new(name) for name in names):
            self.wishes.rescan = True
        return batches

    def _look_again(self, table: FollowedTable, *, reshaped: bool) -> list[Batch]:
        """A wish, and a note of it that goes with the position behind the statement: it is kept through a crash."""
        reshaped = reshaped or self.wishes.looks.get(table.name, False)
        self.wishes.looks[table.name] = reshaped
        if table.state is None:
            return []
        return [self.set_state(table, replace(table.state, look=LOOK_AT_ROWS if reshaped else LOOK_AT_SCHEMA))]

    def look_done(self, table: FollowedTable) -> list[Batch]:
        """The table was looked at; the note goes, unless another statement has come since."""
        if table.state is None or not table.state.look or table.name in self.wishes.looks:
            return []
        return [self.set_state(table, replace(table.state, look=""))]

    def _may_be_new(self, name: TableName) -> bool:
        known = self._tables.get(name)
        return known.state is None if known is not None else self._patterns.matches(name)

    def _as_stored(self, name: TableName) -> TableName:
        return TableName(name.db.lower(), name.table.lower()) if self._lower_case else name

    def _refuse_statement(self, named: list[FollowedTable], origin: Origin) -> None:
        for table in named:
            if table.publishing:
                raise SourceStopped(
                    f"a change of {table.name} is logged as a statement at {origin.file}:{origin.pos}: some session has "
                    "binlog_format other than ROW; SET GLOBAL binlog_format=ROW, end that session, then "
                    f"rowflow snapshot {table.name} --start-over"
                )

    def _truncated(self, table: FollowedTable, origin: Origin) -> list[Batch]:
        barrier = Barrier(f"truncate-{origin.file}-{origin.pos}", BarrierKind.TRUNCATE, table.fingerprint)
        return self.barrier(table, barrier, origin)

    def _gone(self, named: list[FollowedTable], why: str, origin: Origin) -> list[Batch]:
        return [batch for table in named if table.publishing for batch in self.stand_still(table, why, origin)]

    # ---- what is published for it ----

    def stand_still(self, table: FollowedTable, why: str, origin: Origin) -> list[Batch]:
        """Nothing more of the table is published; its state says why and what to do."""
        table.publishing = False
        table.barriers += 1
        state = table.state or TableState(table.name.db, table.name.table, "", table.fingerprint, "")
        reason = f"{why}; to follow it again: rowflow snapshot {table.name}"
        return [self.set_state(table, state.standing_still(reason, origin.now_ms))]

    def barrier(
        self, table: FollowedTable, barrier: Barrier, origin: Origin, extra: dict[str, object] | None = None
    ) -> list[Batch]:
        """A barrier in every partition of the table's topic (B1)."""
        table.barriers += 1
        head = source_head(self._prefix, table.name, barrier.fingerprint)
        return barrier_batches(table.topic, self._partitions, head, origin, barrier, extra)

    def set_state(self, table: FollowedTable, state: TableState) -> Batch:
        """The record of the table's state, which it has from now on."""
        table.state = state
        return self._jobs_batch(state)

    def job_record(self, record: JobRecord) -> Batch:
        """A record for ``__jobs``."""
        return self._jobs_batch(record)

    def _jobs_batch(self, record: JobRecord) -> Batch:
        return Batch(jobs_topic(self._prefix), [(0, record.key(), record.to_json(), None)], None, 0)

    def schema_record(self, schema: TableSchema) -> Batch:
        """A record for ``__schemas``; it goes before the first event that uses the schema."""
        return Batch(schemas_topic(self._prefix), [(0, schema.schema_key(), schema.to_json(), None)], None, 0)


def note_published(tables: FollowedTables, batches: Iterable[Batch]) -> None:
    """Notes the keys of rows that are being published, in every open window (J2)."""
    open_windows = {table.name: table.windows for table in tables.all() if table.windows}
    if not open_windows:
        return
    for batch in batches:
        if batch.table is not None:
            for noted in open_windows.get(batch.table, ()):
                noted.update([message[1] for message in batch.messages])
