"""Shards: reading a table in the order of its primary key, piece by piece, as events with op ``r``.

Comes in: a table's schema; then the rows of its SELECT, raw as the server prints them (``character_set_results`` NULL,
time zone +00:00).  Goes out: the SELECT for the rows behind a key, the messages, and the key that the next SELECT goes
on from.

Guarantees: a row's JSON is byte for byte what the decode plan makes of the same row in the binlog.  No row is left out or
read twice: keys are compared by the server, in the columns' own collations, as its index has them, with literals that
say exactly what the server printed.  A key with a prefix part is ordered by that prefix, which no index can do: each
shard of such a table is sorted by the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from hashlib import md5
from struct import Struct
from typing import NamedTuple

import orjson

from cdc_reader import values
from cdc_reader.charsets import decoder
from cdc_reader.column_forms import STORED_AS_BLOB, unknown_type
from cdc_reader.errors import TableUnfollowable
from cdc_reader.key_ranges import Key, KeyRange
from cdc_reader.plan_source import is_text
from cdc_reader.plans import Headers, Message, OnUndecodable, UndecodableTexts, check_key
from cdc_reader.sql import quoted, quoted_table
from schemas.keys import row_key
from schemas.tables import Column, KeyPart, TableName, TableSchema

Row = tuple[bytes | None, ...]
_HALVES = Struct(">QQ").unpack
_Convert = Callable[[bytes], object]

INTEGERS = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "year"})
_DATES = frozenset({"date", "datetime", "timestamp"})
_BINARY = frozenset({"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"})
_NUMBER_TEXT = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?")
_DATE_TEXT = re.compile(rb"[-0-9:. ]+")


# ---- from the server's text to the event's value ----


def _converter(table: TableName, column: Column) -> _Convert:
    """What makes a column's value of the bytes that the server prints for :func:`_selected`."""
    if column.charset:
        return bytes.decode if column.charset == "binary" else decoder(column.charset)
    if column.type in INTEGERS:
        return int
    convert = _CONVERTERS.get(column.type)
    if convert is None:
        raise unknown_type(table, column)
    return convert


def _decimal(text: bytes) -> str:
    """ZEROFILL prints zeros in front, of which the binlog knows nothing."""
    number = text.decode("ascii").lstrip("0")
    return f"0{number}" if not number or number.startswith(".") else number


def _float(text: bytes) -> float:
    return values.shortest_float(float(text))


def _datetime(text: bytes) -> str:
    return text.decode("ascii").replace(" ", "T")


def _timestamp(text: bytes) -> str:
    return f"{_datetime(text)}Z"


_CONVERTERS: dict[str, _Convert] = {
    "bit": lambda stored: int.from_bytes(stored, "big"),
    "decimal": _decimal,
    "double": float,
    "float": _float,
    "date": bytes.decode,
    "time": bytes.decode,
    "datetime": _datetime,
    "timestamp": _timestamp,
    "json": bytes.decode,
    **dict.fromkeys(STORED_AS_BLOB | _BINARY, values.base64_text),
}


def _selected(column: Column) -> str:
    """The expression that prints all of a column's value: of FLOAT and DOUBLE(m,d) the server shows only some digits."""
    name = quoted(column.name)
    return f"{name} * 1E0" if column.type in ("float", "double") else name


# ---- keys ----


def _ordered(column: Column, part: KeyPart) -> str:
    """The expression by which a part of the key is ordered and compared."""
    name = quoted(column.name)
    if part.prefix_chars:
        return f"LEFT({name}, {part.prefix_chars})"
    return name if _index_orders(column, part) else _as_number(column)


def _index_orders(column: Column, part: KeyPart) -> bool:
    """Whether the primary key itself can give the order.

    Not of prefixes; nor of a SET with 64 members, whose numbers the server orders as unsigned and compares as signed.
    """
    return part.prefix_chars == 0 and not (column.type == "set" and len(column.members) >= 64)


def _as_number(column: Column) -> str:
    return f"CAST({quoted(column.name)} AS UNSIGNED)"


def _printed(column: Column, part: KeyPart) -> str:
    """The expression that prints what :func:`literal_of` needs: of ENUM and SET, which are ordered by it, the number."""
    if column.members:
        return _as_number(column)
    return _ordered(column, part) if part.prefix_chars else _selected(column)


def literal_of(column: Column, printed: bytes) -> str:
    """A literal that is exactly the value that the server printed."""
    if column.members:
        return _checked(_NUMBER_TEXT, printed)
    if column.charset:
        return f"_{column.charset} X'{printed.hex()}'"
    if column.type in _BINARY:
        return f"X'{printed.hex()}'"
    if column.type == "bit":
        return str(int.from_bytes(printed, "big"))
    if column.type == "time":
        return f"TIME'{_checked(_DATE_TEXT, printed)}'"
    if column.type in _DATES:
        return f"'{_checked(_DATE_TEXT, printed)}'"
    text = _checked(_NUMBER_TEXT, printed)
    if column.type in ("float", "double") and "e" not in text:
        return f"{text}E0"
    return text


def _checked(pattern: re.Pattern[bytes], printed: bytes) -> str:
    if not pattern.fullmatch(printed):
        raise TableUnfollowable("the server prints a part of its key in a form that can't be compared with")
    return printed.decode("ascii")


class ShardMessages(NamedTuple):
    """The events of a shard's rows; ``digests``: the sums of both halves of the MD5 of each row's JSON, as numbers."""

    messages: list[Message]
    digests: tuple[int, int]


class ShardPlan:
    """Reads one version of a table; raises TableUnfollowable for types that it doesn't know and without a key."""

    def __init__(self, schema: TableSchema, on_undecodable: OnUndecodable = "stop") -> None:
        check_key(schema)
        self.schema = schema
        self._names = tuple(schema.by_name)
        self._converters = [_converter(schema.name, column) for column in schema.columns]
        self._undecodable = UndecodableTexts(schema, on_undecodable)
        self._lenient: list[_Convert] = [
            self._undecodable.lenient(column, decoder(column.charset)) if is_text(column) else convert
            for column, convert in zip(schema.columns, self._converters, strict=True)
        ]
        self._key = [(schema.by_name[part.column], part) for part in schema.primary_key]
        self._places: list[int] = []
        selected = [_selected(column) for column in schema.columns]
        for column, part in self._key:
            printed = _printed(column, part)
            if printed not in selected:
                selected.append(printed)
            self._places.append(selected.index(printed))
        by_index = all(_index_orders(column, part) for column, part in self._key)
        table = quoted_table(schema.name)
        self._select = f"SELECT {', '.join(selected)} FROM {table}{' FORCE INDEX (PRIMARY)' if by_index else ''}"
        self._order = ", ".join(_ordered(column, part) for column, part in self._key)
        self._order_back = ", ".join(f"{_ordered(column, part)} DESC" for column, part in self._key)
        self._select_key = f"SELECT {', '.join(_printed(column, part) for column, part in self._key)} FROM {table}"
        self.key_columns = tuple(column for column, _ in self._key)
        self.splits = by_index
        """Whether ranges can be split: not where each SELECT is sorted by the server, for no index gives the order."""

    def select_sql(self, keys: KeyRange, limit_rows: int, where: str = "") -> str:
        """The SELECT of the first rows of a range of keys for which an expression holds; its values are literals."""
        conditions = self._where(keys, *((f"({where})",) if where else ()))
        return f"{self._select}{conditions} ORDER BY {self._order} LIMIT {limit_rows}"

    # ---- where a range can be split ----

    def end_sql(self, keys: KeyRange, *, last: bool, equal: Sequence[bytes] = ()) -> str:
        """The SELECT of the first or the last key of a range, of those whose parts begin with ``equal``."""
        order = self._order_back if last else self._order
        where = self._where(keys, *self._begins(equal))
        return f"{self._select_key} FORCE INDEX (PRIMARY){where} ORDER BY {order} LIMIT 1"

    def behind_sql(self, keys: KeyRange, equal: Sequence[bytes], literal: str) -> str:
        """The SELECT of the first key of a range whose parts begin with ``equal`` and go on with ``literal`` or more."""
        column, part = self._key[len(equal)]
        where = self._where(keys, *self._begins(equal), f"{_ordered(column, part)} >= {literal}")
        return f"{self._select_key} FORCE INDEX (PRIMARY){where} ORDER BY {self._order} LIMIT 1"

    def estimate_sql(self, keys: KeyRange) -> str:
        """The EXPLAIN that estimates how many rows a range has, by two dives into the index; FORCE INDEX would save them."""
        return f"EXPLAIN FORMAT=TRADITIONAL {self._select_key} USE INDEX (PRIMARY){self._where(keys)}"

    def _where(self, keys: KeyRange, *more: str) -> str:
        conditions = [*more]
        if keys.after is not None:
            conditions.append(f"({self._compared(keys.after, '>')})")
        if keys.until is not None:
            conditions.append(f"({self._compared(keys.until, '<')} OR ({' AND '.join(self._begins(keys.until))}))")
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""

    def _compared(self, key: Key, sign: str) -> str:
        """``(a, b) > (x, y)`` is written ``a > x OR (a = x AND b > y)``, for which MySQL reads ranges of the index."""
        equal = self._begins(key)
        ranges = []
        for place, ((column, part), printed) in enumerate(zip(self._key, key, strict=True)):
            beyond = f"{_ordered(column, part)} {sign} {literal_of(column, printed)}"
            ranges.append(" AND ".join((*equal[:place], beyond)))
        return " OR ".join(f"({text})" for text in ranges)

    def _begins(self, parts: Sequence[bytes]) -> list[str]:
        return [
            f"{_ordered(column, part)} = {literal_of(column, printed)}"
            for (column, part), printed in zip(self._key, parts, strict=False)
        ]

    def last_key(self, row: Row) -> Key:
        """The key of a row as ``select_sql`` takes it, one text for each part."""
        return tuple(row[place] or b"" for place in self._places)

    def messages(self, rows: Sequence[Row], mid: bytes, tail: bytes, first_row: int = 0) -> ShardMessages:
        """An ``r`` event for each row; ``mid`` and ``tail`` as :class:`~cdc_reader.plans.Plan` takes them."""
        close = b'},"op":"r"' + tail
        messages: list[Message] = []
        high = low = 0
        for number, row in enumerate(rows, first_row):
            after, headers = self._after(row)
            image = orjson.dumps(after)
            halves = _HALVES(md5(image, usedforsecurity=False).digest())
            high, low = high + halves[0], low + halves[1]
            value = b"".join((b'{"before":null,"after":', image, mid, b"%d" % number, close))
            messages.append((number, row_key(self.schema, after), value, headers))
        return ShardMessages(messages, (high, low))

    def keys(self, rows: Sequence[Row]) -> set[bytes]:
        """The rows' keys."""
        return {row_key(self.schema, self._after(row)[0]) for row in rows}

    def _after(self, row: Row) -> tuple[dict[str, object], Headers | None]:
        try:
            return self._values(row, self._converters), None
        except UnicodeDecodeError:
            return self._values(row, self._lenient), self._undecodable.headers()

    def _values(self, row: Row, converters: Sequence[_Convert]) -> dict[str, object]:
        return {
            name: None if printed is None else convert(printed)
            for name, printed, convert in zip(self._names, row, converters, strict=False)
        }


def compile_shard_plan(schema: TableSchema, *, on_undecodable: OnUndecodable = "stop") -> ShardPlan:
    """The plan for a table's version."""
    return ShardPlan(schema, on_undecodable)
