"""Loading functions.py, and running what is in it."""

from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from schemas.patterns import TablePatterns
from schemas.tables import Column, TableName
from sink.computed import ComputedFunctions, FunctionsError, RowComputer, load
from sink.values import UnreadableError
from tests.sink_stand import BOOKS, book

PATTERNS = TablePatterns.from_settings(["shop.books", "shop.orders"])


def loaded(tmp_path: Path, source: str, patterns: TablePatterns | None = PATTERNS) -> ComputedFunctions:
    path = tmp_path / "functions.py"
    header = "from datetime import *\nfrom decimal import Decimal\nfrom rowflow import computed\n"
    path.write_text(header + dedent(source), encoding="utf-8")
    return load(path, patterns)


def value(tmp_path: Path, annotation: str, returned: str, row: dict[str, Any] | None = None) -> object:
    functions = loaded(tmp_path, f'@computed("shop.books")\ndef f(row: dict) -> {annotation}:\n    return {returned}\n')
    return RowComputer(BOOKS, functions.by_table[BOOKS.name]).parameters(row or book(1))[0]


@pytest.mark.parametrize(
    ("annotation", "sql_type"),
    [
        ("int", "bigint"),
        ("Decimal", "decimal(65,30)"),
        ("str", "longtext CHARACTER SET utf8mb4"),
        ("datetime", "datetime(6)"),
        ("date", "date"),
        ("bool", "tinyint(1)"),
        ("float", "double"),
        ("dict", "json"),
        ("dict[str, int]", "json"),
        ("int | None", "bigint"),
        ("'None | str'", "longtext CHARACTER SET utf8mb4"),
    ],
)
def test_annotation_is_the_columns_type(tmp_path: Path, annotation: str, sql_type: str) -> None:
    functions = loaded(tmp_path, f'@computed("shop.books")\ndef f(row: dict) -> {annotation}: ...\n')
    assert functions.columns(TableName("shop", "books")) == (("f", sql_type),)
    assert functions.columns(TableName("shop", "orders")) == ()
    assert functions.fingerprint_for(TableName("shop", "orders")) == ""
    assert functions.fingerprint_for(TableName("shop", "books")) == functions.fingerprint != ""


@pytest.mark.parametrize(
    ("annotation", "returned", "expected"),
    [
        ("int", "len(row['title'])", 6),
        ("int", "None", None),
        ("int", "-(1 << 63)", -(1 << 63)),
        ("int", "True", 1),
        ("Decimal", "row['price'] * row['stock']", Decimal("140.40")),
        ("Decimal", "Decimal(2) / 3", Decimal("0.666666666666666666666666666700")),
        ("str", "row['tags']['genre'].upper()", "POETRY"),
        ("bool", "row['stock'] > 0", 1),
        ("bool", "row['stock'] > 100", 0),
        ("float", "1", 1.0),
        ("date", "date(2026, 11, 22)", "2026-11-22"),
        ("datetime", "datetime(2026, 11, 22, 1)", "2026-11-22T01:00:00"),
        ("datetime", "datetime(2026, 11, 22, 1, tzinfo=timezone(timedelta(hours=2)))", "2026-11-21T23:00:00"),
        ("dict", "{'n': row['id'], 'é': [None]}", '{"n":1,"é":[null]}'),
    ],
)
def test_functions_see_python_values_and_give_parameters(
    tmp_path: Path, annotation: str, returned: str, expected: object
) -> None:
    assert value(tmp_path, annotation, returned) == expected


@pytest.mark.parametrize(
    ("annotation", "returned", "reason"),
    [
        ("int", "1 // 0", r"function f raised ZeroDivisionError \(functions.py:6\)"),
        ("int", "'5'", "function f raised TypeError"),
        ("int", "1 << 63", "function f raised ValueError"),
        ("int", "10 ** 5000", "function f raised ValueError"),
        ("float", "float('-inf')", "function f raised ValueError"),
        ("float", "float('nan')", "function f raised ValueError"),
        ("Decimal", "Decimal('Infinity')", "function f raised ValueError"),
        ("Decimal", "Decimal('NaN')", "function f raised ValueError"),
        ("str", "'\\ud83d'", "function f raised UnicodeEncodeError"),
        ("dict", "{'x': object()}", "function f raised"),
        ("str", "row['nothing']", "function f raised KeyError"),
    ],
)
def test_function_that_raises_is_named_with_its_place(
    tmp_path: Path, annotation: str, returned: str, reason: str
) -> None:
    with pytest.raises(UnreadableError, match=reason):
        value(tmp_path, annotation, returned)


def test_what_a_function_raised_is_no_part_of_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError) as refusal:
        value(tmp_path, "int", "int(row['title'])")
    assert "Book 1" in refusal.value.detail
    assert "Book 1" not in refusal.value.reason


def test_functions_cant_change_each_others_row(tmp_path: Path) -> None:
    functions = loaded(
        tmp_path,
        """
        @computed("shop.books")
        def first(row: dict) -> int:
            return row.pop("stock")

        @computed("shop.books")
        def second(row: dict) -> int:
            return row["stock"]
        """,
    )
    assert RowComputer(BOOKS, functions.by_table[BOOKS.name]).parameters(book(1)) == [3, 3]


def test_one_function_for_several_tables(tmp_path: Path) -> None:
    functions = loaded(
        tmp_path, '@computed("shop.books")\n@computed("shop.orders")\ndef f(row: dict) -> int:\n    return 1\n'
    )
    assert set(functions.by_table) == {TableName("shop", "books"), TableName("shop", "orders")}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            '@computed("shop.boks")\ndef f(row: dict) -> int: ...\n',
            r"functions\.py:4: f: table shop\.boks isn't captured; is shop\.books ",
        ),
        ('@computed("books")\ndef f(row: dict) -> int: ...\n', r"functions\.py:4: f: @computed takes"),
        ('@computed("shop.books")\ndef f(row: dict): ...\n', r"functions\.py:4: f: annotate what it returns"),
        ('@computed("shop.books")\ndef f(row: dict) -> list: ...\n', r"functions\.py:4: f: annotate what it returns"),
        ('@computed("shop.books")\ndef f(row: dict) -> "Nothing": ...\n', r"functions\.py:4: f: its annotations"),
        ('@computed("shop.books")\nasync def f(row: dict) -> int: ...\n', r"functions\.py:5: f: .*async"),
        ('@computed("shop.books")\nclass F: ...\n', "is no plain function"),
        ("\n\nimport nothing_of_that_name\n", r"functions\.py:6: ModuleNotFoundError"),
        ("raise SystemExit(0)\n", r"functions\.py:4: SystemExit"),
        ("def f(:\n", r"functions\.py:4: "),
        (
            '@computed("shop.books")\ndef f(row: dict) -> int: ...\n@computed("shop.orders")\ndef f(row: dict) -> int: ...\n',
            r"functions\.py:7: f is defined in line 5 already",
        ),
    ],
)  # fmt: skip
def test_file_that_cant_be_used_is_refused_with_its_line(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(FunctionsError, match=message) as refusal:
        loaded(tmp_path, source)
    assert refusal.value.exit_code == 2


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FunctionsError, match=r"nothing\.py: can't be read"):
        load(tmp_path / "nothing.py")


def test_function_called_like_a_column_is_refused(tmp_path: Path) -> None:
    functions = loaded(tmp_path, '@computed("shop.books")\ndef Stock(row: dict) -> int: ...\n')
    with pytest.raises(FunctionsError, match=r"shop\.books has a column Stock already"):
        functions.refuse_clashes(BOOKS)


def test_fingerprint_is_of_the_code_alone(tmp_path: Path) -> None:
    one = '@computed("shop.books")\ndef f(row: dict) -> int:\n    return {}\n'
    first = loaded(tmp_path, one.format("1")).fingerprint
    assert loaded(tmp_path, "# a comment\n\n\n" + one.format("( 1 )  # one")).fingerprint == first
    assert loaded(tmp_path, one.format("2")).fingerprint != first


def test_moments_of_timestamps_are_in_utc(tmp_path: Path) -> None:
    schema = replace(BOOKS, columns=(*BOOKS.columns, Column("at", "timestamp"), Column("day", "date")))
    functions = loaded(
        tmp_path, '@computed("shop.books")\ndef f(row: dict) -> str:\n    return repr((row["at"], row["day"]))\n'
    )
    computer = RowComputer(schema, functions.by_table[BOOKS.name])
    row = book(1, at="2026-11-22T01:02:03Z", day="2026-11-22")
    assert computer.parameters(row) == [repr((datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC), date(2026, 11, 22)))]
