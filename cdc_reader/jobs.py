"""Jobs: reads whole tables beside the stream, by windows (DBLog's algorithm; exactness.md J1 to J4).

Comes in: requests from ``<prefix>.__jobs``, wishes of the captured tables, results of the shard reader.  Goes out: batches to
publish between two source transactions: begin barriers, ``r`` events, the records of how far a job is.

For each shard a window is opened at the stream's own position; from then on the keys that the stream publishes are noted.
The shard is read when that position is visible; when the stream has passed the source's place after the SELECT, the rows
whose keys are not noted are published.  A noted key's newer state is in the topic already or not older than the row.

Guarantees: no row is published twice in a job; no ``r`` event is older than an event of its key before it; a crash resumes
at the shard.  Jobs run one after the other, on one connection.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cdc_reader.batches import Batch, Origin, event_tail, source_head, source_mid
from cdc_reader.followed import FollowedTable, FollowedTables
from cdc_reader.positions import Place, Position
from cdc_reader.shard_reader import (
    LookResult,
    LookTask,
    Result,
    ScanResult,
    ScanTask,
    ShardReader,
    ShardResult,
    ShardTask,
)
from schemas.events import Barrier, BarrierKind
from schemas.jobs import JobRequest, JobState, JobStatus, TableState, TableStatus
from schemas.tables import TableName

log = logging.getLogger(__name__)

_FIRST_SHARD_ROWS = 16
"""Of a job, before it is known how large the table's rows are: each may have 16 MB."""
_NOTED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the stream stands, between two source transactions."""

    position: Position
    origin: Origin

    @property
    def place(self) -> Place:
        """File and offset."""
        return self.position.place


class JobRunner:
    """Runs the jobs; stepped by the reader's one thread, between two source transactions only."""

    def __init__(
        self,
        tables: FollowedTables,
        shard_reader: ShardReader,
        prefix: str,
        ensure_topics: Callable[[Sequence[str]], dict[str, str]],
        rows_max: int,
        bytes_max: int,
    ) -> None:
        self._tables = tables
        self._reader = shard_reader
        self._prefix = prefix
        self._ensure_topics = ensure_topics
        self._rows_max = rows_max
        self._rows_limit = min(_FIRST_SHARD_ROWS, rows_max)
        self._bytes_max = bytes_max
        self._requests: dict[str, JobRequest] = {}
        self._states: dict[str, JobState] = {}
        self._job: JobState | None = None
        self._result: LookResult | ShardResult | None = None
        self._looked_reshaped: bool | None = None
        self._look_barriers = 0
        self._window_barriers = 0
        self.scan_wanted = False

    # ---- requests ----

    def load(self, requests: Iterable[JobRequest], states: Iterable[JobState]) -> None:
        """Takes over what was asked and done before, what was begun first; a start over puts its table back to pending.

        A first read has no request in ``__jobs``: its state stands for it.
        """
        self._states = {state.id: state for state in states}
        for state in self._states.values():
            if state.open:
                self.add(JobRequest(state.db, state.table, state.id, state.origin, state.started_ms, state.fresh))
        for request in requests:
            self.add(request)

    def add(self, request: JobRequest) -> None:
        """One more request; one that is known already changes nothing."""
        if request.id in self._requests or self._done(request.id):
            return
        table = self._tables.table(request.name)
        if table is None:
            log.warning("job %s asks for %s, which [source] tables doesn't capture", request.id, request.name)
            return
        self._requests[request.id] = request
        if request.start_over and request.id not in self._states:
            table.publishing, table.state = False, None

    def add_first_reads(self, names: Iterable[TableName], now_ms: int) -> None:
        """Asks for the first read of every table that has no state and none asked for."""
        asked = {request.name for request in self._requests.values() if request.fresh}
        for name in names:
            table = self._tables.table(name)
            if table is not None and table.state is None and name not in asked:
                self.add(JobRequest(name.db, name.table, f"first-read-{name}-{now_ms}", "first read", now_ms))

    def _done(self, job_id: str) -> bool:
        state = self._states.get(job_id)
        return state is not None and not state.open

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until a request or a wish comes."""
        wishes = self._tables.wishes
        wished = wishes.looks or wishes.jobs or wishes.rescan or self.scan_wanted
        return not (wished or self._requests or self._reader.busy or self._result or self._job)

    # ---- steps ----

    def step(self, moment: Moment) -> list[Batch]:
        """Does what can be done at this moment; what is returned is to be published and committed at once."""
        self._take_wishes()
        if self._result is None and self._reader.busy:
            result = self._reader.poll()
            if isinstance(result, ScanResult):
                self.add_first_reads(result.names, moment.origin.now_ms)
            else:
                self._result = result
        batches: list[Batch] = []
        if isinstance(self._result, ShardResult):
            self._bound_noted(self._result)
        if self._result is not None and self._reached(self._result, moment):
            result, self._result = self._result, None
            batches = (
                self._look_done(result, moment) if isinstance(result, LookResult) else self._shard_done(result, moment)
            )
        if self._result is None and not self._reader.busy and not batches:
            batches = self._start_next(moment)
        return batches

    def _take_wishes(self) -> None:
        wishes = self._tables.wishes
        for request in wishes.jobs:
            self.add(request)
        wishes.jobs.clear()
        self.scan_wanted |= wishes.rescan
        wishes.rescan = False

    def _reached(self, result: Result, moment: Moment) -> bool:
        """Whether the stream has passed the source's place after the SELECT (J2, step 4)."""
        assert not isinstance(result, ScanResult)
        return moment.place.order >= result.high.order or result.server_uuid != moment.position.server_uuid

    def _bound_noted(self, result: ShardResult) -> None:
        """While a stream that lags comes to the window's end, only keys of the shard's rows need to be kept."""
        table = self._tables.table(result.task.name)
        if result.plan is not None and table is not None and table.noted and len(table.noted) > _NOTED_MAX:
            table.noted &= result.plan.keys(result.rows)

    def _start_next(self, moment: Moment) -> list[Batch]:
        wishes = self._tables.wishes
        if wishes.looks:
            name, self._looked_reshaped = wishes.looks.popitem()
            table = self._tables.table(name)
            self._look_barriers = table.barriers if table is not None else 0
            self._reader.start(LookTask(name))
        elif self.scan_wanted:
            self.scan_wanted = False
            self._reader.start(ScanTask())
        elif self._job is not None:
            return self._open_window(self._job, moment)
        elif self._requests:
            return self._start_job(next(iter(self._requests.values())), moment)
        return []

    def _start_job(self, request: JobRequest, moment: Moment) -> list[Batch]:
        state = self._states.get(request.id)
        table = self._tables.table(request.name)
        assert table is not None
        if state is not None and table.publishing:
            self._job = state
            log.info("job %s goes on behind %d rows of %s", request.id, state.rows_published, request.name)
            return self._open_window(state, moment)
        if request.fresh:
            self._looked_reshaped = None
            self._reader.start(LookTask(request.name))
            return []
        if not table.publishing:
            return self._fail(self._new_state(request, moment), f"{request.name} isn't followed", moment)
        self._job = self._new_state(request, moment)
        return [self._tables.job_record(self._job)]

    def _new_state(self, request: JobRequest, moment: Moment) -> JobState:
        earlier = [state.first_row + state.rows_read for state in self._states.values() if state.name == request.name]
        now_ms = moment.origin.now_ms
        return JobState(
            request.db,
            request.table,
            request.id,
            request.origin,
            request.fresh,
            JobStatus.READING.value,
            started_ms=now_ms,
            first_row=max(earlier, default=0),
            low=str(moment.place),
            updated_ms=now_ms,
        )

    # ---- looks ----

    def _look_done(self, result: LookResult, moment: Moment) -> list[Batch]:
        name = result.task.name
        table = self._tables.table(name)
        reshaped, self._looked_reshaped = self._looked_reshaped, None
        stale = reshaped is not None and table is not None and table.barriers != self._look_barriers
        if stale or result.server_uuid != moment.position.server_uuid:
            # Rows have told of a newer shape meanwhile, or the answer is another server's.
            if reshaped is not None:
                self._tables.wishes.looks[name] = reshaped
            return []
        if table is None:
            return []
        if reshaped is None:
            return self._begin(result, table, moment)
        return [*self._looked(result, table, moment, reshaped=reshaped), *self._tables.look_done(table)]

    def _looked(self, result: LookResult, table: FollowedTable, moment: Moment, *, reshaped: bool) -> list[Batch]:
        """What a statement has made of a followed table."""
        name = table.name
        if result.schema is None:
            if not table.publishing:
                return []
            why = result.unfollowable or f"there is no table {name} any more"
            return self._tables.stand_still(table, f"{why} (at {moment.place})", moment.origin)
        batches = self._tables.changed(name, result.schema, moment.origin) if table.publishing else []
        if reshaped and table.publishing:
            request = JobRequest(
                name.db, name.table, f"reshaped-{name}-{moment.place}", "schema change", moment.origin.now_ms
            )
            self.add(request)
            batches.append(self._tables.job_record(request))
        return batches

    def _begin(self, result: LookResult, table: FollowedTable, moment: Moment) -> list[Batch]:
        """The begin barrier of a fresh job: from here on the table is followed with the schema that it has now."""
        request = next((asked for asked in self._requests.values() if asked.fresh and asked.name == table.name), None)
        if request is None:
            return []
        state = replace(self._new_state(request, moment), rows_estimate=result.rows_estimate)
        if result.unfollowable:
            return self._fail(state, result.unfollowable, moment, stands_still=True)
        if result.schema is None:
            return self._fail(state, f"there is no table {table.name} on the source", moment)
        topic_id = self._ensure_topics([table.topic])[table.topic]
        schema = result.schema
        followed = TableState(
            table.name.db,
            table.name.table,
            TableStatus.FIRST_READ.value,
            schema.fingerprint,
            topic_id,
            since_ms=moment.origin.now_ms,
        )
        barrier = Barrier(f"begin-{request.id}", BarrierKind.BEGIN, schema.fingerprint, table.fingerprint, request.id)
        table.schema, table.fingerprint, table.publishing = schema, schema.fingerprint, True
        state = replace(state, begun=True)
        self._job = self._states[state.id] = state
        log.info("job %s reads %s (about %d rows)", request.id, table.name, result.rows_estimate)
        return [
            self._tables.schema_record(schema),
            *self._tables.barrier(table, barrier, moment.origin, {"indexes": result.indexes}),
            self._tables.set_state(table, followed),
            self._tables.job_record(state),
        ]

    # ---- shards ----

    def _open_window(self, job: JobState, moment: Moment) -> list[Batch]:
        """J2, step 1: the window is opened at the stream's own position, before anything is read."""
        table = self._tables.table(job.name)
        assert table is not None
        if not table.publishing or table.schema is None:
            return self._fail(job, f"{job.name} can't be followed any more", moment)
        table.noted = set()
        self._window_barriers = table.barriers
        after = None if job.last_key is None else tuple(bytes.fromhex(part) for part in job.last_key)
        self._reader.start(ShardTask(job.name, table.schema, moment.position, after, self._rows_limit))
        return []

    def _shard_done(self, result: ShardResult, moment: Moment) -> list[Batch]:
        job = self._job
        assert job is not None
        table = self._tables.table(job.name)
        assert table is not None
        noted, table.noted = table.noted or set(), None
        if result.server_uuid != moment.position.server_uuid:
            return []
        if result.plan is None or not table.publishing:
            return self._fail(job, result.unfollowable or f"{job.name} can't be followed any more", moment)
        if table.barriers != self._window_barriers:
            return []
        batches = self._tables.changed(job.name, result.plan.schema, moment.origin)
        if table.fingerprint != result.plan.schema.fingerprint:
            return batches + self._fail(job, f"the schema of {job.name} has changed", moment)
        return batches + self._publish_shard(job, table, result, noted, moment)

    def _publish_shard(
        self, job: JobState, table: FollowedTable, result: ShardResult, noted: set[bytes], moment: Moment
    ) -> list[Batch]:
        """J2, step 5, and J4: the rows whose keys aren't noted, with how far they go."""
        assert result.plan is not None
        head = source_head(self._prefix, table.name, table.fingerprint, snapshot="incremental")
        mid, tail = source_mid(head, moment.origin), event_tail(moment.origin.now_ms)
        rows = result.rows
        read = result.plan.messages(rows, mid, tail, job.first_row + job.rows_read)
        kept = [message for message in read if message[1] not in noted]
        finished = len(rows) < result.task.rows_max
        now_ms = moment.origin.now_ms
        last_key = [part.hex() for part in result.plan.last_key(rows[-1])] if rows else job.last_key
        self._adapt(sum(len(message[2] or b"") for message in read), len(rows))
        job = replace(
            job,
            shards=job.shards + 1,
            rows_read=job.rows_read + len(rows),
            rows_dropped=job.rows_dropped + len(read) - len(kept),
            rows_published=job.rows_published + len(kept),
            last_key=last_key,
            high=str(result.high),
            updated_ms=now_ms,
            status=(JobStatus.DONE if finished else JobStatus.READING).value,
            finished_ms=now_ms if finished else 0,
        )
        self._job = self._states[job.id] = job
        batches = [Batch(table.topic, kept)] if kept else []
        if finished:
            batches += self._finish(job, table)
        return [*batches, self._tables.job_record(job)]

    def _adapt(self, size: int, rows: int) -> None:
        """The next shard holds about ``bytes_max`` at most."""
        if rows:
            fitting = self._bytes_max * rows // max(size, 1)
            self._rows_limit = max(1, min(self._rows_max, fitting))

    def _finish(self, job: JobState, table: FollowedTable) -> list[Batch]:
        self._job = None
        self._requests.pop(job.id, None)
        self._rows_limit = min(_FIRST_SHARD_ROWS, self._rows_max)
        log.info(
            "job %s is done: %s, %d rows read, %d dropped, %d published, %d shards",
            job.id, job.name, job.rows_read, job.rows_dropped, job.rows_published, job.shards,
        )  # fmt: skip
        if table.state is not None and table.state.status == TableStatus.FIRST_READ:
            return [self._tables.set_state(table, replace(table.state, status=TableStatus.FOLLOWED.value))]
        return []

    def _fail(self, job: JobState, why: str, moment: Moment, *, stands_still: bool = False) -> list[Batch]:
        """The job ends without its table, which stands still if it was followed; else only where it is told to.

        A table that isn't there (yet) just waits for its first read.
        """
        now_ms = moment.origin.now_ms
        failed = replace(job, status=JobStatus.FAILED.value, reason=why, updated_ms=now_ms, finished_ms=now_ms)
        self._states[failed.id] = failed
        self._job = None
        self._requests.pop(failed.id, None)
        log.error("job %s has failed: %s", failed.id, why)
        batches = [self._tables.job_record(failed)]
        table = self._tables.table(job.name)
        if table is None or (table.state is not None and table.state.status == TableStatus.STANDS_STILL):
            return batches
        if stands_still or table.state is not None:
            batches += self._tables.stand_still(table, why, moment.origin)
        return batches
