"""Every column type with its edge values: the binlog and a shard give the same bytes, and what design.md's table says."""

import base64
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from MySQLdb.connections import Connection

from cdc_reader.sql import SourceSession
from tests.decode_stand import DecodeStand, address_of, after_text
from tests.helpers import ServiceAddresses


def _wkb(kind: int, *parts: bytes) -> bytes:
    """A geometry as OpenGIS Simple Features (WKB, little-endian) has it; one of several parts says how many."""
    count = b"" if kind == _POINT else struct.pack("<I", len(parts))
    return struct.pack("<BI", 1, kind) + count + b"".join(parts)


def _at(*places: float) -> bytes:
    return struct.pack(f"<{len(places)}d", *places)


def _ring() -> bytes:
    return struct.pack("<I", 4) + _at(0, 0, 1, 0, 1, 1, 0, 0)


def _spatial(column: str, text: str, wkb: bytes) -> tuple[str, dict[str, Any]]:
    """MySQL puts the reference system before it, here 0."""
    return column, {f"ST_GeomFromText('{text}')": base64.b64encode(b"\0\0\0\0" + wkb).decode()}


_POINT = 1
_LINE = _wkb(2, _at(0, 0), _at(1, 1))
_POLYGON = _wkb(3, _ring())
_SPATIAL = [
    _spatial("point", "POINT(1 2)", _wkb(_POINT, _at(1, 2))),
    _spatial("linestring", "LINESTRING(0 0, 1 1)", _LINE),
    _spatial("polygon", "POLYGON((0 0, 1 0, 1 1, 0 0))", _POLYGON),
    _spatial("multipoint", "MULTIPOINT(1 2)", _wkb(4, _wkb(_POINT, _at(1, 2)))),
    _spatial("multilinestring", "MULTILINESTRING((0 0, 1 1))", _wkb(5, _LINE)),
    _spatial("multipolygon", "MULTIPOLYGON(((0 0, 1 0, 1 1, 0 0)))", _wkb(6, _POLYGON)),
    _spatial("geomcollection", "GEOMETRYCOLLECTION(LINESTRING(0 0, 1 1))", _wkb(7, _LINE)),
    _spatial("geometry", "LINESTRING(0 0, 1 1)", _LINE),
]
_SIZES = ("tiny", "", "medium", "long")
_CASES: list[tuple[str, dict[str, Any]]] = [
    ("tinyint", {"-128": -128, "127": 127, "NULL": None}),
    ("smallint", {"-32768": -32768, "32767": 32767}),
    ("smallint unsigned", {"65535": 65535}),
    ("mediumint", {"-8388608": -8388608, "-1": -1}),
    ("mediumint unsigned", {"16777215": 16777215}),
    ("int", {"-2147483648": -2147483648, "2147483647": 2147483647}),
    ("int unsigned zerofill", {"7": 7}),
    ("bigint", {"-9223372036854775808": -9223372036854775808, "9223372036854775807": 9223372036854775807}),
    ("bigint unsigned", {"18446744073709551615": 18446744073709551615}),
    ("decimal(10,2)", {"46.80": "46.80", "-0.01": "-0.01", "0": "0.00"}),
    ("decimal(8,2) zerofill", {"1.5": "1.50", "0": "0.00"}),
    ("decimal(4,4)", {"-0.0001": "-0.0001"}),
    ("decimal(38,20)", {"-3.00000000000000000001": "-3.00000000000000000001"}),
    ("float", {"0.1": 0.1, "3.4028235e38": 3.4028235e38, "1e-45": 1e-45, "-0.3": -0.3}),
    ("double", {"0.1": 0.1, "5e-324": 5e-324, "1.7976931348623157e308": 1.7976931348623157e308}),
    ("bit(17)", {"87521": 87521}),
    ("bit(64)", {"18446744073709551615": 18446744073709551615}),
    ("year", {"0": 0, "1901": 1901, "2155": 2155}),
    ("date", {"'0000-00-00'": "0000-00-00", "'2015-00-21'": "2015-00-21"}),
    ("datetime", {"'2026-11-22 13:13:30.5'": "2026-11-22T13:13:31", "'0000-00-00 00:00:00'": "0000-00-00T00:00:00"}),
    ("datetime(3)", {"'2026-11-22 13:13:30.9966'": "2026-11-22T13:13:30.997"}),
    ("datetime(6)", {"'2015-00-21 01:02:03.000001'": "2015-00-21T01:02:03.000001"}),
    ("timestamp", {"0": "0000-00-00T00:00:00Z", "'2000-02-29 23:59:59'": "2000-02-29T23:59:59Z"}),
    ("time", {"'-838:59:59'": "-838:59:59"}),
    ("time(2)", {"'-00:00:01.25'": "-00:00:01.25", "'-00:00:00.5'": "-00:00:00.50"}),
    ("char(5)", {"'ab  '": "ab", "'é数据😀'": "é数据😀"}),
    ("varchar(10) character set utf16", {"'aé😀'": "aé😀"}),
    ("char(10) character set latin1", {"unhex('e98141')": "é\x81A"}),
    ("binary(3)", {"'a'": "YQAA"}),
    ("varbinary(300)", {"unhex('6100')": "YQA=", "''": "", "repeat('a', 300)": "YWFh" * 100}),
    *[(f"{size}text", {"'é数据😀'": "é数据😀", "''": "", "repeat('é', 120)": "é" * 120}) for size in _SIZES],
    *[(f"{size}blob", {"unhex('ff00')": "/wA=", "''": "", "repeat('a', 255)": "YWFh" * 85}) for size in _SIZES],
    ("mediumtext", {"repeat('a', 70000)": "a" * 70_000}),
    ("longblob", {"repeat('a', 70002)": "YWFh" * 23_334}),
    ("enum('a','b''c','x\\\\y','😀','')", {"2": "b'c", "3": "x\\y", "4": "😀", "0": ""}),
    ("set('a','b','c')", {"'c,a'": "a,c", "''": ""}),
    ("vector(2)", {"to_vector('[1,2]')": "AACAPwAAAEA="}),
    *_SPATIAL,
    (
        "json",
        {
            "json_array(1e15, 1e14, 1e-15, 1e-16, -0e0)": "[1e15, 100000000000000.0, 0.000000000000001, 1e-16, -0.0]",
            "json_array(1.10, cast('2015-01-15' as date))": '[1.10, "2015-01-15"]',
            "json_object('b', 1, 'a', json_array(true, null))": '{"a": [true, null], "b": 1}',
        },
    ),
]


@pytest.fixture
def stand(services: ServiceAddresses, source_root: Connection, database: str) -> Iterator[DecodeStand]:
    with SourceSession(address_of(services.source_root_url)) as session:
        yield DecodeStand(services.source_root_url, source_root, database, session)


def test_values_of_every_type_are_exact_and_equal_by_both_ways(stand: DecodeStand) -> None:
    findings = [
        f"{column}: {finding}"
        for n, (column, values) in enumerate(_CASES)
        for finding in _unlike(stand, f"t{n}", column, values)
    ]
    assert not findings, "\n".join(findings)


def _unlike(stand: DecodeStand, table: str, column: str, values: dict[str, Any]) -> list[str]:
    """What the binlog gives otherwise than is expected, and a shard otherwise than the binlog."""
    stand.run(f"CREATE TABLE {table} (id INT NOT NULL PRIMARY KEY, v {column} NULL)")
    changes = stand.changes(*[f"INSERT INTO {table} VALUES ({n}, {value})" for n, value in enumerate(values)])
    read = [message for shard in stand.shards(table, 2) for message in shard]
    found = [image["v"] for image in changes.images]
    findings = [] if found == list(values.values()) else [f"the binlog gives {found}"[:300]]
    if [after_text(message) for message in read] != [after_text(message) for message in changes.messages]:
        findings.append("a shard gives other images")
    if [message[1] for message in read] != [message[1] for message in changes.messages]:
        findings.append("a shard gives other keys")
    return findings


def test_rule_r9_both_ways_give_one_schema_for_all_types_in_one_table(stand: DecodeStand) -> None:
    columns = ", ".join(f"c{n} {column} NULL" for n, (column, _) in enumerate(_CASES))
    stand.run(f"CREATE TABLE t (a INT, {columns}, b INT UNSIGNED, PRIMARY KEY (b, a))")
    schema = stand.changes("INSERT INTO t (a, b) VALUES (1, 2)").schema
    assert schema == stand.schema("t")
    assert schema.fingerprint == stand.schema("t").fingerprint
    assert schema.key_columns == ("b", "a")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("float", "0.1 0.2 1e-45 3.4e38 -0.1 123456.789 123456.79 0"),
        ("decimal(10,2)", "-1.5 0 1.5 -0.01"),
        ("time(2)", "'-838:59:59' '-00:00:00.5' '00:00:00' '12:00:00.01'"),
        ("timestamp(3)", "0 '2026-11-22T01:02:03.001' '2026-11-22T01:02:03.002'"),
        ("enum('b','a','c')", "1 2 3"),
        (f"set({','.join(repr(f's{n}') for n in range(64))})", "9223372036854775808 18446744073709551615 1 0"),
        ("varchar(9) collate utf8mb4_0900_ai_ci", "'a' 'ä' 'B' 'b' 'z' '' 'ss' '中' '😀'"),
        ("char(9) character set utf16", "'a' 'B' 'z' '' 'ss' '中' '😀'"),
        ("varchar(9) character set sjis", "'a' 'B' 'z' '' '中' '文字'"),
        ("binary(2)", "'' 'a' 'b' unhex('6100') unhex('ffff')"),
        ("bit(64)", "0 1 18446744073709551615"),
    ],
)
def test_shards_leave_no_row_out_and_read_none_twice(stand: DecodeStand, column: str, values: str) -> None:
    stand.run(f"CREATE TABLE t (v {column} NOT NULL PRIMARY KEY)")
    stand.run(*[f"INSERT IGNORE INTO t VALUES ({value})" for value in values.split()])
    (whole,) = stand.shards("t", 1000)
    assert [shard[0][1] for shard in stand.shards("t", 1)] == [message[1] for message in whole]


def test_update_of_unchanged_texts_and_of_the_key(stand: DecodeStand) -> None:
    stand.run("CREATE TABLE t (k VARCHAR(9) PRIMARY KEY, title TEXT, n INT, note TEXT)")
    stand.run("INSERT INTO t VALUES ('a', 'Moby', 1, NULL)")
    changes = stand.changes("UPDATE t SET n = 2", "UPDATE t SET note = 'x'", "UPDATE t SET k = 'A'", "DELETE FROM t")
    assert [image["n"] for image in changes.images] == [2, 2, 2, 2, 2]
    assert [image["note"] for image in changes.images] == [None, "x", "x", "x", "x"]
    keys = [(message[1], message[2] is None) for message in changes.messages[2:]]
    old, new = b'{"k":"a"}', b'{"k":"A"}'
    assert keys == [(old, False), (old, True), (new, False), (new, False), (new, True)]
    assert changes.messages[2][3] == [("__debezium.newkey", new)]
    assert changes.messages[4][3] == [("__debezium.oldkey", old)]
