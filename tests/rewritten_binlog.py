"""A closed binlog file of a server of one's own, rewritten into what other sessions make a server log.

Comes in: the file.  Goes out: the same file with its last commit turned into a ROLLBACK, as the server ends a transaction that
it can't undo as a whole (one with a statement that wrote to a MyISAM table); or with its last inserted rows turned into an
event of another type, or damaged.  The server sends the file as it stands.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

_MAGIC_BYTES, _CHECKSUM_BYTES = 4, 4
_HEADER = struct.Struct("<IBIIIH")
_QUERY, _XID, _WRITE_ROWS = 2, 16, 30
_ROLLBACK = struct.pack("<IIBHH", 0, 0, 0, 0, 0) + b"\0ROLLBACK"
"""The body of a QUERY event: session, time, no database, no error, no status variables; then the text."""


def end_with_rollback(file: Path) -> None:
    """Turn the last commit of a transaction of InnoDB in the file into a ROLLBACK."""
    events = _events(file.read_bytes()[_MAGIC_BYTES:])
    last = max(number for number, event in enumerate(events) if event[4] == _XID)
    events[last] = events[last][: _HEADER.size] + _ROLLBACK + bytes(_CHECKSUM_BYTES)
    made = bytearray(file.read_bytes()[:_MAGIC_BYTES])
    for number, event in enumerate(events):
        made += _placed(event, len(made), _QUERY if number == last else event[4]) if number >= last else event
    file.write_bytes(made)


def retype_last_rows(file: Path, kind: int) -> None:
    """Make an event of that type of the last inserted rows; its checksum is right."""
    events = _events(file.read_bytes()[_MAGIC_BYTES:])
    last = _last_rows(events)
    start = _MAGIC_BYTES + sum(map(len, events[:last]))
    _write(file, [*events[:last], _placed(events[last], start, kind), *events[last + 1 :]])


def damage_last_rows(file: Path) -> None:
    """Change a bit of the last inserted rows, and not their checksum."""
    events = _events(file.read_bytes()[_MAGIC_BYTES:])
    last = _last_rows(events)
    damaged = bytearray(events[last])
    damaged[-_CHECKSUM_BYTES - 1] ^= 1
    _write(file, [*events[:last], bytes(damaged), *events[last + 1 :]])


def _last_rows(events: list[bytes]) -> int:
    return max(number for number, event in enumerate(events) if event[4] == _WRITE_ROWS)


def _write(file: Path, events: list[bytes]) -> None:
    file.write_bytes(file.read_bytes()[:_MAGIC_BYTES] + b"".join(events))


def _events(data: bytes) -> list[bytes]:
    """The events of a file, each with its header and checksum."""
    events = []
    while data:
        size = _HEADER.unpack_from(data)[3]
        events.append(data[:size])
        data = data[size:]
    return events


def _placed(event: bytes, start: int, kind: int) -> bytes:
    """An event as one of that type that begins at ``start``."""
    timestamp, _, server_id, _, _, flags = _HEADER.unpack_from(event)
    header = _HEADER.pack(timestamp, kind, server_id, len(event), start + len(event), flags)
    body = header + event[_HEADER.size : -_CHECKSUM_BYTES]
    return body + struct.pack("<I", zlib.crc32(body))
