"""Epochs and chains: which slice of a partition follows which (exactness.md W1, W3).

Comes in: seeks, and the positions that the consumer reached.  Goes out: the start and the epoch of each slice.

A partition's epoch is raised at every seek and revocation; a slice of an older epoch is worth nothing.  Within an epoch
slices form a chain: each begins where the one before ended, or where the partition was sought to, never at its own first
offset.  No I/O, no clock; used from the main thread and the consumer's thread.
"""

from __future__ import annotations

import itertools
import threading
from dataclasses import dataclass
from typing import NamedTuple


class TopicPartition(NamedTuple):
    """A partition by name; equal to Faust's and aiokafka's own tuples of the same parts."""

    topic: str
    partition: int


class Link(NamedTuple):
    """Where the next slice of a chain starts, and in which epoch."""

    epoch: int
    start: int


class ChainBrokenError(Exception):
    """The consumer handed over something that doesn't follow what came before."""


@dataclass(slots=True)
class _Chain:
    epoch: int
    position: int
    holder: object


class Places:
    """The epochs and chains of a worker's partitions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._epochs: dict[TopicPartition, int] = {}
        self._chains: dict[TopicPartition, _Chain] = {}

    def raise_epoch(self, place: TopicPartition) -> int:
        """Make all slices of this partition worthless that were handed over so far; returns the new epoch."""
        with self._lock:
            epoch = self._epochs[place] = next(self._numbers)
            self._chains.pop(place, None)
            return epoch

    def is_current(self, place: TopicPartition, epoch: int) -> bool:
        """Whether nothing was sought or revoked since this epoch began."""
        return self._epochs.get(place) == epoch

    def begin(self, place: TopicPartition, epoch: int, offset: int, holder: object) -> None:
        """The partition was sought to ``offset``; ``holder`` is the consumer's own state of this very assignment."""
        with self._lock:
            if self._epochs.get(place) == epoch:
                self._chains[place] = _Chain(epoch, offset, holder)

    def is_sought(self, place: TopicPartition) -> bool:
        """Whether a chain goes on here: its partition was sought and not lost since."""
        return place in self._chains

    def hand_over(self, place: TopicPartition, holder: object, first: int | None, position: int) -> Link | None:
        """The consumer reached ``position`` with records from ``first`` on (None: it passed markers only).

        None: nothing to hand over, for the partition isn't sought, or not in this assignment, or didn't move.
        """
        with self._lock:
            chain = self._chains.get(place)
            if chain is None or chain.holder is not holder or (first is None and position == chain.position):
                return None
            if position < chain.position or (first is not None and not chain.position <= first < position):
                raise ChainBrokenError(
                    f"{place.topic} [{place.partition}]: {first} to {position} after {chain.position}"
                )
            link = Link(chain.epoch, chain.position)
            chain.position = position
            return link

    def break_all(self) -> None:
        """Forget every chain: what the consumer hands over can't be relied on until the next seeks."""
        with self._lock:
            self._chains.clear()
