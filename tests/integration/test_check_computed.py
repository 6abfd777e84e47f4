"""Computed columns, computed again by check/ from the source's row."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from tests.check_stand import CheckStand, found_in
from tests.helpers import ServiceAddresses, drop_database, execute, unique_name

FUNCTIONS = """
from datetime import date, datetime, timedelta
from decimal import Decimal

from rowflow import computed


@computed("{db}.t")
def f_int(row: dict) -> int | None:
    return None if row["n"] is None else row["n"] * 2


@computed("{db}.t")
def f_decimal(row: dict) -> Decimal:
    return row["price"] / 3


@computed("{db}.t")
def f_text(row: dict) -> str:
    return f"{{row['title']}} {{row['size']!r}} {{row['span']}} {{row['cover']!r}}"


@computed("{db}.t")
def f_datetime(row: dict) -> datetime:
    return row["at"] + timedelta(microseconds=1)


@computed("{db}.t")
def f_date(row: dict) -> date:
    return row["at"].date()


@computed("{db}.t")
def f_bool(row: dict) -> bool:
    return row["n"] is None


@computed("{db}.t")
def f_double(row: dict) -> float:
    return row["size"] / 3


@computed("{db}.t")
def f_json(row: dict) -> dict:
    return {{"one": 1.0, "tags": row["tags"], "length": len(row["title"])}}
"""
COLUMNS = ("f_int", "f_decimal", "f_text", "f_datetime", "f_date", "f_bool", "f_double", "f_json")

# What the functions give for the row below, as literals for a plain client.
STORED = {
    "f_int": "14",
    "f_decimal": "15.600000000000000000000000000000",
    "f_text": r"'数据  0.1 0:00:01.500000 b\'\\x00a\''",
    "f_datetime": "'2026-11-22 13:13:30.500001'",
    "f_date": "'2026-11-22'",
    "f_bool": "0",
    "f_double": "0.03333333333333333e0",
    "f_json": """'{"one": 1.0, "tags": [1, 1.5], "length": 3}'""",
}
CHANGED = {
    "f_int": "15",
    "f_decimal": "15.600000000000000000000000000001",
    "f_text": "'数据'",
    "f_datetime": "'2026-11-22 13:13:30.500002'",
    "f_date": "'0000-00-00'",
    "f_bool": "NULL",
    "f_double": "0.033333333333333326e0",
    "f_json": """'{"one": 1, "tags": [1, 1.5], "length": 3}'""",
}


@pytest.fixture
def make_stand(
    services: ServiceAddresses, sink_root: Connection, sink_schema: str, tmp_path: Path
) -> Iterator[Callable[[str], CheckStand]]:
    db = unique_name("shop")
    execute(sink_root, f"CREATE DATABASE {db} CHARACTER SET utf8mb4")

    def make(functions: str) -> CheckStand:
        path = tmp_path / "functions.py"
        path.write_text(functions.format(db=db))
        return CheckStand(services.sink_root_url, services.sink_url, sink_root, db, sink_schema, path)

    yield make
    drop_database(services.sink_root_url, db)


def fill(stand: CheckStand, rows: int) -> None:
    stand.execute(
        "CREATE TABLE t (id INT PRIMARY KEY, n INT, price DECIMAL(10,2), title TEXT, size FLOAT, span TIME(1),"
        " cover BLOB, at DATETIME(1), tags JSON) CHARACTER SET utf8mb4"
    )
    values = r"7, 46.80, '数据 ', 0.1, '00:00:01.5', '\0a', '2026-11-22 13:13:30.5', '[1, 1.5]'"
    for number in range(rows):
        stand.execute(f"INSERT INTO t VALUES ({number}, {values})")
    stand.make_mirror()
    stand.execute("UPDATE {m}.t SET " + ", ".join(f"{name} = {literal}" for name, literal in STORED.items()))


def test_computed_columns_are_computed_again_and_each_change_is_found(make_stand: Callable[[str], CheckStand]) -> None:
    stand = make_stand(FUNCTIONS)
    fill(stand, len(COLUMNS))
    report = stand.check()
    assert found_in(report) == {}
    assert (report.right, report.rows, report.values) == (True, 8, 8 * (9 + 8))
    for number, (name, literal) in enumerate(CHANGED.items()):
        stand.execute(f"UPDATE {{m}}.t SET {name} = NULL WHERE id = {number}")
        stand.execute(f"UPDATE {{m}}.t SET {name} = {literal} WHERE id = {number}")
    assert found_in(stand.check()) == {
        f'{{"id":{number}}}': f"differs in {name}" for number, name in enumerate(CHANGED)
    }


def test_rows_computed_by_an_earlier_file_are_counted_apart_with_the_command_that_renews_them(
    make_stand: Callable[[str], CheckStand],
) -> None:
    stand = make_stand(FUNCTIONS)
    fill(stand, 3)
    stand.prepare_bookkeeping()
    stand.execute(
        "INSERT INTO {m}._rowflow_tables (topic, db, table_name, mirror, status, awaited_job, fingerprint,"
        " functions_fingerprint) VALUES ('bookshop.{s}.t', '{s}', 't', 't', 'made', '', '', 'another')"
    )
    stand.execute("UPDATE {m}.t SET f_int = f_int + 1 WHERE id = 1")
    stand.execute("UPDATE {m}.t SET f_int = f_int + 1, n = n + 1 WHERE id = 2")
    report = stand.check()
    assert [str(found) for found in report.outdated.listed] == ['{"id":1} differs in f_int']
    assert found_in(report) == {'{"id":2}': "differs in n, f_int"}
    assert any(f"rowflow snapshot {stand.db}.t" in line for line in report.lines())
    stand.execute("UPDATE {m}.t SET n = 7, f_int = 14 WHERE id = 2")
    assert not stand.check().right


def test_a_computed_column_that_the_mirror_lacks_is_null_everywhere(make_stand: Callable[[str], CheckStand]) -> None:
    stand = make_stand(FUNCTIONS)
    fill(stand, 1)
    stand.execute("ALTER TABLE {m}.t DROP COLUMN f_date")
    assert found_in(stand.check()) == {'{"id":0}': "differs in f_date"}


def test_a_function_that_raises_is_a_difference_and_ends_nothing(make_stand: Callable[[str], CheckStand]) -> None:
    stand = make_stand(FUNCTIONS)
    fill(stand, 2)
    stand.execute("UPDATE {s}.t SET price = NULL WHERE id = 1")
    stand.execute("UPDATE {m}.t SET price = NULL WHERE id = 1")
    report = stand.check()
    assert found_in(report) == {'{"id":1}': f"differs in {', '.join(COLUMNS)}"}
    assert report.rows == 2
