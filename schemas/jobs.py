"""The records of ``<prefix>.__jobs``: what was asked, how far it is, and the tables' states.

Comes in: requests (by the command line, by a sink without progress, by the reader itself) and what the reader made of
them.  Goes out: keys and values of compacted records; the last record of a key counts.

One job reads one table.  A job that was requested twice with one id runs once.  A captured table of which no
:class:`TableState` says that it is followed gets a first read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Self

import orjson

from schemas.tables import TableName


class JobStatus(StrEnum):
    """Where a job stands."""

    WAITING = "waiting"
    READING = "reading"
    DONE = "done"
    FAILED = "failed"


class TableStatus(StrEnum):
    """Whether a captured table is followed."""

    FIRST_READ = "first read"
    """Its begin barrier is published and its events are, but the job that makes its mirror anew isn't finished."""
    FOLLOWED = "followed"
    STANDS_STILL = "stands still"
    LEFT_OUT = "left out"
    """The patterns matched it once; what happened since a reader began without it wasn't published."""


@dataclass(frozen=True, slots=True)
class _Record:
    """What all records share: a JSON object that holds the fields by their names."""

    db: str
    table: str

    @property
    def name(self) -> TableName:
        return TableName(self.db, self.table)

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
class JobRequest(_Record):
    """What was asked: read this table whole.

    ``fresh``: the job begins with a barrier at which the mirror is made anew; else its rows only renew what is there.
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

    def key(self) -> bytes:
        """The record's key."""
        return job_key(self.id, "request")


@dataclass(frozen=True, slots=True)
class JobState(_Record):
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
    rows_read: int = 0
    rows_dropped: int = 0
    rows_published: int = 0
    shards_at_a_time: int = 0
    """The most that were open at the same time."""
    ranges: list[dict[str, Any]] = field(default_factory=lambda: [{"after": None, "until": None}])
    """The ranges of keys that are still to be read, each ``after`` a key and ``until`` one; see cdc_reader/key_ranges.py."""
    low: str = ""
    high: str = ""
    updated_ms: int = 0
    finished_ms: int = 0
    reason: str = ""

    def key(self) -> bytes:
        """The record's key."""
        return job_key(self.id, "state")

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return self.status in {JobStatus.WAITING, JobStatus.READING}


@dataclass(frozen=True, slots=True)
class TableState(_Record):
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
    """A key in ``__jobs``: an id and ``request``, ``state`` or ``table``."""
    return orjson.dumps({"id": job_id, "kind": kind})


JobRecord = JobRequest | JobState | TableState


def parse_job_record(key: bytes, value: bytes) -> JobRecord:
    """A record of ``__jobs`` by its key's kind; raises ValueError where the record isn't one of ours."""
    kind = orjson.loads(key).get("kind")
    if kind == "request":
        return JobRequest.from_json(value)
    if kind == "state":
        return JobState.from_json(value)
    if kind == "table":
        return TableState.from_json(value)
    raise ValueError(f"unknown kind of record in jobs: {kind!r}")
