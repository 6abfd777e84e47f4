"""Records that can't be processed: they are filed with the slice that passes them, and the rest goes on."""

import json
from collections.abc import Callable, Iterator

import pytest

from schemas.errors import StoppedError
from schemas.events import UNDECODABLE_HEADER, BarrierKind
from servers.mysql import MysqlServer
from sink.dead_letters import SHOW_OPEN, open_letters
from sink.slices import Slice
from sink.sql import SessionPool
from stream_app.agents import Attempt, Outcome
from tests.helpers import ServiceAddresses, connected, execute
from tests.messages import run_statement
from tests.sink_stand import Rows, SinkStand, book


@pytest.fixture
def stand(services: ServiceAddresses, sink_schema: str) -> Iterator[SinkStand]:
    made = SinkStand(services.sink_url, sink_schema, dead_letters_in_a_row_max=3)
    made.begin()
    yield made
    made.close()


def test_poison_is_filed_and_the_rest_goes_on(stand: SinkStand, rows: Rows) -> None:
    log = stand.logs[0].create(book(1)).raw(b'{"id":2}', b"{poison", [("h", b"x")]).create(book(3))
    log.create({"id": 4, "title": "no more"}).create(book(5, stock=[1])).create(book(6))
    assert stand.handle() is Outcome.STORED
    assert rows("SELECT id FROM {}.books ORDER BY id") == [(1,), (3,), (6,)]
    letters = rows(
        "SELECT topic, partition_id, `offset`, `key`, reason, status FROM {}._rowflow_dead_letters ORDER BY id"
    )
    assert letters == [
        (stand.topic, 0, 2, b'{"id":2}', letters[0][4], "open"),
        (stand.topic, 0, 4, b'{"id":4}', "the row lacks columns: price, stock, tags", "open"),
        (stand.topic, 0, 5, b'{"id":5}', "a column's value is of no type that SQL has", "open"),
    ]
    assert str(letters[0][4]).startswith("not JSON: ")
    assert rows("SELECT `value`, headers FROM {}._rowflow_dead_letters LIMIT 1") == [(b"{poison", b'[["h","x"]]')]


def test_guilty_rows_are_found_among_many(stand: SinkStand, rows: Rows) -> None:
    guilty: dict[int, dict[str, object]] = {
        13: {"stock": 3_000_000_000},
        14: {"tags": "{"},
        77: {"price": "123456789.00"},
        99: {"title": "x" * 256},
    }
    for number in range(100):
        stand.logs[0].create(book(number, **guilty.get(number, {})))
    assert stand.handle() is Outcome.STORED
    assert rows("SELECT COUNT(*), SUM(id) FROM {}.books") == [(96, sum(range(100)) - sum(guilty))]
    assert rows("SELECT `offset` - 1 FROM {}._rowflow_dead_letters ORDER BY id") == [(13,), (14,), (77,), (99,)]
    assert all("refuses the row" in str(row[0]) for row in rows("SELECT reason FROM {}._rowflow_dead_letters"))


@pytest.mark.parametrize("cuts", range(4))
def test_where_a_slice_is_cut_changes_nothing_beside_a_row_that_is_refused(
    stand: SinkStand, rows: Rows, cuts: int
) -> None:
    log = stand.logs[0].create(book(1)).create(book(2)).create(book(3))
    stand.handle()
    steps: tuple[Callable[[], object], ...] = (
        lambda: log.update(book(2), book(2, stock=7)).delete(book(1)),
        lambda: log.create(book(1, stock=1 << 31)).update(book(3), book(3, stock=5)).raw(b'{"id":3}', b"{"),
        lambda: log.update(book(3), book(3, tags="{")).update(book(2), book(2, price="46.805")),
    )
    stand.handle_in_parts(steps, cuts)
    assert rows("SELECT id, stock FROM {}.books ORDER BY id") == [(2, 7), (3, 5)]
    letters = rows("SELECT CONVERT(`key` USING utf8mb4) FROM {}._rowflow_dead_letters ORDER BY 1")
    assert letters == [('{"id":1}',), ('{"id":2}',), ('{"id":3}',), ('{"id":3}',)]


def test_row_that_the_sink_would_change_is_not_written(stand: SinkStand, rows: Rows) -> None:
    stand.logs[0].create(book(1)).create(book(2, price="46.805")).create(book(3))
    assert stand.handle() is Outcome.STORED
    assert rows("SELECT id FROM {}.books ORDER BY id") == [(1,), (3,)]
    assert rows("SELECT `key` FROM {}._rowflow_dead_letters") == [(b'{"id":2}',)]


def test_slice_that_is_applied_twice_files_once(stand: SinkStand, rows: Rows) -> None:
    log = stand.logs[0].create(book(1)).raw(b"k", b"{").create(book(2, tags="{"))
    slice_ = Slice(stand.topic, 0, 1, log.end, log.records[1:])
    prepared = stand.target.prepare(slice_)
    with stand.pool.lend() as session:
        session.begin()
        prepared.apply(session)
        session.rollback()
        session.begin()
        prepared.apply(session)
        session.commit()
    assert rows("SELECT id FROM {}.books") == [(1,)]
    assert rows("SELECT `offset` FROM {}._rowflow_dead_letters ORDER BY id") == [(2,), (3,)]


def test_too_many_in_a_row_stop_the_worker_and_change_nothing(stand: SinkStand, rows: Rows) -> None:
    log = stand.logs[0]
    for _ in range(3):
        log.raw(b"k", b"{")
    log.create(book(1)).delete(book(1)).raw(b"k", b"{").raw(b"k", b"{")
    assert stand.handle() is Outcome.STORED
    before = stand.next_offset()
    log.raw(b"k", b"{")
    assert stand.handle() is Outcome.STORED
    log.raw(b"k", b"{")
    for _ in range(2):
        with pytest.raises(StoppedError, match="4 records in a row up to offset 10 can't be processed") as stop:
            stand.handle()
    assert stand.next_offset() == before + 1
    assert SHOW_OPEN in str(stop.value)
    assert len(rows("SELECT id FROM {}._rowflow_dead_letters")) == 6


def test_a_failed_transaction_doesnt_count_twice(stand: SinkStand, rows: Rows) -> None:
    log = stand.logs[0].raw(b"k", b"{").raw(b"k", b"{")
    attempt = Attempt(Slice(stand.topic, 0, 1, 3, log.records[1:]), stand.pool, stand.target, lambda: False)
    for _ in range(5):
        assert attempt.run() is Outcome.GIVEN_UP
    assert stand.handle() is Outcome.STORED
    log.raw(b"k", b"{")
    assert stand.handle() is Outcome.STORED


def test_text_that_could_not_be_decoded_is_null_and_filed(stand: SinkStand, rows: Rows) -> None:
    stand.logs[0].event("c", None, book(1, title=None), headers=[(UNDECODABLE_HEADER, b'{"title":"81"}')])
    assert stand.handle() is Outcome.STORED
    assert rows("SELECT id, title, stock FROM {}.books") == [(1, None, 3)]
    assert rows("SELECT reason, headers FROM {}._rowflow_dead_letters") == [
        (
            "text not valid in its character set, stored as NULL: title",
            b'[["rowflow.undecodable","{\\"title\\":\\"81\\"}"]]',
        )
    ]


def test_statement_that_shows_them_runs_as_printed(stand: SinkStand, services: ServiceAddresses, rows: Rows) -> None:
    stand.logs[0].raw(b'{"id":1}', b"{")
    stand.handle()
    pool = SessionPool(stand.config.address)
    with pool.lend() as session:
        shown = session.fetch(SHOW_OPEN)
        assert open_letters(session) == {stand.topic: 1}
    pool.close()
    assert [row[:4] for row in shown] == [(stand.topic, 0, 1, '{"id":1}')]


def test_a_whole_reading_into_an_empty_mirror_outdates_them(stand: SinkStand, rows: Rows) -> None:
    stand.logs[0].raw(b"k", b"{").barrier(BarrierKind.BEGIN, "b2")
    stand.handle()
    rows("DROP TABLE {}.books")
    assert stand.finish("b2")
    assert rows("SELECT status FROM {}._rowflow_dead_letters") == [("outdated",)]


def test_row_that_no_statement_can_hold_is_a_loud_stop_until_the_setting_is_made(
    own_mysql: Callable[..., MysqlServer],
) -> None:
    server = own_mysql(max_allowed_packet="1M")
    with connected(server.root_url) as root:
        execute(root, "CREATE DATABASE results")
        stand = SinkStand(server.root_url, "results")
        stand.begin()
        stand.logs[0].create(book(1, tags=json.dumps("x" * (1 << 20))))
        with pytest.raises(StoppedError, match="offset 1: ") as stop:
            stand.handle()
        run_statement(root, str(stop.value), "SET GLOBAL max_allowed_packet")
        # A session has the limit that it began with: a worker is started anew.
        stand.pool.close()
        assert stand.handle() is Outcome.STORED
        assert execute(root, "SELECT LENGTH(tags->>'$') FROM results.books") == [(1 << 20,)]
        stand.close()
