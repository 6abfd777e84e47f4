"""Where ranges of keys are cut in two, for keys of every kind: what MySQL itself says of the two halves is the oracle."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from MySQLdb.connections import Connection

from cdc_reader.key_ranges import Key, KeyRange
from cdc_reader.shard_plans import ShardPlan, compile_shard_plan
from cdc_reader.splits import middle_key
from cdc_reader.sql import SourceSession
from tests.decode_stand import DecodeStand, address_of
from tests.helpers import ServiceAddresses, execute

ROWS = 3_000
NUMBERS = (
    f"(WITH RECURSIVE s AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM s WHERE n < {ROWS}) SELECT n FROM s) AS numbers"
)

KEYS = {
    "int": ("k INT PRIMARY KEY", "n"),
    "unsigned": ("k BIGINT UNSIGNED PRIMARY KEY", "18446744073709551615 - n"),
    "negative": ("k INT PRIMARY KEY", f"n - {ROWS // 2}"),
    "gaps": ("k BIGINT PRIMARY KEY", "IF(n < 2900, n, n * 1000000000)"),
    "decimal": ("k DECIMAL(20, 5) PRIMARY KEY", "n * 1.12345"),
    "double": ("k DOUBLE PRIMARY KEY", "n * 1.5e10"),
    "date": ("k DATE PRIMARY KEY", "DATE '2000-01-01' + INTERVAL n DAY"),
    "datetime": ("k DATETIME(3) PRIMARY KEY", "TIMESTAMP '2000-01-01 00:00:00' + INTERVAL n HOUR"),
    "timestamp": ("k TIMESTAMP PRIMARY KEY", "TIMESTAMP '2000-01-01 00:00:00' + INTERVAL n HOUR"),
    "uuid text": ("k CHAR(36) CHARACTER SET ascii PRIMARY KEY", "UUID()"),
    "text near the carry of a digit": ("k CHAR(8) PRIMARY KEY", "LOWER(HEX(0xa2000000 - 5960 + 2 * n))"),
    "random text": ("k VARCHAR(40) PRIMARY KEY", "LEFT(SHA2(n, 256), 32)"),
    "any collation": ("k VARCHAR(40) COLLATE utf8mb4_0900_ai_ci PRIMARY KEY", "CONCAT(CHAR(97 + n % 26), ' ', n)"),
    "binary collation": ("k VARCHAR(40) COLLATE utf8mb4_bin PRIMARY KEY", "CONCAT('book-', LPAD(n, 8, '0'))"),
    "latin1": ("k VARCHAR(40) CHARACTER SET latin1 PRIMARY KEY", "CONCAT(ELT(1 + n % 5, 'ä', 'b', 'é', 'z', 'ß'), n)"),
    "chinese": ("k VARCHAR(40) PRIMARY KEY", "CONCAT(CHAR(0x4E00 + n USING ucs2), n)"),
    "binary": ("k BINARY(16) PRIMARY KEY", "LEFT(UNHEX(SHA2(n, 256)), 16)"),
    "varbinary": ("k VARBINARY(16) PRIMARY KEY", "UNHEX(HEX(n))"),
    "enum": ("k ENUM('a', 'b', 'c', 'd'), i INT, PRIMARY KEY (k, i)", "1 + n % 4, n"),
    "composite": ("k INT, i INT, PRIMARY KEY (k, i)", "n DIV 1000, n"),
    "one first part": ("k INT, i VARCHAR(20), PRIMARY KEY (k, i)", "7, LEFT(SHA2(n, 256), 20)"),
    "bit": ("k BIT(40) PRIMARY KEY", "n * 1000"),
}


@pytest.fixture
def stand(services: ServiceAddresses, source_root: Connection, database: str) -> Iterator[DecodeStand]:
    with SourceSession(address_of(services.source_root_url)) as session:
        yield DecodeStand(services.source_root_url, source_root, database, session)


def in_range(stand: DecodeStand, plan: ShardPlan, keys: KeyRange) -> int:
    return len(stand.session.rows(plan.select_sql(keys, 10 * ROWS)))


def filled(stand: DecodeStand, kind: str) -> ShardPlan:
    columns, values = KEYS[kind]
    stand.run("SET SESSION cte_max_recursion_depth = 100000")
    stand.run(f"CREATE TABLE t ({columns})", f"INSERT IGNORE INTO t SELECT {values} FROM {NUMBERS}", "ANALYZE TABLE t")
    return compile_shard_plan(stand.schema("t"))


@pytest.mark.parametrize("kind", KEYS)
def test_a_range_is_cut_into_two_that_hold_all_of_it(stand: DecodeStand, kind: str) -> None:
    plan = filled(stand, kind)
    whole = in_range(stand, plan, KeyRange())
    assert whole > ROWS // 2, "keys came twice"
    middle = middle_key(stand.session, plan, KeyRange(), rows_min=100)
    assert middle is not None
    halves = [in_range(stand, plan, keys) for keys in (KeyRange(None, middle), KeyRange(middle))]
    assert sum(halves) == whole
    assert min(halves) > whole // 8, halves
    assert middle_key(stand.session, plan, KeyRange(), rows_min=100 * ROWS) is None, "too few rows to be cut"


@pytest.mark.parametrize("kind", ["gaps", "random text", "composite", "binary"])
def test_ranges_cut_again_and_again_hold_each_row_once(stand: DecodeStand, kind: str) -> None:
    plan = filled(stand, kind)
    ranges = [KeyRange()]
    for _ in range(12):
        largest = max(ranges, key=lambda keys: in_range(stand, plan, keys))
        middle: Key | None = middle_key(stand.session, plan, largest, rows_min=2)
        assert middle is not None
        place = ranges.index(largest)
        ranges[place : place + 1] = [KeyRange(largest.after, middle), KeyRange(middle, largest.until)]
    rows = [row for keys in ranges for row in stand.session.rows(plan.select_sql(keys, 10 * ROWS))]
    assert rows == stand.session.rows(plan.select_sql(KeyRange(), 10 * ROWS))
    assert max(in_range(stand, plan, keys) for keys in ranges) < len(rows) // 4


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_a_table_of_few_rows_is_not_cut_where_nothing_lies_behind(stand: DecodeStand, rows: int) -> None:
    stand.run("CREATE TABLE t (k INT PRIMARY KEY)", *(f"INSERT INTO t VALUES ({number})" for number in range(rows)))
    plan = compile_shard_plan(stand.schema("t"))
    middle = middle_key(stand.session, plan, KeyRange(), rows_min=2)
    assert middle is None or execute(stand.connection, f"SELECT COUNT(*) FROM {stand.database}.t WHERE k > 0")[0][0]
