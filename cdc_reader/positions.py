"""Positions: where the reader stands in the binlog, and their arithmetic.

Comes in: places in binlog files and GTID sets.  Goes out: the records of ``<prefix>.__positions`` and comparisons of
places by file number and offset (after binlog.999999 comes binlog.1000000: names don't sort).
Pure; the clock is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import orjson


class Place(NamedTuple):
    """The end of an event in a binlog file."""

    file: str
    pos: int

    @property
    def order(self) -> tuple[int, int]:
        """What places of one server are compared by."""
        return file_number(self.file), self.pos

    def __str__(self) -> str:
        return f"{self.file}:{self.pos}"


def file_number(file: str) -> int:
    """The number behind the last dot of a binlog file's name; 0 for the empty name, which is before every file."""
    digits = file.rpartition(".")[2]
    return int(digits) if digits.isdigit() else 0


def parse_place(text: str) -> Place:
    """``FILE:POS``; raises ValueError."""
    file, colon, pos = text.rpartition(":")
    if not colon or not file_number(file) or not pos.isdigit():
        raise ValueError(f"not a place in a binlog: {text!r}")
    return Place(file, int(pos))


@dataclass(frozen=True, slots=True)
class Position:
    """All that a reader needs to go on; each Kafka transaction ends with one.

    ``rows_to_skip`` counts the row images, of all tables, of the source transaction that begins at ``file``, ``pos``
    (in a GTID stream: ``skip_gtid``) and whose first rows are published (exactness.md R4).
    ``gtids`` is empty where the source has no GTIDs; then file and pos hold for ``server_uuid`` alone.
    ``instance`` is the process that wrote it: the last one is the claim on the topics (R1, R5).
    ``source_ms``: when the source committed the last transaction before it; 0: not known.  For lag only.
    ``topic_ids``: Kafka's ids of ``__positions`` and ``__jobs``; the tables' ids stand in ``__jobs`` (W7).
    """

    file: str
    pos: int
    gtids: str
    server_uuid: str
    rows_to_skip: int = 0
    skip_gtid: str = ""
    ts_ms: int = 0
    instance: str = ""
    topic_ids: str = ""
    source_ms: int = 0

    @property
    def begun(self) -> bool:
        """Whether it says a place or a set; the first claim of a new prefix's reader doesn't yet."""
        return bool(self.file or self.gtids)

    @property
    def place(self) -> Place:
        """File and offset."""
        return Place(self.file, self.pos)

    def to_json(self) -> bytes:
        """The value of a record in ``__positions``."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> Position:
        """The inverse of :meth:`to_json`; unknown fields are passed over; raises ValueError."""
        record: Mapping[str, Any] = orjson.loads(text)
        known = {field.name for field in fields(cls)}
        try:
            return cls(**{name: value for name, value in record.items() if name in known})
        except TypeError as error:
            raise ValueError(f"not a position: {error}") from error

    def __str__(self) -> str:
        skipped = f" + {self.rows_to_skip} rows" if self.rows_to_skip else ""
        return f"{self.file}:{self.pos}{skipped}" + (f" (GTIDs {self.gtids})" if self.gtids else "")


POSITION_KEY = b'"reader"'
"""The one key in ``__positions``."""
