"""A slice, and what takes one.

Comes in: records of one partition, as the transport fetched them.  Goes out: the shapes that the worker hands to the
sink.  A target does its work in two steps: ``prepare`` parses and folds outside any transaction (and may be slow or
fail), ``apply`` runs the statements inside the slice's transaction, which the worker opens and commits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from schemas.events import Barrier
from sink.sql import Session


class Record(Protocol):
    """One record of a topic; aiokafka's own records have this shape, so none is copied on the way."""

    @property
    def offset(self) -> int:
        """Where it lies in its partition's log."""

    @property
    def timestamp(self) -> int:
        """Milliseconds since 1970, UTC."""

    @property
    def key(self) -> bytes | None:
        """A row's primary key, or that of barriers."""

    @property
    def value(self) -> bytes | None:
        """None is a tombstone."""

    @property
    def headers(self) -> Sequence[tuple[str, bytes]]:
        """Names and values, in order."""


class PlainRecord(NamedTuple):
    """A record made by hand."""

    offset: int
    key: bytes | None
    value: bytes | None
    timestamp: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """Records of one partition that are handled together, in offset order.

    ``start``: the end of the slice before, or the offset sought to; ``end``: the consumer's position after the slice
    (exactness.md W1).  Both count offsets, of which some belong to no record.  ``records`` is empty where only the
    markers of Kafka's transactions were passed (W5).
    """

    topic: str
    partition: int
    start: int
    end: int
    records: Sequence[Record]


class Prepared(Protocol):
    """A slice made ready for the sink; applied again, whole, after a failed transaction."""

    @property
    def end(self) -> int:
        """The slice's end, or the offset behind the barrier where the slice is cut."""

    @property
    def barrier(self) -> Barrier | None:
        """The barrier that the slice is cut at; its last record."""

    def apply(self, session: Session) -> None:
        """Write it, inside the transaction that is open on ``session``; a barrier's entry too."""


class Target(Protocol):
    """What slices are written to.  Its methods are called in threads, for different partitions at the same time."""

    def prepare(self, slice_: Slice) -> Prepared:
        """Parse and fold; nothing of it may be visible to others.  A loud stop is raised as StoppedError."""

    def try_to_finish(self, topic: str, barrier_id: str, partitions: int) -> bool:
        """Whether the barrier is done, so that a waiting partition may go on; does its work where all have come.

        Called about once a second for every waiting partition, by every worker, with no transaction open.
        """
