"""How each column type lies in a row image, and the Python expression that makes its value.

Comes in: a column of a schema.  Goes out: its form, for the generator of decode plans: struct codes and an expression for
types of fixed size; the width of the length and an expression for the others.

Sources: MySQL manual, "Rows_event" and "Table_map_event" (metadata of types), "Date and Time Data Type Representation".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import orjson

from cdc_reader import values
from cdc_reader.charsets import UTF8_CHARSETS, decoder
from cdc_reader.errors import TableUnfollowable
from cdc_reader.json_binary import json_text
from schemas.tables import Column, TableName

Bind = Callable[[str, object], str]
"""Gives an object a name in the generated module, made of a stem; returns the name."""
Expression = Callable[[Sequence[str], str], str]
"""Makes a Python expression of the names of the numbers read and an expression for the value's own bytes."""
Order = Literal["", "<", ">"]
AnyDecoder = Callable[[bytes], str | None]


def _as_read(numbers: Sequence[str], _stored: str) -> str:
    return numbers[0]


@dataclass(frozen=True, slots=True)
class FixedForm:
    """A value of fixed size: struct ``codes`` in byte ``order`` (empty: any order), and the expression that makes it."""

    codes: str
    order: Order
    expression: Expression = _as_read

    @property
    def numbers(self) -> int:
        """How many numbers, or runs of bytes (``s``), are read."""
        return 1 if self.codes.endswith("s") else len(self.codes)

    @property
    def size(self) -> int:
        """In bytes."""
        return struct.calcsize(f"<{self.codes}")


@dataclass(frozen=True, slots=True)
class VariableForm:
    """A value behind its length, an unsigned little-endian number of ``length_bytes``."""

    length_bytes: int
    expression: Callable[[str], str]
    """Makes a Python expression of one for the value's bytes."""


Form = FixedForm | VariableForm

_INTEGERS = {"tinyint": "b", "smallint": "h", "int": "i", "bigint": "q"}
NUMBER_TYPES = frozenset({*_INTEGERS, "mediumint", "bit", "year"})
"""Types whose values are whole numbers."""
_BLOB_LENGTH_BYTES = {
    "tinyblob": 1,
    "blob": 2,
    "mediumblob": 3,
    "longblob": 4,
    "tinytext": 1,
    "text": 2,
    "mediumtext": 3,
    "longtext": 4,
}
_STRINGS = frozenset({"char", "varchar", "binary", "varbinary"})
STORED_AS_BLOB = frozenset(
    [
        "vector",
        "geometry",
        "point",
        "linestring",
        "polygon",
        "multipoint",
        "multilinestring",
        "multipolygon",
        "geomcollection",
    ]
)
_JSON_MEMO_BYTES = 512
_JSON_MEMO_VALUES = 2048
_TWO_DIGITS = tuple(f"{number:02d}" for number in range(100))
_THREE_DIGITS = tuple(f"{number:03d}" for number in range(1000))

GLOBALS = {
    "CLOCKS": values.CLOCKS,
    "DATES": values.DATES,
    "DATETIME_DAYS": values.DATETIME_DAYS,
    "EPOCH_DAYS": values.EPOCH_DAYS,
    "FLOATS": values.FLOATS,
    "SECONDS": values.SECONDS,
    "THREE_DIGITS": _THREE_DIGITS,
    "TWO_DIGITS": _TWO_DIGITS,
    "base64_text": values.base64_text,
    "dumps": orjson.dumps,
    "join": b"".join,
}
"""What expressions may name besides what they bind."""


class JsonTexts(values.Memo[bytes, str]):
    """Texts of JSON values; long ones are not remembered."""

    __slots__ = ()

    def __missing__(self, stored: bytes) -> str:
        if len(stored) > _JSON_MEMO_BYTES:
            return json_text(stored)
        return super().__missing__(stored)


def form_of(table: TableName, column: Column, bind: Bind, decode: AnyDecoder | None = None) -> Form:
    """The column's form; ``decode`` replaces its character set's decoder.  Raises TableUnfollowable for unknown types."""
    if column.type in _INTEGERS:
        code = _INTEGERS[column.type]
        return FixedForm(code.upper() if column.unsigned else code, "" if code == "b" else "<")
    if column.type in _BLOB_LENGTH_BYTES:
        return _content(_BLOB_LENGTH_BYTES[column.type], column, bind, decode)
    if column.type in STORED_AS_BLOB:
        return VariableForm(4, _base64)
    if column.type in _STRINGS:
        return _string(column, bind, decode)
    make = _FORMS.get(column.type)
    if make is None:
        raise unknown_type(table, column)
    return make(column, bind)


def unknown_type(table: TableName, column: Column) -> TableUnfollowable:
    """What is raised for a column of a type that this version doesn't know."""
    return TableUnfollowable(
        f"column {column.name} of {table} has the type {column.type}, unknown to this version of Rowflow: change the "
        f'column, or leave the table out ("!{table}" in [source] tables)'
    )


def number_codes(size: int) -> str:
    """The struct codes that read an unsigned number of up to eight bytes, its largest part first."""
    return "".join(code for part, code in ((8, "Q"), (4, "I"), (2, "H"), (1, "B")) if size & part)


def little_endian(numbers: Sequence[str], codes: str) -> str:
    """The expression that joins what ``number_codes`` read in order ``<``; each part is above those before it."""
    shifts = [struct.calcsize(f"<{codes[:index]}") * 8 for index in range(len(codes))]
    return _joined(numbers, shifts)


def big_endian(numbers: Sequence[str], codes: str) -> str:
    """The same in order ``>``; each part is below those before it."""
    shifts = [struct.calcsize(f"<{codes[index + 1 :]}") * 8 for index in range(len(codes))]
    return _joined(numbers, shifts)


def _joined(numbers: Sequence[str], shifts: Sequence[int]) -> str:
    terms = [f"{number} << {shift}" if shift else number for number, shift in zip(numbers, shifts, strict=True)]
    return terms[0] if len(terms) == 1 else f"({' | '.join(terms)})"


def _base64(stored: str) -> str:
    return f"base64_text({stored})"


def length_form(size: int) -> FixedForm:
    """How a length of so many bytes is read."""
    codes = number_codes(size)
    return FixedForm(codes, "<" if size > 1 else "", lambda numbers, _: little_endian(numbers, codes))


# ---- texts and binary content ----


def _content(length_bytes: int, column: Column, bind: Bind, decode: AnyDecoder | None) -> VariableForm:
    if not column.charset:
        return VariableForm(length_bytes, _base64)
    if decode is None and column.charset in UTF8_CHARSETS:
        return VariableForm(length_bytes, lambda stored: f"{stored}.decode()")
    name = bind("decode", decode or decoder(column.charset))
    return VariableForm(length_bytes, lambda stored: f"{name}({stored})")


def _string(column: Column, bind: Bind, decode: AnyDecoder | None) -> VariableForm:
    length_bytes = 2 if column.length > 255 else 1
    if column.type == "binary":
        return VariableForm(length_bytes, lambda stored: f'base64_text({stored}.ljust({column.length}, b"\\0"))')
    return _content(length_bytes, column, bind, decode)


def _json(_column: Column, bind: Bind) -> VariableForm:
    texts = bind("json_texts", JsonTexts(json_text, _JSON_MEMO_VALUES))
    return VariableForm(4, lambda stored: f"{texts}[{stored}]")


# ---- numbers ----


def _mediumint(column: Column, _bind: Bind) -> FixedForm:
    codes = "HB" if column.unsigned else "Hb"
    return FixedForm(codes, "<", lambda numbers, _: little_endian(numbers, "HB"))


def _bit(column: Column, _bind: Bind) -> FixedForm:
    codes = number_codes((column.length + 7) // 8)
    return FixedForm(codes, ">", lambda numbers, _: big_endian(numbers, codes))


def _float(_column: Column, _bind: Bind) -> FixedForm:
    # The two zeros are equal as keys of a dict, and are right as they are.
    return FixedForm("f", "<", lambda numbers, _: f"(FLOATS[{numbers[0]}] if {numbers[0]} else {numbers[0]})")


def _year(_column: Column, _bind: Bind) -> FixedForm:
    return FixedForm("B", "", lambda numbers, _: f"({numbers[0]} + 1900 if {numbers[0]} else 0)")


def _decimal(column: Column, bind: Bind) -> FixedForm:
    """Groups of up to nine digits; a negative number has all bits inverted and goes the general way, remembered."""
    precision, scale = column.length, column.scale
    general = bind("decimals", values.Memo(lambda stored: values.decimal_text(stored, precision, scale)))
    if precision == scale:
        size = values.decimal_bytes(precision, scale)
        return FixedForm(f"{size}s", "", lambda numbers, _: f"{general}[{numbers[0]}]")
    whole_groups = values.decimal_groups(precision - scale, leading=True)
    fraction_groups = values.decimal_groups(scale, leading=False)
    group_codes = [number_codes(width) for width, _ in (*whole_groups, *fraction_groups)]

    def expression(numbers: Sequence[str], stored: str) -> str:
        rest = iter(numbers)
        parts = [big_endian([next(rest) for _ in codes], codes) for codes in group_codes]
        parts[0] = f"({parts[0]} ^ {1 << whole_groups[0][0] * 8 - 1:#x})"
        whole = parts[0]
        for part, (_, digits) in zip(parts[1:], whole_groups[1:], strict=False):
            whole = f"({whole} * {10**digits} + {part})"
        fraction = ""
        for part, (_, digits) in zip(parts[len(whole_groups) :], fraction_groups, strict=True):
            fraction += f"{{TWO_DIGITS[{part}]}}" if digits == 2 else f"{{{part}:0{digits}d}}"
        sign_bit = 1 << struct.calcsize(group_codes[0][0]) * 8 - 1
        text = f'f"{{{whole}}}.{fraction}"' if scale else f"str({whole})"
        return f"({text} if {numbers[0]} & {sign_bit:#x} else {general}[{stored}])"

    return FixedForm("".join(group_codes), ">", expression)


# ---- dates and times ----


def _fraction_codes(scale: int) -> str:
    return number_codes((scale + 1) // 2)


def _fraction(numbers: Sequence[str], scale: int) -> str:
    """The f-string part of a fraction of so many digits; it is stored as a whole number of two, four or six digits."""
    stored = big_endian(numbers, _fraction_codes(scale))
    if scale == 6:
        return f".{_six_digits(stored)}"
    return f".{{{stored} // 10:0{scale}d}}" if scale % 2 else f".{{{stored}:0{scale}d}}"


def _six_digits(number: str) -> str:
    """Two look-ups are faster than formatting with leading zeros."""
    return f"{{THREE_DIGITS[{number} // 1000]}}{{THREE_DIGITS[{number} % 1000]}}"


def _date(_column: Column, _bind: Bind) -> FixedForm:
    return FixedForm("HB", "<", lambda numbers, _: f"DATES[{numbers[0]} | {numbers[1]} << 16]")


def _datetime(column: Column, _bind: Bind) -> FixedForm:
    scale = column.scale
    if scale == 6:

        def micros(numbers: Sequence[str], _stored: str) -> str:
            number = numbers[0]
            clock = f"CLOCKS[{number} >> 24 & 0x1FFFF]"
            return f'f"{{DATETIME_DAYS[{number} >> 41]}}{{{clock}}}.{_six_digits(f"({number} & 0xFFFFFF)")}"'

        return FixedForm("Q", ">", micros)

    def expression(numbers: Sequence[str], _stored: str) -> str:
        high, low = numbers[:2]
        whole = f"{{DATETIME_DAYS[{high} >> 9]}}{{CLOCKS[({high} & 0x1FF) << 8 | {low}]}}"
        return f'f"{whole}{_fraction(numbers[2:], scale) if scale else ""}"'

    return FixedForm("IB" + _fraction_codes(scale), ">", expression)


def _timestamp(column: Column, _bind: Bind) -> FixedForm:
    scale = column.scale
    zero = values.zero_timestamp(scale)

    def expression(numbers: Sequence[str], _stored: str) -> str:
        second = numbers[0]
        whole = f"{{EPOCH_DAYS[{second} // 86400]}}{{SECONDS[{second} % 86400]}}"
        return f'(f"{whole}{_fraction(numbers[1:], scale) if scale else ""}Z" if {second} else "{zero}")'

    return FixedForm("I" + _fraction_codes(scale), ">", expression)


def _time(column: Column, bind: Bind) -> FixedForm:
    scale = column.scale
    texts = bind("times", values.Memo(lambda stored: values.time_text(stored, scale)))
    return FixedForm(f"{3 + (scale + 1) // 2}s", "", lambda numbers, _: f"{texts}[{numbers[0]}]")


# ---- members ----


def _enum(column: Column, bind: Bind) -> FixedForm:
    members = bind("members", ("", *column.members))
    codes = "B" if len(column.members) < 256 else "H"
    return FixedForm(codes, "" if codes == "B" else "<", lambda numbers, _: f"{members}[{numbers[0]}]")


def _set(column: Column, bind: Bind) -> FixedForm:
    texts = bind("sets", values.Memo(lambda bits: values.set_text(bits, column.members)))
    size = (len(column.members) + 7) // 8
    codes = number_codes(size if size <= 4 else 8)
    return FixedForm(codes, "<", lambda numbers, _: f"{texts}[{little_endian(numbers, codes)}]")


_FORMS: dict[str, Callable[[Column, Bind], Form]] = {
    "bit": _bit,
    "date": _date,
    "datetime": _datetime,
    "decimal": _decimal,
    "double": lambda _column, _bind: FixedForm("d", "<"),
    "enum": _enum,
    "float": _float,
    "json": _json,
    "mediumint": _mediumint,
    "set": _set,
    "time": _time,
    "timestamp": _timestamp,
    "year": _year,
}
