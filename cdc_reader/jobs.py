"""Jobs: reads whole tables beside the stream, by windows (DBLog's algorithm; exactness.md J1 to J4).

Comes in: requests from ``<prefix>.__jobs``, wishes of the captured tables, results of the shard reader.  Goes out: batches to
publish between two source transactions: begin barriers, ``r`` events, the records of how far a job is.

For each shard a window is opened at the stream's own position; from then on the keys that the stream publishes are noted.
The shard is read when that position is visible; when the stream has passed the source's place after the SELECT, the rows
whose keys are not noted are published.  A noted key's newer state is in the topic already or not older than the row.

Guarantees: no row is published twice in a job; no ``r`` event is older than an event of its key before it; a crash resumes
at the shard.  Jobs run one after the other, each on all connections: a job begins as one range of keys, and a range is cut
in two while connections have nothing to do, so that none waits for a part that is larger or slower than was thought.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from cdc_reader.batches import Batch, Origin, event_tail, source_head, source_mid
from cdc_reader.followed import FollowedTable, FollowedTables
from cdc_reader.key_ranges import KeyRange
from cdc_reader.positions import Place, Position
from cdc_reader.shard_reader import (
    LookResult,
    LookTask,
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


@dataclass(slots=True)
class _Task:
    """What one connection does, from its start until the stream has passed the result."""

    reader: ShardReader
    result: LookResult | ShardResult | None = None
    job_id: str = ""
    """Of a shard, or of a look with which a job begins."""
    keys: KeyRange | None = None
    """A shard's range."""
    noted: set[bytes] = field(default_factory=set)
    """A shard's window."""
    barriers: int = 0
    """Of the table, at the start."""
    reshaped: bool = False
    """Of a look that a statement has asked for: whether rows may have changed without row events."""


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
        readers: Sequence[ShardReader],
        prefix: str,
        ensure_topics: Callable[[Sequence[str]], dict[str, str]],
        rows_max: int,
        bytes_max: int,
    ) -> None:
        self._tables = tables
        self._readers = readers
        self._prefix = prefix
        self._ensure_topics = ensure_topics
        self._rows_max = rows_max
        self._rows_limit = min(_FIRST_SHARD_ROWS, rows_max)
        self._bytes_max = bytes_max
        self._requests: dict[str, JobRequest] = {}
        self._states: dict[str, JobState] = {}
        self._job: JobState | None = None
        self._ranges: list[KeyRange] = []
        """Of the job that runs: what is not published yet."""
        self._tasks: list[_Task] = []
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
        return not (wished or self._requests or self._tasks or self._job)

    # ---- steps ----

    def step(self, moment: Moment) -> list[Batch]:
        """Does what can be done at this moment; what is returned is to be published and committed at once."""
        self._take_wishes()
        self._take_results(moment)
        for task in list(self._tasks):
            if task.result is not None and self._reached(task.result, moment):
                self._close(task)
                if isinstance(task.result, LookResult):
                    batches = self._look_done(task, task.result, moment)
                else:
                    batches = self._shard_done(task, task.result, moment)
                if batches:
                    return batches
        return self._start(moment)

    def _take_results(self, moment: Moment) -> None:
        for task in list(self._tasks):
            if task.result is None:
                result = task.reader.poll()
                if isinstance(result, ScanResult):
                    self._tasks.remove(task)
                    self.add_first_reads(result.names, moment.origin.now_ms)
                else:
                    task.result = result
            if isinstance(task.result, ShardResult) and task.result.plan is not None and len(task.noted) > _NOTED_MAX:
                # While a stream that lags comes to the window's end, only keys of the shard's rows need to be kept.
                task.noted &= task.result.plan.keys(task.result.rows)

    def _close(self, task: _Task) -> None:
        self._tasks.remove(task)
        if isinstance(task.result, ShardResult):
            table = self._tables.table(task.result.task.name)
            assert table is not None
            table.windows = [noted for noted in table.windows if noted is not task.noted]

    def _take_wishes(self) -> None:
        wishes = self._tables.wishes
        for request in wishes.jobs:
            self.add(request)
        wishes.jobs.clear()
        self.scan_wanted |= wishes.rescan
        wishes.rescan = False

    def _reached(self, result: LookResult | ShardResult, moment: Moment) -> bool:
        """Whether the stream has passed the source's place after the SELECT (J2, step 4)."""
        return moment.place.order >= result.high.order or result.server_uuid != moment.position.server_uuid

    def _start(self, moment: Moment) -> list[Batch]:
        """Gives every connection that is free something to do, as long as there is something."""
        for reader in self._readers:
            if not any(task.reader is reader for task in self._tasks):
                open_before = len(self._tasks)
                batches = self._start_next(reader, moment)
                if batches or len(self._tasks) == open_before:
                    return batches
        return []

    def _start_next(self, reader: ShardReader, moment: Moment) -> list[Batch]:
        wishes = self._tables.wishes
        if wishes.looks:
            name, reshaped = wishes.looks.popitem()
            table = self._tables.table(name)
            barriers = table.barriers if table is not None else 0
            self._begin_task(_Task(reader, reshaped=reshaped, barriers=barriers), LookTask(name))
        elif self.scan_wanted:
            self.scan_wanted = False
            self._begin_task(_Task(reader), ScanTask())
        elif self._job is not None:
            return self._open_window(reader, self._job, moment)
        elif self._requests and not any(task.job_id and task.keys is None for task in self._tasks):
            return self._start_job(reader, next(iter(self._requests.values())), moment)
        return []

    def _begin_task(self, task: _Task, what: LookTask | ScanTask | ShardTask) -> None:
        self._tasks.append(task)
        task.reader.start(what)

    def _start_job(self, reader: ShardReader, request: JobRequest, moment: Moment) -> list[Batch]:
        state = self._states.get(request.id)
        table = self._tables.table(request.name)
        assert table is not None
        if state is not None and table.publishing:
            log.info("job %s goes on behind %d rows of %s", request.id, state.rows_published, request.name)
            self._run(state)
            return self._open_window(reader, state, moment)
        if request.fresh:
            self._begin_task(_Task(reader, job_id=request.id), LookTask(request.name))
            return []
        if not table.publishing:
            return self._fail(self._new_state(request, moment), f"{request.name} isn't followed", moment)
        state = self._new_state(request, moment)
        self._run(state)
        return [self._tables.job_record(state)]

    def _run(self, job: JobState) -> None:
        """From here on all connections read shards of this job."""
        self._job = self._states[job.id] = job
        self._ranges = [KeyRange.from_dict(keys) for keys in job.ranges]

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

    def _look_done(self, task: _Task, result: LookResult, moment: Moment) -> list[Batch]:
        name = result.task.name
        table = self._tables.table(name)
        stale = not task.job_id and table is not None and table.barriers != task.barriers
        if stale or result.server_uuid != moment.position.server_uuid:
            # Rows have told of a newer shape meanwhile, or the answer is another server's.
            if not task.job_id:
                self._tables.wishes.looks[name] = task.reshaped
            return []
        if table is None:
            return []
        if task.job_id:
            return self._begin(result, table, moment)
        return [*self._looked(result, table, moment, reshaped=task.reshaped), *self._tables.look_done(table)]

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
        self._run(state)
        log.info("job %s reads %s (about %d rows)", request.id, table.name, result.rows_estimate)
        return [
            self._tables.schema_record(schema),
            *self._tables.barrier(table, barrier, moment.origin, {"indexes": result.indexes}),
            self._tables.set_state(table, followed),
            self._tables.job_record(state),
        ]

    # ---- shards ----

    def _open_window(self, reader: ShardReader, job: JobState, moment: Moment) -> list[Batch]:
        """J2, step 1: the window is opened at the stream's own position, before anything is read."""
        table = self._tables.table(job.name)
        assert table is not None
        if not table.publishing or table.schema is None:
            return self._fail(job, f"{job.name} can't be followed any more", moment)
        being_read = [task.keys for task in self._tasks if task.job_id == job.id]
        keys = next((keys for keys in self._ranges if keys not in being_read), None)
        if keys is None:
            return []
        task = _Task(reader, job_id=job.id, keys=keys, barriers=table.barriers)
        table.windows.append(task.noted)
        split = len(self._ranges) < len(self._readers)
        self._begin_task(task, ShardTask(job.name, table.schema, moment.position, keys, self._rows_limit, split))
        at_a_time = max(job.shards_at_a_time, len(being_read) + 1)
        self._job = self._states[job.id] = replace(job, shards_at_a_time=at_a_time)
        return []

    def _shard_done(self, task: _Task, result: ShardResult, moment: Moment) -> list[Batch]:
        job = self._job
        if job is None or job.id != task.job_id:
            # The job has failed meanwhile.
            return []
        table = self._tables.table(job.name)
        assert table is not None
        if result.server_uuid != moment.position.server_uuid:
            return []
        if result.plan is None or not table.publishing:
            return self._fail(job, result.unfollowable or f"{job.name} can't be followed any more", moment)
        if table.barriers != task.barriers:
            return []
        batches = self._tables.changed(job.name, result.plan.schema, moment.origin)
        if table.fingerprint != result.plan.schema.fingerprint:
            return batches + self._fail(job, f"the schema of {job.name} has changed", moment)
        return batches + self._publish_shard(job, table, result, task.noted, moment)

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
        self._cut(result)
        finished = not self._ranges
        now_ms = moment.origin.now_ms
        self._adapt(sum(len(message[2] or b"") for message in read), len(rows))
        job = replace(
            job,
            shards=job.shards + 1,
            rows_read=job.rows_read + len(rows),
            rows_dropped=job.rows_dropped + len(read) - len(kept),
            rows_published=job.rows_published + len(kept),
            ranges=[keys.to_dict() for keys in self._ranges],
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

    def _cut(self, result: ShardResult) -> None:
        """J4: the shard's rows are no longer among what is to be read; what is left of its range may become two."""
        assert result.plan is not None
        keys = result.task.keys
        left: list[KeyRange] = []
        if len(result.rows) == result.task.rows_max:
            last = result.plan.last_key(result.rows[-1])
            ends = [keys.until] if result.split_at is None else [result.split_at, keys.until]
            left = [KeyRange(*ends_of) for ends_of in pairwise([last, *ends])]
        place = self._ranges.index(keys)
        self._ranges[place : place + 1] = left

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
            "job %s is done: %s, %d rows read, %d dropped, %d published, %d shards, up to %d at a time",
            job.id, job.name, job.rows_read, job.rows_dropped, job.rows_published, job.shards, job.shards_at_a_time,
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
