"""Values of every type in mirrors, and rows told apart by keys of every type.

Expected is what the source would hold: the same values written by a plain client as SQL literals.
"""

import base64
import struct
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from MySQLdb.connections import Connection

from schemas.tables import Column, KeyPart, TableName, TableSchema
from stream_app.agents import Outcome
from tests.helpers import execute
from tests.sink_stand import MakeStand

text = partial(Column, charset="utf8mb4", collation="utf8mb4_0900_ai_ci")
ID = Column("id", "int", nullable=False)


def base64_of(value: bytes) -> str:
    return base64.b64encode(value).decode()


POINT = struct.pack("<I", 4326) + struct.pack("<BIdd", 1, 1, 1.5, 2.5)
VECTOR = struct.pack("<3f", 1, 2, 3)

VALUES: list[tuple[Column, str, Any, str]] = [
    # column, its type at the source, value in the event, the same as an SQL literal
    (Column("c", "tinyint"), "TINYINT", -128, "-128"),
    (Column("c", "bigint", unsigned=True), "BIGINT UNSIGNED", 18446744073709551615, "18446744073709551615"),
    (Column("c", "bigint"), "BIGINT", -9223372036854775808, "-9223372036854775808"),
    (Column("c", "decimal", length=65, scale=30), "DECIMAL(65,30)", "-" + "9" * 35 + "." + "9" * 30, ""),
    (Column("c", "float"), "FLOAT", 0.1, "0.1"),
    (Column("c", "float"), "FLOAT", 3.4028235e38, "3.402823466e38"),
    (Column("c", "double"), "DOUBLE", 5e-324, "5e-324"),
    (Column("c", "double"), "DOUBLE", 1.7976931348623157e308, "1.7976931348623157e308"),
    (Column("c", "bit", length=64), "BIT(64)", 18446744073709551615, "18446744073709551615"),
    (Column("c", "year"), "YEAR", 0, "0"),
    (Column("c", "year"), "YEAR", 2155, "2155"),
    (text("c", "varchar", length=400), "VARCHAR(100)", "it's \\ 数据 😀 \0 %s ", "'it''s \\\\ 数据 😀 \\0 %s '"),
    (text("c", "char", length=40), "CHAR(10)", "a", "'a  '"),
    (Column("c", "varchar", 10, charset="latin1", collation="latin1_swedish_ci"), "VARCHAR(10) CHARSET latin1", "é", "'é'"),
    (text("c", "enum", members=("a", "it's")), "ENUM('a','it''s')", "it's", "'it''s'"),
    (text("c", "set", members=("a", "b")), "SET('a','b')", "a,b", "'b,a'"),
    (text("c", "set", members=("a", "b")), "SET('a','b')", "", "''"),
    (Column("c", "binary", length=4), "BINARY(4)", base64_of(b"ab\0\0"), "'ab'"),
    (Column("c", "longblob"), "LONGBLOB", base64_of(bytes(range(256))), "0x" + bytes(range(256)).hex()),
    (Column("c", "date"), "DATE", "0000-00-00", "'0000-00-00'"),
    (Column("c", "date"), "DATE", "2015-00-21", "'2015-00-21'"),
    (Column("c", "datetime", scale=6), "DATETIME(6)", "2015-02-30T13:13:30.996694", "'2015-02-30 13:13:30.996694'"),
    (Column("c", "datetime"), "DATETIME", "0000-00-00T00:00:00", "'0000-00-00'"),
    (Column("c", "timestamp", scale=3), "TIMESTAMP(3)", "2038-01-19T03:14:07.999Z", "'2038-01-19 03:14:07.999'"),
    (Column("c", "timestamp"), "TIMESTAMP", "0000-00-00T00:00:00Z", "'0000-00-00'"),
    (Column("c", "time", scale=6), "TIME(6)", "-838:59:59.000000", "'-838:59:59'"),
    (Column("c", "time", scale=6), "TIME(6)", "-00:00:00.000001", "'-00:00:00.000001'"),
    (Column("c", "json"), "JSON", '{"a": 1.0, "b": [18446744073709551615, null]}',
     """'{"b": [18446744073709551615, null], "a": 1.0}'"""),
    (Column("c", "point"), "POINT", base64_of(POINT), "ST_GeomFromText('POINT(2.5 1.5)', 4326)"),
    (Column("c", "vector", length=3), "VECTOR(3)", base64_of(VECTOR), "STRING_TO_VECTOR('[1,2,3]')"),
]  # fmt: skip


def test_every_types_values_arrive_unchanged(make_stand: MakeStand, sink_root: Connection, sink_schema: str) -> None:
    columns = [replace(column, name=f"c{number}") for number, (column, *_) in enumerate(VALUES)]
    stand = make_stand(schema=TableSchema(TableName("shop", "t"), (ID, *columns), (KeyPart("id"),)))
    stand.begin()
    stand.logs[0].create({"id": 1} | {f"c{number}": value for number, (_, _, value, _) in enumerate(VALUES)})
    stand.logs[0].create({"id": 2} | {f"c{number}": None for number in range(len(VALUES))})
    assert stand.handle() is Outcome.STORED
    execute(sink_root, f"USE {sink_schema}")
    execute(sink_root, "SET sql_mode = 'ALLOW_INVALID_DATES'")
    assert execute(sink_root, "SELECT reason FROM _rowflow_dead_letters") == []
    different = []
    for number, (_, kind, value, literal) in enumerate(VALUES):
        execute(sink_root, "DROP TABLE IF EXISTS source")
        execute(sink_root, f"CREATE TABLE source (c {kind} NULL)")
        execute(sink_root, f"INSERT INTO source VALUES ({literal or value})")
        exact = "`{0}`" if kind in {"JSON", "BIT(64)"} else "CAST(`{0}` AS BINARY)"
        exact = "`{0}` + 0e0" if kind in {"FLOAT", "DOUBLE"} else exact
        wanted = execute(sink_root, f"SELECT {exact.format('c')} FROM source")
        found = execute(sink_root, f"SELECT {exact.format(f'c{number}')} FROM t WHERE id = 1")
        if wanted != found:
            different.append((kind, value, wanted, found))
        assert execute(sink_root, f"SELECT c{number} IS NULL FROM t WHERE id = 2") == [(1,)]
    assert different == []


def test_enum_outside_its_members_is_the_empty_text(
    make_stand: MakeStand, sink_root: Connection, sink_schema: str
) -> None:
    column = text("c", "enum", members=("a", "b"))
    stand = make_stand(schema=TableSchema(TableName("shop", "t"), (ID, column), (KeyPart("id"),)))
    stand.begin()
    stand.logs[0].create({"id": 1, "c": ""}).create({"id": 2, "c": None})
    stand.handle()
    assert execute(sink_root, f"SELECT id, c FROM {sink_schema}.t ORDER BY id") == [(1, ""), (2, None)]


def test_rest_of_a_prefix_key_may_change_before_its_row_is_deleted(
    make_stand: MakeStand, sink_root: Connection, sink_schema: str
) -> None:
    columns = (text("k", "varchar", length=400), Column("n", "int"))
    stand = make_stand(schema=TableSchema(TableName("shop", "t"), columns, (KeyPart("k", 3),)))
    stand.begin()
    for name in ("abc-one", "abd", "xyz-one"):
        stand.logs[0].create({"k": name, "n": 1})
    stand.handle()
    stand.logs[0].update({"k": "abc-one", "n": 1}, {"k": "abc-two", "n": 1}).delete({"k": "abc-two", "n": 1})
    stand.logs[0].update({"k": "xyz-one", "n": 1}, {"k": "xyz-two", "n": 1})
    stand.handle()
    assert execute(sink_root, f"SELECT k FROM {sink_schema}.t ORDER BY k") == [("abd",), ("xyz-two",)]


KEYS: list[tuple[tuple[Column, ...], tuple[KeyPart, ...], list[tuple[Any, ...]]]] = [
    ((text("k", "varchar", length=400),), (KeyPart("k"),), [("a",), ("A",), ("a ",), ("á",), ("it's\\",), ("%",), ("",)]),
    ((text("k", "char", length=40),), (KeyPart("k"),), [("a",), ("A",), ("",)]),
    ((Column("k", "varbinary", length=9),), (KeyPart("k"),), [(base64_of(b"\0'"),), (base64_of(b"\0' "),), ("",)]),
    ((Column("k", "decimal", length=30, scale=2),), (KeyPart("k"),), [("9007199254740993.00",), ("9007199254740992.00",)]),
    ((Column("k", "float"),), (KeyPart("k"),), [(0.1,), (0.2,), (3.4028235e38,)]),
    ((Column("k", "double"),), (KeyPart("k"),), [(0.1,), (5e-324,), (-1e300,)]),
    ((Column("k", "bigint", unsigned=True),), (KeyPart("k"),), [(18446744073709551615,), (18446744073709551614,)]),
    ((Column("k", "bit", length=64),), (KeyPart("k"),), [(18446744073709551615,), (0,)]),
    ((Column("k", "year"),), (KeyPart("k"),), [(0,), (2000,), (1901,)]),
    ((Column("k", "date"),), (KeyPart("k"),), [("0000-00-00",), ("2015-00-21",), ("2026-11-22",)]),
    (
        (Column("k", "datetime", scale=6),),
        (KeyPart("k"),),
        [("0000-00-00T00:00:00.000000",), ("2015-02-30T13:13:30.996694",), ("2015-02-30T13:13:30.996695",)],
    ),
    ((Column("k", "timestamp", scale=3),), (KeyPart("k"),), [("0000-00-00T00:00:00.000Z",), ("2026-11-22T13:13:30.996Z",)]),
    ((Column("k", "time", scale=6),), (KeyPart("k"),), [("-00:00:00.000001",), ("00:00:00.000001",), ("838:59:59.000000",)]),
    ((text("k", "enum", members=("a", "B")),), (KeyPart("k"),), [("a",), ("B",), ("",)]),
    ((text("k", "set", members=("a", "B")),), (KeyPart("k"),), [("a",), ("a,B",), ("",)]),
    (
        (Column("j", "int"), text("k", "varchar", length=40), Column("l", "date")),
        (KeyPart("l"), KeyPart("k"), KeyPart("j")),
        [(1, "a", "2026-11-22"), (1, "A", "2026-11-22"), (2, "a", "2026-11-22"), (1, "a", "2026-11-23")],
    ),
    (
        (text("k", "varchar", length=400), Column("j", "int")),
        (KeyPart("k", 3), KeyPart("j")),
        [("a%c-one", 1), ("a%C-one", 1), ("a_c", 1), ("a%", 1), ("", 1), ("a%c-two", 2), ("a\\c", 1)],
    ),
    ((Column("k", "blob"),), (KeyPart("k", 2),), [(base64_of(b"a%\0"),), (base64_of(b"a_\0"),), (base64_of(b"a"),)]),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "key", "rows"), KEYS, ids=[f"{k[0][0].type}-{len(k[1])}" for k in KEYS])
def test_rule_r10_each_key_is_a_row_of_its_own(
    make_stand: MakeStand,
    sink_root: Connection,
    sink_schema: str,
    columns: tuple[Column, ...],
    key: tuple[KeyPart, ...],
    rows: list[tuple[Any, ...]],
) -> None:
    schema = TableSchema(TableName("shop", "t"), (*columns, Column("n", "int")), key)
    names = [column.name for column in columns]
    stand = make_stand(schema=schema)
    stand.begin()
    events = [dict(zip(names, row, strict=True)) | {"n": number} for number, row in enumerate(rows)]
    for event in events:
        stand.logs[0].create(event)
    stand.handle()
    numbers = f"SELECT n FROM {sink_schema}.t ORDER BY n"
    assert execute(sink_root, numbers) == [(number,) for number in range(len(rows))]
    for number, event in enumerate(events):
        stand.logs[0].update(event, event | {"n": number + 100})
    stand.handle()
    assert execute(sink_root, numbers) == [(number + 100,) for number in range(len(rows))]
    for number, event in enumerate(events):
        stand.logs[0].delete(event)
        stand.handle()
        assert execute(sink_root, numbers) == [(left + 100,) for left in range(number + 1, len(rows))]
    assert execute(sink_root, f"SELECT reason FROM {sink_schema}._rowflow_dead_letters") == []
