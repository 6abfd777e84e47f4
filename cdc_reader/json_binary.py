"""MySQL's binary JSON, printed as the server prints it.

Comes in: the stored bytes of a JSON column.  Goes out: the text that the server itself prints for the value, character for
character: keys in stored order, ``, `` and ``: `` between the parts, doubles by the server's own rules, opaque values (DECIMAL,
DATE, TIME, DATETIME, BLOB, BIT, ...) as the strings that it shows for them.  A geometry in JSON is an object already.

Sources: MySQL manual, "The JSON Data Type"; the format is described in the server's sql-common/json_binary.h, the number
format in strings/dtoa.cc (my_gcvt).  Raises SourceStopped for what isn't that format.
"""

from __future__ import annotations

import struct
from binascii import b2a_base64
from decimal import Decimal
from json.encoder import encode_basestring

from cdc_reader.errors import SourceStopped
from cdc_reader.values import Memo, decimal_text, packed_datetime_text, packed_time_text

_UINT16 = struct.Struct("<H").unpack_from
_INT16 = struct.Struct("<h").unpack_from
_UINT32 = struct.Struct("<I").unpack_from
_INT32 = struct.Struct("<i").unpack_from
_INT64 = struct.Struct("<q").unpack_from
_UINT64 = struct.Struct("<Q").unpack_from
_DOUBLE = struct.Struct("<d").unpack_from

_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY, _LITERAL, _SHORT, _USHORT, _LONG, _ULONG = range(9)
_STRING, _OPAQUE = 12, 15
_LITERALS = ("null", "true", "false")
_DECIMAL_FIELD, _DATE_FIELD, _TIME_FIELD = 246, 10, 11
_DATETIME_FIELDS = frozenset({7, 12})

_F_FORMAT_POINT_MIN = -14
_F_FORMAT_POINT_MAX = 15
"""Where the decimal point may stand, counted from the first digit, for a double to be printed without an exponent."""

_BASE64_LINE = 57
_KEYS_MAX = 4096


def json_text(data: bytes) -> str:
    """The server's text for a stored JSON value; no bytes at all stand for JSON's null, as they do for the server."""
    if not data:
        return "null"
    try:
        return _value(data, data[0], 1)
    except (IndexError, struct.error) as error:
        raise SourceStopped("a JSON value ends before its own lengths say: the event is damaged") from error


def double_text(value: float) -> str:
    """A double as the server prints it inside JSON: ``1.0``, ``1e15``, ``0.000001``."""
    text = repr(value)
    if "e" not in text and abs(value) < 1e15:
        return text
    sign, digits, exponent = Decimal(text).normalize().as_tuple()
    assert isinstance(exponent, int)
    minus = "-" if sign else ""
    figures = "".join(map(str, digits))
    point = len(figures) + exponent
    if _F_FORMAT_POINT_MIN <= point <= _F_FORMAT_POINT_MAX:
        # Beyond the range of repr's own plain form there are only small values left.
        return f"{minus}0.{'0' * -point}{figures}"
    fraction = f".{figures[1:]}" if len(figures) > 1 else ""
    return f"{minus}{figures[0]}{fraction}e{point - 1}"


def _key_text(key: bytes) -> str:
    return encode_basestring(key.decode()) + ": "


_KEYS: Memo[bytes, str] = Memo(_key_text, _KEYS_MAX)


def _value(data: bytes, kind: int, offset: int) -> str:
    """The value of that kind whose bytes begin at ``offset``."""
    if kind == _STRING:
        length, start = _length(data, offset)
        return encode_basestring(data[start : start + length].decode())
    if kind <= _LARGE_OBJECT:
        return _object(data, offset, large=kind == _LARGE_OBJECT)
    if kind <= _LARGE_ARRAY:
        return _array(data, offset, large=kind == _LARGE_ARRAY)
    if kind == _OPAQUE:
        return _opaque(data, offset)
    if kind == 11:
        return double_text(_DOUBLE(data, offset)[0])
    if kind == _LITERAL:
        return _LITERALS[data[offset]]
    reader = _INTEGERS.get(kind)
    if reader is None:
        raise SourceStopped(f"a JSON value holds a part of type {kind}, unknown to this version of Rowflow")
    number: int = reader(data, offset)[0]
    return str(number)


_INTEGERS = {_SHORT: _INT16, _USHORT: _UINT16, _LONG: _INT32, _ULONG: _UINT32, 9: _INT64, 10: _UINT64}


def _entry(data: bytes, entry: int, start: int, *, large: bool) -> str:
    """An element by its value entry: a kind, then the value itself where it fits, else its offset in the container."""
    kind = data[entry]
    if kind == _STRING:
        place = start + (_UINT32 if large else _UINT16)(data, entry + 1)[0]
        length = data[place]
        if length < 0x80:
            return encode_basestring(data[place + 1 : place + 1 + length].decode())
        return _value(data, kind, place)
    if _LITERAL <= kind <= (_ULONG if large else _USHORT):
        return _value(data, kind, entry + 1)
    return _value(data, kind, start + (_UINT32 if large else _UINT16)(data, entry + 1)[0])


def _object(data: bytes, start: int, *, large: bool) -> str:
    number, width = (_UINT32, 4) if large else (_UINT16, 2)
    count = number(data, start)[0]
    keys = start + 2 * width
    values = keys + count * (width + 2)
    parts = []
    for index in range(count):
        entry = keys + index * (width + 2)
        key = start + number(data, entry)[0]
        length = _UINT16(data, entry + width)[0]
        parts.append(_KEYS[data[key : key + length]] + _entry(data, values + index * (width + 1), start, large=large))
    return "{" + ", ".join(parts) + "}"


def _array(data: bytes, start: int, *, large: bool) -> str:
    number, width = (_UINT32, 4) if large else (_UINT16, 2)
    first = start + 2 * width
    end = first + number(data, start)[0] * (width + 1)
    return "[" + ", ".join([_entry(data, entry, start, large=large) for entry in range(first, end, width + 1)]) + "]"


def _length(data: bytes, offset: int) -> tuple[int, int]:
    """A length in groups of seven bits, the lowest first, and the offset behind it."""
    length = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            return length, offset
        shift += 7


def _opaque(data: bytes, offset: int) -> str:
    """A value of one of MySQL's own types."""
    field_type = data[offset]
    length, start = _length(data, offset + 1)
    content = data[start : start + length]
    if len(content) != length:
        raise IndexError
    if field_type == _DECIMAL_FIELD:
        return decimal_text(content[2:], content[0], content[1])
    if field_type == _TIME_FIELD:
        return f'"{packed_time_text(_INT64(content)[0])}"'
    if field_type == _DATE_FIELD:
        return f'"{packed_datetime_text(_INT64(content)[0])[:10]}"'
    if field_type in _DATETIME_FIELDS:
        return f'"{packed_datetime_text(_INT64(content)[0])}"'
    lines = [b2a_base64(content[at : at + _BASE64_LINE], newline=False) for at in range(0, length, _BASE64_LINE)]
    return encode_basestring(f"base64:type{field_type}:" + b"\n".join(lines).decode())
