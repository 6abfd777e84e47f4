"""Binlog events: their types, their common header and the small bodies that Rowflow reads itself.

Comes in: a packet that holds one event behind the OK byte.  Goes out: numbers and names, no copies of row data.
Source: MySQL manual, "Binary Log Event"; the server's libs/mysql/binlog/event/*.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cdc_reader.errors import EventUnreadable

QUERY, STOP, ROTATE, INTVAR, RAND, USER_VAR, FORMAT_DESCRIPTION, XID = 2, 3, 4, 5, 13, 14, 15, 16
TABLE_MAP, INCIDENT, HEARTBEAT, IGNORABLE, ROWS_QUERY = 19, 26, 27, 28, 29
WRITE_ROWS, UPDATE_ROWS, DELETE_ROWS = 30, 31, 32
WRITE_ROWS_V1, UPDATE_ROWS_V1, DELETE_ROWS_V1 = 23, 24, 25
GTID, ANONYMOUS_GTID, PREVIOUS_GTIDS = 33, 34, 35
TRANSACTION_CONTEXT, VIEW_CHANGE, XA_PREPARE = 36, 37, 38
PARTIAL_UPDATE_ROWS, TRANSACTION_PAYLOAD, HEARTBEAT_V2, GTID_TAGGED = 39, 40, 41, 42

WITHOUT_DATA = frozenset(
    {STOP, INTVAR, RAND, USER_VAR, IGNORABLE, ROWS_QUERY, PREVIOUS_GTIDS, TRANSACTION_CONTEXT, VIEW_CHANGE}
)
"""Events that never carry a row: INTVAR, RAND and USER_VAR only go before a QUERY event, which is looked at."""

ROWS_OF_VERSION_1 = {WRITE_ROWS_V1: WRITE_ROWS, UPDATE_ROWS_V1: UPDATE_ROWS, DELETE_ROWS_V1: DELETE_ROWS}
IGNORABLE_FLAG = 0x80
HEADER_BYTES = 19
ROWS_FLAGS_END = 8
"""Behind the table id and the flags of a ROWS event."""
CHECKSUM_BYTES = 4
CRC32_RESIDUE = 0x2144DF1C
"""The CRC-32 of any bytes followed by their own CRC-32, least significant byte first."""

_QUERY_BODY = struct.Struct("<IIBHH").unpack_from
_STATUS_CHARSET = 4
_STATUS_BYTES = {0: 4, 1: 8, 3: 4}
_STATUS_TEXTS = {2: 1, 6: 0}


class RowsHeader(NamedTuple):
    """Where the row images of a ROWS event begin, and of which table they are."""

    table_id: int
    images: int
    complete: bool
    """Whether the bitmaps say that every column is present in every image."""
    present: tuple[bytes, ...]
    """The columns-present bitmaps: one, or before and after of an UPDATE."""
    columns: int


def length_encoded(buffer: bytes, offset: int) -> tuple[int, int]:
    """A length-encoded integer and the offset behind it (MySQL manual, "Protocol::LengthEncodedInteger")."""
    first = buffer[offset]
    if first < 0xFB:
        return first, offset + 1
    width = {0xFC: 2, 0xFD: 3, 0xFE: 8}[first]
    return int.from_bytes(buffer[offset + 1 : offset + 1 + width], "little"), offset + 1 + width


def rows_header(buffer: bytes, body: int, event_type: int) -> RowsHeader:
    """The header of a ROWS event whose body begins at ``body``; version 1 has no extra data."""
    table_id = int.from_bytes(buffer[body : body + 6], "little")
    offset = body + 8
    if event_type not in ROWS_OF_VERSION_1:
        offset += buffer[offset] | buffer[offset + 1] << 8
    columns, offset = length_encoded(buffer, offset)
    width = columns + 7 >> 3
    bitmaps = 2 if event_type in (UPDATE_ROWS, UPDATE_ROWS_V1) else 1
    whole = (1 << columns) - 1
    present = tuple(buffer[offset + width * index : offset + width * (index + 1)] for index in range(bitmaps))
    complete = all(int.from_bytes(bitmap, "little") & whole == whole for bitmap in present)
    return RowsHeader(table_id, offset + width * bitmaps, complete, present, columns)


def rotate_body(buffer: bytes, body: int, end: int) -> tuple[str, int]:
    """The file and offset that a ROTATE event names as the next."""
    return buffer[body + 8 : end].decode("utf-8"), int.from_bytes(buffer[body : body + 8], "little")


def is_begin(buffer: bytes, body: int, end: int) -> bool:
    """Whether a QUERY event's text is ``BEGIN``, which comes with each transaction: nothing else of it is looked at."""
    _, _, database_length, _, status_length = _QUERY_BODY(buffer, body)
    text = body + 13 + status_length + database_length + 1
    return end - text == 5 and buffer.startswith(b"BEGIN", text)


def query_body(buffer: bytes, body: int, end: int) -> tuple[str, bytes, int]:
    """The default database, the text of a QUERY event, and the collation that its session sent it in (0: not said)."""
    _, _, database_length, _, status_length = _QUERY_BODY(buffer, body)
    offset = body + 13 + status_length
    database = buffer[offset : offset + database_length].decode("utf-8", "replace")
    return database, buffer[offset + database_length + 1 : end], _client_collation(buffer, body + 13, offset)


def _client_collation(buffer: bytes, offset: int, end: int) -> int:
    """``character_set_client`` among a QUERY event's status variables; the server writes few others before it.

    MySQL manual, "Query_event": flags, SQL mode, catalog (with and without a zero behind it), auto-increment.
    """
    while offset < end:
        code = buffer[offset]
        if code == _STATUS_CHARSET:
            return int.from_bytes(buffer[offset + 1 : offset + 3], "little")
        if code in _STATUS_BYTES:
            offset += 1 + _STATUS_BYTES[code]
        elif code in _STATUS_TEXTS:
            offset += 2 + buffer[offset + 1] + _STATUS_TEXTS[code]
        else:
            break
    return 0


def format_description(buffer: bytes, body: int, end: int) -> tuple[str, bool]:
    """The server's version and whether the events behind this one end with a CRC-32.

    ``end`` is the packet's end: the event always carries five bytes for the algorithm and its own checksum.
    """
    version = buffer[body + 2 : body + 52].rstrip(b"\0").decode("ascii", "replace")
    algorithm = buffer[end - 5]
    if algorithm not in (0, 1):
        raise EventUnreadable(f"the binlog's checksum algorithm {algorithm} is unknown to this version of Rowflow")
    return version, algorithm == 1


def heartbeat_place(buffer: bytes, body: int, end: int, event_type: int, log_pos: int) -> tuple[str, int]:
    """File and offset of a heartbeat: up to there nothing is left to send."""
    if event_type == HEARTBEAT:
        return buffer[body:end].decode("utf-8", "replace"), log_pos
    file, pos = "", log_pos
    offset = body
    while offset < end:
        field = buffer[offset]
        if field == 0:
            break
        length, value = length_encoded(buffer, offset + 1)
        if field == 1:
            file = buffer[value : value + length].decode("utf-8", "replace")
        elif field == 2:
            pos, _ = length_encoded(buffer, value)
        offset = value + length
    return file, pos


class Payload(NamedTuple):
    """The compressed events of a TRANSACTION_PAYLOAD event."""

    compression: int
    size: int
    start: int


def transaction_payload(buffer: bytes, body: int, end: int) -> Payload:
    """Where the payload begins, its compression (0 ZSTD, 255 none) and its size when it is unpacked."""
    compression, size = 255, 0
    offset = body
    while offset < end:
        field, offset = length_encoded(buffer, offset)
        if field == 0:
            break
        length, value = length_encoded(buffer, offset)
        if field == 2:
            compression, _ = length_encoded(buffer, value)
        elif field == 3:
            size, _ = length_encoded(buffer, value)
        offset = value + length
    return Payload(compression, size, offset)
