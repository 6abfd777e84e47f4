"""Counts the row images in a ROWS event of a table that isn't captured, without decoding them.

Comes in: the TABLE_MAP body's column types and their metadata, and the bytes of a ROWS event.  Goes out: how many images
it holds.  Needed only where a transaction is published in parts, for its place counts the images of all tables
(exactness.md R4); so events are put aside and counted when there are many of them, or when the place is asked for.
Sources: MySQL manual, "Table_map_event" and "Rows_event"; field sizes as in the server's
libs/mysql/binlog/event/binary_log_funcs.cpp (calc_field_size).
"""

from __future__ import annotations

from cdc_reader.errors import EventUnreadable
from cdc_reader.events import PARTIAL_UPDATE_ROWS, RowsHeader, length_encoded, rows_header

_FIXED_BYTES = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 0, 7: 4, 8: 8, 9: 3, 10: 3, 11: 3, 12: 8, 13: 1}
_DECIMAL, _ENUM, _SET, _STRING = 246, 247, 248, 254
_VARCHARS = {15, 253}
_BLOBS = {242, 245, 249, 250, 251, 252, 255}
_BIT, _TIMESTAMP2, _DATETIME2, _TIME2 = 16, 17, 18, 19
_METADATA_BYTES = {4: 1, 5: 1, 15: 2, 16: 2, 17: 1, 18: 1, 19: 1, 242: 1, 245: 1, 246: 2, 247: 2, 248: 2, 249: 1}
_METADATA_BYTES |= {250: 1, 251: 1, 252: 1, 253: 2, 254: 2, 255: 1}
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_EVENTS_MAX = 256
_BYTES_MAX = 1 << 22
"""Rows put aside keep the buffers that they lie in."""


def column_types(body: bytes) -> list[tuple[int, int, int]]:
    """Type and the two metadata bytes of each column; ``body`` is a TABLE_MAP's, behind table id and flags."""
    offset = 1 + body[0] + 1
    offset += 1 + body[offset] + 1
    columns, offset = length_encoded(body, offset)
    types = body[offset : offset + columns]
    _, metadata = length_encoded(body, offset + columns)
    result = []
    for type_code in types:
        width = _METADATA_BYTES.get(type_code, 0)
        first = body[metadata] if width else 0
        second = body[metadata + 1] if width == 2 else 0
        result.append((type_code, first, second))
        metadata += width
    return result


def _decimal_bytes(precision: int, decimals: int) -> int:
    whole = precision - decimals
    return whole // 9 * 4 + _DIGIT_BYTES[whole % 9] + decimals // 9 * 4 + _DIGIT_BYTES[decimals % 9]


def _value_end(buffer: bytes, offset: int, column: tuple[int, int, int]) -> int:
    type_code, first, second = column
    if type_code in _FIXED_BYTES:
        return offset + _FIXED_BYTES[type_code]
    if type_code in _VARCHARS:
        prefix = 2 if first | second << 8 > 255 else 1
        return offset + prefix + int.from_bytes(buffer[offset : offset + prefix], "little")
    if type_code in _BLOBS:
        return offset + first + int.from_bytes(buffer[offset : offset + first], "little")
    if type_code == _STRING:
        return _string_end(buffer, offset, first, second)
    if type_code in (_ENUM, _SET):
        return offset + second
    if type_code == _DECIMAL:
        return offset + _decimal_bytes(first, second)
    if type_code == _BIT:
        return offset + second + (first > 0)
    fractions = {_TIMESTAMP2: 4, _DATETIME2: 5, _TIME2: 3}
    if type_code in fractions:
        return offset + fractions[type_code] + (first + 1) // 2
    raise EventUnreadable(
        f"rows with a column of type {type_code}, unknown to this version of Rowflow, can't be counted"
    )


def _string_end(buffer: bytes, offset: int, first: int, second: int) -> int:
    real_type, length = first, second
    if first & 0x30 != 0x30:
        length, real_type = second | (first & 0x30 ^ 0x30) << 4, first | 0x30
    if real_type in (_ENUM, _SET):
        return offset + length
    prefix = 2 if length > 255 else 1
    return offset + prefix + int.from_bytes(buffer[offset : offset + prefix], "little")


def count_row_images(body: bytes, header: RowsHeader, buffer: bytes, end: int) -> int:
    """How many rows (an UPDATE's two images are one) the ROWS event holds; raises EventUnreadable for unknown types."""
    columns = column_types(body)
    images = 0
    offset = header.images
    while offset < end:
        present = int.from_bytes(header.present[images % len(header.present)], "little")
        count = present.bit_count()
        nulls = int.from_bytes(buffer[offset : offset + (count + 7 >> 3)], "little")
        offset += count + 7 >> 3
        for index, column in enumerate(columns):
            if present >> index & 1:
                if not nulls & 1:
                    offset = _value_end(buffer, offset, column)
                nulls >>= 1
        images += 1
    if offset != end:
        raise EventUnreadable("a ROWS event of a table that isn't followed has another length than its columns say")
    return images // len(header.present)


class RowsAside:
    """ROWS events of one source transaction that aren't published; they are counted as late as can be."""

    def __init__(self) -> None:
        self._events: list[tuple[bytes, bytes, int, int, int]] = []
        self._bytes = 0

    @property
    def many(self) -> bool:
        """Whether it is time to count them, for they take memory."""
        return len(self._events) >= _EVENTS_MAX or self._bytes >= _BYTES_MAX

    def add(self, body_of_map: bytes, buffer: bytes, body: int, end: int, event_type: int) -> None:
        """One more event, with the body of its TABLE_MAP."""
        self._events.append((body_of_map, buffer, body, end, event_type))
        self._bytes += end - body

    def count(self) -> int:
        """How many rows they hold; they are forgotten."""
        images = 0
        for body_of_map, buffer, body, end, event_type in self._events:
            # A partial update holds one row.
            one = event_type == PARTIAL_UPDATE_ROWS
            images += 1 if one else count_row_images(body_of_map, rows_header(buffer, body, event_type), buffer, end)
        self.forget()
        return images

    def forget(self) -> None:
        """The transaction is over."""
        if self._events:
            self._events.clear()
            self._bytes = 0
