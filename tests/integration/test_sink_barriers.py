"""Barriers on a real sink: who waits, who does the work, what becomes of it when somebody dies in the middle."""

import re
from dataclasses import replace

import pytest
from MySQLdb.connections import Connection

from schemas.errors import StoppedError
from schemas.events import BarrierKind
from schemas.tables import Column
from sink.errors import SinkRefused, StatementFailed
from sink.fold import read_barrier
from sink.locks import topic_lock
from sink.slices import Slice
from sink.sql import SessionPool
from stream_app.agents import Attempt, Outcome
from tests.helpers import ServiceAddresses, execute, unique_name
from tests.sink_stand import BOOKS, MakeStand, Rows, book

PAGES = Column("pages", "int", nullable=False)
BOOKS_WITH_PAGES = replace(BOOKS, columns=(*BOOKS.columns[:2], PAGES, *BOOKS.columns[2:]))


def test_rule_b1_nobody_goes_on_before_all_have_come(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand(partitions=3)
    for number, log in enumerate(stand.logs):
        log.barrier(BarrierKind.BEGIN).create(book(number))
    assert stand.handle(0) is Outcome.AT_BARRIER
    assert stand.handle(2) is Outcome.AT_BARRIER
    assert not stand.finish()
    assert rows("SHOW TABLES FROM {} LIKE 'books'") == []
    assert stand.handle(1) is Outcome.AT_BARRIER
    assert [stand.next_offset(number) for number in range(3)] == [1, 1, 1]
    assert stand.finish()
    assert stand.finish()
    for number in range(3):
        assert stand.handle(number) is Outcome.STORED
    assert rows("SELECT id FROM {}.books ORDER BY id") == [(0,), (1,), (2,)]


def test_rule_b1_records_before_the_barrier_are_committed_with_the_entry(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].create(book(1)).barrier(BarrierKind.END, "end").create(book(2))
    assert stand.handle() is Outcome.AT_BARRIER
    assert stand.next_offset() == 3
    assert rows("SELECT id FROM {}.books") == [(1,)]
    assert rows("SELECT barrier_id, partition_id, done FROM {}._rowflow_barriers WHERE done = 0") == [("end", 0, 0)]
    assert stand.finish("end")
    assert stand.handle() is Outcome.STORED
    assert rows("SELECT id FROM {}.books ORDER BY id") == [(1,), (2,)]


def test_rule_b1_work_is_done_again_when_its_worker_died(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.logs[0].barrier(BarrierKind.BEGIN)
    stand.handle()
    with stand.pool.lend_long() as dying, topic_lock(dying, stand.topic, 0):
        (field,) = [row[0] for row in dying.fetch("SELECT barrier FROM _rowflow_barriers")]
        stand.target._barrier_work(dying, stand.topic, read_barrier(field), field)
    assert rows("SELECT status FROM {}._rowflow_tables") == [("new",)]
    assert rows("SHOW TABLES FROM {} LIKE 'books'") != []
    assert stand.finish()
    assert rows("SELECT status, fingerprint FROM {}._rowflow_tables") == [("made", BOOKS.fingerprint)]


def test_rule_b1_one_does_the_work_under_the_lock(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.logs[0].barrier(BarrierKind.BEGIN)
    stand.handle()
    with stand.pool.lend_long() as other, topic_lock(other, stand.topic, 0) as given:
        assert given
        assert not stand.finish()
    assert rows("SHOW TABLES FROM {} LIKE 'books'") == []
    assert stand.finish()


def test_rule_w8_no_barriers_work_inside_a_transaction(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.logs[0].barrier(BarrierKind.BEGIN)
    stand.handle()
    with stand.pool.lend() as session:
        (field,) = [row[0] for row in session.fetch("SELECT barrier FROM _rowflow_barriers")]
        session.begin()
        session.execute("UPDATE _rowflow_progress SET next_offset = 99")
        with pytest.raises(StatementFailed, match="W8"):
            stand.target._barrier_work(session, stand.topic, read_barrier(field), field)
    assert stand.next_offset() == 1


def test_truncate_empties_the_mirror(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].create(book(1)).barrier(BarrierKind.TRUNCATE, "t1").create(book(2))
    assert stand.handle() is Outcome.AT_BARRIER
    assert stand.finish("t1")
    stand.handle()
    assert rows("SELECT id FROM {}.books") == [(2,)]


def test_new_columns_are_added_at_their_place(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand(known=[BOOKS_WITH_PAGES])
    stand.begin()
    log = stand.logs[0].create(book(1))
    log.schema = BOOKS_WITH_PAGES
    log.barrier(BarrierKind.SCHEMA, "s1", old_fingerprint=BOOKS.fingerprint).create(book(2, pages=300))
    assert stand.handle() is Outcome.AT_BARRIER
    with stand.pool.lend_long() as dying:
        (field,) = [row[0] for row in dying.fetch("SELECT barrier FROM _rowflow_barriers WHERE done = 0")]
        stand.target._barrier_work(dying, stand.topic, read_barrier(field), field)
    assert stand.finish("s1")
    stand.handle()
    assert rows("SELECT id, pages FROM {}.books ORDER BY id") == [(1, None), (2, 300)]
    assert [row[0] for row in rows("SHOW COLUMNS FROM {}.books")] == ["id", "title", "pages", "price", "stock", "tags"]


@pytest.mark.parametrize("other", ["pages BIGINT NULL", "Pages INT NOT NULL", "pages INT AS (stock + 1)"])
def test_column_that_has_a_new_ones_name_is_not_taken_for_it(make_stand: MakeStand, rows: Rows, other: str) -> None:
    stand = make_stand(known=[BOOKS_WITH_PAGES])
    stand.begin()
    rows(f"ALTER TABLE {{}}.books ADD COLUMN {other}")
    log = stand.logs[0]
    log.schema = BOOKS_WITH_PAGES
    log.barrier(BarrierKind.SCHEMA, "s1", old_fingerprint=BOOKS.fingerprint).create(book(1, pages=300))
    stand.handle()
    with pytest.raises(StoppedError, match=r"then: rowflow snapshot shop\.books") as stop:
        stand.finish("s1")
    statement = re.search(r"ALTER TABLE ([^;]*);", str(stop.value))
    assert statement is not None
    rows(f"ALTER TABLE {{}}.{statement[1]}")
    assert stand.finish("s1")
    stand.handle()
    assert rows("SELECT id, pages FROM {}.books") == [(1, 300)]


def test_any_other_change_is_a_loud_stop(make_stand: MakeStand, rows: Rows) -> None:
    shorter = replace(BOOKS, columns=BOOKS.columns[:-1])
    stand = make_stand(known=[shorter])
    stand.begin()
    stand.logs[0].barrier(BarrierKind.SCHEMA, "s1", fingerprint=shorter.fingerprint)
    stand.handle()
    with pytest.raises(StoppedError, match=r"column tags is gone.*rowflow snapshot shop\.books"):
        stand.finish("s1")


def test_new_topic_must_begin_with_its_begin_barrier(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.logs[0].create(book(1)).barrier(BarrierKind.BEGIN)
    with pytest.raises(StoppedError, match=r"bookshop\.shop\.books \[0\] offset 0: the first.*--start-over"):
        stand.handle()
    stand.logs[0].records.clear()
    stand.logs[0].barrier(BarrierKind.TRUNCATE)
    with pytest.raises(StoppedError, match="offset 0: the first record"):
        stand.handle()


def test_awaited_job_is_the_first_that_counts(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand(log_begin=5)
    (awaited,) = rows("SELECT awaited_job FROM {}._rowflow_tables")
    log = stand.logs[0]
    for _ in range(5):
        log.raw(b"gone", b"gone")
    log.create(book(1)).raw(b"k", b"{").barrier(BarrierKind.BEGIN, "other", job="another").delete(book(1))
    assert stand.handle() is Outcome.STORED
    log.barrier(BarrierKind.BEGIN, "b1", job=awaited[0]).create(book(2))
    assert stand.handle() is Outcome.AT_BARRIER
    assert stand.finish()
    stand.handle()
    assert rows("SELECT id FROM {}.books") == [(2,)]
    assert rows("SELECT reason FROM {}._rowflow_dead_letters") == []


def test_event_of_another_schema_without_a_barrier_is_a_loud_stop(make_stand: MakeStand) -> None:
    stand = make_stand(known=[BOOKS_WITH_PAGES])
    stand.begin()
    stand.logs[0].schema = BOOKS_WITH_PAGES
    stand.logs[0].create(book(1, pages=1))
    with pytest.raises(StoppedError, match=BOOKS_WITH_PAGES.fingerprint):
        stand.handle()


def test_rule_w13_schema_that_stays_unknown_is_a_loud_stop_before_the_barrier(make_stand: MakeStand) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].create(book(1)).barrier(BarrierKind.SCHEMA, "s1", fingerprint="unknown")
    with pytest.raises(StoppedError, match="no schema unknown"):
        stand.handle()
    assert stand.next_offset() == 1


def test_slice_that_others_have_stored_stops_nobody(make_stand: MakeStand) -> None:
    stand = make_stand(known=[BOOKS_WITH_PAGES])
    stand.begin()
    log = stand.logs[0].create(book(1))
    late = Attempt(Slice(stand.topic, 0, 1, 2, log.records[1:2]), stand.pool, stand.target, lambda: True)
    log.schema = BOOKS_WITH_PAGES
    log.barrier(BarrierKind.SCHEMA, "s1", old_fingerprint=BOOKS.fingerprint)
    assert stand.handle() is Outcome.AT_BARRIER
    assert stand.finish("s1")
    assert late.run() is Outcome.MISSED


def test_begin_takes_no_foreign_table_for_a_mirror(make_stand: MakeStand, rows: Rows) -> None:
    stand = make_stand()
    stand.begin()
    stand.logs[0].barrier(BarrierKind.BEGIN, "b3")
    stand.handle()
    rows("DROP TABLE {}.books")
    rows("CREATE TABLE {}.books (id INT PRIMARY KEY)")
    rows("INSERT INTO {}.books VALUES (42)")
    with pytest.raises(StoppedError, match="Rowflow didn't make"):
        stand.finish("b3")
    assert rows("SELECT id FROM {}.books") == [(42,)]


def test_rule_b3_indexes_come_along_as_plain_ones(
    make_stand: MakeStand, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    stand = make_stand()
    indexes = [
        {"name": "by_title", "columns": [{"name": "title", "prefix_chars": 20}, {"name": "price", "prefix_chars": 0}]},
        {"name": "impossible", "columns": [{"name": "tags", "prefix_chars": 0}]},
    ]
    stand.logs[0].barrier(BarrierKind.BEGIN, indexes=indexes)
    stand.handle()
    assert stand.finish()
    found = rows(
        "SELECT index_name, column_name, sub_part, non_unique FROM information_schema.statistics"
        " WHERE table_schema = '{}' AND table_name = 'books' AND index_name <> 'PRIMARY' ORDER BY seq_in_index"
    )
    assert found == [("by_title", "title", 20, 1), ("by_title", "price", None, 1)]
    assert "index=impossible" in caplog.text


def test_missing_grant_names_its_statement(
    make_stand: MakeStand, services: ServiceAddresses, sink_root: Connection, sink_schema: str
) -> None:
    user = unique_name("poor")
    stand = make_stand()
    stand.logs[0].barrier(BarrierKind.BEGIN)
    stand.handle()
    execute(sink_root, f"CREATE USER {user} IDENTIFIED BY '{user}'")
    try:
        execute(sink_root, f"GRANT SELECT, INSERT, UPDATE, DELETE ON {sink_schema}.* TO {user}")
        address = replace(stand.config.address, user=user, password=user)
        stand.target._pool = SessionPool(address)
        with pytest.raises(SinkRefused, match="GRANT") as refusal:
            stand.finish()
        statement = re.search("GRANT .*;", str(refusal.value))
        assert statement is not None
        execute(sink_root, statement[0])
        assert stand.finish()
    finally:
        execute(sink_root, f"DROP USER {user}")
