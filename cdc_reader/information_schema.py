"""A table's schema from information_schema, in the same normal form as TABLE_MAP's metadata gives it.

Comes in: rows of information_schema as raw bytes, or a session that runs the statements here.  Goes out: a
:class:`~schemas.tables.TableSchema` with the same fingerprint as the table's rows have in the binlog (exactness.md R9), and
what the binlog doesn't tell: collations by id, secondary indexes.

Statements take (db, table) as parameters.  They expect that generated invisible primary keys are shown, which is the
server's default (show_gipk_in_create_table_and_information_schema).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from cdc_reader.charsets import decoder
from cdc_reader.errors import SourceStopped
from cdc_reader.sql import quoted
from schemas.tables import Column, KeyPart, TableName, TableSchema

InfoRow = Sequence[bytes | None]

COLLATIONS_SQL = (
    "SELECT C.ID, C.COLLATION_NAME, C.CHARACTER_SET_NAME, S.MAXLEN FROM information_schema.COLLATIONS C "
    "JOIN information_schema.CHARACTER_SETS S ON S.CHARACTER_SET_NAME = C.CHARACTER_SET_NAME"
)
"""Id, name, character set and most bytes a character of every collation."""

COLUMNS_SQL = (
    "SELECT COLUMN_NAME, DATA_TYPE, COLUMN_TYPE, IS_NULLABLE, CHARACTER_OCTET_LENGTH, NUMERIC_PRECISION, NUMERIC_SCALE, "
    "DATETIME_PRECISION, CHARACTER_SET_NAME, COLLATION_NAME FROM information_schema.COLUMNS "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s ORDER BY ORDINAL_POSITION"
)
KEY_SQL = (
    "SELECT COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND INDEX_NAME = 'PRIMARY' ORDER BY SEQ_IN_INDEX"
)
INDEXES_SQL = (
    "SELECT INDEX_NAME, COLUMN_NAME, SUB_PART FROM information_schema.STATISTICS "
    "WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s AND INDEX_NAME <> 'PRIMARY' AND INDEX_TYPE = 'BTREE' "
    "ORDER BY INDEX_NAME, SEQ_IN_INDEX"
)

_WITH_SUPPLEMENTARY = frozenset({"utf8mb4", "utf16", "utf16le", "utf32", "gb18030"})
_WITH_SIGN = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint", "float", "double", "decimal"})
_WITH_FRACTION = frozenset({"time", "datetime", "timestamp"})
_WITH_OCTETS = frozenset({"char", "varchar", "binary", "varbinary"})
_OTHER_NAMES = {"geometrycollection": "geomcollection", "integer": "int", "numeric": "decimal", "real": "double"}
_ESCAPED = {"0": "\0", "n": "\n", "r": "\r", "t": "\t", "b": "\b", "Z": "\x1a"}
_MEMBER = re.compile(r"'((?:[^'\\]|''|\\.)*)'", re.DOTALL)
_ESCAPE = re.compile(r"''|\\(.)", re.DOTALL)
_FIRST_NUMBER = re.compile(r"\((\d+)")


class Queries(Protocol):
    """Who runs statements on the source and gives their rows as raw bytes."""

    def rows(self, statement: str, arguments: Sequence[object] = (), /) -> list[tuple[bytes | None, ...]]:
        """Runs one statement."""


def read_schema(queries: Queries, name: TableName) -> TableSchema:
    """The table's schema now; SourceStopped where there is no such table for the user."""
    column_rows = queries.rows(COLUMNS_SQL, tuple(name))
    if not column_rows:
        user, _, host = _text(queries.rows("SELECT CURRENT_USER()")[0][0]).rpartition("@")
        raise SourceStopped(
            f"there is no table {name} that the source's user may see; if there is one, as its administrator: "
            f"GRANT SELECT ON {quoted(name.db)}.{quoted(name.table)} TO '{user}'@'{host}'"
        )
    schema = schema_from_rows(name, column_rows, queries.rows(KEY_SQL, tuple(name)))
    return _with_all_members(queries, schema)


def read_indexes(queries: Queries, name: TableName) -> list[dict[str, object]]:
    """The table's secondary B-tree indexes over plain columns, as dicts for the begin barrier (exactness.md B3).

    Each has ``name`` and ``columns``, a list of dicts with ``name`` and ``prefix_chars`` (0: the whole column).
    """
    indexes: dict[str, list[dict[str, object]]] = {}
    with_expressions = set()
    for row in queries.rows(INDEXES_SQL, tuple(name)):
        index, column, prefix = (_text(value) for value in row)
        if not column:
            with_expressions.add(index)
        indexes.setdefault(index, []).append({"name": column, "prefix_chars": int(prefix or 0)})
    return [{"name": index, "columns": parts} for index, parts in indexes.items() if index not in with_expressions]


def _with_all_members(queries: Queries, schema: TableSchema) -> TableSchema:
    """The schema with members that information_schema can't print read in another way.

    It prints them in a character set without the supplementary planes: an emoji becomes a question mark.  A recursive
    common table expression has the columns' types of its first SELECT, into which numbers can be put.
    """
    columns = [
        replace(column, members=_read_members(queries, schema.name, column)) if _has_doubtful_member(column) else column
        for column in schema.columns
    ]
    return replace(schema, columns=tuple(columns))


def _has_doubtful_member(column: Column) -> bool:
    return column.charset in _WITH_SUPPLEMENTARY and any("?" in member for member in column.members)


def _read_members(queries: Queries, name: TableName, column: Column) -> tuple[str, ...]:
    number = "number" if column.type == "enum" else "1 << (number - 1)"
    rows = queries.rows(
        "WITH RECURSIVE members AS ("
        f"SELECT 1 AS number, {quoted(column.name)} AS member FROM (SELECT 1) AS one "
        f"LEFT JOIN {quoted(name.db)}.{quoted(name.table)} ON FALSE "
        f"UNION ALL SELECT number + 1, {number} FROM members WHERE number <= {len(column.members)}) "
        "SELECT /*+ SET_VAR(cte_max_recursion_depth = 65536) */ member FROM members WHERE number > 1 ORDER BY number"
    )
    decode = decoder(column.charset)
    return tuple(decode(row[0] or b"") for row in rows)


def schema_from_rows(name: TableName, column_rows: Sequence[InfoRow], key_rows: Sequence[InfoRow]) -> TableSchema:
    """The schema of rows of COLUMNS_SQL and KEY_SQL."""
    key = tuple(KeyPart(_text(row[0]), int(row[1] or 0)) for row in key_rows)
    return TableSchema(name, tuple(_column(row) for row in column_rows), key)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8")


def _column(row: InfoRow) -> Column:
    name, data_type, column_type, nullable = (_text(value) for value in row[:4])
    octets, precision, scale, fraction = (int(value or 0) for value in row[4:8])
    charset, collation = (_text(value) for value in row[8:10])
    data_type = _OTHER_NAMES.get(data_type, data_type)
    length = 0
    if data_type in _WITH_OCTETS:
        length = octets
    elif data_type in ("bit", "decimal"):
        length = precision
    elif data_type == "vector":
        length = _first_number(column_type)
    with_members = data_type in ("enum", "set")
    if with_members and not charset:
        charset = collation = "binary"
    return Column(
        name,
        data_type,
        length,
        scale if data_type == "decimal" else fraction if data_type in _WITH_FRACTION else 0,
        unsigned=data_type in _WITH_SIGN and " unsigned" in column_type,
        nullable=nullable == "YES",
        charset=charset,
        collation=collation,
        members=members_of(column_type) if with_members else (),
    )


def _first_number(column_type: str) -> int:
    found = _FIRST_NUMBER.search(column_type)
    return int(found[1]) if found else 0


def members_of(column_type: str) -> tuple[str, ...]:
    """The members in a COLUMN_TYPE, like ``enum('a','it''s')``."""
    return tuple(_ESCAPE.sub(_unescaped, text) for text in _MEMBER.findall(column_type))


def _unescaped(escape: re.Match[str]) -> str:
    return "'" if escape[1] is None else _ESCAPED.get(escape[1], escape[1])
