"""The job that is being read: which ranges of keys are left, how large its next shard may be, and its receipt so far.

Comes in: results of shards, how late the stream is.  Goes out: the job's next state, to be published with the shard's rows
(exactness.md J4), and whether another shard may be begun now.  Pure: times come in.

Guarantees: a range is cut off in the same state that counts its rows, so that no row is read twice.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from cdc_reader.key_ranges import KeyRange
from cdc_reader.shard_reader import ShardResult
from schemas.jobs import LAG_BOUNDS_MS, JobState, JobStatus

_FIRST_SHARD_ROWS = 16
"""Of a job, before it is known how large the table's rows are: each may have 16 MB."""
_SLOW_S = 1.0
"""A shard that takes longer is followed by smaller ones: its window is open, and its read view is kept, so long."""
_BUSY_PAUSE_MS = 1_000
_MS = 1_000


class JobLimits(NamedTuple):
    """Of a shard: ``rows_max``, ``bytes_max``; of all together: ``rows_per_s``, 0 for as many as possible."""

    rows_max: int
    bytes_max: int
    rows_per_s: int = 0


class Counted(NamedTuple):
    """What was published of a shard."""

    published: int
    dropped: int
    size_bytes: int
    digests: tuple[int, int]


class RunningJob:
    """One job, as long as shards of it are read; mutable, owned by the reader's one thread."""

    def __init__(self, state: JobState, limits: JobLimits) -> None:
        self.state = state
        self.ranges = [KeyRange.from_dict(keys) for keys in state.ranges]
        self._limits = limits
        self._rows_max = min(filter(None, (limits.rows_max, state.shard_rows_max, limits.rows_per_s)))
        self.rows_limit = min(_FIRST_SHARD_ROWS, self._rows_max)
        self._next_shard_ms = 0
        self._lags = list(state.lags)

    def next_range(self, being_read: Collection[KeyRange], now_ms: int) -> KeyRange | None:
        """A range that nobody reads; None where there is none, or where no shard may be begun yet."""
        if now_ms < self._next_shard_ms:
            return None
        return next((keys for keys in self.ranges if keys not in being_read), None)

    def begun(self, at_a_time: int) -> None:
        """A shard is being read; so many are now."""
        self.state = replace(self.state, shards_at_a_time=max(self.state.shards_at_a_time, at_a_time))

    def source_is_busy(self, now_ms: int) -> None:
        """The source has more to do than it should have for a shard to be read."""
        self._next_shard_ms = now_ms + _BUSY_PAUSE_MS

    def stream_was_late(self, lag_ms: int) -> None:
        """The stream has published a transaction so long after its commit."""
        self._lags[bisect_left(LAG_BOUNDS_MS, lag_ms)] += 1
        if lag_ms > self.state.lag_max_ms:
            self.state = replace(self.state, lag_max_ms=lag_ms)

    def shard_done(self, result: ShardResult, counted: Counted, now_ms: int) -> JobState:
        """The state in which the shard's rows are read."""
        self._cut(result)
        self._adapt(result, counted.size_bytes)
        if self._limits.rows_per_s:
            spent_ms = len(result.rows) * _MS // self._limits.rows_per_s
            self._next_shard_ms = max(self._next_shard_ms, now_ms) + spent_ms
        state, finished = self.state, not self.ranges
        self.state = replace(
            state,
            shards=state.shards + 1,
            rows_seen=state.rows_seen + result.rows_seen,
            rows_read=state.rows_read + len(result.rows),
            rows_dropped=state.rows_dropped + counted.dropped,
            rows_published=state.rows_published + counted.published,
            digests=[
                (of_all + of_shard) % 2**64 for of_all, of_shard in zip(state.digests, counted.digests, strict=True)
            ],
            ranges=[keys.to_dict() for keys in self.ranges],
            high=str(result.high),
            lags=list(self._lags),
            updated_ms=now_ms,
            status=(JobStatus.DONE if finished else JobStatus.READING).value,
            finished_ms=now_ms if finished else 0,
        )
        return self.state

    def _cut(self, result: ShardResult) -> None:
        """The shard's rows are no longer among what is to be read; what is left of its range may become several.

        Nothing is, where all its rows were read and no part was cut off before.
        """
        assert result.plan is not None
        keys = result.task.keys
        ends = [*result.cuts, keys.until]
        if len(result.rows) == result.task.rows_max:
            ends = [result.plan.last_key(result.rows[-1]), *ends]
        left = [KeyRange(*ends_of) for ends_of in pairwise(ends)]
        place = self.ranges.index(keys)
        self.ranges[place : place + 1] = left

    def _adapt(self, result: ShardResult, size_bytes: int) -> None:
        """The next shard is about as large as is allowed, and takes no longer than it should."""
        rows = len(result.rows)
        if rows:
            fitting = self._limits.bytes_max * rows // max(size_bytes, 1)
            self.rows_limit = max(1, min(self._rows_max, fitting))
        if result.took_s > _SLOW_S:
            self.rows_limit = max(1, min(self.rows_limit, result.task.rows_max // 2))
