"""Computed columns, computed again.

Comes in: the functions of ``functions.py``, and rows as the source's plan gives them, read whole.  Goes out: which of a
mirror row's computed columns don't hold what the present functions give.

A function that raises gives nothing that a column could hold: its column differs.  What functions depend on besides the
row (a clock, say) shows as a difference here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import orjson

from check.forms import FLOATING, Value, event_value, value_sql
from check.plans import Row
from schemas.tables import Column, TableSchema
from sink.computed import ComputedFunction, RowComputer
from sink.ddl import ComputedColumn
from sink.values import UnreadableError


class ComputedCheck:
    """Compares the computed columns of a table.

    ``places``: where in a row of the source each of the schema's columns stands.
    """

    def __init__(self, schema: TableSchema, functions: Sequence[ComputedFunction], places: Sequence[int]) -> None:
        self._computer = RowComputer(schema, functions)
        self._readers = [
            (column.name, place, event_value(column)) for column, place in zip(schema.columns, places, strict=True)
        ]
        self.names = tuple(function.column.name for function in functions)
        self._holds = [_HOLDS[_kind(function.column)] for function in functions]

    def differing(self, source_row: Row, stored: Sequence[Value]) -> tuple[str, ...]:
        """The names of the columns of which ``stored`` isn't what the functions make of the row."""
        row = {
            name: None if source_row[place] is None else read(source_row[place]) for name, place, read in self._readers
        }
        try:
            expected = self._computer.parameters(row)
        except UnreadableError:
            return self.names
        return tuple(
            name
            for name, holds, wanted, value in zip(self.names, self._holds, expected, stored, strict=True)
            if not _same(wanted, value, holds)
        )


def stored_sql(column: ComputedColumn) -> str:
    """The expression that reads a computed column of the mirror, whole."""
    return value_sql(Column(column.name, _kind(column)), json_as_text=True, whole=True)


def is_double(column: ComputedColumn) -> bool:
    """Whether its value is read as a double."""
    return _kind(column) in FLOATING


def _kind(column: ComputedColumn) -> str:
    """The type's name alone, of ``decimal(65,30)`` and the like."""
    return column.sql_type.split("(", maxsplit=1)[0].split(" ", maxsplit=1)[0]


def _text(value: Value) -> str:
    assert isinstance(value, bytes)
    return value.decode("utf-8", "replace")


def _same(wanted: object, stored: Value, holds: Callable[[Any, Value], bool]) -> bool:
    if wanted is None or stored is None:
        return wanted is stored
    try:
        return holds(wanted, stored)
    except (ArithmeticError, ValueError):
        # Stored is what no function can return, a zero date for example.
        return False


def _same_json(wanted: Any, stored: Any) -> bool:
    """Equality in which 1, 1.0 and true are different, as they are in JSON columns."""
    if type(wanted) is not type(stored):
        return False
    if isinstance(wanted, dict):
        return wanted.keys() == stored.keys() and all(_same_json(wanted[name], stored[name]) for name in wanted)
    if isinstance(wanted, list):
        return len(wanted) == len(stored) and all(map(_same_json, wanted, stored))
    return bool(wanted == stored)


_HOLDS: dict[str, Callable[[Any, Value], bool]] = {
    "bigint": lambda wanted, stored: int(_text(stored)) == wanted,
    "tinyint": lambda wanted, stored: int(_text(stored)) == wanted,
    "decimal": lambda wanted, stored: Decimal(_text(stored)) == wanted,
    "longtext": lambda wanted, stored: _text(stored) == wanted,
    "datetime": lambda wanted, stored: datetime.fromisoformat(_text(stored)) == datetime.fromisoformat(wanted),
    "date": lambda wanted, stored: date.fromisoformat(_text(stored)) == date.fromisoformat(wanted),
    "double": lambda wanted, stored: stored == wanted,
    "json": lambda wanted, stored: _same_json(orjson.loads(wanted), orjson.loads(_text(stored))),
}
"""By a column's type: whether it holds what a function returned, both not NULL."""
