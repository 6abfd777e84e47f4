"""The statements that make and change mirrors.

Comes in: table schemas, computed columns, what the sink's server can do.  Goes out: CREATE TABLE and ALTER TABLE as
text; nothing here runs them.

A mirror has the captured table's columns in their order, then its computed columns, and the same primary key.  It has
no secondary unique keys and no foreign keys, for rows of different partitions arrive in any order.  Every column
outside the key may be NULL, whatever the source says: a text that can't be decoded is stored as NULL
(``on_undecodable``), a new column is empty until the job that follows has filled it, and a column that the source
drops stays.  There are no defaults and no generated columns: what they gave at the source stands in the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from schemas.errors import RefusedError, StoppedError
from schemas.tables import Column, TableName, TableSchema
from sink.column_types import (
    KEY_LENGTH_MAX_BYTES,
    ROW_LENGTH_MAX_BYTES,
    SinkDialect,
    column_type,
    key_bytes_max,
    quoted_text,
    stored_bytes_max,
)
from sink.config import SinkConfig

MIRROR_COMMENT = "rowflow: mirror of "
"""Begins the comment of every mirror: what we made we may drop, and nothing else."""

_IDENTIFIER_LENGTH_MAX = 64
_TEXT_POINTER_BYTES = 12
_INDEX_PREFIX_CHARS = 191
"""Of a column that is a TEXT only in the mirror: what fits the oldest limit of an index, 767 bytes."""


class MirrorImpossibleError(StoppedError):
    """A captured table can't have a mirror."""


class ComputedColumn(NamedTuple):
    """A column that a function fills; ``sql_type`` is complete but for NULL."""

    name: str
    sql_type: str


class IndexColumn(NamedTuple):
    """A column of a plain index; ``prefix_chars`` is 0 for the whole column."""

    name: str
    prefix_chars: int


class SecondaryIndex(NamedTuple):
    """A secondary index of the captured table; the mirror's is never unique."""

    name: str
    columns: tuple[IndexColumn, ...]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """From the field ``indexes`` of a begin barrier; raises KeyError where a part is missing."""
        columns = (IndexColumn(str(column["name"]), int(column["prefix_chars"])) for column in record["columns"])
        return cls(str(record["name"]), tuple(columns))


def quoted(name: str) -> str:
    """An identifier in backticks."""
    return "`" + name.replace("`", "``") + "`"


def create_mirror(
    schema: TableSchema, mirror: str, dialect: SinkDialect, computed: Sequence[ComputedColumn] = ()
) -> str:
    """CREATE TABLE of a mirror, without secondary indexes.  Raises MirrorImpossibleError or UnknownTypeError."""
    refuse_key(schema)
    taken = {column.name.lower() for column in schema.columns}
    for column in computed:
        if column.name.lower() in taken:
            raise MirrorImpossibleError(
                f"{schema.name} has a column {column.name}: the computed column of that name needs another one."
                "  Rename its function in functions.py"
            )
    as_text = too_long(schema, dialect)
    definitions = [_definition(schema, column, dialect, as_text=column.name in as_text) for column in schema.columns]
    definitions += [f"{quoted(column.name)} {column.sql_type} NULL" for column in computed]
    definitions.append(primary_key(schema))
    body = ",\n  ".join(definitions)
    comment = quoted_text(f"{MIRROR_COMMENT}{schema.name}")
    return (
        f"CREATE TABLE {quoted(mirror)} (\n  {body}\n) ENGINE=InnoDB ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4"
        f" COMMENT={comment}"
    )


def key_columns(schema: TableSchema, dialect: SinkDialect) -> list[str]:
    """The definitions of the key's columns, as a mirror has them."""
    return [_definition(schema, schema.by_name[part.column], dialect) for part in schema.primary_key]


def primary_key(schema: TableSchema) -> str:
    """The definition of a mirror's primary key."""
    parts = (quoted(part.column) + _prefix(part.prefix_chars) for part in schema.primary_key)
    return f"PRIMARY KEY ({', '.join(parts)})"


def add_columns(
    schema: TableSchema,
    mirror: str,
    dialect: SinkDialect,
    added: Sequence[str],
    computed: Sequence[ComputedColumn] = (),
) -> str:
    """ALTER TABLE that adds columns of ``schema`` at their places, and computed columns at the end."""
    names = [column.name for column in schema.columns]
    clauses = []
    for name in added:
        place = names.index(name)
        where = f"AFTER {quoted(names[place - 1])}" if place else "FIRST"
        clauses.append(f"ADD COLUMN {_definition(schema, schema.by_name[name], dialect)} {where}")
    clauses += [f"ADD COLUMN {quoted(column.name)} {column.sql_type} NULL" for column in computed]
    return f"ALTER TABLE {quoted(mirror)} {', '.join(clauses)}"


def add_clauses(schema: TableSchema, dialect: SinkDialect, added: Sequence[str]) -> str:
    """What adds columns of ``schema`` to the end of any table."""
    return ", ".join(f"ADD COLUMN {_definition(schema, schema.by_name[name], dialect)}" for name in added)


def change_computed_column(mirror: str, column: ComputedColumn) -> str:
    """ALTER TABLE that gives a computed column another type; what the old function computed is gone."""
    name = quoted(column.name)
    return f"ALTER TABLE {quoted(mirror)} DROP COLUMN {name}, ADD COLUMN {name} {column.sql_type} NULL"


def add_index(schema: TableSchema, mirror: str, dialect: SinkDialect, index: SecondaryIndex) -> str:
    """ALTER TABLE that adds a plain index (exactness.md B3); the server may refuse it, and that is no failure."""
    as_text = too_long(schema, dialect)
    parts = (
        quoted(name) + _prefix(prefix_chars or (_INDEX_PREFIX_CHARS if name in as_text else 0))
        for name, prefix_chars in index.columns
    )
    return f"ALTER TABLE {quoted(mirror)} ADD INDEX {quoted(index.name)} ({', '.join(parts)})"


def too_long(schema: TableSchema, dialect: SinkDialect) -> frozenset[str]:
    """The CHAR and VARCHAR columns that become TEXT so that the row fits: the longest first, none of the key."""
    sizes = {
        column.name: stored_bytes_max(
            column, in_key=column.name in schema.key_columns, mirror_keeps=dialect.keeps(column)
        )
        for column in schema.columns
    }
    # A bit of NULL per column, rounded up, and the row's header.
    excess = sum(sizes.values()) + len(sizes) // 8 + 1 - ROW_LENGTH_MAX_BYTES
    movable = [
        column.name
        for column in schema.columns
        if column.type in {"char", "varchar"} and column.name not in schema.key_columns
    ]
    chosen = set()
    for name in sorted(movable, key=lambda name: -sizes[name]):
        if excess <= 0:
            break
        chosen.add(name)
        excess -= sizes[name] - _TEXT_POINTER_BYTES
    return frozenset(chosen)


def refuse_key(schema: TableSchema) -> None:
    """Raise MirrorImpossibleError where a table's key can't be its mirror's: there is none, or it is too long."""
    if not schema.primary_key:
        raise MirrorImpossibleError(
            f"{schema.name} has no primary key: a row of its mirror could not be told from others"
        )
    size = sum(key_bytes_max(schema.by_name[part.column], part.prefix_chars) for part in schema.primary_key)
    if size > KEY_LENGTH_MAX_BYTES:
        raise MirrorImpossibleError(
            f"the primary key of {schema.name} takes {size} bytes in the sink, where texts have up to 4 bytes per"
            f" character; at most {KEY_LENGTH_MAX_BYTES} are possible."
            f'  Leave the table out: [source] tables = ["!{schema.name}"]'
        )


def refuse_names(config: SinkConfig, tables: Iterable[TableName]) -> None:
    """Raise RefusedError where two captured tables would share a mirror, or a mirror can't have its name.

    Letter case does not tell mirrors apart: on many servers it doesn't.
    """
    owners: dict[str, TableName] = {}
    for table in sorted(tables):
        mirror = config.mirror_name(table)
        other = owners.setdefault(mirror.lower(), table)
        if other != table:
            raise RefusedError(
                f"{other} and {table} would share the mirror {mirror} in the sink."
                '  Tell them apart: [sink] table_name = "{db}_{table}"'
            )
        if len(mirror) > _IDENTIFIER_LENGTH_MAX:
            raise RefusedError(
                f"the mirror of {table} would be named {mirror}: longer than {_IDENTIFIER_LENGTH_MAX} characters."
                '  Set [sink] table_name = "{table}"'
            )
        if mirror.lower().startswith("_rowflow_"):
            raise RefusedError(
                f"the mirror of {table} would be named {mirror}; such names are Rowflow's own."
                '  Set [sink] table_name = "{db}_{table}"'
            )


def _definition(schema: TableSchema, column: Column, dialect: SinkDialect, *, as_text: bool = False) -> str:
    in_key = column.name in schema.key_columns
    declared = column_type(column, dialect, in_key=in_key, as_text=as_text)
    return f"{quoted(column.name)} {declared} " + ("NOT NULL" if in_key else "NULL")


def _prefix(prefix_chars: int) -> str:
    return f"({prefix_chars})" if prefix_chars else ""
