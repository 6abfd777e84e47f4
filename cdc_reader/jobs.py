"""Jobs: reads whole tables beside the stream, by windows (DBLog's algorithm; exactness.md J1 to J4).

Comes in: requests and orders from ``<prefix>.__jobs``, wishes of the captured tables, results of the shard readers.  Goes out:
batches to publish between two source transactions: barriers, ``r`` events, the records of how far a job is.

For each shard a window is opened at the stream's own position; from then on the keys that the stream publishes are noted.
The shard is read when that position is visible; when the stream has passed the source's place after the SELECT, the rows
whose keys are not noted are published.  A noted key's newer state is in the topic already or not older than the row.

Guarantees: no row is published twice in a job; no ``r`` event is older than an event of its key before it; a crash resumes
at the shard.  Jobs run one after the other, each on all connections: a job begins as one range of keys, and a range is cut
in two while connections have nothing to do, so that none waits for a part that is larger or slower than was thought.  A job
that is paused lets the next one run.  A whole-table job ends with a barrier too, before which all its rows lie.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from cdc_reader.batches import Batch, Origin, event_tail, source_head, source_mid
from cdc_reader.followed import FollowedTable, FollowedTables
from cdc_reader.job_queue import JobQueue
from cdc_reader.key_ranges import KeyRange
from cdc_reader.positions import Place, Position
from cdc_reader.running_job import Counted, JobLimits, RunningJob
from cdc_reader.shard_reader import (
    LookResult,
    LookTask,
    NotRead,
    ScanResult,
    ScanTask,
    ShardReader,
    ShardResult,
    ShardTask,
)
from schemas.events import Barrier, BarrierKind
from schemas.jobs import JobOrder, JobOrderKind, JobRequest, JobState, JobStatus, TableState, TableStatus

log = logging.getLogger(__name__)

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
    table: FollowedTable | None = None
    """A shard's table."""
    noted: set[bytes] = field(default_factory=set)
    """A shard's window."""
    barriers: int = 0
    """Of the table, at the start."""
    reshaped: bool = False
    """Of a look that a statement has asked for: whether rows may have changed without row events."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the stream stands, between two source transactions, and when the source committed the last one; 0: not known."""

    position: Position
    origin: Origin
    source_ms: int = 0

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
        limits: JobLimits,
    ) -> None:
        self._tables = tables
        self._readers = readers
        self._prefix = prefix
        self._ensure_topics = ensure_topics
        self._limits = limits
        self.queue = JobQueue(tables)
        self._job: RunningJob | None = None
        self._tasks: list[_Task] = []
        self._seen_ms = 0
        self.scan_wanted = False

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do until a request or a wish comes."""
        wishes = self._tables.wishes
        wished = wishes.looks or wishes.jobs or wishes.rescan or self.scan_wanted
        return not (wished or self.queue.orders or self._tasks or self._job or self.queue.next())

    # ---- steps ----

    def step(self, moment: Moment) -> list[Batch]:
        """Does what can be done at this moment; what is returned is to be published and committed at once."""
        self._take_wishes()
        self._note_lag(moment)
        batches = self._take_orders(moment)
        if batches:
            return batches
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
                    self.queue.add_first_reads(result.names, moment.origin.now_ms)
                elif isinstance(result, NotRead):
                    self._close(task)
                    if self._job is not None and result.source_is_busy:
                        self._job.source_is_busy(moment.origin.now_ms)
                else:
                    task.result = result
            if isinstance(task.result, ShardResult) and task.result.plan is not None and len(task.noted) > _NOTED_MAX:
                # While a stream that lags comes to the window's end, only keys of the shard's rows need to be kept.
                task.noted &= task.result.plan.keys(task.result.rows)

    def _close(self, task: _Task) -> None:
        """The connection is free; a shard's window is closed."""
        self._tasks.remove(task)
        if task.table is not None:
            task.table.windows = [noted for noted in task.table.windows if noted is not task.noted]

    def _note_lag(self, moment: Moment) -> None:
        """How late the stream is, once for each transaction that it is seen behind."""
        if self._job is not None and moment.source_ms > self._seen_ms:
            self._job.stream_was_late(max(0, moment.origin.now_ms - moment.source_ms))
        self._seen_ms = max(self._seen_ms, moment.source_ms)

    def _take_wishes(self) -> None:
        wishes = self._tables.wishes
        for request in wishes.jobs:
            self.queue.add(request)
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
        elif not any(task.job_id and task.keys is None for task in self._tasks):
            request = self.queue.next()
            return [] if request is None else self._start_job(reader, request, moment)
        return []

    def _begin_task(self, task: _Task, what: LookTask | ScanTask | ShardTask) -> None:
        self._tasks.append(task)
        task.reader.start(what)

    def _start_job(self, reader: ShardReader, request: JobRequest, moment: Moment) -> list[Batch]:
        """Goes on with a job that is begun; else the table is looked at first."""
        state = self.queue.states.get(request.id)
        table = self._tables.table(request.name)
        assert table is not None
        # One that was paused before its first shard may have been paused before it was looked at.
        begun = state is not None and (state.begun if state.fresh else state.shards > 0)
        if state is not None and begun and table.publishing:
            log.info("job %s goes on behind %d rows of %s", request.id, state.rows_published, request.name)
            self._job = RunningJob(replace(state, status=JobStatus.READING.value), self._limits)
            return self._open_window(reader, self._job, moment)
        if not request.fresh and not table.publishing:
            return self._fail(self._new_state(request, moment), f"{request.name} isn't followed", moment)
        self._begin_task(_Task(reader, job_id=request.id), LookTask(request.name))
        return []

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
            request = self.queue.request(task.job_id)
            if request is None or self.queue.is_paused(request.id):
                return []
            return self._begin(request, result, table, moment)
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
            self.queue.add(request)
            batches.append(self._tables.job_record(request))
        return batches

    def _begin(self, request: JobRequest, result: LookResult, table: FollowedTable, moment: Moment) -> list[Batch]:
        """A job begins; a fresh one with a barrier: from here on the table is followed with the schema that it has now."""
        rows_max = -(-result.rows_estimate // request.shards) if request.shards else 0
        state = self._new_state(request, moment)
        state = replace(state, rows_estimate=result.rows_estimate, shard_rows_max=rows_max)
        if result.unfollowable:
            return self._fail(state, result.unfollowable, moment, stands_still=True)
        if result.schema is None:
            return self._fail(state, f"there is no table {table.name} on the source", moment)
        log.info("job %s reads %s (about %d rows)", request.id, table.name, result.rows_estimate)
        if not request.fresh:
            self._job = RunningJob(state, self._limits)
            return [self._kept(state)]
        topic_id = self._ensure_topics([table.topic])[table.topic]
        schema = result.schema
        is_followed = table.state is not None and table.state.status == TableStatus.FOLLOWED
        followed = TableState(
            table.name.db,
            table.name.table,
            (TableStatus.FOLLOWED if is_followed else TableStatus.FIRST_READ).value,
            schema.fingerprint,
            topic_id,
            since_ms=moment.origin.now_ms,
        )
        barrier = Barrier(f"begin-{request.id}", BarrierKind.BEGIN, schema.fingerprint, table.fingerprint, request.id)
        table.schema, table.fingerprint, table.publishing = schema, schema.fingerprint, True
        state = replace(state, begun=True)
        self._job = RunningJob(state, self._limits)
        return [
            self._tables.schema_record(schema),
            *self._tables.barrier(table, barrier, moment.origin, {"indexes": result.indexes}),
            self._tables.set_state(table, followed),
            self._kept(state),
        ]

    def _new_state(self, request: JobRequest, moment: Moment) -> JobState:
        return self.queue.new_state(request, moment.place, moment.origin.now_ms)

    def _kept(self, state: JobState) -> Batch:
        """The job's state is this from now on."""
        self.queue.keep(state)
        return self._tables.job_record(state)

    # ---- orders ----

    def _take_orders(self, moment: Moment) -> list[Batch]:
        while self.queue.orders:
            batches = self._obey(self.queue.orders.pop(0), moment)
            if batches:
                return batches
        return []

    def _obey(self, order: JobOrder, moment: Moment) -> list[Batch]:
        """Pauses, resumes or cancels a job; what it is or has been already changes nothing."""
        request = self.queue.request(order.id)
        if request is None:
            if order.id not in self.queue.states:
                log.warning("nobody has asked for job %s, which is to %s", order.id, order.order)
            return []
        now_ms = moment.origin.now_ms
        running = self._job.state if self._job is not None and self._job.state.id == order.id else None
        state = running or self.queue.states.get(order.id) or self._new_state(request, moment)
        paused = state.status == JobStatus.PAUSED
        if order.order == JobOrderKind.RESUME:
            return [self._kept(replace(state, status=JobStatus.WAITING.value, updated_ms=now_ms))] if paused else []
        if order.order == JobOrderKind.PAUSE and paused:
            return []
        if running is not None:
            self._give_up(order.id)
            self._job = None
        log.info("job %s of %s: %s", order.id, request.name, order.order)
        if order.order == JobOrderKind.PAUSE:
            return [self._kept(replace(state, status=JobStatus.PAUSED.value, updated_ms=now_ms))]
        return self._cancelled(state, moment)

    def _give_up(self, job_id: str) -> None:
        """Nobody waits any more for what is being read of a job."""
        for task in self._tasks:
            if task.job_id == job_id and task.result is None and task.keys is not None:
                task.reader.give_up()

    def _cancelled(self, state: JobState, moment: Moment) -> list[Batch]:
        now_ms = moment.origin.now_ms
        cancelled = replace(state, status=JobStatus.CANCELLED.value, updated_ms=now_ms, finished_ms=now_ms)
        table = self._tables.table(state.name)
        batches = [self._kept(cancelled)]
        if state.begun and table is not None and table.publishing:
            batches += self._end_barrier(state, table, BarrierKind.CANCEL, moment)
        return batches

    def _end_barrier(self, job: JobState, table: FollowedTable, kind: BarrierKind, moment: Moment) -> list[Batch]:
        barrier = Barrier(f"{kind.value}-{job.id}", kind, table.fingerprint, job=job.id)
        return self._tables.barrier(table, barrier, moment.origin)

    # ---- shards ----

    def _open_window(self, reader: ShardReader, job: RunningJob, moment: Moment) -> list[Batch]:
        """J2, step 1: the window is opened at the stream's own position, before anything is read."""
        state = job.state
        table = self._tables.table(state.name)
        assert table is not None
        if not table.publishing or table.schema is None:
            return self._fail(state, f"{state.name} can't be followed any more", moment)
        being_read = [task.keys for task in self._tasks if task.job_id == state.id and task.keys is not None]
        keys = job.next_range(being_read, moment.origin.now_ms)
        if keys is None:
            return []
        task = _Task(reader, job_id=state.id, keys=keys, table=table, barriers=table.barriers)
        table.windows.append(task.noted)
        split = len(job.ranges) < len(self._readers)
        what = ShardTask(state.name, table.schema, moment.position, keys, job.rows_limit, split, state.where)
        self._begin_task(task, what)
        job.begun(len(being_read) + 1)
        return []

    def _shard_done(self, task: _Task, result: ShardResult, moment: Moment) -> list[Batch]:
        job, table = self._job, task.table
        if job is None or table is None or job.state.id != task.job_id:
            # The job has failed meanwhile, or was paused or cancelled.
            return []
        name = table.name
        if result.server_uuid != moment.position.server_uuid:
            return []
        if result.refused:
            return self._ended(job.state, result.refused, moment)
        if result.plan is None or not table.publishing:
            return self._fail(job.state, result.unfollowable or f"{name} can't be followed any more", moment)
        if table.barriers != task.barriers:
            return []
        batches = self._tables.changed(name, result.plan.schema, moment.origin)
        if table.fingerprint != result.plan.schema.fingerprint:
            return batches + self._fail(job.state, f"the schema of {name} has changed", moment)
        return batches + self._publish_shard(job, table, result, task.noted, moment)

    def _publish_shard(
        self, job: RunningJob, table: FollowedTable, result: ShardResult, noted: set[bytes], moment: Moment
    ) -> list[Batch]:
        """J2, step 5, and J4: the rows whose keys aren't noted, with how far they go."""
        assert result.plan is not None
        head = source_head(self._prefix, table.name, table.fingerprint, snapshot="incremental")
        mid, tail = source_mid(head, moment.origin), event_tail(moment.origin.now_ms)
        read, digests = result.plan.messages(result.rows, mid, tail, job.state.first_row + job.state.rows_read)
        kept = [message for message in read if message[1] not in noted]
        size_bytes = sum(len(message[2] or b"") for message in read)
        counted = Counted(len(kept), len(read) - len(kept), size_bytes, digests)
        state = job.shard_done(result, counted, moment.origin.now_ms)
        batches = [Batch(table.topic, kept)] if kept else []
        if not state.open:
            batches += self._finish(state, table, moment)
        return [*batches, self._kept(state)]

    def _finish(self, job: JobState, table: FollowedTable, moment: Moment) -> list[Batch]:
        self._job = None
        log.info(
            "job %s is done: %s, %d rows read, %d dropped, %d published, %d shards, up to %d at a time",
            job.id, job.name, job.rows_read, job.rows_dropped, job.rows_published, job.shards, job.shards_at_a_time,
        )  # fmt: skip
        batches = self._end_barrier(job, table, BarrierKind.END, moment) if job.begun else []
        if table.state is not None and table.state.status == TableStatus.FIRST_READ:
            batches.append(self._tables.set_state(table, replace(table.state, status=TableStatus.FOLLOWED.value)))
        return batches

    def _ended(self, job: JobState, why: str, moment: Moment) -> list[Batch]:
        """The job ends without its rows."""
        now_ms = moment.origin.now_ms
        self._job = None
        log.error("job %s has failed: %s", job.id, why)
        failed = replace(job, status=JobStatus.FAILED.value, reason=why, updated_ms=now_ms, finished_ms=now_ms)
        return [self._kept(failed)]

    def _fail(self, job: JobState, why: str, moment: Moment, *, stands_still: bool = False) -> list[Batch]:
        """The job ends without its table, which stands still if it was followed; else only where it is told to.

        A table that isn't there (yet) just waits for its first read.
        """
        batches = self._ended(job, why, moment)
        table = self._tables.table(job.name)
        if table is None or (table.state is not None and table.state.status == TableStatus.STANDS_STILL):
            return batches
        if stands_still or table.state is not None:
            batches += self._tables.stand_still(table, why, moment.origin)
        return batches
