"""The records of ``<prefix>.__jobs``: what was asked, how far it is, and the tables' states.

Comes in: requests (by the command line, by a sink without progress, by the reader itself), orders to pause, resume or cancel,
and what the reader made of them.  Goes out: keys and values of compacted records; the last record of a key counts.

One job reads one table, or a part of it.  A job that was requested twice with one id runs once.  A captured table of which no
:class:`TableState` says that it is followed gets a first read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from itertools import accumulate
from typing import Any, Self

import orjson

from schemas.tables import TableName


class JobStatus(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    READING = "reading"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobOrderKind(StrEnum):
    """What a job is told after it was asked for."""

    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


class TableStatus(StrEnum):
    """Whether a captured table is followed."""

    FIRST_READ = "first read"
    """Its begin barrier is published and its events are, but the job that reads it whole for the first time isn't finished."""
    FOLLOWED = "followed"
    STANDS_STILL = "stands still"
    LEFT_OUT = "left out"
    """The patterns matched it once; what happened since a reader began without it wasn't published."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What all records share: a JSON object that holds the fields by their names."""

    def to_json(self) -> bytes:
        """The record's value."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        """The inverse of :meth:`to_json`; unknown fields (of a later version) are passed over; raises ValueError."""
        record: Mapping[str, Any] = orjson.loads(text)
        known = {one.name for one in fields(cls)}
        try:
            return cls(**{name: value for name, value in record.items() if name in known})
        except TypeError as error:
            raise ValueError(f"not a record of jobs: {error}") from error


@dataclass(frozen=True, slots=True)
class _OfTable(_Record):
    """A record that belongs to one table."""

    db: str
    table: str

    @property
    def name(self) -> TableName:
        return TableName(self.db, self.table)


@dataclass(frozen=True, slots=True)
class JobRequest(_OfTable):
    """What was asked: read this table, whole or in part.

    ``fresh``: the whole table is read between two barriers, and the mirror is equal to it then, whatever it was before;
    else the rows that are read only renew what is there.
    ``where``: an SQL expression; only rows for which it holds are read.  A job with it isn't fresh.
    ``shards``: into so many the table is cut, or more; 0: as large as they may be.
    ``start_over``: the old place was given up by name; the reader accepts a new topic, and with ``everything`` it takes
    the source's present end as its position.
    ``origin``: ``command line``, ``first read``, ``schema change`` or ``sink``.
    """

    id: str
    origin: str
    requested_ms: int
    fresh: bool = True
    start_over: bool = False
    everything: bool = False
    where: str = ""
    shards: int = 0

    def key(self) -> bytes:
        """The record's key."""
        return job_key(self.id, "request")


@dataclass(frozen=True, slots=True)
class JobOrder(_Record):
    """What a job is told; the last one counts."""

    id: str
    order: str
    ordered_ms: int

    def key(self) -> bytes:
        """The record's key."""
        return job_key(self.id, "order")


LAG_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
"""How far the stream lags behind is counted in these classes, and one for all above."""


@dataclass(frozen=True, slots=True)
class JobState(_OfTable):
    """How far a job is; times in ms since 1970."""

    id: str
    origin: str
    fresh: bool
    status: str
    started_ms: int
    begun: bool = False
    """Whether its begin barrier is published; a job that isn't fresh has none."""
    first_row: int = 0
    """What ``row`` of its first event is: above that of every earlier job of the table (exactness.md R8)."""
    shards: int = 0
    rows_estimate: int = 0
    """How many rows the table has, about."""
    rows_seen: int = 0
    """How many of them lie behind: those that were read, and, with a condition, about so many that don't fulfil it."""
    rows_read: int = 0
    rows_dropped: int = 0
    rows_published: int = 0
    shards_at_a_time: int = 0
    """The most that were open at the same time."""
    ranges: list[dict[str, Any]] = field(default_factory=lambda: [{"after": None, "until": None}])
    """The ranges of keys that are still to be read, each ``after`` a key and ``until`` one; see cdc_reader/key_ranges.py."""
    where: str = ""
    shard_rows_max: int = 0
    """No shard has more rows; 0: as many as memory allows."""
    low: str = ""
    high: str = ""
    digests: list[int] = field(default_factory=lambda: [0, 0])
    """Of the rows that were read: of the MD5 of each one's JSON, as ``after`` has it, both halves summed up modulo 2**64.

    No order matters to it (exactness.md C2).
    """
    lags: list[int] = field(default_factory=lambda: [0] * (len(LAG_BOUNDS_MS) + 1))
    """How often the stream was so late, while the job ran, with a transaction: by :data:`LAG_BOUNDS_MS`."""
    lag_max_ms: int = 0
    updated_ms: int = 0
    finished_ms: int = 0
    reason: str = ""

    def key(self) -> bytes:
        """The record's key."""
        return job_key(self.id, "state")

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return self.status in {JobStatus.WAITING, JobStatus.READING, JobStatus.PAUSED}

    @property
    def checksum(self) -> str:
        """Both sums, in 32 hex digits."""
        return "".join(f"{half:016x}" for half in self.digests)

    @property
    def eta_s(self) -> float | None:
        """In how many seconds it will be done, at the mean speed since it began; None where nobody knows."""
        if not (self.open and self.rows_estimate and self.rows_seen):
            return None
        left = max(0, self.rows_estimate - self.rows_seen)
        return left / self.rows_seen * (self.updated_ms - self.started_ms) / 1000

    def lag_ms(self, share: float) -> int:
        """So late the stream was at most, while the job ran, in that share of cases (0.99: the 99th percentile)."""
        wanted = share * sum(self.lags)
        for bound_ms, count in zip(LAG_BOUNDS_MS, accumulate(self.lags), strict=False):
            if count >= wanted:
                return min(bound_ms, self.lag_max_ms)
        return self.lag_max_ms


@dataclass(frozen=True, slots=True)
class TableState(_OfTable):
    """Whether and as what a table is followed.  ``topic_id``: Kafka's id of its topic (exactness.md W7)."""

    status: str
    fingerprint: str
    topic_id: str
    reason: str = ""
    """Why the table stands still, with position and way on; else empty."""
    since_ms: int = 0
    look: str = ""
    """A statement named it and it is to be looked at again: at its ``schema``, or at its ``rows``, which may have changed."""

    def key(self) -> bytes:
        """The record's key."""
        return job_key(f"{self.db}.{self.table}", "table")

    def standing_still(self, reason: str, now_ms: int) -> TableState:
        """The same table, standing still from now on."""
        return replace(self, status=TableStatus.STANDS_STILL.value, reason=reason, since_ms=now_ms, look="")


def job_key(job_id: str, kind: str) -> bytes:
    """A key in ``__jobs``: an id and ``request``, ``order``, ``state`` or ``table``."""
    return orjson.dumps({"id": job_id, "kind": kind})


JobRecord = JobRequest | JobOrder | JobState | TableState


@dataclass(frozen=True, slots=True)
class JobRecords:
    """What ``__jobs`` holds: the last record of each key."""

    requests: dict[str, JobRequest] = field(default_factory=dict)
    orders: dict[str, JobOrder] = field(default_factory=dict)
    states: dict[str, JobState] = field(default_factory=dict)
    tables: dict[TableName, TableState] = field(default_factory=dict)

    def take(self, key: bytes, value: bytes) -> None:
        """One more record, which counts instead of an earlier one of its key; raises ValueError where it isn't one of ours."""
        match parse_job_record(key, value):
            case JobRequest() as request:
                self.requests[request.id] = request
            case JobOrder() as order:
                self.orders[order.id] = order
            case JobState() as state:
                self.states[state.id] = state
            case TableState() as table:
                self.tables[table.name] = table


def parse_job_record(key: bytes, value: bytes) -> JobRecord:
    """A record of ``__jobs`` by its key's kind; raises ValueError where the record isn't one of ours."""
    kind = orjson.loads(key).get("kind")
    if kind == "request":
        return JobRequest.from_json(value)
    if kind == "order":
        return JobOrder.from_json(value)
    if kind == "state":
        return JobState.from_json(value)
    if kind == "table":
        return TableState.from_json(value)
    raise ValueError(f"unknown kind of record in jobs: {kind!r}")
