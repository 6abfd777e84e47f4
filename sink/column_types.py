"""Column types of mirrors.

Comes in: columns of a captured table, and what the sink's server can do.  Goes out: the types that their mirror's
columns are declared with, in SQL.

Guarantees: every value that the source's column holds fits, unchanged.  Key columns of text get a collation that is
binary and does not pad, so that keys which differ in their bytes stay different rows (design.md, "The two
transactions").  Other texts keep the source's character set and collation where the sink has them, else they become
utf8mb4.

ENUM gets one more member at its end, the empty text, where it has none: a source that isn't strict stores it for values
outside the list, and a strict sink takes nothing but members.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from schemas.errors import StoppedError
from schemas.tables import Column

KEY_LENGTH_MAX_BYTES = 3072
"""InnoDB's limit for an index of a table with DYNAMIC rows (MySQL manual, "InnoDB Limits")."""
ROW_LENGTH_MAX_BYTES = 65_535
"""The server's limit for a row without its TEXT, BLOB and JSON columns (MySQL manual, "Limits on Row Size")."""

TEXT_COLLATION_MYSQL = "utf8mb4_0900_bin"
TEXT_COLLATION_MARIADB = "utf8mb4_nopad_bin"

# Bytes of the longest character (MySQL manual, "Supported Character Sets and Collations"); one byte where not named.
_BYTES_PER_CHARACTER = {
    "utf8mb4": 4, "utf16": 4, "utf16le": 4, "utf32": 4, "gb18030": 4,
    "utf8mb3": 3, "utf8": 3, "ujis": 3, "eucjpms": 3,
    "ucs2": 2, "gbk": 2, "gb2312": 2, "big5": 2, "sjis": 2, "cp932": 2, "euckr": 2,
}  # fmt: skip

_INTEGER_BYTES = {"tinyint": 1, "smallint": 2, "mediumint": 3, "int": 4, "bigint": 8}
_BLOBS = frozenset({"tinyblob", "blob", "mediumblob", "longblob"})
_NUMBERS = frozenset({*_INTEGER_BYTES, "decimal", "float", "double", "bit", "year"})
_TEMPORAL = frozenset({"date", "time", "datetime", "timestamp"})
_BINARIES = frozenset({"binary", "varbinary", *_BLOBS})
_WITH_LENGTH = ("bit", "binary", "varbinary")
_WITH_FRACTION = ("time", "datetime", "timestamp")
_TEXT_CAPACITY_BYTES = {"tinytext": 255, "text": 65_535, "mediumtext": 16_777_215, "longtext": 4_294_967_295}
_GEOMETRIES = {
    "geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection",
}  # fmt: skip
_DATE_BYTES = {"date": 3, "time": 3, "datetime": 5, "timestamp": 4}
# Bytes of the leftover digits of a DECIMAL (MySQL manual, "DECIMAL Data Type Characteristics").
_DECIMAL_LEFTOVER_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_VECTOR_SINCE = {False: (9, 0, 0), True: (11, 7, 1)}
"""The first version that has VECTOR, by whether it is MariaDB."""


class UnknownTypeError(StoppedError):
    """A column's type is none that a mirror can hold."""


@dataclass(frozen=True, slots=True)
class SinkDialect:
    """What the sink's server understands; ``collations``: name -> its character set."""

    mariadb: bool
    version: tuple[int, ...]
    collations: Mapping[str, str]

    @property
    def key_collation(self) -> str:
        """The collation of key texts: binary, and it does not pad."""
        return TEXT_COLLATION_MARIADB if self.mariadb else TEXT_COLLATION_MYSQL

    @property
    def has_row_alias(self) -> bool:
        """Whether INSERT ... VALUES ... AS alias is understood; VALUES(column), the other way, is deprecated there."""
        return not self.mariadb and self.version >= (8, 0, 19)

    @property
    def has_vector(self) -> bool:
        """Whether there is a type VECTOR."""
        return self.version >= _VECTOR_SINCE[self.mariadb]

    def keeps(self, column: Column) -> bool:
        """Whether the sink has the column's character set with its collation."""
        return bool(column.collation) and self.collations.get(column.collation) == column.charset


def quoted_text(text: str) -> str:
    """A text as an SQL literal (sql_mode without NO_BACKSLASH_ESCAPES, as all our sessions have it)."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def characters(column: Column) -> int:
    """How many characters a CHAR or VARCHAR column holds."""
    return column.length // _BYTES_PER_CHARACTER.get(column.charset, 1)


def column_type(column: Column, dialect: SinkDialect, *, in_key: bool, as_text: bool = False) -> str:
    """The type that a mirror's column is declared with, without NULL or NOT NULL.

    ``as_text``: a CHAR or VARCHAR that would make the row too long becomes a TEXT.  Raises UnknownTypeError.
    """
    kind = column.type
    if kind in {"char", "varchar"} or kind in _TEXT_CAPACITY_BYTES:
        return _text_type(column, dialect, in_key=in_key, as_text=as_text)
    if kind in {"enum", "set"}:
        members = column.members if kind == "set" or "" in column.members else (*column.members, "")
        return f"{kind}({','.join(map(quoted_text, members))})" + _members_collation(column, dialect)
    if kind in _NUMBERS or kind in _TEMPORAL or kind in _BINARIES:
        sizes = {
            "decimal": f"({column.length},{column.scale})",
            **dict.fromkeys(_WITH_LENGTH, f"({column.length})"),
            **dict.fromkeys(_WITH_FRACTION, f"({column.scale})" if column.scale else ""),
        }
        return kind + sizes.get(kind, "") + (" unsigned" if column.unsigned else "")
    return _other_type(column, dialect)


def _text_type(column: Column, dialect: SinkDialect, *, in_key: bool, as_text: bool) -> str:
    """CHAR, VARCHAR and the TEXTs.  In a key, CHAR becomes VARCHAR: it would take trailing spaces for padding."""
    if in_key:
        collation = f" CHARACTER SET utf8mb4 COLLATE {dialect.key_collation}"
    elif dialect.keeps(column):
        collation = f" CHARACTER SET {column.charset} COLLATE {column.collation}"
    else:
        collation = " CHARACTER SET utf8mb4"
    if column.type in _TEXT_CAPACITY_BYTES:
        needed = _TEXT_CAPACITY_BYTES[column.type]
        if in_key or not dialect.keeps(column):
            needed = needed // _BYTES_PER_CHARACTER.get(column.charset, 1) * 4
        return _text_that_holds(needed) + collation
    if as_text:
        return _text_that_holds(characters(column) * 4) + collation
    kind = "varchar" if in_key else column.type
    return f"{kind}({characters(column)}){collation}"


def _text_that_holds(size_bytes: int) -> str:
    return next((kind for kind, capacity in _TEXT_CAPACITY_BYTES.items() if capacity >= size_bytes), "longtext")


def _members_collation(column: Column, dialect: SinkDialect) -> str:
    """Of ENUM and SET: the source's, else a binary one, under which no two members are the same."""
    if dialect.keeps(column):
        return f" CHARACTER SET {column.charset} COLLATE {column.collation}"
    return f" CHARACTER SET utf8mb4 COLLATE {dialect.key_collation}"


def _other_type(column: Column, dialect: SinkDialect) -> str:
    """JSON, geometries and vectors."""
    kind = "geometrycollection" if column.type == "geomcollection" else column.type
    if kind == "json":
        return "longtext CHARACTER SET utf8mb4 COLLATE utf8mb4_bin" if dialect.mariadb else "json"
    if kind in _GEOMETRIES:
        return kind
    if kind == "vector":
        return f"vector({column.length})" if dialect.has_vector else "longblob"
    raise UnknownTypeError(f"column {column.name} is of type {column.type}, which no mirror can hold")


def key_bytes_max(column: Column, prefix_chars: int) -> int:
    """How many bytes of an index a key column takes at most, in the mirror."""
    kind = column.type
    if kind in {"char", "varchar"} or kind in _TEXT_CAPACITY_BYTES:
        return 4 * (prefix_chars or characters(column))
    if kind in {"binary", "varbinary"} or kind in _BLOBS:
        return prefix_chars or column.length
    return stored_bytes_max(column, in_key=True, mirror_keeps=True)


def stored_bytes_max(column: Column, *, in_key: bool, mirror_keeps: bool) -> int:
    """How many bytes of the row limit a column takes at most; an upper bound, for TEXT, BLOB and JSON their pointers.

    ``mirror_keeps``: the mirror's column has the source's character set.
    """
    kind = column.type
    if kind in _INTEGER_BYTES:
        return _INTEGER_BYTES[kind]
    if kind in _DATE_BYTES:
        return _DATE_BYTES[kind] + (column.scale + 1) // 2
    if kind in {"char", "varchar"}:
        octets = column.length if mirror_keeps and not in_key else characters(column) * 4
        return octets + 2
    if kind in {"binary", "varbinary"}:
        return column.length + 2
    if kind == "decimal":
        return _decimal_bytes(column)
    fixed = {"float": 4, "double": 8, "year": 1, "enum": 2, "set": 8, "bit": (column.length + 7) // 8}
    return fixed.get(kind, 12)


def _decimal_bytes(column: Column) -> int:
    whole, fraction = column.length - column.scale, column.scale
    return sum(digits // 9 * 4 + _DECIMAL_LEFTOVER_BYTES[digits % 9] for digits in (whole, fraction))
