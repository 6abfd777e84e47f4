"""Where everything stands.

Comes in: what the observer saw.  Goes out: a :class:`Status`; the names of its fields are the keys of
``status --json``, and stay.  Pure.  Times are UTC, in ISO 8601.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from cdc_reader.positions import Position
from rowflow.kafka import LogEnds
from rowflow.source import BinlogEnd
from schemas.jobs import JobRequest, JobState, JobStatus, TableState
from schemas.tables import TableName
from sink.computed import ComputedFunctions
from sink.overview import PartitionProgress, WaitingBarrier
from sink.tables import MirrorStatus
from sink.tables import TableState as MirrorState

Partition = tuple[str, int]
"""A topic and a partition of it."""

_FINISHED_SHOWN = 5
_ENDED = {JobStatus.FAILED.value: "has failed", JobStatus.CANCELLED.value: "was cancelled"}


@dataclass(frozen=True, slots=True)
class ReaderStatus:
    """The reader: its committed place beside the end of the source's binlog.

    ``lag_s``: all that the source had committed so long ago is in Kafka; 0 at the end of the binlog, None where one of both
    is unknown.
    """

    place: str
    gtids: str
    committed_at: str | None
    source_place: str | None
    lag_s: float | None


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job: how far it is, and at its end the receipt."""

    id: str
    table: str
    origin: str
    status: str
    rows_read: int
    rows_dropped: int
    rows_published: int
    rows_estimate: int
    rows_seen: int
    where: str
    shards: int
    shards_at_a_time: int
    rows_per_s: float | None
    eta_s: float | None
    low: str
    high: str
    checksum: str
    lag_p50_ms: int
    lag_p99_ms: int
    lag_max_ms: int
    started_at: str | None
    finished_at: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class TableLine:
    """A captured table; ``reason``: why it stands still, if it does."""

    table: str
    status: str
    fingerprint: str
    since: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class PartitionLine:
    """A partition of a table's topic; ``next_offset`` is the sink's, None where it has none yet."""

    topic: str
    partition: int
    next_offset: int | None
    end_offset: int
    lag: int
    rows_per_s: float | None


@dataclass(frozen=True, slots=True)
class BarrierLine:
    """A barrier that isn't done: who stands at it, and who is still to come."""

    topic: str
    id: str
    kind: str
    since: str
    waiting_partitions: list[int]
    missing_partitions: list[int]


@dataclass(frozen=True, slots=True)
class DeadLetterLine:
    """How many records of a topic couldn't be processed and still lie there."""

    topic: str
    open: int


@dataclass(slots=True)
class Status:
    """All of it; ``problems`` are what makes `status` red, ``notices`` what one should know."""

    prefix: str
    sink_id: str | None = None
    consumer_group: str | None = None
    reader: ReaderStatus | None = None
    tables: list[TableLine] = field(default_factory=list)
    jobs: list[JobLine] = field(default_factory=list)
    partitions: list[PartitionLine] = field(default_factory=list)
    lag: int = 0
    rows_per_s: float = 0.0
    barriers: list[BarrierLine] = field(default_factory=list)
    dead_letters: list[DeadLetterLine] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


class SeenEnd(NamedTuple):
    """Where the source's binlog ended at a moment."""

    end: BinlogEnd
    at_ms: int


def reader_status(
    position: Position, source_end: BinlogEnd | None, now_ms: int, seen_before: SeenEnd | None = None
) -> ReaderStatus:
    """The reader's line.

    A reader that lags has all up to the commit of its last transaction; if that was long ago because nothing came, what an
    earlier look has seen, and it has covered since, says more.  A position on another server than the source is now says
    nothing of it.
    """
    lag_s: float | None = None
    if source_end is not None and source_end.server_uuid == position.server_uuid:
        has_all_until_ms = position.source_ms or position.ts_ms
        if _covers(position, source_end):
            has_all_until_ms = now_ms
        elif seen_before is not None and _covers(position, seen_before.end):
            has_all_until_ms = max(has_all_until_ms, seen_before.at_ms)
        lag_s = max(0.0, (now_ms - has_all_until_ms) / 1000)
    return ReaderStatus(
        place=str(position.place),
        gtids=position.gtids,
        committed_at=iso(position.ts_ms),
        source_place=None if source_end is None else str(source_end.place),
        lag_s=lag_s,
    )


def _covers(position: Position, end: BinlogEnd) -> bool:
    return position.server_uuid == end.server_uuid and position.place.order >= end.place.order


def progress_problems(
    tables: Mapping[str, TableName],
    ends: Mapping[Partition, LogEnds],
    progress: Mapping[Partition, PartitionProgress],
) -> list[str]:
    """What a worker would stop over: by topic, that it is gone, or another one, or doesn't hold the sink's offset.

    ``progress`` is to be older than ``ends``, for both only grow.
    """
    problems = []
    for topic, table in sorted(tables.items()):
        mended = f"rowflow snapshot {table} --start-over"
        rows = {partition: row for (of, partition), row in sorted(progress.items()) if of == topic}
        logs = {partition: log for (of, partition), log in ends.items() if of == topic}
        if not logs:
            problems.append(f"topic {topic} doesn't exist any more: {mended}")
        elif any(row.topic_id != logs[partition].topic_id for partition, row in rows.items() if partition in logs):
            problems.append(
                f"topic {topic} was deleted and made again; the sink's progress is of the old one: {mended}"
            )
        else:
            problems += [
                f"topic {topic} [{partition}]: the next offset is {row.next_offset}, the log holds {log.begin} to {log.end}:"
                f" {mended}"
                for partition, row in rows.items()
                if (log := logs.get(partition)) is not None and not log.begin <= row.next_offset <= log.end
            ]
    return problems


def awaiting_problems(states: Iterable[MirrorState], jobs: Mapping[str, JobState]) -> list[str]:
    """Mirrors that wait for a job which has failed or was cancelled: it won't come."""
    return [
        f"the mirror of {state.table} isn't complete: it waits for job {job.id}, which {_ENDED[job.status]}"
        f"{f' ({job.reason})' if job.reason else ''}; when that is mended: rowflow snapshot {state.table}"
        for state in states
        if (job := jobs.get(state.awaited_job)) is not None and job.status in _ENDED
    ]


def table_line(state: TableState) -> TableLine:
    """A table's line."""
    return TableLine(str(state.name), state.status, state.fingerprint, iso(state.since_ms), state.reason)


def job_lines(jobs: Iterable[JobState]) -> list[JobLine]:
    """The open jobs, and the last finished ones, the latest first."""
    latest_first = sorted(jobs, key=lambda job: job.started_ms, reverse=True)
    finished = [job for job in latest_first if not job.open]
    return [job_line(job) for job in latest_first if job.open] + [job_line(job) for job in finished[:_FINISHED_SHOWN]]


def asked_line(request: JobRequest) -> JobLine:
    """The line of a job that was asked for and the reader hasn't begun with."""
    waiting = JobState(
        request.db,
        request.table,
        request.id,
        request.origin,
        request.fresh,
        JobStatus.WAITING.value,
        started_ms=request.requested_ms,
        where=request.where,
    )
    return job_line(waiting)


def job_line(job: JobState) -> JobLine:
    """A job's line; its rate is the mean since it began."""
    spent_s = ((job.finished_ms or job.updated_ms) - job.started_ms) / 1000
    rate = job.rows_read / spent_s if job.rows_read and spent_s > 0 else None
    return JobLine(
        id=job.id,
        table=str(job.name),
        origin=job.origin,
        status=job.status,
        rows_read=job.rows_read,
        rows_dropped=job.rows_dropped,
        rows_published=job.rows_published,
        rows_estimate=job.rows_estimate,
        rows_seen=job.rows_seen,
        where=job.where,
        shards=job.shards,
        shards_at_a_time=job.shards_at_a_time,
        rows_per_s=None if rate is None else round(rate, 1),
        eta_s=None if job.eta_s is None else round(job.eta_s, 1),
        low=job.low,
        high=job.high,
        checksum=job.checksum,
        lag_p50_ms=job.lag_ms(0.5),
        lag_p99_ms=job.lag_ms(0.99),
        lag_max_ms=job.lag_max_ms,
        started_at=iso(job.started_ms),
        finished_at=iso(job.finished_ms),
        reason=job.reason,
    )


def partition_lines(
    ends: Mapping[Partition, LogEnds], progress: Mapping[Partition, PartitionProgress], rates: Mapping[Partition, float]
) -> list[PartitionLine]:
    """A line for each partition; one that the sink has nothing of lags by its whole log."""
    lines = []
    for place, log in sorted(ends.items()):
        row = progress.get(place)
        lag = log.end - (log.begin if row is None else row.next_offset)
        lines.append(
            PartitionLine(*place, None if row is None else row.next_offset, log.end, max(0, lag), rates.get(place))
        )
    return lines


def rates_between(
    earlier: Mapping[Partition, PartitionProgress], later: Mapping[Partition, PartitionProgress], seconds: float
) -> dict[Partition, float]:
    """Records per second of each partition that both looks have; a partition that began anew has none."""
    return {
        place: round((later[place].records - earlier[place].records) / seconds, 1)
        for place in earlier.keys() & later.keys()
        if seconds > 0 and later[place].records >= earlier[place].records
    }


def barrier_lines(waiting: Iterable[WaitingBarrier], ends: Mapping[Partition, LogEnds]) -> list[BarrierLine]:
    """A line for each barrier that isn't done."""
    return [
        BarrierLine(
            topic=at.topic,
            id=at.barrier.id,
            kind=at.barrier.kind.value,
            since=at.since.isoformat(timespec="milliseconds") + "Z",
            waiting_partitions=list(at.partitions),
            missing_partitions=sorted(p for topic, p in ends if topic == at.topic and p not in at.partitions),
        )
        for at in waiting
    ]


def function_notices(states: Iterable[MirrorState], functions: ComputedFunctions) -> list[str]:
    """What to know of mirrors that other functions have computed than those that there are now."""
    return [
        f"functions.py has changed since {state.mirror} was read whole: rows that weren't written since then hold what the"
        f" old functions gave. Renew them: rowflow snapshot {state.table}"
        for state in states
        if state.status is MirrorStatus.MADE and state.functions_fingerprint != functions.fingerprint_for(state.table)
    ]


def iso(ms: int) -> str | None:
    """A time in ms since 1970 as ISO 8601 in UTC; 0 means that there is none."""
    if not ms:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
