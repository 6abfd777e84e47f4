"""Records of a slice, down to the last change of each key.

Comes in: records as they stand in the topic, in offset order.  Goes out: per key, what is to be done; the records that
can't be read; the barrier that cuts the slice.

Keys are compared as bytes (exactness.md R10).  Of a key's changes only the last counts: one partition holds all of
them, in order.  Tombstones say nothing that the ``d`` before them didn't.  Pure: no I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from schemas.events import BARRIER_KEY, UNDECODABLE_HEADER, Barrier, Op
from sink.slices import Record
from sink.values import UnreadableError

STORED_WITHOUT_TEXT = "text not valid in its character set, stored as NULL"
"""Why a letter is filed of a row that is written."""
_WRITES = frozenset({Op.CREATE.value, Op.UPDATE.value, Op.READ.value})


class Change(NamedTuple):
    """The last change of a key: ``row`` is what the key's row is now, or, where it is ``gone``, what it was."""

    record: Record
    row: Mapping[str, Any]
    gone: bool


class Failure(NamedTuple):
    """A record that can't be processed, and why; ``detail`` may hold values of the row, ``reason`` never does."""

    record: Record
    reason: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class BarrierRecord:
    """A barrier as it came; ``field`` is the event's field ``barrier`` as JSON, with all that it may hold besides."""

    barrier: Barrier
    field: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class Folded:
    """What a slice comes to."""

    changes: Sequence[Change]
    failures: Sequence[Failure]
    foreign: Mapping[str, int]
    """Fingerprints that aren't the expected one -> the first offset with it; if there is any, nothing else counts."""


def fold(records: Iterable[Record], fingerprint: str) -> Folded:
    """The last change of each key among records without barriers, all of which should have one schema's fingerprint."""
    last: dict[bytes, Change] = {}
    failures: list[Failure] = []
    foreign: dict[str, int] = {}
    for record in records:
        if record.value is None:
            continue
        try:
            change, found = _change(record, record.value)
        except UnreadableError as error:
            failures.append(Failure(record, error.reason, error.detail))
            continue
        if found != fingerprint:
            foreign.setdefault(found, record.offset)
        last[record.key or b""] = change
    return Folded(tuple(last.values()), tuple(failures), foreign)


def find_barrier(records: Sequence[Record]) -> tuple[int, BarrierRecord] | None:
    """The place of the first barrier and what it says, or None.

    Raises ValueError where a record has a barrier's key and isn't one: it can't be passed over.
    """
    for place, record in enumerate(records):
        if record.key == BARRIER_KEY and record.value is not None:
            return place, _barrier(record, record.value)
    return None


def read_barrier(field: bytes) -> Barrier:
    """A barrier from its field; raises ValueError where it isn't one."""
    try:
        return Barrier.from_dict(orjson.loads(field))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a barrier: {type(error).__name__} {error}") from None


def undecodable_columns(record: Record) -> tuple[str, ...]:
    """The columns whose text the reader could not decode; they are NULL in the event."""
    for name, value in record.headers:
        if name == UNDECODABLE_HEADER:
            try:
                return tuple(orjson.loads(value))
            except (orjson.JSONDecodeError, TypeError):
                return ("unknown",)
    return ()


def undecodable(changes: Iterable[Change]) -> list[Failure]:
    """What is to be filed of changes that are written without some of their texts."""
    letters = []
    for record, _, gone in changes:
        if record.headers and not gone:
            columns = undecodable_columns(record)
            if columns:
                letters.append(Failure(record, f"{STORED_WITHOUT_TEXT}: {', '.join(columns)}"))
    return letters


def earlier(records: Iterable[Record], refused: Iterable[Failure], failed: Container[int]) -> list[Record]:
    """The records of refused changes' keys that lie before them, but for those, by offset, that have failed too."""
    ends = {failure.record.key: failure.record.offset for failure in refused}
    return [record for record in records if record.offset < ends.get(record.key, -1) and record.offset not in failed]


def _change(record: Record, value: bytes) -> tuple[Change, str]:
    """A record's change and its fingerprint; raises UnreadableError."""
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise UnreadableError("not JSON", str(error)) from None
    try:
        op = event["op"]
        fingerprint = event["source"]["schema"]
        if op in _WRITES:
            change = Change(record, event["after"], gone=False)
        elif op == Op.DELETE:
            change = Change(record, event["before"], gone=True)
        else:
            raise UnreadableError("not a change: its op is none of c, u, r and d")
    except (KeyError, TypeError):
        raise UnreadableError("not a change event: it lacks op, source.schema, before or after") from None
    if not isinstance(change.row, dict) or not isinstance(fingerprint, str):
        raise UnreadableError("not a change event: its row or its source.schema has another form")
    if record.key is None:
        raise UnreadableError("a change without a key")
    return change, fingerprint


def _barrier(record: Record, value: bytes) -> BarrierRecord:
    try:
        field = orjson.dumps(orjson.loads(value)["barrier"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a barrier: {type(error).__name__} {error}") from None
    return BarrierRecord(read_barrier(field), field, record)
