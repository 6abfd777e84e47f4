"""Statements that write many rows at once.

Comes in: a mirror's name, its schema, rows.  Goes out: SQL text, in parts of bounded size, each of which knows the
records that it is made of, so that the guilty one can be found when the server refuses a value.

Rows go in the order of their keys: two transactions that touch the same rows lock them in the same order, and InnoDB
finds neighbours together.  Pure but for ``literal``, which turns a value into SQL text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from schemas.tables import Column, KeyPart, TableSchema
from sink.ddl import quoted
from sink.slices import Record
from sink.values import RowForm, UnreadableError, parameter_conversion

Literal = Callable[[object], bytes]
"""A value as SQL text, escaped."""
Literals = Mapping[type, Literal]
"""How values of each type that a parameter may have become SQL text; a value of any other type is refused."""

STATEMENT_BYTES_MAX = 1 << 20
"""Enough for the cost per statement not to count; little enough for many workers' statements to fit into memory."""
DELETED_KEYS_MAX = 1000
"""Keys in one DELETE.  With predicates that need more memory than ``range_optimizer_max_mem_size`` (8 MiB; about 230
bytes each: MySQL manual, "Range Optimization") the server reads the whole table instead."""

_NEW = "rowflow_new"
_WRONG_TYPE = "a column's value is of no type that SQL has"
_NO_LITERAL = "a column's value can't be written in SQL: half of a surrogate pair, or a number with too many digits"


class RenderedRow(NamedTuple):
    """A row or a key as SQL text, and the record that it comes from."""

    text: bytes
    record: Record


@dataclass(frozen=True, slots=True)
class Batch:
    """One statement over many rows, which may also be run over some of them."""

    head: bytes
    separator: bytes
    tail: bytes
    rows: Sequence[RenderedRow]

    def statement(self, start: int, end: int) -> bytes:
        """The statement over the rows from ``start`` up to ``end``."""
        return self.head + self.separator.join([row.text for row in self.rows[start:end]]) + self.tail


class UpsertForm:
    """How rows of one mirror are inserted, or written over where their key is there.

    ``computed``: names of the columns that functions fill, whose values follow those of the schema's columns.
    """

    def __init__(self, schema: TableSchema, mirror: str, computed: Sequence[str] = (), *, row_alias: bool) -> None:
        self._form = RowForm(schema.columns, parameter_conversion)
        names = [*self._form.names, *computed]
        columns = ", ".join(map(quoted, names))
        self._head = f"INSERT INTO {quoted(mirror)} ({columns}) VALUES ".encode()
        new = f"{_NEW}.{{}}" if row_alias else "VALUES({})"
        whole_key_columns = {part.column for part in schema.primary_key if not part.prefix_chars}
        # A key that is a prefix leaves the rest of its column free to change.  With nothing left, the row is as it was.
        updated = [name for name in names if name not in whole_key_columns] or names[:1]
        assignments = ", ".join(f"{quoted(name)} = {new.format(quoted(name))}" for name in updated)
        alias = f" AS {_NEW}" if row_alias else ""
        self._tail = f"{alias} ON DUPLICATE KEY UPDATE {assignments}".encode()

    def parameters(self, row: Mapping[str, Any]) -> list[Any]:
        """The row's values in the schema's order, as SQL parameters; raises UnreadableError."""
        return self._form.values(row)

    def batches(self, rows: Iterable[RenderedRow], statement_bytes_max: int) -> Iterator[Batch]:
        """Statements over rows that :func:`render` made, in their order."""
        for part in parts(rows, min(STATEMENT_BYTES_MAX, statement_bytes_max), None):
            yield Batch(self._head, b",", self._tail, part)


class DeleteForm:
    """How rows of one mirror are deleted by their keys."""

    def __init__(self, schema: TableSchema, mirror: str) -> None:
        self._key = schema.primary_key
        columns = [schema.by_name[part.column] for part in self._key]
        self._form = RowForm(columns, partial(parameter_conversion, compared=True))
        self._listed = len(self._key) == 1 and not self._key[0].prefix_chars
        head = f"DELETE FROM {quoted(mirror)} WHERE "
        self._head = (head + (f"{quoted(self._key[0].column)} IN (" if self._listed else "")).encode()

    def parameters(self, row: Mapping[str, Any]) -> list[Any]:
        """The key's values in key order, as SQL parameters; raises UnreadableError."""
        return self._form.values(row)

    def condition(self, key: Sequence[Any], literals: Literals) -> bytes:
        """What stands for one key in the statement; raises UnreadableError."""
        try:
            if self._listed:
                return literals[type(key[0])](key[0])
            return b"(" + b" AND ".join(map(_matches, self._key, key, [literals] * len(key))) + b")"
        except KeyError:
            raise UnreadableError(_WRONG_TYPE) from None
        except ValueError:
            raise UnreadableError(_NO_LITERAL) from None

    def batches(self, rows: Iterable[RenderedRow]) -> Iterator[Batch]:
        """Statements over keys as :meth:`condition` gives them."""
        separator, tail = (b",", b")") if self._listed else (b" OR ", b"")
        for part in parts(rows, STATEMENT_BYTES_MAX, DELETED_KEYS_MAX):
            yield Batch(self._head, separator, tail, part)


def literals_of(literal: Literal) -> Literals:
    """From what renders any value; the types that need no escaping are rendered here, which is much faster."""
    return {
        int: b"%d".__mod__,
        type(None): lambda _value: b"NULL",
        **dict.fromkeys((str, float, bytes, Decimal), literal),
    }


def render(values: Iterable[object], literals: Literals) -> bytes:
    """A row as it stands after VALUES; raises UnreadableError where SQL can't hold a value."""
    try:
        return b"(" + b",".join([literals[type(value)](value) for value in values]) + b")"
    except KeyError:
        raise UnreadableError(_WRONG_TYPE) from None
    except ValueError:
        raise UnreadableError(_NO_LITERAL) from None


def key_order(schema: TableSchema, columns: Sequence[Column]) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """A sort key for lists of values in the order of ``columns``: the key's values, in key order."""
    names = [column.name for column in columns]
    places = [names.index(name) for name in schema.key_columns]
    return lambda values: tuple(values[place] for place in places)


def _matches(part: KeyPart, value: Any, literals: Literals) -> bytes:
    """A condition that holds for the one row with this key, read from the front of the primary key's index."""
    column = quoted(part.column).encode()
    literal = literals[type(value)]
    if not part.prefix_chars or len(value) < part.prefix_chars:
        return column + b" = " + literal(value)
    prefix = value[: part.prefix_chars]
    if isinstance(prefix, bytes):
        pattern = prefix.replace(b"\\", b"\\\\").replace(b"%", b"\\%").replace(b"_", b"\\_") + b"%"
        return column + b" LIKE " + literal(pattern)
    return column + b" LIKE " + literal(prefix.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%")


def parts(rows: Iterable[RenderedRow], size_bytes_max: int, rows_max: int | None) -> Iterator[list[RenderedRow]]:
    """Cut rows into parts that are not longer than ``size_bytes_max``, unless a single row is."""
    part: list[RenderedRow] = []
    size_bytes = 0
    for row in rows:
        if part and (size_bytes + len(row.text) > size_bytes_max or len(part) == rows_max):
            yield part
            part, size_bytes = [], 0
        part.append(row)
        size_bytes += len(row.text) + 4
    if part:
        yield part
