"""Values of change events, on their way into SQL and into computed functions.

Comes in: column values as they stand in an event's JSON (design.md, "The change event").  Goes out: parameters for SQL,
and the Python values that functions of ``functions.py`` are given.

The conversions of a table are put together once per schema; most columns need none.  What doesn't have its column's
form raises UnreadableError, whose text names the column and never the value.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from decimal import Decimal
from operator import itemgetter
from typing import Any

import orjson

from schemas.tables import Column

Conversion = Callable[[Any], object]

_BINARIES = frozenset(
    {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"}
    | {"geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon"}
    | {"geometrycollection", "geomcollection"}
)
_FLOAT = struct.Struct("<f")


class UnreadableError(Exception):
    """A record can't be made a row of its mirror; ``detail`` may hold values of the row, ``reason`` never does."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def parameter_conversion(column: Column, *, compared: bool = False) -> Conversion | None:
    """How a column's value becomes an SQL parameter; None: as it is.  NULL is never converted.

    ``compared``: the parameter stands beside the column in a WHERE, not in VALUES; MySQL would compare a DECIMAL with a
    text as if both were DOUBLE.
    """
    if column.type in _BINARIES:
        return _from_base64
    if column.type == "timestamp":
        return _without_zone
    if column.type == "float":
        return _exact_float
    if column.type == "decimal" and compared:
        return _finite
    return None


def python_conversion(column: Column) -> Conversion | None:
    """How a column's value becomes what a computed function sees; None: as it is.

    Decimal; bytes; date and datetime (of TIMESTAMP with the zone UTC), but a text where the day doesn't exist (zero and
    partial dates); timedelta for TIME; for JSON what the text parses to.  ENUM and SET stay texts.
    """
    if column.type in _BINARIES:
        return _from_base64
    return _PYTHON_CONVERSIONS.get(column.type)


class RowForm:
    """Takes the columns of a table out of an event's row, converted."""

    def __init__(self, columns: Sequence[Column], conversion: Callable[[Column], Conversion | None]) -> None:
        self.names = tuple(column.name for column in columns)
        self._getter = _getter(self.names)
        found = ((place, conversion(column)) for place, column in enumerate(columns))
        self._conversions = tuple((place, convert) for place, convert in found if convert is not None)

    def values(self, row: Mapping[str, Any]) -> list[Any]:
        """The values in the columns' order, converted; raises UnreadableError.

        A value that has no conversion is given as it is: its type isn't looked at here.
        """
        try:
            values = list(self._getter(row))
        except KeyError:
            missing = [name for name in self.names if name not in row]
            raise UnreadableError(f"the row lacks columns: {', '.join(missing)}") from None
        for place, convert in self._conversions:
            value = values[place]
            if value is not None:
                try:
                    values[place] = convert(value)
                except (ArithmeticError, AttributeError, TypeError, ValueError, struct.error):
                    raise UnreadableError(f"column {self.names[place]} doesn't have its type's form") from None
        return values


def _getter(names: Sequence[str]) -> Callable[[Mapping[str, Any]], Sequence[Any]]:
    """An itemgetter that gives a sequence for a single name, too."""
    if len(names) > 1:
        return itemgetter(*names)
    return lambda row: [row[name] for name in names]


def _from_base64(value: str) -> bytes:
    return binascii.a2b_base64(value, strict_mode=True) if value else b""


def _without_zone(value: str) -> str:
    if not value.endswith("Z"):
        raise ValueError("a TIMESTAMP ends with Z")
    return value[:-1]


def _finite(value: str) -> Decimal:
    """A NaN would stand in the statement as a name of a column."""
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError("no number")
    return number


def _exact_float(value: float) -> float:
    """The FLOAT that a shortened number stands for.

    MySQL finds 3.4028235e38, the shortest form of the greatest FLOAT, out of range, and a FLOAT of 0.1 unequal to 0.1.
    """
    exact: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    return exact


def _date(value: str) -> date | str:
    try:
        return date.fromisoformat(value)
    except ValueError:
        return value


def _datetime(value: str) -> datetime | str:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        return value


def _timedelta(value: str) -> timedelta:
    hours, minutes, seconds = value.removeprefix("-").split(":")
    whole, _, fraction = seconds.partition(".")
    span = timedelta(
        hours=int(hours), minutes=int(minutes), seconds=int(whole), microseconds=int(fraction.ljust(6, "0") or 0)
    )
    return -span if value.startswith("-") else span


_PYTHON_CONVERSIONS: dict[str, Conversion] = {
    "decimal": Decimal,
    "json": orjson.loads,
    "date": _date,
    "datetime": _datetime,
    "timestamp": _datetime,
    "time": _timedelta,
}
