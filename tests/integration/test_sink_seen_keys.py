"""Whole-table jobs on a real sink: whatever became of a mirror, at the job's end it holds the source's rows and no others."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest

from schemas.events import BarrierKind
from schemas.tables import Column, KeyPart, TableName, TableSchema
from sink.computed import ComputedFunction, ComputedFunctions, _Kind
from sink.ddl import ComputedColumn
from sink.fold import read_barrier
from sink.seen_keys import seen_table
from stream_app.agents import Outcome
from tests.sink_stand import BOOKS, MakeStand, Rows, SinkStand, book

NAME = TableName("shop", "books")


def job(stand: SinkStand, kind: BarrierKind, name: str = "j1", partitions: int = 1) -> None:
    """A job's barrier in all partitions, and its work."""
    for number in range(partitions):
        stand.logs[number].barrier(kind, f"{kind.value}-{name}", job=name)
        assert stand.handle(number) is Outcome.AT_BARRIER
    assert stand.finish(f"{kind.value}-{name}")


def read(stand: SinkStand, *numbers: int, partition: int = 0, **columns: Any) -> None:
    for number in numbers:
        stand.logs[partition].event("r", None, book(number, **columns))


def seen_tables(rows: Rows) -> list[tuple[Any, ...]]:
    return rows("SHOW TABLES FROM {} LIKE '\\_rowflow\\_seen%'")


def test_rows_that_were_spoilt_lost_or_invented_are_mended_and_right_ones_are_never_missing(
    make_stand: MakeStand, rows: Rows
) -> None:
    stand = make_stand(partitions=2)
    stand.begin()
    for number in range(1, 8):
        stand.logs[number % 2].create(book(number))
    stand.handle(0)
    stand.handle(1)
    rows("UPDATE {}.books SET title = 'spoilt' WHERE id = 2")
    rows("DELETE FROM {}.books WHERE id = 3")
    rows("INSERT INTO {}.books (id, title) VALUES (100, 'invented'), (101, 'invented')")
    rows("UPDATE {}.books SET id = 200 WHERE id = 5")
    rows("CREATE INDEX of_my_own ON {}.books (title(20))")

    job(stand, BarrierKind.BEGIN, partitions=2)
    right = [(number,) for number in (1, 4, 6, 7)]
    assert rows("SELECT id FROM {}.books WHERE title LIKE 'Book%%' AND id < 100 ORDER BY id") == right
    stand.logs[0].create(book(9)).update(book(4), book(4, stock=8)).delete(book(6))
    read(stand, 1, 2, 3, 5, 7, partition=1)
    stand.handle(0)
    assert rows("SELECT id FROM {}.books WHERE id IN (1, 7) ORDER BY id") == [(1,), (7,)]
    stand.handle(1)
    job(stand, BarrierKind.END, partitions=2)

    found = rows("SELECT id, title, stock FROM {}.books ORDER BY id")
    assert found == [(n, f"Book {n}", 8 if n == 4 else 3) for n in (1, 2, 3, 4, 5, 7, 9)]
    assert seen_tables(rows) == []
    assert rows("SELECT noting_job FROM {}._rowflow_tables") == [("",)]
    assert rows("SHOW INDEX FROM {}.books WHERE Key_name = 'of_my_own'"), "the mirror was not made anew"


def test_a_job_that_is_cancelled_takes_nothing_away(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].create(book(1)).create(book(2))
    stand.handle()
    job(stand, BarrierKind.BEGIN)
    assert seen_tables(rows) == [(seen_table("j1"),)]
    read(stand, 1)
    stand.handle()
    job(stand, BarrierKind.CANCEL)
    assert rows("SELECT id FROM {}.books ORDER BY id") == [(1,), (2,)]
    assert seen_tables(rows) == []
    stand.logs[0].create(book(3))
    stand.handle()
    assert rows("SELECT noting_job FROM {}._rowflow_tables") == [("",)]


def test_rule_b1_the_ends_work_can_be_done_again_and_without_its_keys_deletes_nothing(
    make_stand: MakeStand, rows: Rows
) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].create(book(1)).create(book(2))
    stand.handle()
    job(stand, BarrierKind.BEGIN)
    read(stand, 1)
    stand.logs[0].barrier(BarrierKind.END, "end-j1", job="j1")
    stand.handle()
    with stand.pool.lend_long() as dying:
        (field,) = [row[0] for row in dying.fetch("SELECT barrier FROM _rowflow_barriers WHERE done = 0")]
        stand.target._barrier_work(dying, stand.topic, read_barrier(field), field)
    assert rows("SELECT noting_job FROM {}._rowflow_tables") == [("j1",)]
    assert stand.finish("end-j1")
    assert rows("SELECT id FROM {}.books") == [(1,)]


def test_the_end_of_another_job_than_the_one_that_began_is_passed_over(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].create(book(1))
    stand.handle()
    job(stand, BarrierKind.BEGIN, "lost")
    job(stand, BarrierKind.BEGIN, "second")
    assert seen_tables(rows) == [(seen_table("second"),)], "what an earlier job left behind is gone"
    job(stand, BarrierKind.END, "lost")
    assert rows("SELECT id FROM {}.books") == [(1,)]
    assert rows("SELECT noting_job FROM {}._rowflow_tables") == [("second",)]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {}.books MODIFY price DECIMAL(9,2)",
        "ALTER TABLE {}.books DROP COLUMN tags",
        "ALTER TABLE {}.books ADD COLUMN needed INT NOT NULL",
        "ALTER TABLE {}.books DROP PRIMARY KEY, ADD PRIMARY KEY (id, stock)",
    ],
    ids=["type", "gone", "needed", "key"],
)
def test_a_mirror_that_no_longer_takes_the_tables_rows_is_made_anew(
    make_stand: MakeStand, rows: Rows, change: str
) -> None:
    stand = make_stand()
    stand.begin()
    wanted = rows("SHOW CREATE TABLE {}.books")
    rows(change)
    job(stand, BarrierKind.BEGIN)
    assert rows("SHOW CREATE TABLE {}.books") == wanted
    assert seen_tables(rows) == [], "it is empty: all that it will hold comes from the job"
    read(stand, 1)
    stand.handle()
    job(stand, BarrierKind.END)
    assert rows("SELECT id FROM {}.books") == [(1,)]


def test_a_mirror_that_a_cancelled_job_was_to_fill_is_known_to_be_incomplete_until_another_has_ended(
    make_stand: MakeStand, rows: Rows
) -> None:
    stand = make_stand()
    stand.begin()
    rows("ALTER TABLE {}.books DROP COLUMN tags")
    job(stand, BarrierKind.BEGIN, "first")
    read(stand, 1)
    stand.handle()
    awaited = "SELECT status, awaited_job, noting_job FROM {}._rowflow_tables"
    assert rows(awaited) == [("made", "first", "")]
    job(stand, BarrierKind.CANCEL, "first")
    assert rows(awaited) == [("made", "first", "")]
    job(stand, BarrierKind.BEGIN, "second")
    assert rows(awaited) == [("made", "second", "second")], "what is there stays, and more comes"
    job(stand, BarrierKind.CANCEL, "second")
    assert rows(awaited) == [("made", "second", "")]
    job(stand, BarrierKind.BEGIN, "third")
    job(stand, BarrierKind.END, "third")
    assert rows(awaited) == [("made", "", "")]


class Keyed(NamedTuple):
    """A table with some key: rows that come in the job, and the SQL of rows that were invented."""

    columns: tuple[Column, ...]
    key: tuple[KeyPart, ...]
    rows: tuple[Mapping[str, Any], ...]
    invented: str


def _text(name: str, collation: str) -> Column:
    return Column(name, "varchar", length=80, nullable=False, charset="utf8mb4", collation=collation)


KEYS = {
    "composite": Keyed(
        (Column("a", "int", nullable=False), _text("b", "utf8mb4_0900_ai_ci")),
        (KeyPart("b"), KeyPart("a")),
        ({"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": -3, "b": "É"}),
        "(1, 'y'), (3, 'x')",
    ),
    "text": Keyed(
        (_text("a", "utf8mb4_0900_ai_ci"),),
        (KeyPart("a"),),
        ({"a": "straße"}, {"a": "STRASSE"}, {"a": "a "}, {"a": ""}),
        "('strasse'), ('a')",
    ),
    "prefix": Keyed((_text("a", "utf8mb4_bin"),), (KeyPart("a", 2),), ({"a": "abcd"}, {"a": "b"}), "('axx'), ('ba')"),
    "double": Keyed(
        (Column("a", "double", nullable=False),), (KeyPart("a"),), ({"a": 0.1}, {"a": 1e300}, {"a": -0.5}), "(0.2), (3)"
    ),
    "float": Keyed((Column("a", "float", nullable=False),), (KeyPart("a"),), ({"a": 0.1}, {"a": 3.5}), "(0.2), (3)"),
    "binary": Keyed(
        (Column("a", "varbinary", length=8, nullable=False),),
        (KeyPart("a"),),
        ({"a": "AAE="}, {"a": "AAEA"}, {"a": ""}),
        "(X'0002'), (X'00010000')",
    ),
    "moment": Keyed(
        (Column("a", "datetime", scale=3, nullable=False), Column("b", "time", nullable=False)),
        (KeyPart("a"), KeyPart("b")),
        ({"a": "2026-01-02T03:04:05.678", "b": "-01:00:00"},),
        "('2026-01-02 03:04:05.677', '-01:00:00')",
    ),
    "decimal": Keyed(
        (Column("a", "decimal", length=30, scale=10, nullable=False),),
        (KeyPart("a"),),
        ({"a": "0.1000000000"}, {"a": "-99999999999999999999.9999999999"}),
        "(0.1000000001)",
    ),
    "enum": Keyed(
        (Column("a", "enum", members=("x", "y", "z"), nullable=False, charset="utf8mb4", collation="utf8mb4_bin"),),
        (KeyPart("a"),),
        ({"a": "z"}, {"a": "x"}),
        "('y')",
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_are_known_again(make_stand: MakeStand, rows: Rows, kind: str) -> None:
    columns, key, read_rows, invented = KEYS[kind]
    stand = make_stand(schema=TableSchema(NAME, columns, key))
    stand.begin()
    names = ", ".join(column.name for column in columns)
    rows(f"INSERT INTO {{}}.books ({names}) VALUES {invented}")
    job(stand, BarrierKind.BEGIN)
    for row in read_rows:
        stand.logs[0].event("r", None, row)
    stand.handle()
    written = rows("SELECT * FROM {}.books")
    job(stand, BarrierKind.END)
    left = rows("SELECT * FROM {}.books")
    assert len(left) == len(read_rows)
    assert len(written) == len(left) + invented.count("(")


def test_a_row_that_cant_be_written_keeps_what_the_mirror_has_and_letters_of_before_are_outdated_at_the_end(
    make_stand: MakeStand, rows: Rows
) -> None:
    def refuse(row: Mapping[str, Any]) -> int:
        if row["title"].startswith("bad"):
            raise ValueError
        return 1

    column = ComputedColumn("score", "bigint")
    functions = ComputedFunctions("f", {NAME: [ComputedFunction(column, refuse, _Kind("bigint", lambda value: value))]})
    stand = make_stand(functions=functions)
    stand.begin()
    stand.logs[0].create(book(1)).create(book(2)).update(book(1), book(1, title="bad once"))
    stand.handle()
    assert rows("SELECT status FROM {}._rowflow_dead_letters") == [("open",)]
    for kind, after in ((BarrierKind.CANCEL, "open"), (BarrierKind.END, "outdated")):
        job(stand, BarrierKind.BEGIN, f"job-{after}")
        assert rows("SELECT status FROM {}._rowflow_dead_letters WHERE id = 1") == [("rereading",)]
        stand.logs[0].event("r", None, book(1, title="bad again"))
        read(stand, 2)
        stand.handle()
        job(stand, kind, f"job-{after}")
        assert rows("SELECT id, title FROM {}.books ORDER BY id") == [(1, "Book 1"), (2, "Book 2")]
        assert rows("SELECT status FROM {}._rowflow_dead_letters WHERE id = 1") == [(after,)]
    assert ("open",) in rows("SELECT status FROM {}._rowflow_dead_letters WHERE id > 1"), "of the job itself"


def test_a_tables_name_says_its_job_and_fits() -> None:
    assert seen_table("books-1").startswith("_rowflow_seen_books_1_")
    long = f"snapshot-20260101T000000-abcdef-shop.{'ü' * 10}{'x' * 54}"
    assert len(seen_table(long)) <= 64
    assert seen_table(long) != seen_table(f"{long}2")
    assert BOOKS.name == NAME
