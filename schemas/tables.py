"""The schema of a captured table, in the normal form that the binlog and information_schema yield alike.

Comes in: columns as TABLE_MAP's metadata (``binlog_row_metadata=FULL``) or information_schema describe them.  Goes out:
a :class:`TableSchema`, its JSON form for the topic ``<prefix>.__schemas``, and its fingerprint.

Guarantees: two schemas with equal fingerprints decode, key and store rows alike.  Not in it, because the binlog doesn't
tell: defaults, generation expressions, secondary indexes, display widths, ZEROFILL, comments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import orjson


class TableName(NamedTuple):
    """A table by its two names, as the source spells them."""

    db: str
    table: str

    def __str__(self) -> str:
        return f"{self.db}.{self.table}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column.  ``type`` is information_schema's DATA_TYPE: ``bigint``, ``varchar``, ``json``, ``point``, ...

    ``length``: octets of CHAR, VARCHAR, BINARY, VARBINARY; bits of BIT; digits of DECIMAL; dimensions of VECTOR; else 0.
    ``scale``: decimals of DECIMAL; digits of the fraction of TIME, DATETIME and TIMESTAMP; else 0.
    ``collation`` and ``charset``: of character columns, ENUM and SET; else empty.  ``members``: of ENUM and SET.
    """

    name: str
    type: str
    length: int = 0
    scale: int = 0
    unsigned: bool = False
    nullable: bool = True
    charset: str = ""
    collation: str = ""
    members: tuple[str, ...] = ()


class KeyPart(NamedTuple):
    """A column of the primary key; ``prefix_chars`` is 0 for the whole column, else the prefix that is the key.

    The unit is characters, and bytes for binary columns, as in information_schema.statistics.SUB_PART.
    """

    column: str
    prefix_chars: int = 0


@dataclass(frozen=True)
class TableSchema:
    """A version of a captured table: its columns in order and its primary key in key order (empty: there is none)."""

    name: TableName
    columns: tuple[Column, ...]
    primary_key: tuple[KeyPart, ...]

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits of SHA-256 over columns and key; the table's own name is no part of it."""
        shape = [[asdict(column) for column in self.columns], [list(part) for part in self.primary_key]]
        return hashlib.sha256(orjson.dumps(shape, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    @cached_property
    def by_name(self) -> dict[str, Column]:
        """The columns by their names."""
        return {column.name: column for column in self.columns}

    @cached_property
    def key_columns(self) -> tuple[str, ...]:
        """The names of the primary key's columns, in key order."""
        return tuple(part.column for part in self.primary_key)

    def columns_added_since(self, old: TableSchema) -> tuple[Column, ...] | None:
        """The new columns where this schema is ``old`` with columns added, anywhere; None where more has changed."""
        known = set(old.by_name)
        if tuple(column for column in self.columns if column.name in known) != old.columns:
            return None
        if self.primary_key != old.primary_key:
            return None
        return tuple(column for column in self.columns if column.name not in known)

    def to_json(self) -> bytes:
        """The value of a record in ``__schemas``."""
        return orjson.dumps(
            {
                "db": self.name.db,
                "table": self.name.table,
                "fingerprint": self.fingerprint,
                "columns": [asdict(column) for column in self.columns],
                "primary_key": [part._asdict() for part in self.primary_key],
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> TableSchema:
        """The inverse of :meth:`to_json`; raises ValueError where the text isn't one or its fingerprint doesn't fit."""
        record: Mapping[str, Any] = orjson.loads(text)
        try:
            schema = cls(
                TableName(record["db"], record["table"]),
                tuple(Column(**{**column, "members": tuple(column["members"])}) for column in record["columns"]),
                tuple(KeyPart(**part) for part in record["primary_key"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a table schema: {error}") from error
        if schema.fingerprint != record.get("fingerprint"):
            raise ValueError(f"the schema of {schema.name} doesn't have the fingerprint that it names")
        return schema

    def schema_key(self) -> bytes:
        """The key of this schema's record in ``__schemas``."""
        return schema_key(self.name, self.fingerprint)


def schema_key(name: TableName, fingerprint: str) -> bytes:
    """The key of a schema's record in ``__schemas``: db, table and fingerprint."""
    return orjson.dumps({"db": name.db, "table": name.table, "fingerprint": fingerprint})
