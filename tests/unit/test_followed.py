"""What changes of captured tables mean: barriers, standing still, wishes, stops."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
import pytest

from cdc_reader.batches import Batch, Origin
from cdc_reader.errors import SourceStopped
from cdc_reader.followed import FollowedTable, FollowedTables, note_published
from cdc_reader.statements import parse_statement
from schemas.jobs import TableState, TableStatus, parse_job_record
from schemas.patterns import TablePatterns
from schemas.tables import Column, KeyPart, TableName, TableSchema

BOOKS, ORDERS, LOG = TableName("shop", "books"), TableName("shop", "orders"), TableName("shop", "log_a")
ID = Column("id", "int", nullable=False)
TITLE = Column("title", "varchar", 40, charset="utf8mb4", collation="utf8mb4_bin")
OLD = TableSchema(BOOKS, (ID, TITLE), (KeyPart("id"),))
WIDER = TableSchema(BOOKS, (ID, Column("price", "int"), TITLE), (KeyPart("id"),))
NARROWER = TableSchema(BOOKS, (ID,), (KeyPart("id"),))
ORIGIN = Origin(1, 1, "", "binlog.000007", 4711, 99)
PARTITIONS = 3


@pytest.fixture
def tables() -> FollowedTables:
    """Two followed tables; ``shop.log_*`` is left out."""
    return followed_tables(lower_case=False)


def followed_tables(*, lower_case: bool) -> FollowedTables:
    patterns = TablePatterns.from_settings(["shop.*", "!shop.log_*"])
    tables = FollowedTables(patterns, "p", PARTITIONS, lambda _: True, lower_case=lower_case)
    status = TableStatus.FOLLOWED.value
    states = [TableState(*name, status, OLD.fingerprint, "id") for name in (BOOKS, ORDERS, LOG)]
    tables.load(states, {(BOOKS, OLD.fingerprint): OLD})
    return tables


def state_of(batches: Sequence[Batch]) -> TableState:
    record = parse_job_record(batches[-1].messages[0][1], batches[-1].messages[0][2] or b"")
    assert isinstance(record, TableState)
    return record


def books(tables: FollowedTables) -> FollowedTable:
    found = tables.table(BOOKS)
    assert found is not None
    return found


def topics(batches: Sequence[Batch]) -> list[str]:
    return [batch.topic for batch in batches]


def run(tables: FollowedTables, text: str, database: str = "shop") -> list[Batch]:
    return tables.statement(parse_statement(text.encode(), database), ORIGIN)


def test_tables_that_the_patterns_leave_out_are_not_captured(tables: FollowedTables) -> None:
    assert tables.find(LOG) is None
    assert tables.find(TableName("other", "books")) is None
    assert {table.name for table in tables.all()} == {BOOKS, ORDERS}


def test_rule_b1_new_columns_are_a_barrier_in_every_partition_behind_the_schema(tables: FollowedTables) -> None:
    batches = tables.changed(BOOKS, WIDER, ORIGIN)
    assert topics(batches) == ["p.__schemas", *["p.shop.books"] * PARTITIONS, "p.__jobs", "p.__jobs"]
    assert [batch.partition for batch in batches[1 : 1 + PARTITIONS]] == [0, 1, 2]
    barrier = orjson.loads(batches[1].messages[0][2] or b"")["barrier"]
    assert (barrier["kind"], barrier["fingerprint"], barrier["old_fingerprint"]) == (
        "schema", WIDER.fingerprint, OLD.fingerprint,
    )  # fmt: skip
    assert state_of(batches[:-1]).fingerprint == WIDER.fingerprint
    (job,) = tables.wishes.jobs
    assert (job.name, job.fresh) == (BOOKS, False)
    assert tables.changed(BOOKS, WIDER, ORIGIN) == [], "the same change a second time"


def test_any_other_change_makes_the_table_alone_stand_still(tables: FollowedTables) -> None:
    batches = tables.changed(BOOKS, NARROWER, ORIGIN)
    assert topics(batches) == ["p.__jobs"]
    state = state_of(batches)
    assert state.status == TableStatus.STANDS_STILL
    assert "binlog.000007:4711" in state.reason
    assert "rowflow snapshot shop.books" in state.reason
    assert not books(tables).publishing
    assert tables.changed(BOOKS, OLD, ORIGIN) == [], "it stands still until it is asked for by name"
    other = tables.table(ORDERS)
    assert other is not None
    assert other.publishing


def test_truncate_is_a_barrier_of_followed_tables_only(tables: FollowedTables) -> None:
    assert [batch.partition for batch in run(tables, "TRUNCATE TABLE `books`")] == [0, 1, 2]
    assert run(tables, "TRUNCATE log_a") == []
    tables.changed(BOOKS, NARROWER, ORIGIN)
    assert run(tables, "TRUNCATE books") == []


@pytest.mark.parametrize(
    "text",
    ["DROP TABLE books", "RENAME TABLE books TO b2", "DROP TABLE IF EXISTS x, `shop`.`books`", "DROP DATABASE shop"],
)
def test_a_table_that_goes_away_stands_still(tables: FollowedTables, text: str) -> None:
    batches = run(tables, text)
    assert state_of(batches[:1]).status == TableStatus.STANDS_STILL
    assert not books(tables).publishing


@pytest.mark.parametrize(
    ("text", "reshaped"),
    [
        ("ALTER TABLE books ADD COLUMN x INT", False),
        ("ALTER TABLE books ADD INDEX (title)", False),
        ("ALTER TABLE books DROP COLUMN title", True),
        ("ALTER TABLE books MODIFY title TEXT", True),
        ("CREATE INDEX i ON books (title)", False),
    ],
)
def test_other_definitions_make_the_table_be_looked_at(tables: FollowedTables, text: str, *, reshaped: bool) -> None:
    noted = state_of(run(tables, text))
    assert noted.look == ("rows" if reshaped else "schema")
    assert tables.wishes.looks == {BOOKS: reshaped}
    assert tables.look_done(books(tables)) == [], "another statement has come while the table was looked at"
    tables.wishes.looks.clear()
    assert state_of(tables.look_done(books(tables))).look == ""
    assert tables.look_done(books(tables)) == []


def test_a_look_that_a_crash_came_before_is_taken_up_again(tables: FollowedTables) -> None:
    """The position behind the statement is committed: nobody meets it again."""
    noted = state_of(run(tables, "ALTER TABLE books DROP COLUMN title"))
    started_again = followed_tables(lower_case=False)
    started_again.load([noted], {(BOOKS, OLD.fingerprint): OLD})
    assert started_again.wishes.looks == {BOOKS: True}


def test_a_new_table_that_is_captured_makes_tables_be_listed_again(tables: FollowedTables) -> None:
    run(tables, "CREATE TABLE authors (id INT PRIMARY KEY)", database="elsewhere")
    assert not tables.wishes.rescan
    run(tables, "CREATE TABLE shop.authors (id INT PRIMARY KEY)", database="elsewhere")
    assert tables.wishes.rescan


@pytest.mark.parametrize("text", ["INSERT INTO books VALUES (1)", "UPDATE `books` SET id = 2", "DELETE FROM books"])
def test_a_change_logged_as_a_statement_stops(tables: FollowedTables, text: str) -> None:
    with pytest.raises(SourceStopped, match="SET GLOBAL binlog_format=ROW"):
        run(tables, text)
    assert run(tables, text, database="elsewhere") == []


def test_names_come_in_any_case_where_the_server_folds_them() -> None:
    assert run(followed_tables(lower_case=False), "TRUNCATE BOOKS") == []
    assert len(run(followed_tables(lower_case=True), "TRUNCATE Shop.BOOKS")) == PARTITIONS
    assert run(followed_tables(lower_case=False), "DROP DATABASE Shop") == []
    assert state_of(run(followed_tables(lower_case=True), "DROP DATABASE Shop")).status == TableStatus.STANDS_STILL


def test_rule_j2_keys_are_noted_only_where_a_window_is_open(tables: FollowedTables) -> None:
    batch = Batch("p.shop.books", [(0, b'{"id":1}', b"", None), (0, b'{"id":1}', None, None)], BOOKS)
    note_published(tables, [batch])
    assert books(tables).windows == []
    books(tables).windows = [set(), set()]
    note_published(tables, [batch, Batch("p.__jobs", [(0, b"no key of a row", b"", None)])])
    assert books(tables).windows == [{b'{"id":1}'}] * 2
