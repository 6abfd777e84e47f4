"""The forms in which columns are read, so that two values are equal exactly if what is read is.

Comes in: columns of a captured table.  Goes out: SQL expressions for either side, literals that find a key again, and
what change events would hold for a value read so.  Pure.

What servers print isn't what they hold (exactness.md C2): a FLOAT is printed with 6 digits, a ZEROFILL number with
zeros, and a text in its own character set.  So

    numbers                 ``col + 0`` as text; BIT too
    FLOAT, DOUBLE           ``col + 0e0``, a double; -0 counts as 0
    texts, ENUM, SET        their bytes in utf8mb4; trailing spaces and case count
    binaries, GEOMETRY, VECTOR   their stored bytes
    dates and times         as printed, zero and partial dates included
    JSON                    parsed anew from its text (C4), as the sink's was; where the sink is MariaDB, the text

NULL stays NULL.  Values that may be long are read as they are up to 127 bytes, else as their SHA-512 in 128 hex digits
(MySQL manual, "Encryption and Compression Functions"), so that memory is bounded; the lengths tell both apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from cdc_reader.values import base64_text, shortest_float
from schemas.tables import Column, KeyPart
from sink.ddl import quoted

Value = bytes | float | None
"""What is read for one column: a double for FLOAT and DOUBLE, else bytes."""

INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year", "bit"})
FLOATING = frozenset({"float", "double"})
TEXTS = frozenset({"char", "varchar", "tinytext", "text", "mediumtext", "longtext"})
MEMBERS = frozenset({"enum", "set"})
MOMENTS = frozenset({"date", "datetime", "timestamp"})
BINARY_STRINGS = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})

_LONG_BYTES = 1024
_SHORT_MAX_BYTES = 127


def value_sql(column: Column, *, json_as_text: bool, whole: bool) -> str:
    """The expression for a column's value; ``whole``: never a digest in place of a long value."""
    name = quoted(column.name)
    if column.type in FLOATING:
        return f"{name} + 0e0"
    if column.type in INTEGERS or column.type == "decimal":
        return f"CAST({name} + 0 AS BINARY)"
    if column.type in MOMENTS or column.type == "time":
        return f"CAST({name} AS BINARY)"
    if column.type == "json":
        text = f"CAST({name} AS CHAR)" if json_as_text else f"CAST(CAST(CAST({name} AS CHAR) AS JSON) AS CHAR)"
        # Its digest even where it is short: to measure the text, the server would make it once more.
        return f"CAST({text if whole else f'SHA2({text}, 512)'} AS BINARY)"
    content = _content_sql(column, name)
    if whole or not _may_be_long(column):
        return content
    return f"CAST(IF(OCTET_LENGTH({content}) <= {_SHORT_MAX_BYTES}, {content}, SHA2({content}, 512)) AS BINARY)"


def _content_sql(column: Column, expression: str) -> str:
    if column.type in TEXTS or column.type in MEMBERS:
        return f"CAST(CONVERT({expression} USING utf8mb4) AS BINARY)"
    return f"CAST({expression} AS BINARY)"


def _may_be_long(column: Column) -> bool:
    if column.type in MEMBERS:
        return False
    sized = column.type in {"char", "varchar", "binary", "varbinary"}
    return not sized or column.length >= _LONG_BYTES


class KeyForm(NamedTuple):
    """How a part of the primary key is read and found again, on one side.

    ``identity_sql`` gives the bytes by which keys are told apart, the same on both sides; ``order_sql`` is what this
    side orders by; ``cursor_sql`` gives the bytes from which ``cursor`` makes a literal for going on behind a row;
    ``condition`` makes the condition that finds the rows with an identity, and perhaps others (of another case, say).
    ``literal`` is the right side of that condition where it is an equality, and None where it isn't.
    """

    identity_sql: str
    order_sql: str
    cursor_sql: str
    cursor: Callable[[Value], str]
    condition: Callable[[Value], str]
    literal: Callable[[Value], str] | None


def key_form(column: Column, part: KeyPart, *, charset: str, collation: str) -> KeyForm:
    """The form of a key part on a side where the column has this character set and collation (empty: not a text)."""
    name = quoted(column.name)
    if part.prefix_chars:
        return _prefix_form(column, part.prefix_chars, charset, collation)
    if column.type in FLOATING:
        return KeyForm(f"{name} + 0e0", name, f"{name} + 0e0", _double, _equals(name, _double), _double)
    if column.type in INTEGERS or column.type == "decimal":
        number = f"CAST({name} + 0 AS BINARY)"
        return KeyForm(number, name, number, _number, _equals(name, _number), _number)
    content = _content_sql(column, name)
    if column.type in MEMBERS:
        # Ordered by the members' numbers, which may be others on the other side.
        literal = _text_literal(charset, collation)
        return KeyForm(content, name, f"CAST({name} + 0 AS BINARY)", _number, _equals(name, literal), literal)
    if column.type in TEXTS:
        literal = _text_literal(charset, collation)
        return KeyForm(content, name, f"CAST({name} AS BINARY)", _raw(charset), _equals(name, literal), literal)
    literal = _hex if column.type in BINARY_STRINGS else _quoted
    return KeyForm(content, name, content, literal, _equals(name, literal), literal)


def _prefix_form(column: Column, characters: int, charset: str, collation: str) -> KeyForm:
    """The key is the first characters of the column, of a binary column its first bytes."""
    name = quoted(column.name)
    prefix = f"LEFT({name}, {characters})"
    binary = column.type in BINARY_STRINGS
    literal = _hex if binary else _text_literal(charset, collation)

    def condition(identity: Value) -> str:
        content = _bytes(identity)
        if (len(content) if binary else len(content.decode())) < characters:
            return f"{name} = {literal(content)}"
        escaped = content.replace(b"\\", b"\\\\").replace(b"%", b"\\%").replace(b"_", b"\\_")
        return f"{name} LIKE {literal(escaped + b'%')}"

    cursor = _hex if binary else _raw(charset)
    return KeyForm(_content_sql(column, prefix), prefix, f"CAST({prefix} AS BINARY)", cursor, condition, None)


def _equals(name: str, literal: Callable[[Value], str]) -> Callable[[Value], str]:
    return lambda identity: f"{name} = {literal(identity)}"


def _bytes(value: Value) -> bytes:
    assert isinstance(value, bytes)
    return value


def _number(value: Value) -> str:
    return _bytes(value).decode("ascii")


def _double(value: Value) -> str:
    assert isinstance(value, float)
    text = repr(value)
    return text if "e" in text else f"{text}e0"


def _quoted(value: Value) -> str:
    """Of dates and times: digits and signs only."""
    return f"'{_number(value)}'"


def _hex(value: Value) -> str:
    return f"X'{_bytes(value).hex()}'"


def _raw(charset: str) -> Callable[[Value], str]:
    """A text from its bytes in the column's own character set."""
    return lambda value: f"_{charset} {_hex(value)}"


def _text_literal(charset: str, collation: str) -> Callable[[Value], str]:
    """A text from its bytes in utf8mb4, such that comparing it leaves the column, and so the index, as it is."""
    if charset == "utf8mb4":
        return _raw(charset)
    return lambda value: f"CONVERT(_utf8mb4 {_hex(value)} USING {charset}) COLLATE {collation}"


def ordering(column: Column, part: KeyPart) -> Callable[[Value], int | bytes] | None:
    """What sorts identities as both servers do (exactness.md C3); None where the two may differ."""
    if part.prefix_chars:
        return None
    if column.type in INTEGERS:
        return lambda value: int(_bytes(value))
    if column.type in MOMENTS or column.type in BINARY_STRINGS:
        return _bytes
    return None


def event_value(column: Column) -> Callable[[Value], object]:
    """What makes of a value, read whole, what a change event holds (design.md, "The change event"); not for NULL."""
    if column.type in INTEGERS:
        return lambda value: int(_bytes(value))
    if column.type == "float":
        return lambda value: shortest_float(float(value or 0))
    if column.type == "double":
        return lambda value: value
    if column.type == "datetime":
        return lambda value: _number(value).replace(" ", "T")
    if column.type == "timestamp":
        return lambda value: _number(value).replace(" ", "T") + "Z"
    if column.type in TEXTS or column.type in MEMBERS or column.type in {"decimal", "date", "time", "json"}:
        return lambda value: _bytes(value).decode("utf-8", "replace")
    return lambda value: base64_text(_bytes(value))
