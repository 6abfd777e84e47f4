"""Rowflow keeps results in MySQL up to date from the changes of other MySQL tables.

The rooms, along the way of one row::

    cdc_reader/   MySQL's binlog -> Kafka: events and position in one Kafka transaction
    stream_app/   Kafka -> slices: a Faust app, one isolated stream per partition
    sink/         slices -> MySQL: rows and next offset in one MySQL transaction
    schemas/      the contract between them
    check/        is the copy right?
    rowflow/      the command line, on top of them all

This module imports none of them: a ``functions.py`` that says ``from rowflow import computed`` brings nothing else
along.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["COMPUTED_TABLES_ATTRIBUTE", "__version__", "computed"]

__version__ = "0.1.0"

COMPUTED_TABLES_ATTRIBUTE = "__rowflow_tables__"
"""Where a marked function keeps the names of its tables."""

_Function = TypeVar("_Function", bound=Callable[[dict[str, Any]], Any])


def computed(table: str) -> Callable[[_Function], _Function]:
    """Mark a function of ``functions.py``: it adds a column of its name to the mirror of ``table``.

    The function is given a row as a dict, column -> Python value, and returns the column's value, or None; its return
    annotation (int, Decimal, str, datetime, bool, float, date or dict, also with ``| None``) is the column's type::

        @computed("shop.books")
        def title_length(row: dict) -> int:
            return len(row["title"])

    It should depend on nothing but the row.  When it raises, the row goes to the dead letters.
    """

    def mark(function: _Function) -> _Function:
        tables: tuple[str, ...] = getattr(function, COMPUTED_TABLES_ATTRIBUTE, ())
        setattr(function, COMPUTED_TABLES_ATTRIBUTE, (*tables, table))
        return function

    return mark
