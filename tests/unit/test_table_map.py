"""TABLE_MAP bodies made by hand: damaged ones and old types are loud stops that say what to do."""

from __future__ import annotations

from contextlib import suppress

import pytest

from cdc_reader.errors import EventUnreadable, SourceStopped, TableUnfollowable
from cdc_reader.table_map import Collation, parse_table_map
from schemas.tables import Column, KeyPart, TableName

_COLLATIONS = {255: Collation("utf8mb4_0900_ai_ci", "utf8mb4", 4)}
_INT, _VARCHAR = 3, 15


def _field(kind: int, value: bytes) -> bytes:
    return bytes([kind, len(value)]) + value


def _names(*names: str) -> bytes:
    return _field(4, b"".join(bytes([len(name)]) + name.encode() for name in names))


def _body(types: bytes, metadata: bytes, *fields: bytes) -> bytes:
    head = b"\4shop\0\5books\0" + bytes([len(types)]) + types + bytes([len(metadata)]) + metadata
    return head + b"\0" * ((len(types) + 7) // 8) + b"".join(fields)


_BOOKS = _body(
    bytes([_INT, _VARCHAR]),
    (160).to_bytes(2, "little"),
    _field(1, b"\0"),
    _field(3, b"\xfc\xff\0"),
    _names("id", "title"),
    _field(8, b"\0"),
)


def test_a_whole_body_is_its_schema() -> None:
    schema = parse_table_map(_BOOKS, _COLLATIONS)
    assert schema.name == TableName("shop", "books")
    assert schema.columns == (
        Column("id", "int", nullable=False),
        Column("title", "varchar", 160, nullable=False, charset="utf8mb4", collation="utf8mb4_0900_ai_ci"),
    )
    assert schema.primary_key == (KeyPart("id"),)


@pytest.mark.parametrize("damage", [0x00, 0x40, 0xFB, 0xFF])
def test_a_damaged_body_is_a_loud_stop_or_another_schema(damage: int) -> None:
    for place in range(len(_BOOKS)):
        for body in (_BOOKS[:place], _BOOKS[:place] + bytes([damage]) + _BOOKS[place + 1 :]):
            with suppress(EventUnreadable, SourceStopped, TableUnfollowable):
                parse_table_map(body, _COLLATIONS)


def test_a_cut_off_body_names_the_table_where_it_can() -> None:
    with pytest.raises(EventUnreadable, match=r"shop\.books") as cut_off:
        parse_table_map(_BOOKS[:-1], _COLLATIONS)
    assert cut_off.value.table == TableName("shop", "books")
    with pytest.raises(EventUnreadable) as empty:
        parse_table_map(b"", _COLLATIONS)
    assert empty.value.table is None


@pytest.mark.parametrize(("type_code", "name"), [(7, "TIMESTAMP"), (11, "TIME"), (12, "DATETIME")])
def test_a_time_as_it_was_stored_before_mysql_5_6_is_refused_by_name(type_code: int, name: str) -> None:
    body = _body(bytes([_INT, type_code]), b"", _field(1, b"\0"), _names("id", "sold"), _field(8, b"\0"))
    with pytest.raises(TableUnfollowable, match=rf"sold of shop\.books is a {name} .*`shop`\.`books` FORCE"):
        parse_table_map(body, _COLLATIONS)
