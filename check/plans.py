"""A table's SELECTs on one side.

Comes in: the table's schema, as the source has it, and what the side's columns are like.  Goes out: the statements for a
page of rows in this side's key order and for rows by their keys, and how the rows that they give are taken apart.  Pure.

A row is its key's identities, then the values of the columns that the key doesn't hold whole; both sides' rows have the
same layout, so equal rows are equal tuples.  A page's rows have the cursor at their end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from check.forms import KeyForm, Value

Row = tuple[Value, ...]
Key = tuple[Value, ...]

LOOKUP_KEYS_MAX = 2000
"""Keys in one SELECT; the range optimizer gives up, and reads the whole table, when its predicates need more memory
than ``range_optimizer_max_mem_size``, 8 MiB (MySQL manual, "Range Optimization")."""
LOOKUP_BYTES_MAX = 1 << 20


@dataclass(frozen=True)
class SidePlan:
    """The statements of one side.

    ``table`` is quoted, with its schema where need be.  ``values`` are expressions; ``floating`` are the places in a row
    whose values are doubles.
    """

    table: str
    keys: tuple[KeyForm, ...]
    values: tuple[str, ...]
    floating: tuple[int, ...]

    @property
    def width(self) -> int:
        """Of a row, without the cursor."""
        return len(self.keys) + len(self.values)

    def page(self, cursor: Key | None, rows_max: int) -> str:
        """The SELECT of the next rows behind a cursor, in key order; None: from the first on."""
        order = ", ".join(key.order_sql for key in self.keys)
        where = f" WHERE {self._behind(cursor)}" if cursor else ""
        columns = ", ".join([*self._row, *(key.cursor_sql for key in self.keys if key.cursor_sql != key.identity_sql)])
        return f"SELECT {columns} FROM {self.table} FORCE INDEX (PRIMARY){where} ORDER BY {order} LIMIT {rows_max}"

    def cursor(self, row: Row) -> Key:
        """The cursor that a page's row ends with, or that its key is."""
        rest = iter(row[self.width :])
        return tuple(
            row[place] if key.cursor_sql == key.identity_sql else next(rest) for place, key in enumerate(self.keys)
        )

    def _behind(self, cursor: Key) -> str:
        """``k1 >= a AND (k1 > a OR k1 = a AND k2 > b)``: the first half gives the range, the second is exact."""
        literals = [key.cursor(value) for key, value in zip(self.keys, cursor, strict=True)]
        *_, condition = _nested(tuple(key.order_sql for key in self.keys), literals)
        if len(self.keys) == 1:
            return condition
        return f"{self.keys[0].order_sql} >= {literals[0]} AND ({condition})"

    def lookups(self, keys: Sequence[Key]) -> Iterator[str]:
        """The SELECTs that find the rows with these identities, and perhaps others."""
        head = f"SELECT {', '.join(self._row)} FROM {self.table} FORCE INDEX (PRIMARY) WHERE "
        literals = [key.literal for key in self.keys]
        if None in literals:
            terms = (
                "(" + " AND ".join(form.condition(value) for form, value in zip(self.keys, key, strict=True)) + ")"
                for key in keys
            )
            for part in _parts(terms):
                yield head + " OR ".join(part)
            return
        makers = [literal for literal in literals if literal is not None]
        if len(makers) == 1:
            make = makers[0]
            terms = (make(key[0]) for key in keys)
            names = self.keys[0].order_sql
        else:
            terms = ("(" + ",".join(make(value) for make, value in zip(makers, key, strict=True)) + ")" for key in keys)
            names = f"({', '.join(key.order_sql for key in self.keys)})"
        for part in _parts(terms):
            yield f"{head}{names} IN ({','.join(part)})"

    @property
    def _row(self) -> list[str]:
        return [*(key.identity_sql for key in self.keys), *self.values]


def _nested(names: Sequence[str], literals: Sequence[str]) -> Iterator[str]:
    """The conditions for being behind, over the last column, the last two, ...; the last one is over all."""
    condition = ""
    for name, literal in zip(reversed(names), reversed(literals), strict=True):
        condition = f"{name} > {literal}" + (f" OR {name} = {literal} AND ({condition})" if condition else "")
        yield condition


def _parts(terms: Iterator[str]) -> Iterator[list[str]]:
    """Terms in parts that one statement holds."""
    part: list[str] = []
    size_bytes = 0
    for term in terms:
        part.append(term)
        size_bytes += len(term) + 4
        if len(part) == LOOKUP_KEYS_MAX or size_bytes >= LOOKUP_BYTES_MAX:
            yield part
            part, size_bytes = [], 0
    if part:
        yield part
