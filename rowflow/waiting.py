"""Waiting until the sink holds what the source had: exactness.md C1.

Comes in: the source, the reader's own topics, the logs' ends and the sink's progress.  Goes out: nothing when it is so;
else an error that says what was missing last.

Guarantees: when :func:`wait_until_held` returns, every change that the source had committed when it was called is in
the sink.  Servers that go away meanwhile are waited for, as everything else is, until the time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from cdc_reader.errors import BrokerAway, SourceAway
from cdc_reader.positions import Position
from rowflow.errors import NothingCapturedError, NotInTimeError, StandsStillError, UnreachableError
from rowflow.kafka import LogEnds
from rowflow.pipeline import Pipeline
from rowflow.source import BinlogEnd
from schemas.jobs import JobRequest, JobState, TableState, TableStatus
from schemas.tables import TableName
from schemas.topics import table_topic
from sink import overview
from sink.errors import LockConflict, Unreachable
from sink.overview import PartitionProgress

LOOK_AGAIN_S = 0.2
AWAY = (SourceAway, BrokerAway, UnreachableError, Unreachable, LockConflict)
"""A server that doesn't answer now."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """An end of waiting; None: there is none."""

    timeout_s: float | None
    started_s: float

    @classmethod
    def within(cls, timeout_s: float | None) -> Deadline:
        """The time that is left from now on."""
        return cls(timeout_s, time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return self.timeout_s is not None and time.monotonic() - self.started_s >= self.timeout_s


def wait_until_held(pipeline: Pipeline, deadline: Deadline, tables: Collection[TableName] | None = None) -> None:
    """Return when the sink holds all that the source has committed by now: of ``tables``, or of all captured ones.

    Raises NotInTimeError; NothingCapturedError; StandsStillError as soon as one of the tables is known to stand still.
    """
    source, feed = pipeline.source, pipeline.feed
    end = source.end()
    captured = source.captured_tables() if tables is None else tables
    if not captured:
        raise NothingCapturedError("[source] tables captures no table that there is: there is nothing to wait for")

    def table_is_missing() -> str | None:
        feed.refresh()
        refuse_standing_still(feed.tables, captured)
        return (
            unread_table(feed.tables, captured)
            or unread_place(feed.position, end)
            or unfinished_job([*feed.requests.values(), *feed.jobs.values()], feed.jobs, captured)
            or unmade_mirror(pipeline, captured)
        )

    wait_while(table_is_missing, deadline)
    followed = set(captured)
    if tables is None:
        followed.update(name for name in feed.tables if source.patterns.matches(name))
    wait_for_logs(pipeline, followed, deadline)


def wait_for_logs(pipeline: Pipeline, tables: Iterable[TableName], deadline: Deadline) -> None:
    """Return when the sink's progress has passed the present ends of these tables' topics; raises NotInTimeError."""
    topics = {table_topic(pipeline.prefix, name) for name in tables}
    ends: dict[tuple[str, int], LogEnds] = {}

    def sink_is_missing() -> str | None:
        if not ends:
            with pipeline.sink.lend() as session:
                before = overview.progress(session)
            found = pipeline.kafka.log_ends(topics)
            absent = sorted(topics.difference(topic for topic, _ in found))
            if absent:
                return f"there is no topic {absent[0]}"
            if beyond := beyond_log(found, before):
                return beyond
            ends.update(found)
        with pipeline.sink.lend() as session:
            return unstored_log(ends, overview.progress(session))

    wait_while(sink_is_missing, deadline)


def wait_while(missing: Callable[[], str | None], deadline: Deadline) -> None:
    """Ask what is missing until nothing is; raises NotInTimeError with the last answer."""
    while True:
        try:
            reason = missing()
        except AWAY as error:
            reason = str(error)
        if reason is None:
            return
        if deadline.passed:
            raise NotInTimeError(f"not in time ({deadline.timeout_s:g} s): {reason}")
        time.sleep(LOOK_AGAIN_S)


def refuse_standing_still(states: Mapping[TableName, TableState], captured: Collection[TableName]) -> None:
    """Raise StandsStillError if one of the captured tables does."""
    for name in captured:
        state = states.get(name)
        if state is not None and state.status == TableStatus.STANDS_STILL:
            raise StandsStillError(f"{name} stands still: {state.reason}")


def unread_table(states: Mapping[TableName, TableState], captured: Collection[TableName]) -> str | None:
    """A captured table that isn't read to its end, or not in its present shape, in words; None: there is none."""
    for name in captured:
        state = states.get(name)
        if state is None:
            return f"the reader hasn't begun with {name}; is `rowflow up` or `rowflow reader` running?"
        if state.status != TableStatus.FOLLOWED:
            return f"the first read of {name} isn't finished"
        if state.look:
            return f"the reader hasn't looked yet at what a statement did to {name}; is it running?"
    return None


def unfinished_job(
    asked: Iterable[JobRequest | JobState], states: Mapping[str, JobState], captured: Collection[TableName]
) -> str | None:
    """A job of a captured table that was asked for and isn't finished, in words; None: there is none."""
    for job in asked:
        state = states.get(job.id)
        if job.name in captured and (state is None or state.open):
            return f"job {job.id} of {job.name} isn't finished"
    return None


def unmade_mirror(pipeline: Pipeline, captured: Collection[TableName]) -> str | None:
    """A captured table whose mirror waits for a job, to be made or to be filled, in words; None: there is none."""
    with pipeline.sink.lend() as session:
        for state in overview.tables(session):
            if state.table in captured and state.awaited_job:
                return f"the mirror of {state.table} isn't complete yet: it waits for job {state.awaited_job}"
    return None


def unread_place(position: Position | None, end: BinlogEnd) -> str | None:
    """What keeps the reader's committed position from covering the binlog up to ``end``, in words; None: it does."""
    if position is None or not position.begun:
        return "no reader has committed a position yet; is `rowflow up` or `rowflow reader` running?"
    if position.server_uuid != end.server_uuid:
        return (
            f"the reader's position belongs to server {position.server_uuid}, the source is {end.server_uuid} now;"
            " is the reader running?"
        )
    if position.place.order < end.place.order:
        return f"the reader stands at {position.place} and hasn't come to {end.place}; is it running?"
    return None


def beyond_log(
    ends: Mapping[tuple[str, int], LogEnds], progress: Mapping[tuple[str, int], PartitionProgress]
) -> str | None:
    """A partition whose log ends before the sink's offset, in words; None: there is none.

    ``progress`` is to be older than ``ends``, for both only grow.  Such an offset says nothing of what the sink holds.
    """
    for (topic, partition), row in sorted(progress.items()):
        log = ends.get((topic, partition))
        if log is not None and row.topic_id == log.topic_id and row.next_offset > log.end:
            return (
                f"the sink's next offset of {topic} [{partition}] is {row.next_offset}, but the log ends at {log.end};"
                " rowflow status names the way on"
            )
    return None


def unstored_log(
    ends: Mapping[tuple[str, int], LogEnds], progress: Mapping[tuple[str, int], PartitionProgress]
) -> str | None:
    """A partition whose log the sink hasn't stored to its end, in words; None: there is none."""
    for (topic, partition), log in sorted(ends.items()):
        row = progress.get((topic, partition))
        if row is None:
            return f"the sink has nothing of {topic} [{partition}] yet; is a worker running?"
        if row.topic_id != log.topic_id:
            return f"topic {topic} was deleted and made again: the sink's progress belongs to another one of that name"
        if row.next_offset < log.end:
            return f"the sink's next offset of {topic} [{partition}] is {row.next_offset}, the log's end was {log.end}"
    return None
