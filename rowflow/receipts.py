"""What a job has done, once the sink holds all its rows.

Comes in: a finished job's state, and the sink's dead letters.  Goes out: its receipt; the names of its fields are the keys of
``snapshot --wait --json``, and stay.
"""

from __future__ import annotations

from dataclasses import dataclass

from rowflow.pipeline import Pipeline
from schemas.jobs import JobState
from schemas.topics import table_topic
from sink import overview

_MS = 1000


@dataclass(frozen=True, slots=True)
class Receipt:
    """``rows_written``: published less dead letters.  ``checksum``: of the rows on the source, see schemas/jobs.py.

    ``lag_*``: how late the stream was while the job ran; a percentile is the upper bound of its class.
    """

    id: str
    table: str
    results: str
    """The table with the results, in the sink's schema."""
    where: str
    rows_read: int
    rows_dropped: int
    rows_published: int
    rows_written: int
    dead_letters: int
    shards: int
    shards_at_a_time: int
    low: str
    high: str
    checksum: str
    lag_p50_ms: int
    lag_p99_ms: int
    lag_max_ms: int
    seconds: float
    rows_per_s: float

    def line(self) -> str:
        """For people."""
        part = f" where {self.where}" if self.where else ""
        letters = f", {self.dead_letters:,} dead letters" if self.dead_letters else ""
        return (
            f"{self.table}{part}: {self.rows_read:,} rows read, {self.rows_dropped:,} dropped (newer in the stream),"
            f" {self.rows_published:,} published, {self.rows_written:,} written to {self.results}{letters};"
            f" {self.shards:,} shards, up to {self.shards_at_a_time} at a time, {self.seconds:,.1f} s,"
            f" {self.rows_per_s:,.0f} rows/s; from {self.low} to {self.high}, checksum {self.checksum};"
            f" the stream was late by {self.lag_p50_ms:,} ms (median), {self.lag_p99_ms:,} ms (99 %),"
            f" {self.lag_max_ms:,} ms at most (job {self.id})"
        )


def receipt(pipeline: Pipeline, state: JobState) -> Receipt:
    """The receipt of a job that is done; to be asked for when the sink holds its last commit."""
    topic = table_topic(pipeline.prefix, state.name)
    with pipeline.sink.lend() as session:
        letters = overview.unwritten_rows(session, topic, state.first_row, state.first_row + state.rows_read)
        mirrors = {mirror.topic: mirror.mirror for mirror in overview.tables(session)}
    return receipt_of(state, mirrors.get(topic, ""), letters)


def receipt_of(state: JobState, results: str, dead_letters: int) -> Receipt:
    """The receipt of a job's state, the name of the table with its results, and how many of its rows are letters."""
    seconds = (state.finished_ms - state.started_ms) / _MS
    return Receipt(
        id=state.id,
        table=str(state.name),
        results=results,
        where=state.where,
        rows_read=state.rows_read,
        rows_dropped=state.rows_dropped,
        rows_published=state.rows_published,
        rows_written=state.rows_published - dead_letters,
        dead_letters=dead_letters,
        shards=state.shards,
        shards_at_a_time=state.shards_at_a_time,
        low=state.low,
        high=state.high,
        checksum=state.checksum,
        lag_p50_ms=state.lag_ms(0.5),
        lag_p99_ms=state.lag_ms(0.99),
        lag_max_ms=state.lag_max_ms,
        seconds=round(seconds, 3),
        rows_per_s=round(state.rows_read / seconds, 1) if seconds > 0 else 0.0,
    )
