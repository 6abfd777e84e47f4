"""MySQL's binary JSON, printed as the server prints it.

Comes in: the stored bytes of a JSON column.  Goes out: the text that the server itself prints for the value, character for
character: keys in stored order, ``, `` and ``: `` between the parts, doubles by the server's own rules, opaque values (DECIMAL,
DATE, TIME, DATETIME, BLOB, BIT, ...) as the strings that it shows for them.  A geometry in JSON is an object already.

Sources: MySQL manual, "The JSON Data Type"; the format is described in the server's sql-common/json_binary.h, the number
format in strings/dtoa.cc (my_gcvt).  Raises EventUnreadable for what isn't that format.
"""

from __future__ import annotations

import struct
from binascii import b2a_base64
from collections.abc import Callable
from decimal import Decimal
from json.encoder import encode_basestring

from cdc_reader.errors import EventUnreadable
from cdc_reader.values import Memo, decimal_text, packed_datetime_text, packed_time_text

_UINT16 = struct.Struct("<H").unpack_from
_INT16 = struct.Struct("<h").unpack_from
_UINT32 = struct.Struct("<I").unpack_from
_INT32 = struct.Struct("<i").unpack_from
_INT64 = struct.Struct("<q").unpack_from
_UINT64 = struct.Struct("<Q").unpack_from
_DOUBLE = struct.Struct("<d").unpack_from
_SMALL_ENTRIES = struct.Struct("<BH").iter_unpack
_LARGE_ENTRIES = struct.Struct("<BI").iter_unpack
_SMALL_KEYS = struct.Struct("<HH").iter_unpack
_LARGE_KEYS = struct.Struct("<IH").iter_unpack

_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY, _LITERAL, _SHORT, _USHORT, _LONG, _ULONG = range(9)
_LONG_LONG, _ULONG_LONG, _DOUBLE_KIND, _STRING, _OPAQUE = 9, 10, 11, 12, 15
_LITERALS = ("null", "true", "false")
_DECIMAL_FIELD, _DATE_FIELD, _TIME_FIELD = 246, 10, 11
_DATETIME_FIELDS = frozenset({7, 12})

_F_FORMAT_POINT_MIN = -14
_F_FORMAT_POINT_MAX = 15
"""Where the decimal point may stand, counted from the first digit, for a double to be printed without an exponent."""

_BASE64_LINE = 57
_TEMPLATES_MAX = 4096
_SHORT_STRING = 24
_SHORT_STRINGS_MAX = 8192


def json_text(data: bytes) -> str:
    """The server's text for a stored JSON value; no bytes at all stand for JSON's null, as they do for the server."""
    if not data:
        return "null"
    try:
        if data[0] == _SMALL_OBJECT:
            return _small_object(data, 1)
        return _value(data, data[0], 1)
    except (IndexError, struct.error) as error:
        raise EventUnreadable("a JSON value ends before its own lengths say: the event is damaged") from error


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


def _value(data: bytes, kind: int, offset: int) -> str:
    """The value of that kind whose bytes begin at ``offset``."""
    render = _RENDERERS.get(kind)
    if render is None:
        raise EventUnreadable(f"a JSON value holds a part of type {kind}, unknown to this version of Rowflow")
    return render(data, offset)


def _quoted(text: bytes) -> str:
    return encode_basestring(text.decode())


_SHORT_STRINGS: Memo[bytes, str] = Memo(_quoted, _SHORT_STRINGS_MAX)
"""Short strings are mostly names and marks that come again and again."""


def _string(data: bytes, offset: int) -> str:
    length, start = _length(data, offset)
    return _quoted(data[start : start + length])


def _small_object(data: bytes, start: int) -> str:
    """Two bytes each for the number of elements, the size and the offsets: what nearly all JSON is."""
    count = data[start] | data[start + 1] << 8
    if not count:
        return "{}"
    values = start + 4 + 4 * count
    names = values + 3 * count
    names_end = start + _UINT16(data, values - 4)[0] + _UINT16(data, values - 2)[0]
    template = _SMALL_TEMPLATES[data[start + 4 : values] + data[names:names_end]]
    return template % tuple(_small_elements(data, start, values, names))


def _small_array(data: bytes, start: int) -> str:
    first = start + 4
    end = first + 3 * (data[start] | data[start + 1] << 8)
    return "[" + ", ".join(_small_elements(data, start, first, end)) + "]"


def _small_elements(data: bytes, start: int, first: int, end: int) -> list[str]:
    """The elements of a container: a kind each, then the value itself where it fits, else its offset."""
    texts = []
    for kind, number in _SMALL_ENTRIES(data[first:end]):
        if kind == _STRING:
            place = start + number
            length = data[place]
            if length < _SHORT_STRING:
                texts.append(_SHORT_STRINGS[data[place + 1 : place + 1 + length]])
            else:
                texts.append(_string(data, place))
        elif kind == _SHORT:
            texts.append(str(number if number < 0x8000 else number - 0x10000))
        elif kind == _SMALL_ARRAY:
            texts.append(_small_array(data, start + number))
        elif kind == _SMALL_OBJECT:
            texts.append(_small_object(data, start + number))
        elif kind == _LITERAL:
            texts.append(_LITERALS[number])
        elif kind == _USHORT:
            texts.append(str(number))
        else:
            texts.append(_value(data, kind, start + number))
    return texts


def _template(keys: list[bytes]) -> str:
    """The text of an object with ``%s`` for its values."""
    names = [_quoted(key).replace("%", "%%") for key in keys]
    return "{" + ", ".join(f"{name}: %s" for name in names) + "}"


def _small_template(shape: bytes) -> str:
    """The template of a small object by its shape: the offsets and lengths of its keys, then the keys themselves.

    The first key lies behind 4 bytes for the object, 4 for each key and 3 for each value.
    """
    first = _UINT16(shape)[0]
    names = (first - 4) // 7 * 4 - first
    return _template(
        [shape[names + offset : names + offset + length] for offset, length in _SMALL_KEYS(shape[: names + first])]
    )


_SMALL_TEMPLATES: Memo[bytes, str] = Memo(_small_template, _TEMPLATES_MAX)
"""Objects of one table mostly have the same keys, and formatting is the fastest way to put values between them."""


def _large_object(data: bytes, start: int) -> str:
    count = _UINT32(data, start)[0]
    values = start + 8 + 6 * count
    keys = [data[start + offset : start + offset + length] for offset, length in _LARGE_KEYS(data[start + 8 : values])]
    return _template(keys) % tuple(_large_elements(data, start, values, values + 5 * count))


def _large_array(data: bytes, start: int) -> str:
    first = start + 8
    end = first + 5 * _UINT32(data, start)[0]
    return "[" + ", ".join(_large_elements(data, start, first, end)) + "]"


def _large_elements(data: bytes, start: int, first: int, end: int) -> list[str]:
    texts = []
    for index, (kind, number) in enumerate(_LARGE_ENTRIES(data[first:end])):
        inlined = _LITERAL <= kind <= _ULONG
        texts.append(_value(data, kind, first + 5 * index + 1 if inlined else start + number))
    return texts


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


_RENDERERS: dict[int, Callable[[bytes, int], str]] = {
    _SMALL_OBJECT: _small_object,
    _LARGE_OBJECT: _large_object,
    _SMALL_ARRAY: _small_array,
    _LARGE_ARRAY: _large_array,
    _LITERAL: lambda data, offset: _LITERALS[data[offset]],
    _SHORT: lambda data, offset: str(_INT16(data, offset)[0]),
    _USHORT: lambda data, offset: str(_UINT16(data, offset)[0]),
    _LONG: lambda data, offset: str(_INT32(data, offset)[0]),
    _ULONG: lambda data, offset: str(_UINT32(data, offset)[0]),
    _LONG_LONG: lambda data, offset: str(_INT64(data, offset)[0]),
    _ULONG_LONG: lambda data, offset: str(_UINT64(data, offset)[0]),
    _DOUBLE_KIND: lambda data, offset: double_text(_DOUBLE(data, offset)[0]),
    _STRING: _string,
    _OPAQUE: _opaque,
}
