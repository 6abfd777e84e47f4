"""check/ against a real server: equal rows of every type, and each way in which a copy can be wrong."""

from collections.abc import Iterator

import pytest
from MySQLdb.connections import Connection

from check.recheck import ROUNDS_MAX
from tests.check_stand import CheckStand, found_in
from tests.helpers import ServiceAddresses, drop_database, execute, unique_name


@pytest.fixture
def stand(services: ServiceAddresses, sink_root: Connection, sink_schema: str) -> Iterator[CheckStand]:
    db = unique_name("shop")
    execute(sink_root, f"CREATE DATABASE {db} CHARACTER SET utf8mb4")
    yield CheckStand(services.sink_root_url, services.sink_url, sink_root, db, sink_schema)
    drop_database(services.sink_root_url, db)


# column's type at the source, two literals that are different values
VALUES = [
    ("TINYINT", "-128", "127"),
    ("INT(8) ZEROFILL", "7", "8"),
    ("BIGINT UNSIGNED", "18446744073709551615", "18446744073709551614"),
    ("BIGINT", "-9223372036854775808", "-9223372036854775807"),
    ("YEAR", "0", "2000"),
    ("BIT(64)", "18446744073709551615", "18446744073709551614"),
    ("DECIMAL(65,30)", "-" + "9" * 35 + "." + "9" * 30, "-" + "9" * 35 + "." + "9" * 29 + "8"),
    ("DECIMAL(10,2)", "46.80", "46.81"),
    ("FLOAT", "0.1", "0.10000001"),
    ("FLOAT", "16777215", "16777214"),
    ("FLOAT(7,2)", "12345.67", "12345.68"),
    ("DOUBLE", "2.771507794182597e-163", "2.7715077941825975e-163"),
    ("DOUBLE(10,2)", "1.25", "1.26"),
    ("CHAR(10)", "'a'", "'A'"),
    ("VARCHAR(10)", "'a'", "'a '"),
    ("VARCHAR(10)", "'é'", "'e'"),
    ("VARCHAR(10)", "''", "NULL"),
    ("VARCHAR(10) CHARACTER SET latin1", "'é'", "'ê'"),
    ("VARCHAR(10) CHARACTER SET ucs2", "'é'", "'ê'"),
    ("TEXT", "REPEAT('ä', 30000)", "CONCAT(REPEAT('ä', 29999), 'Ä')"),
    ("MEDIUMTEXT", "REPEAT('a', 127)", "REPEAT('a', 128)"),
    ("ENUM('a','A','') COLLATE utf8mb4_bin", "'a'", "'A'"),
    ("SET('x','y')", "'x,y'", "'y'"),
    ("SET('x','y')", "''", "NULL"),
    ("BINARY(4)", "'ab'", "'ab '"),
    ("VARBINARY(9)", r"'\0'", r"'\0\0'"),
    ("LONGBLOB", "REPEAT('a', 200000)", "CONCAT(REPEAT('a', 199999), 'b')"),
    ("DATE", "'0000-00-00'", "NULL"),
    ("DATE", "'2015-00-21'", "'2015-00-22'"),
    ("DATETIME(6)", "'2015-02-30 13:13:30.996694'", "'2015-02-30 13:13:30.996695'"),
    ("DATETIME", "'0000-00-00'", "'0000-01-00'"),
    ("TIMESTAMP(3) NULL", "'0000-00-00'", "NULL"),
    ("TIMESTAMP(3) NULL", "'2026-11-22 13:13:30.996'", "'2026-11-22 13:13:30.997'"),
    ("TIME(6)", "'-838:59:59'", "'-838:59:58.999999'"),
    ("JSON", """'{"a": 1}'""", """'{"a": 1.0}'"""),
    ("JSON", """'{"a": null}'""", "'{}'"),
    ("JSON", "'null'", "NULL"),
    ("GEOMETRY", "ST_GeomFromText('POINT(2.5 1.5)', 4326)", "ST_GeomFromText('POINT(2.5 1.5)', 0)"),
    ("VECTOR(3)", "TO_VECTOR('[1,2,3]')", "TO_VECTOR('[1,2,4]')"),
]


def test_rule_c2_equal_values_of_every_type_are_equal_and_each_change_is_found(stand: CheckStand) -> None:
    types = [f"c{number} {kind}" for number, (kind, _, _) in enumerate(VALUES)]
    stand.execute(f"CREATE TABLE t (id INT PRIMARY KEY, {', '.join(types)}) CHARACTER SET utf8mb4")
    stand.execute(f"INSERT INTO t VALUES (0, {', '.join(one for _, one, _ in VALUES)})")
    stand.execute(f"INSERT INTO t VALUES (-1, {', '.join(other for _, _, other in VALUES)})")
    stand.execute("INSERT INTO t (id) VALUES (-2)")
    stand.make_mirror()
    report = stand.check()
    assert found_in(report) == {}
    assert (report.rows, report.values, report.right) == (3, 3 * (len(VALUES) + 1), True)
    for number in range(len(VALUES)):
        stand.execute(f"INSERT INTO {{s}}.t SELECT {number + 1}, {_all(number)} FROM {{m}}.t WHERE id = 0")
        stand.execute(f"INSERT INTO {{m}}.t SELECT * FROM {{s}}.t WHERE id = {number + 1}")
        # NULL between: an UPDATE of JSON 1 to 1.0 alone changes nothing.
        stand.execute(f"UPDATE {{m}}.t SET c{number} = NULL WHERE id = {number + 1}")
        stand.execute(f"UPDATE {{m}}.t SET c{number} = {VALUES[number][2]} WHERE id = {number + 1}")
    found = found_in(stand.check())
    assert found == {f'{{"id":{number + 1}}}': f"differs in c{number}" for number in range(len(VALUES))}


def _all(_number: int) -> str:
    return ", ".join(f"c{number}" for number in range(len(VALUES)))


# columns, the primary key, rows as SQL literals of which no two are one key at the source
KEYS = {
    "int": ("k INT", "k", ["-5", "0", "7"]),
    "year": ("k YEAR", "k", ["0", "1901", "2155"]),
    "bit": ("k BIT(64)", "k", ["0", "1", "18446744073709551615"]),
    "decimal": ("k DECIMAL(20,3)", "k", ["-1.5", "0", "9007199254740993.001", "9007199254740993.002"]),
    "float": ("k FLOAT", "k", ["0.1", "0.2", "3.402823466e38"]),
    "double": ("k DOUBLE", "k", ["-1e300", "0.1", "5e-324"]),
    "date": ("k DATE", "k", ["'0000-00-00'", "'2015-00-21'", "'2026-11-22'"]),
    "datetime": (
        "k DATETIME(6)",
        "k",
        ["'0000-00-00'", "'2015-02-30 13:13:30.996694'", "'2015-02-30 13:13:30.996695'"],
    ),
    "timestamp": ("k TIMESTAMP(3)", "k", ["'0000-00-00'", "'2026-11-22 13:13:30.996'", "'2038-01-01'"]),
    "time": (
        "k TIME(6)",
        "k",
        ["'-838:59:59'", "'-00:00:00.000001'", "'00:00:00.000001'", "'100:00:00'", "'99:00:00'"],
    ),
    "binary": ("k BINARY(4)", "k", ["'a'", "'A'", "'a '", "''"]),
    "varbinary": ("k VARBINARY(9)", "k", ["'a'", "'a '", r"'\0\''", "''", "0xff"]),
    "varchar": ("k VARCHAR(100)", "k", ["'b'", "'A'", "'a '", r"'it\'s \\ 😀'", "''", "'%'", "'_'", "'é f'"]),
    "varchar ci": ("k VARCHAR(100) COLLATE utf8mb4_general_ci", "k", ["'b'", "'A'", "'c '", "'ß'", "'Z'"]),
    "varchar latin1": (
        "k VARCHAR(9) CHARACTER SET latin1 COLLATE latin1_german2_ci",
        "k",
        ["'b'", "'é'", "'Z'", "'ä'"],
    ),
    "varchar big5": ("k VARCHAR(9) CHARACTER SET big5", "k", ["'數'", "'a'", "'Z'"]),
    "varchar ucs2": ("k VARCHAR(9) CHARACTER SET ucs2", "k", ["'數'", "'a'", "'Z'", "''"]),
    "char": ("k CHAR(10)", "k", ["'a'", "'b '", "''"]),
    "enum": ("k ENUM('b','a','C')", "k", ["'a'", "'b'", "'C'"]),
    "set": ("k SET('b','a')", "k", ["'a'", "'b'", "'a,b'", "''"]),
    "several": (
        "a INT, b VARCHAR(9), c DATE",
        "c, b, a",
        ["1, 'x', '2026-01-01'", "2, 'x', '2026-01-01'", "1, 'Y', '2026-01-01'", "1, 'Y', '2026-01-02'"],
    ),
    "several alike": ("a INT, b DATE", "b, a", ["1, '2026-01-01'", "2, '2026-01-01'", "1, '2026-01-02'"]),
    "prefix": ("a VARCHAR(99), b INT", "a(3), b", ["'a%c-one', 1", "'a_c', 1", "'a%', 1", "'', 1", "'a%c-two', 2"]),
    "blob prefix": ("k BLOB", "k(2)", ["'a%b'", "'a_b'", "'a'", r"'a\\c'"]),
}


@pytest.mark.parametrize(("columns", "key", "rows"), KEYS.values(), ids=KEYS)
def test_rule_c3_keys_of_every_type_are_found_by_their_bytes(
    stand: CheckStand, columns: str, key: str, rows: list[str]
) -> None:
    stand.execute(f"CREATE TABLE t ({columns}, n INT, PRIMARY KEY ({key})) CHARACTER SET utf8mb4")
    for number, row in enumerate(rows):
        stand.execute(f"INSERT INTO t VALUES ({row}, {number})")
    stand.make_mirror()
    report = stand.check()
    assert found_in(report) == {}
    assert report.rows == len(rows)
    stand.execute("UPDATE {m}.t SET n = 100 WHERE n = 0")
    stand.execute("DELETE FROM {m}.t WHERE n = 1")
    stand.execute(f"DELETE FROM {{s}}.t WHERE n = {len(rows) - 1}")
    report = stand.check()
    assert sorted(found_in(report).values()) == ["differs in n", "missing in the sink", "only in the sink"]
    assert report.rows == len(rows)


@pytest.mark.parametrize("kind", ["INT", "VARCHAR(20)", "VARCHAR(20) CHARACTER SET latin1", "TIME"])
def test_pages_meet_without_gap_or_overlap(stand: CheckStand, kind: str) -> None:
    stand.execute(f"CREATE TABLE t (k {kind} PRIMARY KEY, n INT) CHARACTER SET utf8mb4")
    stand.execute("SET cte_max_recursion_depth = 10000")
    value = "SEC_TO_TIME(i * 7 - 3000)" if kind == "TIME" else "i * 7 - 3000"
    numbers = "WITH RECURSIVE numbers (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM numbers WHERE i < 999)"
    stand.execute(f"INSERT INTO t {numbers} SELECT {value}, i FROM numbers")
    stand.make_mirror()
    assert stand.check().rows == 1000
    stand.execute("DELETE FROM {m}.t WHERE n BETWEEN 300 AND 699")
    stand.execute("DELETE FROM {s}.t WHERE n < 250 OR n > 950")
    report = stand.check()
    missing = {key for key, what in found_in(report).items() if what == "missing in the sink"}
    assert (report.rows, report.differences.count) == (1000, 400 + 250 + 49)
    assert len(report.differences.listed) == 100
    assert missing or report.differences.count > 100


def test_rule_r10_a_key_of_another_case_or_with_a_space_is_another_key(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (k VARCHAR(9) COLLATE utf8mb4_general_ci PRIMARY KEY, n INT)")
    stand.execute("INSERT INTO t VALUES ('a', 1), ('b', 2), ('c ', 3)")
    stand.make_mirror()
    stand.execute("UPDATE {m}.t SET k = 'A' WHERE n = 1")
    stand.execute("UPDATE {m}.t SET k = 'b ' WHERE n = 2")
    stand.execute("INSERT INTO {m}.t VALUES ('C ', 3)")
    assert found_in(stand.check()) == {
        '{"k":"a"}': "missing in the sink",
        '{"k":"A"}': "only in the sink",
        '{"k":"b"}': "missing in the sink",
        '{"k":"b "}': "only in the sink",
        '{"k":"C "}': "only in the sink",
    }


def test_an_invented_key_that_the_sources_character_set_lacks_is_found(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (k VARCHAR(9) CHARACTER SET latin1 PRIMARY KEY, n INT)")
    stand.execute("INSERT INTO t VALUES ('?', 1)")
    stand.make_mirror()
    stand.execute("INSERT INTO {m}.t VALUES ('😀', 2)")
    assert found_in(stand.check()) == {'{"k":"😀"}': "only in the sink"}


def test_rule_c4_json_with_opaque_values_is_equal_to_what_its_text_parses_to(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, j JSON)")
    stand.execute(
        "INSERT INTO t VALUES (1, JSON_OBJECT('d', CAST(1.10 AS DECIMAL(5,2)), 'on', CAST('2020-01-01' AS DATE),"
        " 'at', CAST('2020-01-01 10:00:00' AS DATETIME), 'blob', CAST('ab' AS BINARY)))"
    )
    stand.make_mirror()
    stand.execute("UPDATE {m}.t m JOIN {s}.t s USING (id) SET m.j = CAST(s.j AS CHAR)")
    assert stand.execute("SELECT CAST(m.j AS CHAR) = CAST(s.j AS CHAR) FROM {m}.t m JOIN {s}.t s USING (id)") == [(0,)]
    assert found_in(stand.check()) == {}
    stand.execute("""UPDATE {m}.t SET j = JSON_SET(j, '$.d', 1.11)""")
    assert found_in(stand.check()) == {'{"id":1}': "differs in j"}


def test_columns_that_only_the_mirror_has_are_passed_over(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT, gone INT)")
    stand.execute("INSERT INTO t VALUES (1, 1, 1)")
    stand.make_mirror()
    stand.execute("ALTER TABLE {s}.t DROP COLUMN gone")
    report = stand.check()
    assert (report.rows, report.values, report.right) == (1, 2, True)


def test_a_mirror_that_lacks_columns_is_named_and_not_right(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    stand.execute("INSERT INTO t VALUES (1)")
    stand.make_mirror()
    stand.execute("ALTER TABLE {s}.t ADD COLUMN n INT")
    report = stand.check()
    assert not report.right
    assert "lacks columns: n" in report.not_compared

    def catch_up() -> None:
        stand.execute("ALTER TABLE {m}.t ADD COLUMN n INT")

    report = stand.check(catch_up)
    assert (report.rows, report.right) == (1, True)


def test_a_table_without_a_mirror_is_named_and_not_right(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    stand.execute("CREATE TABLE u (id INT PRIMARY KEY)")
    stand.execute("INSERT INTO t VALUES (1)")
    stand.make_mirror()
    report = stand.check_all()
    assert not report.right
    assert report.summary() == f"0 differences in 1 rows; not compared: {stand.db}.u"


def test_rule_c5_nothing_compared_is_not_right(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    stand.make_mirror()
    report = stand.check_all()
    assert not report.right
    assert "nothing was compared" in report.summary()


def test_rule_c5_a_key_that_keeps_changing_is_not_a_difference(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    stand.execute("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    stand.make_mirror()
    stand.execute("UPDATE {m}.t SET n = 0")
    looks = 0

    def write_on() -> None:
        nonlocal looks
        looks += 1
        stand.execute("UPDATE {s}.t SET n = n + 1 WHERE id = 1")
        if looks == 2:
            stand.execute("UPDATE {m}.t SET n = 2 WHERE id = 2")

    report = stand.check(write_on)
    assert looks == ROUNDS_MAX
    assert found_in(report) == {'{"id":3}': "differs in n"}
    assert [found.key for found in report.changing.listed] == ['{"id":1}']
    assert report.rows == 2


def test_rule_c5_a_row_that_is_switched_to_and_fro_is_not_a_difference(stand: CheckStand) -> None:
    """The sink is one state behind whenever it is looked at, and the source was switched an even number of times."""
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    stand.execute("INSERT INTO t VALUES (1, 0), (2, 2)")
    stand.make_mirror()
    stand.execute("UPDATE {m}.t SET n = 1 WHERE id = 1")
    looks = 0

    def switch() -> None:
        nonlocal looks
        looks += 1
        stand.execute(f"UPDATE {{m}}.t SET n = {int(looks < 3)} WHERE id = 1")

    assert found_in(stand.check(switch)) == {}


def test_what_only_changes_during_the_comparison_is_equal_in_the_end(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    stand.execute("INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
    stand.make_mirror()
    stand.execute("UPDATE {s}.t SET n = 100 WHERE id = 1")
    stand.execute("DELETE FROM {s}.t WHERE id = 2")
    stand.execute("INSERT INTO {s}.t VALUES (4, 4)")

    def copy() -> None:
        stand.execute("UPDATE {m}.t SET n = 100 WHERE id = 1")
        stand.execute("DELETE FROM {m}.t WHERE id = 2")
        stand.execute("REPLACE INTO {m}.t VALUES (4, 4)")

    report = stand.check(copy)
    assert (report.rows, report.right, found_in(report)) == (3, True, {})


def test_more_suspects_than_are_kept_are_settled_in_parts(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, n INT)")
    stand.execute("SET cte_max_recursion_depth = 10000")
    stand.execute(
        "INSERT INTO t WITH RECURSIVE numbers (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM numbers WHERE i < 1000)"
        " SELECT i, i FROM numbers"
    )
    stand.make_mirror()
    stand.execute("DELETE FROM {m}.t WHERE id % 2 = 1")
    stand.execute("INSERT INTO {m}.t VALUES (5000, 1)")
    stand.suspects_max(150)
    report = stand.check()
    assert (report.rows, report.differences.count) == (1001, 501)


def test_keys_with_open_dead_letters_are_listed_apart(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (a INT, b VARCHAR(9), d DATETIME(3), n INT, PRIMARY KEY (b, a, d))")
    stand.execute(
        "INSERT INTO t VALUES (1, 'x', '2026-01-01', 1), (2, 'x', '2026-01-01', 2), (3, 'x', '2026-01-01', 3)"
    )
    stand.make_mirror()
    stand.prepare_bookkeeping()
    stand.execute("UPDATE {m}.t SET n = 0 WHERE a < 3")
    for status, number in (("open", 1), ("outdated", 2), ("open", 3)):
        stand.execute(
            "INSERT INTO {m}._rowflow_dead_letters (topic, partition_id, offset, `key`, reason, status, created_at)"
            f""" VALUES ('bookshop.{{s}}.t', 0, {number}, '{{"b":"x","a":{number},"d":"2026-01-01T00:00:00.000"}}',"""
            f" 'a function raised', '{status}', NOW())"
        )
    report = stand.check()
    assert [found.key for found in report.with_dead_letters.listed] == ['{"b":"x","a":1,"d":"2026-01-01T00:00:00.000"}']
    assert list(found_in(report)) == ['{"b":"x","a":2,"d":"2026-01-01T00:00:00.000"}']
    assert report.rows == 3
    stand.execute("UPDATE {m}.t SET n = 2 WHERE a = 2")
    assert not stand.check().right


def test_no_line_shows_a_rows_values(stand: CheckStand) -> None:
    stand.execute("CREATE TABLE t (id INT PRIMARY KEY, secret VARCHAR(99), n INT)")
    stand.execute("INSERT INTO t VALUES (1, 'canary-one', 1), (2, 'canary-two', 2)")
    stand.make_mirror()
    stand.execute("UPDATE {m}.t SET secret = 'canary-three', n = 5 WHERE id = 1")
    lines = list(stand.check().lines())
    assert lines == [
        f"{stand.db}.t: 2 rows, 6 values compared, 1 difference",
        '  {"id":1} differs in secret, n',
    ]
