"""GTIDs, tagged ones too, and the sets that a stream adds them to.

Comes in: the text of a GTID set as MySQL prints it, and the bodies of GTID events.  Goes out: the set as text again.
Adding the next GTID of a source is O(1); adding one that is there already changes nothing.
Source: MySQL manual, "GTID Sets"; libs/mysql/serialization in the server's sources for GTID_TAGGED_LOG_EVENT.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from typing import NamedTuple

from cdc_reader.errors import EventUnreadable

_GTID_BODY = struct.Struct("<x16sQ").unpack_from
_GTID_BODY_WITH_TIME = struct.Struct("<x16sQ17xQ").unpack_from
"""The time stamp has seven bytes; the eighth belongs to what follows it."""
_COMMIT_TIMESTAMP_OFFSET = 1 + 16 + 8 + 1 + 8 + 8
_COMMIT_TIMESTAMP_MASK = (1 << 55) - 1

_FIELD_FLAGS, _FIELD_UUID, _FIELD_GNO, _FIELD_TAG, _FIELD_COMMIT_TIMESTAMP = 0, 1, 2, 3, 6

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TAG = re.compile(r"[a-z_][a-z0-9_]{0,31}")
_INTERVAL = re.compile(r"([0-9]+)(?:-([0-9]+))?")
_NUMBERS_END = (1 << 63) - 1


class Gtid(NamedTuple):
    """One GTID: ``source`` is the UUID, with ``:tag`` where it is tagged; ``commit_us`` since 1970, 0 where unknown."""

    source: str
    number: int
    commit_us: int = 0

    def __str__(self) -> str:
        return f"{self.source}:{self.number}"


class GtidSet:
    """A set of GTIDs as closed intervals per source, in order and never touching each other."""

    def __init__(self, text: str = "") -> None:
        """Raises ValueError where ``text`` isn't a GTID set."""
        self._intervals: dict[str, list[list[int]]] = {}
        for part in text.replace("\n", "").replace(" ", "").split(","):
            if part:
                self._add_source(part)

    def _add_source(self, part: str) -> None:
        uuid, *fields = part.lower().split(":")
        # A set ends in an interval: the source's UUID, or a tag, alone names no transaction.
        if not _UUID.fullmatch(uuid) or not fields or not _INTERVAL.fullmatch(fields[-1]):
            raise ValueError(f"not a GTID set: {part!r}")
        source = uuid
        for field in fields:
            if interval := _INTERVAL.fullmatch(field):
                first, last = int(interval[1]), int(interval[2] or interval[1])
                if not 0 < first <= last < _NUMBERS_END:
                    raise ValueError(f"not an interval of GTIDs: {field!r}")
                self.add_interval(source, first, last)
            elif _TAG.fullmatch(field):
                source = f"{uuid}:{field}"
            else:
                raise ValueError(f"neither an interval nor a tag of GTIDs: {field!r}")

    def add(self, gtid: Gtid) -> None:
        """Adds one GTID; the usual case is the number after the last."""
        intervals = self._intervals.get(gtid.source)
        if intervals and intervals[-1][1] == gtid.number - 1:
            intervals[-1][1] = gtid.number
        else:
            self.add_interval(gtid.source, gtid.number, gtid.number)

    def add_interval(self, source: str, first: int, last: int) -> None:
        """Adds ``first`` to ``last``, both included, joined with what they touch."""
        intervals = self._intervals.setdefault(source, [])
        index = bisect_right(intervals, [first, last])
        if index and intervals[index - 1][1] >= first - 1:
            index -= 1
            first, last = intervals[index][0], max(last, intervals[index][1])
        end = index
        while end < len(intervals) and intervals[end][0] <= last + 1:
            last = max(last, intervals[end][1])
            first = min(first, intervals[end][0])
            end += 1
        intervals[index:end] = [[first, last]]

    @property
    def tagged(self) -> bool:
        """Whether any of the GTIDs has a tag (MySQL 8.3 and later)."""
        return any(":" in source for source in self._intervals)

    def __str__(self) -> str:
        by_uuid: dict[str, list[str]] = {}
        for source in sorted(self._intervals):
            uuid, _, tag = source.partition(":")
            parts = by_uuid.setdefault(uuid, [])
            if tag:
                parts.append(tag)
            for first, last in self._intervals[source]:
                parts.append(f"{first}-{last}" if last > first else str(first))
        return ",".join(":".join((uuid, *parts)) for uuid, parts in by_uuid.items())

    def __contains__(self, gtid: Gtid) -> bool:
        return any(first <= gtid.number <= last for first, last in self._intervals.get(gtid.source, ()))


def _uuid_text(raw: bytes) -> str:
    digits = raw.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class GtidParser:
    """Parses GTID events; remembers the text of the last source's UUID, which is nearly always the same."""

    def __init__(self) -> None:
        self._raw = b""
        self._text = ""

    def parse(self, buffer: bytes, offset: int, end: int) -> Gtid:
        """The GTID of a GTID_LOG_EVENT (33) whose body begins at ``offset``."""
        if end - offset > _COMMIT_TIMESTAMP_OFFSET + 7:
            raw, number, commit_us = _GTID_BODY_WITH_TIME(buffer, offset)
        else:
            raw, number = _GTID_BODY(buffer, offset)
            commit_us = 0
        if raw != self._raw:
            self._raw, self._text = raw, _uuid_text(raw)
        return Gtid(self._text, number, commit_us & _COMMIT_TIMESTAMP_MASK)


def commit_timestamp_us(buffer: bytes, offset: int, end: int) -> int:
    """``immediate_commit_timestamp`` of a GTID or ANONYMOUS_GTID event in µs since 1970; 0 where there is none (5.7)."""
    offset += _COMMIT_TIMESTAMP_OFFSET
    if offset + 7 > end:
        return 0
    return int.from_bytes(buffer[offset : offset + 7], "little") & _COMMIT_TIMESTAMP_MASK


def _variable_length(buffer: bytes, offset: int) -> tuple[int, int]:
    """An unsigned number of MySQL's serialization library: n one bits, a zero, then the value in n + 1 bytes."""
    first = buffer[offset]
    extra = 0
    while extra < 8 and first >> extra & 1:
        extra += 1
    if extra == 8:
        return int.from_bytes(buffer[offset + 1 : offset + 9], "little"), offset + 9
    whole = int.from_bytes(buffer[offset : offset + extra + 1], "little")
    return whole >> extra + 1, offset + extra + 1


def parse_tagged(buffer: bytes, offset: int, end: int) -> Gtid:
    """The GTID of a GTID_TAGGED_LOG_EVENT (42); raises EventUnreadable where a field is unknown."""
    _, offset = _variable_length(buffer, offset)
    _, offset = _variable_length(buffer, offset)
    _, offset = _variable_length(buffer, offset)
    uuid, tag, number, commit_us = b"", "", 0, 0
    while offset < end:
        field, offset = _variable_length(buffer, offset)
        if field == _FIELD_FLAGS:
            _, offset = _variable_length(buffer, offset)
        elif field == _FIELD_UUID:
            parts = bytearray()
            for _ in range(16):
                byte, offset = _variable_length(buffer, offset)
                parts.append(byte)
            uuid = bytes(parts)
        elif field == _FIELD_GNO:
            zigzag, offset = _variable_length(buffer, offset)
            number = zigzag >> 1
        elif field == _FIELD_TAG:
            length, offset = _variable_length(buffer, offset)
            tag, offset = buffer[offset : offset + length].decode("ascii"), offset + length
        elif field == _FIELD_COMMIT_TIMESTAMP:
            commit_us, offset = _variable_length(buffer, offset)
            break
        elif field < _FIELD_COMMIT_TIMESTAMP:
            _, offset = _variable_length(buffer, offset)
        else:
            break
    if not uuid or not number:
        raise EventUnreadable(
            "a tagged GTID event has no UUID or no number: its form is unknown to this version of Rowflow"
        )
    return Gtid(f"{_uuid_text(uuid)}:{tag}" if tag else _uuid_text(uuid), number, commit_us)
