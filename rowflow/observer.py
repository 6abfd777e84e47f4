"""Looks at all servers for `status`.

Comes in: the source's binlog, the reader's own topics, the logs' ends, the sink's bookkeeping.  Goes out: a Status.

Guarantees: a server that doesn't answer takes only its own part away: ``problems`` names it, and the rest is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from rowflow.configs import sink_functions
from rowflow.kafka import LogEnds
from rowflow.pipeline import Pipeline, pipeline_of
from rowflow.settings import Settings
from rowflow.source import BinlogEnd
from rowflow.status import (
    DeadLetterLine,
    Partition,
    SeenEnd,
    Status,
    awaiting_problems,
    barrier_lines,
    function_notices,
    job_lines,
    partition_lines,
    progress_problems,
    rates_between,
    reader_status,
    table_line,
)
from schemas.errors import RowflowError
from schemas.jobs import TableStatus
from schemas.tables import TableName
from schemas.topics import table_topic
from sink import overview
from sink.computed import ComputedFunctions
from sink.overview import PartitionProgress
from sink.progress import consumer_group

SAMPLE_S = 1.0


class _Sample(NamedTuple):
    taken_s: float
    progress: Mapping[Partition, PartitionProgress]


class Observer:
    """Looks again and again; rates are between two looks."""

    def __init__(self, pipeline: Pipeline, functions: ComputedFunctions) -> None:
        self._kafka = pipeline.kafka
        self._feed = pipeline.feed
        self._source = pipeline.source
        self._sink = pipeline.sink
        self._prefix = pipeline.prefix
        self._functions = functions
        self._last: _Sample | None = None
        self._seen_before: SeenEnd | None = None

    def look(self) -> Status:
        """The present status; the first look takes a second longer, for the rates."""
        status = Status(self._prefix)
        if self._last is None:
            with _noted(status.problems):
                self._last = self._sample()
                self._seen_before = SeenEnd(self._source.end(), _now_ms())
                time.sleep(SAMPLE_S)
            status.problems.clear()
        with _noted(status.problems):
            self._feed.refresh()
        self._add_reader(status)
        sample: _Sample | None = None
        with _noted(status.problems):
            # Before the logs' ends: what is stored then lies before these.
            sample = self._sample()
        ends: dict[Partition, LogEnds] = {}
        with _noted(status.problems):
            topics = {table_topic(self._prefix, name): name for name in self._published()}
            ends = self._kafka.log_ends(topics)
            if sample is not None:
                status.problems += progress_problems(topics, ends, sample.progress)
        with _noted(status.problems):
            if sample is not None:
                self._add_sink(status, sample, ends)
        return status

    def _followed(self) -> list[TableName]:
        return sorted(name for name in self._feed.tables if self._source.patterns.matches(name))

    def _published(self) -> list[TableName]:
        """The tables that have a topic by now."""
        return [name for name in self._followed() if self._feed.tables[name].topic_id]

    def _add_reader(self, status: Status) -> None:
        end = self._binlog_end(status.problems)
        if self._feed.position is None or not self._feed.position.begun:
            status.problems.append("no reader has committed a position yet: start `rowflow up` or `rowflow reader`")
        else:
            now_ms = _now_ms()
            status.reader = reader_status(self._feed.position, end, now_ms, self._seen_before)
            self._seen_before = None if end is None else SeenEnd(end, now_ms)
            if end is not None and end.server_uuid != self._feed.position.server_uuid:
                status.problems.append(f"the source is server {end.server_uuid} now; the reader hasn't come to it yet")
        states = [self._feed.tables[name] for name in self._followed()]
        status.tables = [table_line(state) for state in states]
        status.problems += [
            f"{state.name} stands still: {state.reason}" for state in states if state.status == TableStatus.STANDS_STILL
        ]
        status.jobs = job_lines(self._feed.jobs.values())

    def _binlog_end(self, problems: list[str]) -> BinlogEnd | None:
        try:
            return self._source.end()
        except RowflowError as error:
            problems.append(str(error))
            return None

    def _add_sink(self, status: Status, sample: _Sample, ends: Mapping[Partition, LogEnds]) -> None:
        with self._sink.lend() as session:
            status.sink_id = overview.sink_id(session)
            status.barriers = barrier_lines(overview.waiting_barriers(session), ends)
            status.dead_letters = [DeadLetterLine(*line) for line in sorted(overview.open_letters(session).items())]
            states = overview.tables(session)
        status.notices = function_notices(states, self._functions)
        status.problems += awaiting_problems(states, self._feed.jobs)
        rates: dict[Partition, float] = {}
        if self._last is not None:
            rates = rates_between(self._last.progress, sample.progress, sample.taken_s - self._last.taken_s)
        self._last = sample
        status.consumer_group = None if status.sink_id is None else consumer_group(self._prefix, status.sink_id)
        status.partitions = partition_lines(ends, sample.progress, rates)
        status.lag = sum(line.lag for line in status.partitions)
        status.rows_per_s = round(sum(line.rows_per_s or 0.0 for line in status.partitions), 1)

    def _sample(self) -> _Sample:
        with self._sink.lend() as session:
            return _Sample(time.monotonic(), overview.progress(session))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextmanager
def observer_of(settings: Settings) -> Iterator[Observer]:
    """An observer of all that the settings name.  Raises SettingError; servers may be away."""
    with pipeline_of(settings) as pipeline:
        yield Observer(pipeline, sink_functions(settings))


@contextmanager
def _noted(problems: list[str]) -> Iterator[None]:
    """A failure becomes a problem."""
    try:
        yield
    except RowflowError as error:
        problems.append(str(error))
