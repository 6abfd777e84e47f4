"""A status for humans.

Comes in: a Status.  Goes out: rich tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rowflow.status import JobLine, Status
from sink.dead_letters import SHOW_OPEN

_DASH = "-"


def render(status: Status) -> RenderableType:
    """The whole of it, what is wrong last."""
    return Group(*_parts(status))


def summary(status: Status) -> str:
    """One line: reader, sink, what is wrong."""
    reader = status.reader
    parts = [f"reader at {reader.place}, lag {_seconds(reader.lag_s)}" if reader else "no reader yet"]
    parts += [f"reading {job.table}: {rows_done(job)}" for job in status.jobs if job.finished_at is None]
    parts.append(f"sink {status.rows_per_s:,.0f} rows/s, {status.lag:,} behind")
    if status.problems:
        parts.append(f"{len(status.problems)} wrong: {status.problems[0]}")
    return "; ".join(parts)


def _parts(status: Status) -> Iterator[RenderableType]:
    reader = status.reader
    if reader is not None:
        yield Text(f"reader    {reader.place}, source at {reader.source_place or _DASH}, lag {_seconds(reader.lag_s)}")
    yield Text(f"sink      {status.sink_id or _DASH}, consumer group {status.consumer_group or _DASH}")
    yield Text(f"          {status.rows_per_s:,.1f} rows/s, {status.lag:,} behind")
    if status.tables:
        yield _table(
            ("table", "state", "since"), ([line.table, line.status, line.since or _DASH] for line in status.tables)
        )
    if status.jobs:
        yield jobs_table(status.jobs)
    if status.partitions:
        yield _table(
            ("topic", "partition", "next", "end", "lag", "rows/s"),
            (
                [
                    line.topic,
                    str(line.partition),
                    _number(line.next_offset),
                    f"{line.end_offset:,}",
                    f"{line.lag:,}",
                    _number(line.rows_per_s),
                ]
                for line in status.partitions
            ),
        )
    for barrier in status.barriers:
        yield Text(
            f"barrier   {barrier.kind} of {barrier.topic}: partitions {barrier.waiting_partitions} wait since"
            f" {barrier.since} for {barrier.missing_partitions}",
            style="yellow",
        )
    for letters in status.dead_letters:
        yield Text(f"letters   {letters.open:,} open dead letters of {letters.topic}", style="yellow")
    if status.dead_letters:
        yield Text(f"          in the sink: {SHOW_OPEN};", style="yellow")
    for notice in status.notices:
        yield Text(f"note      {notice}", style="yellow")
    for problem in status.problems:
        yield Text(f"wrong     {problem}", style="bold red")


def jobs_table(jobs: Iterable[JobLine]) -> Table:
    """A line for each job."""
    return _table(
        ("job", "table", "state", "rows", "rows/s", "ETA", "shards"),
        (
            [
                line.id,
                f"{line.table} where {line.where}" if line.where else line.table,
                line.status,
                rows_done(line),
                _number(line.rows_per_s),
                _seconds(line.eta_s),
                f"{line.shards:,}",
            ]
            for line in jobs
        ),
    )


def _table(titles: tuple[str, ...], rows: Iterator[list[str]]) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    for number, title in enumerate(titles):
        table.add_column(title, justify="left" if number < 2 else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def rows_done(job: JobLine) -> str:
    """How many rows a job has read, and of how many."""
    if job.finished_at or not job.rows_estimate:
        return f"{job.rows_read:,}"
    if job.where:
        return f"{job.rows_read:,} in {min(1, job.rows_seen / job.rows_estimate):.0%} of the table"
    return f"{job.rows_read:,} of ~{job.rows_estimate:,}"


def _seconds(seconds: float | None) -> str:
    return _DASH if seconds is None else f"{seconds:,.1f} s"


def _number(value: float | None) -> str:
    return _DASH if value is None else f"{value:,}"
