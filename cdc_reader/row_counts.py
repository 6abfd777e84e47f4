"""Counts the row images in a ROWS event of a table that isn't captured, without decoding them.

Comes in: the TABLE_MAP body's column types and their metadata, and the bytes of a ROWS event.  Goes out: how many images
it holds.  Used only where a transaction is published in parts, for its place counts the images of all tables
(exactness.md R4).  Sources: MySQL manual, "Table_map_event" and "Rows_event"; field sizes as in the server's
libs/mysql/binlog/event/binary_log_funcs.cpp (calc_field_size).
"""

from __future__ import annotations

from cdc_reader.errors import SourceStopped
from cdc_reader.events import RowsHeader, length_encoded

_FIXED_BYTES = {1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 6: 0, 7: 4, 8: 8, 9: 3, 10: 3, 11: 3, 12: 8, 13: 1}
_DECIMAL, _ENUM, _SET, _STRING = 246, 247, 248, 254
_VARCHARS = {15, 253}
_BLOBS = {242, 245, 249, 250, 251, 252, 255}
_BIT, _TIMESTAMP2, _DATETIME2, _TIME2 = 16, 17, 18, 19
_METADATA_BYTES = {4: 1, 5: 1, 15: 2, 16: 2, 17: 1, 18: 1, 19: 1, 242: 1, 245: 1, 246: 2, 247: 2, 248: 2, 249: 1}
_METADATA_BYTES |= {250: 1, 251: 1, 252: 1, 253: 2, 254: 2, 255: 1}
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)


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
    raise SourceStopped(
        f"a column of type {type_code} is unknown to this version of Rowflow: its rows can't be counted"
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
    """How many rows (an UPDATE's two images are one) the ROWS event holds; raises SourceStopped for unknown types."""
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
        raise SourceStopped("a ROWS event of a table that isn't captured has another length than its columns say")
    return images // len(header.present)
