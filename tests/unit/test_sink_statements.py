"""Statements over many rows, as text."""

from dataclasses import replace

import pytest

from schemas.tables import Column, KeyPart, TableName, TableSchema
from sink.statements import DELETED_KEYS_MAX, DeleteForm, RenderedRow, UpsertForm, literals_of, render
from sink.values import UnreadableError
from tests.sink_stand import BOOKS, Partition, book

LITERALS = literals_of(lambda value: f"<{value}>".encode())
RECORD = Partition(BOOKS).create(book(1)).records[0]


def rows(*texts: bytes) -> list[RenderedRow]:
    return [RenderedRow(text, RECORD) for text in texts]


def conditions(schema: TableSchema, *keys: dict[str, object]) -> bytes:
    form = DeleteForm(schema, "t")
    (batch,) = form.batches(rows(*(form.condition(form.parameters(key), LITERALS) for key in keys)))
    return batch.statement(0, len(keys))


def test_upsert() -> None:
    (batch,) = UpsertForm(BOOKS, "books", ["f"], row_alias=True).batches(rows(b"(1)", b"(2)", b"(3)"), 1 << 20)
    assert batch.statement(1, 3) == (
        b"INSERT INTO `books` (`id`, `title`, `price`, `stock`, `tags`, `f`) VALUES (2),(3) AS rowflow_new"
        b" ON DUPLICATE KEY UPDATE `title` = rowflow_new.`title`, `price` = rowflow_new.`price`,"
        b" `stock` = rowflow_new.`stock`, `tags` = rowflow_new.`tags`, `f` = rowflow_new.`f`"
    )


def test_upsert_where_rows_have_no_alias() -> None:
    ids = replace(BOOKS, columns=BOOKS.columns[:1])
    (batch,) = UpsertForm(ids, "books", row_alias=False).batches(rows(b"(1)"), 1 << 20)
    assert batch.statement(0, 1) == b"INSERT INTO `books` (`id`) VALUES (1) ON DUPLICATE KEY UPDATE `id` = VALUES(`id`)"


def test_statements_are_cut_by_size_and_a_single_row_never() -> None:
    form = UpsertForm(BOOKS, "books", row_alias=True)
    batches = list(form.batches(rows(*[b"x" * 300] * 3, b"y" * 2000, b"z"), 1000))
    assert [len(batch.rows) for batch in batches] == [3, 1, 1]


def test_keys_of_one_column_are_listed() -> None:
    assert conditions(BOOKS, {"id": 1}, {"id": 2}) == b"DELETE FROM `t` WHERE `id` IN (1,2)"
    form = DeleteForm(BOOKS, "t")
    sizes = [len(batch.rows) for batch in form.batches(rows(*[b"1"] * (DELETED_KEYS_MAX + 1)))]
    assert sizes == [DELETED_KEYS_MAX, 1]


def test_keys_of_several_columns_and_of_prefixes() -> None:
    name = Column("n", "varchar", length=400, charset="utf8mb4", collation="utf8mb4_bin")
    pairs = TableSchema(TableName("a", "t"), (Column("i", "int"), name), (KeyPart("n", 3), KeyPart("i")))
    assert conditions(pairs, {"i": 1, "n": "ab"}, {"i": 2, "n": "a_%d"}) == (
        b"DELETE FROM `t` WHERE (`n` = <ab> AND `i` = 1) OR (`n` LIKE <a\\_\\%%> AND `i` = 2)"
    )


def test_decimal_keys_are_compared_as_decimals() -> None:
    numbers = TableSchema(TableName("a", "t"), (Column("d", "decimal", length=30, scale=2),), (KeyPart("d"),))
    form = DeleteForm(numbers, "t")
    literals = literals_of(lambda value: type(value).__name__.encode())
    assert form.condition(form.parameters({"d": "46.80"}), literals) == b"Decimal"


@pytest.mark.parametrize("value", [True, [1], {"a": 1}])
def test_values_of_no_sql_type_are_refused(value: object) -> None:
    with pytest.raises(UnreadableError, match="no type that SQL has"):
        render([1, value], LITERALS)


@pytest.mark.parametrize("value", ["\ud83d", 10**5000], ids=["half", "long"])
def test_values_without_a_literal_are_refused_and_not_shown(value: str | int) -> None:
    literals = literals_of(lambda text: str(text).encode())
    key = DeleteForm(replace(BOOKS, primary_key=(KeyPart("id"), KeyPart("title"))), "t")
    with pytest.raises(UnreadableError, match="can't be written in SQL"):
        render([1, value], literals)
    with pytest.raises(UnreadableError, match="can't be written in SQL"):
        key.condition([1, value], literals)


@pytest.mark.parametrize("number", ["NaN", "-Infinity"])
def test_decimal_keys_are_numbers(number: str) -> None:
    prices = replace(BOOKS, primary_key=(KeyPart("price"),))
    with pytest.raises(UnreadableError, match="column price"):
        DeleteForm(prices, "t").parameters({"price": number})


def test_numbers_and_null_need_no_escaping() -> None:
    assert render([1, None, -5, "x"], LITERALS) == b"(1,NULL,-5,<x>)"
