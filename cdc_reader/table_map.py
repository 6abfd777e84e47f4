"""TABLE_MAP events: the shape of a table as the binlog itself tells it.

Comes in: the body of a TABLE_MAP event written with ``binlog_row_metadata=FULL``, behind its table id and flags and
without the checksum; the server's collations by id.  Goes out: a :class:`~schemas.tables.TableSchema` in the normal
form that ``information_schema`` yields too, or the table's name alone.

Guarantees: nothing is guessed; metadata without names is a loud stop, an unknown column type or collation leaves the table
unfollowed.
Sources: MySQL manual, "Table_map_event" (mysql::binlog::event), optional metadata fields 1 to 13.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from cdc_reader.charsets import decoder
from cdc_reader.errors import EventUnreadable, SourceStopped, TableUnfollowable
from cdc_reader.events import length_encoded
from cdc_reader.sql import quoted_table
from schemas.tables import Column, KeyPart, TableName, TableSchema

_TINY, _SHORT, _LONG, _FLOAT, _DOUBLE, _TIMESTAMP, _LONGLONG, _INT24 = 1, 2, 3, 4, 5, 7, 8, 9
_DATE, _TIME, _DATETIME, _YEAR, _VARCHAR, _BIT, _TIMESTAMP2, _DATETIME2, _TIME2 = 10, 11, 12, 13, 15, 16, 17, 18, 19
_VECTOR, _JSON, _DECIMAL, _ENUM, _SET, _BLOB, _STRING, _GEOMETRY = 242, 245, 246, 247, 248, 252, 254, 255
_VAR_STRING = 253

_METADATA_BYTES = {
    **dict.fromkeys((_FLOAT, _DOUBLE, _TIMESTAMP2, _DATETIME2, _TIME2, _VECTOR, _JSON, _BLOB, _GEOMETRY), 1),
    **dict.fromkeys((_VARCHAR, _BIT, _DECIMAL, _ENUM, _SET, _VAR_STRING, _STRING), 2),
    **dict.fromkeys((_TINY, _SHORT, _LONG, _TIMESTAMP, _LONGLONG, _INT24, _DATE, _TIME, _DATETIME, _YEAR), 0),
}
_BEFORE_5_6 = {_TIMESTAMP: "TIMESTAMP", _TIME: "TIME", _DATETIME: "DATETIME"}
"""Temporal columns as MySQL stored them before 5.6; a table made then and never rebuilt has them still."""
_PLAIN_TYPES = {
    _TINY: "tinyint",
    _SHORT: "smallint",
    _INT24: "mediumint",
    _LONG: "int",
    _LONGLONG: "bigint",
    _FLOAT: "float",
    _DOUBLE: "double",
    _DATE: "date",
    _YEAR: "year",
    _JSON: "json",
}
_WITH_FRACTION = {_TIMESTAMP2: "timestamp", _DATETIME2: "datetime", _TIME2: "time"}
_BLOBS = {1: "tinyblob", 2: "blob", 3: "mediumblob", 4: "longblob"}
_TEXTS = {1: "tinytext", 2: "text", 3: "mediumtext", 4: "longtext"}
_GEOMETRIES = (
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geomcollection",
)
_NUMERIC = frozenset({_TINY, _SHORT, _INT24, _LONG, _LONGLONG, _FLOAT, _DOUBLE, _DECIMAL, _YEAR})
"""Types that have a bit in the signedness; YEAR is one of them."""
_CHARACTER = frozenset({_VARCHAR, _VAR_STRING, _STRING, _BLOB})

_SIGNEDNESS, _DEFAULT_CHARSET, _COLUMN_CHARSET, _NAMES, _SET_MEMBERS, _ENUM_MEMBERS, _GEOMETRY_TYPES = range(1, 8)
_PRIMARY_KEY, _PRIMARY_KEY_WITH_PREFIX, _MEMBERS_DEFAULT_CHARSET, _MEMBERS_CHARSET = range(8, 12)
_VECTOR_DIMENSIONS = 13
_MEMBERS = {_ENUM: _ENUM_MEMBERS, _SET: _SET_MEMBERS}


class Collation(NamedTuple):
    """A collation of the server: its name, its character set and the most bytes that a character takes there."""

    name: str
    charset: str
    max_bytes: int


class _WireColumn(NamedTuple):
    """A column as the fixed part of the event has it; ENUM and SET are unpacked from the STRING that they travel as."""

    type_code: int
    first: int
    second: int
    nullable: bool


def parse_table_name(body: bytes) -> TableName:
    """Only the names of database and table; cheap.  Raises EventUnreadable where the event is damaged."""
    try:
        database_end = 1 + body[0]
        table_start = database_end + 2
        table = body[table_start : table_start + body[database_end + 1]]
        return TableName(body[1:database_end].decode("utf-8"), table.decode("utf-8"))
    except (LookupError, ValueError) as error:
        raise EventUnreadable("a TABLE_MAP event can't be read: its parts don't fit each other") from error


def parse_table_map(body: bytes, collations: Mapping[int, Collation]) -> TableSchema:
    """The table's schema.

    Raises EventUnreadable where the event is damaged, SourceStopped where it lacks the names, TableUnfollowable where a
    column is of a type, or in a form, that isn't known.
    """
    name = parse_table_name(body)
    try:
        return _parse(name, body, collations)
    except (LookupError, ValueError) as error:
        raise EventUnreadable(f"the TABLE_MAP event of {name} can't be read: its parts don't fit", name) from error


def _parse(name: TableName, body: bytes, collations: Mapping[int, Collation]) -> TableSchema:
    columns, offset = _wire_columns(name, body)
    fields = _optional_fields(body, offset)
    names = [text.decode("utf-8") for text in _texts(fields.get(_NAMES, b""))]
    if len(names) != len(columns):
        raise _lacking("the names of the columns", name)
    make = _Columns(name, columns, fields, collations).column
    return TableSchema(
        name,
        tuple(make(column_name, wire) for column_name, wire in zip(names, columns, strict=True)),
        _primary_key(names, fields),
    )


def _lacking(what: str, name: TableName) -> SourceStopped:
    return SourceStopped(
        f"the binlog doesn't hold {what} of {name}: SET GLOBAL binlog_row_metadata=FULL on the source, then "
        f"rowflow snapshot {name} --start-over"
    )


def _part(body: bytes, start: int, length: int) -> bytes:
    part = body[start : start + length]
    if len(part) != length:
        raise ValueError("cut off")
    return part


def _wire_columns(name: TableName, body: bytes) -> tuple[list[_WireColumn], int]:
    """The fixed part: types, their metadata and nullability; and where the optional metadata begins."""
    offset = 3 + body[0]
    offset += 1 + body[offset - 1]
    count, offset = length_encoded(body, offset)
    types = _part(body, offset, count)
    metadata_bytes, place = length_encoded(body, offset + count)
    nullable_start = place + metadata_bytes
    columns = []
    for index, type_code in enumerate(types):
        width = _METADATA_BYTES.get(type_code)
        if width is None:
            raise TableUnfollowable(
                f"column {index + 1} of {name} has the type {type_code}, unknown to this version of Rowflow: change the "
                f'column, or leave the table out ("!{name}" in [source] tables)'
            )
        first = body[place] if width else 0
        second = body[place + 1] if width == 2 else 0
        place += width
        nullable = body[nullable_start + index // 8] >> index % 8 & 1 == 1
        if type_code == _STRING and first in (_ENUM, _SET):
            type_code = first  # noqa: PLW2901 - ENUM and SET travel as STRING
        columns.append(_WireColumn(type_code, first, second, nullable))
    return columns, nullable_start + (count + 7) // 8


def _optional_fields(body: bytes, offset: int) -> dict[int, bytes]:
    """The optional metadata by its kind."""
    fields = {}
    while offset < len(body):
        length, start = length_encoded(body, offset + 1)
        fields[body[offset]] = _part(body, start, length)
        offset = start + length
    return fields


def _numbers(value: bytes) -> Iterator[int]:
    offset = 0
    while offset < len(value):
        number, offset = length_encoded(value, offset)
        yield number


def _texts(value: bytes) -> Iterator[bytes]:
    offset = 0
    while offset < len(value):
        length, offset = length_encoded(value, offset)
        yield _part(value, offset, length)
        offset += length


def _lists(value: bytes) -> Iterator[list[bytes]]:
    offset = 0
    while offset < len(value):
        count, offset = length_encoded(value, offset)
        members = []
        for _ in range(count):
            length, offset = length_encoded(value, offset)
            members.append(_part(value, offset, length))
            offset += length
        yield members


def _collations(each: bytes | None, with_default: bytes | None, count: int) -> list[int]:
    """One collation for each of ``count`` columns, or a default and (index, collation) pairs of those that differ."""
    if each is not None:
        return list(_numbers(each))
    numbers = list(_numbers(with_default or b""))
    collations = numbers[:1] * count
    for index, collation in zip(numbers[1::2], numbers[2::2], strict=True):
        collations[index] = collation
    return collations


class _Columns:
    """Makes columns out of their fixed and their optional metadata, whose lists are used up in the columns' order."""

    def __init__(
        self,
        name: TableName,
        columns: list[_WireColumn],
        fields: Mapping[int, bytes],
        collations: Mapping[int, Collation],
    ) -> None:
        self._name = name
        self._known_collations = collations
        characters = sum(column.type_code in _CHARACTER for column in columns)
        with_members = sum(column.type_code in _MEMBERS for column in columns)
        self._unsigned = (byte >> bit & 1 == 1 for byte in fields.get(_SIGNEDNESS, b"") for bit in range(7, -1, -1))
        self._collations = iter(_collations(fields.get(_COLUMN_CHARSET), fields.get(_DEFAULT_CHARSET), characters))
        self._member_collations = iter(
            _collations(fields.get(_MEMBERS_CHARSET), fields.get(_MEMBERS_DEFAULT_CHARSET), with_members)
        )
        self._members = {kind: _lists(fields.get(number, b"")) for kind, number in _MEMBERS.items()}
        self._geometries = _numbers(fields.get(_GEOMETRY_TYPES, b""))
        self._dimensions = _numbers(fields.get(_VECTOR_DIMENSIONS, b""))

    def column(self, name: str, wire: _WireColumn) -> Column:
        """The next column."""
        try:
            if wire.type_code in _NUMERIC:
                return self._number(name, wire)
            if wire.type_code in _CHARACTER:
                return self._text(name, wire)
            if wire.type_code in _MEMBERS:
                return self._with_members(name, wire)
            return self._other(name, wire)
        except StopIteration:
            raise _lacking(f"all of the metadata of the column {name}", self._name) from None

    def _number(self, name: str, wire: _WireColumn) -> Column:
        unsigned = next(self._unsigned)
        if wire.type_code == _DECIMAL:
            return Column(name, "decimal", wire.first, wire.second, unsigned=unsigned, nullable=wire.nullable)
        if wire.type_code == _YEAR:
            return Column(name, "year", nullable=wire.nullable)
        return Column(name, _PLAIN_TYPES[wire.type_code], unsigned=unsigned, nullable=wire.nullable)

    def _other(self, name: str, wire: _WireColumn) -> Column:
        type_code, nullable = wire.type_code, wire.nullable
        if type_code in _BEFORE_5_6:
            raise TableUnfollowable(
                f"column {name} of {self._name} is a {_BEFORE_5_6[type_code]} in the form that MySQL had before 5.6: "
                f"ALTER TABLE {quoted_table(self._name)} FORCE on the source"
            )
        if type_code in _WITH_FRACTION:
            return Column(name, _WITH_FRACTION[type_code], scale=wire.first, nullable=nullable)
        if type_code == _BIT:
            return Column(name, "bit", wire.second * 8 + wire.first, nullable=nullable)
        if type_code == _VECTOR:
            return Column(name, "vector", next(self._dimensions), nullable=nullable)
        if type_code == _GEOMETRY:
            return Column(name, _GEOMETRIES[next(self._geometries)], nullable=nullable)
        return Column(name, _PLAIN_TYPES[type_code], nullable=nullable)

    def _text(self, name: str, wire: _WireColumn) -> Column:
        collation = self._collation(next(self._collations))
        binary = collation.charset == "binary"
        if wire.type_code == _BLOB:
            data_type, length = (_BLOBS if binary else _TEXTS)[wire.first], 0
        elif wire.type_code == _STRING:
            # A CHAR of more than 255 bytes hides bits 8 and 9 of its length, inverted, in the type's byte.
            length = wire.second | ((wire.first & 0x30) ^ 0x30) << 4
            data_type = "binary" if binary else "char"
        else:
            data_type, length = "varbinary" if binary else "varchar", wire.first | wire.second << 8
        if binary:
            return Column(name, data_type, length, nullable=wire.nullable)
        return Column(
            name, data_type, length, nullable=wire.nullable, charset=collation.charset, collation=collation.name
        )

    def _with_members(self, name: str, wire: _WireColumn) -> Column:
        collation = self._collation(next(self._member_collations))
        decode = bytes.decode if collation.charset == "binary" else decoder(collation.charset)
        return Column(
            name,
            "enum" if wire.type_code == _ENUM else "set",
            nullable=wire.nullable,
            charset=collation.charset,
            collation=collation.name,
            members=tuple(decode(member) for member in next(self._members[wire.type_code])),
        )

    def _collation(self, number: int) -> Collation:
        try:
            return self._known_collations[number]
        except KeyError:
            raise TableUnfollowable(
                f"{self._name} uses the collation {number}, which the source doesn't list"
            ) from None


def _primary_key(names: list[str], fields: Mapping[int, bytes]) -> tuple[KeyPart, ...]:
    if _PRIMARY_KEY in fields:
        return tuple(KeyPart(names[index]) for index in _numbers(fields[_PRIMARY_KEY]))
    numbers = list(_numbers(fields.get(_PRIMARY_KEY_WITH_PREFIX, b"")))
    return tuple(KeyPart(names[index], prefix) for index, prefix in zip(numbers[::2], numbers[1::2], strict=True))
