"""What a worker refuses at its start; what the message prints is run, whereupon the next start succeeds."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from MySQLdb.connections import Connection

from schemas.errors import RefusedError
from schemas.events import BarrierKind
from schemas.jobs import JobRequest
from schemas.patterns import TablePatterns
from sink import progress
from sink.computed import ComputedFunctions
from sink.config import SinkConfig
from sink.errors import LockConflict, SinkRefused
from sink.locks import topic_lock
from sink.preflight import ServerIdentity, identity_of, refuse_loop, try_grants, version_numbers
from sink.progress import LogRange, TopicFacts
from sink.sql import SessionPool
from tests.helpers import ServiceAddresses, connected, execute, unique_name
from tests.sink_stand import BOOKS, Rows, SinkStand, book

START_OVER = "rowflow snapshot shop.books --start-over"


@pytest.fixture
def stand(services: ServiceAddresses, sink_schema: str) -> Iterator[SinkStand]:
    made = SinkStand(services.sink_url, sink_schema)
    made.begin()
    yield made
    made.close()


def refusal(stand: SinkStand) -> str:
    with pytest.raises(RefusedError) as refused:
        stand.start(ComputedFunctions())
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE {}.books ADD COLUMN seller INT NOT NULL", "seller"),
        ("ALTER TABLE {}.books ADD UNIQUE INDEX one_title (title)", "one_title"),
        ("ALTER TABLE {}.books DROP COLUMN price", "price"),
    ],
)
def test_fault_k6_changed_mirror_is_refused_by_name(
    stand: SinkStand, rows: Rows, sink_schema: str, services: ServiceAddresses, change: str, named: str
) -> None:
    rows(change)
    message = refusal(stand)
    assert named in message
    statement = re.search(r"ALTER TABLE [^;]*;", message)
    assert statement is not None
    with connected(services.sink_url, sink_schema) as connection:
        execute(connection, statement[0])
    stand.target = stand.start(ComputedFunctions())
    stand.logs[0].create(book(1))
    stand.handle()
    assert rows("SELECT id, price FROM {}.books")[0][0] == 1


def test_fault_k6_columns_with_a_default_may_stay(stand: SinkStand, rows: Rows) -> None:
    rows("ALTER TABLE {}.books ADD COLUMN seen INT NOT NULL DEFAULT 7, ADD COLUMN note TEXT NULL")
    stand.start(ComputedFunctions())
    stand.logs[0].create(book(1))
    stand.handle()
    assert rows("SELECT id, seen, note FROM {}.books") == [(1, 7, None)]


def test_fault_k6_column_that_needs_a_value_stops_a_running_worker(stand: SinkStand, rows: Rows) -> None:
    rows("ALTER TABLE {}.books ADD COLUMN seller INT NOT NULL")
    stand.logs[0].create(book(1))
    with pytest.raises(Exception, match="isn't as Rowflow made it") as stop:
        stand.handle()
    assert getattr(stop.value, "exit_code", None) == 4
    assert rows("SELECT COUNT(*) FROM {}._rowflow_dead_letters") == [(0,)]


def test_mirror_that_is_gone_is_refused(stand: SinkStand, rows: Rows) -> None:
    rows("DROP TABLE {}.books")
    assert START_OVER in refusal(stand)
    start_over(stand)
    assert rows("SELECT id FROM {}.books") == [(1,)]


def test_lock_that_is_not_given_leaves_the_mirror_as_it_is(stand: SinkStand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sink.preflight._LOCK_WAIT_S", 0)
    with stand.pool.lend_long() as other, topic_lock(other, stand.topic, 0) as given:
        assert given
        with pytest.raises(LockConflict, match=r"another worker is changing the mirror of shop\.books"):
            stand.start(ComputedFunctions())
    stand.start(ComputedFunctions())


def test_mirror_of_another_name_is_refused(stand: SinkStand, rows: Rows) -> None:
    stand.config = replace(stand.config, table_name="{db}_{table}")
    message = refusal(stand)
    assert "it would be shop_books" in message
    assert START_OVER in message
    start_over(stand)
    assert rows("SELECT id FROM {}.shop_books") == [(1,)]


def start_over(stand: SinkStand) -> None:
    """What the command does in the sink; a worker's start; what the job then brings, a row."""
    log = stand.logs[0]
    facts = TopicFacts(stand.topic, "id-1", BOOKS.name, {0: LogRange(0, log.end)})
    request = JobRequest(*BOOKS.name, "j1", "command line", 0, fresh=True, start_over=True)
    with stand.pool.lend() as session:
        progress.start_over(session, stand.config, facts, request)
    stand.target = stand.start(ComputedFunctions())
    log.barrier(BarrierKind.BEGIN, "b2", job="j1").create(book(1))
    stand.handle()
    assert stand.finish("b2")
    stand.handle()


def test_missing_grant_is_refused_with_its_statement(
    services: ServiceAddresses, sink_root: Connection, sink_schema: str, stand: SinkStand, rows: Rows
) -> None:
    user = unique_name("poor")
    rows(f"CREATE USER {user} IDENTIFIED BY '{user}'")
    try:
        rows(f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, ALTER ON {{}}.* TO {user}")
        pool = SessionPool(replace(stand.config.address, user=user, password=user))
        with pytest.raises(SinkRefused, match="CREATE TEMPORARY TABLES") as refused, pool.lend() as session:
            try_grants(session)
        statement = re.search("GRANT .*;", str(refused.value))
        assert statement is not None
        rows(statement[0])
        # Grants on a schema reach a session when it comes to the schema: a worker is started anew.
        pool.close()
        with pool.lend() as session:
            try_grants(session)
        pool.close()
    finally:
        rows(f"DROP USER {user}")
    assert [name for (name,) in rows("SHOW TABLES FROM {}") if "probe" in str(name)] == []


def test_sink_inside_the_source_is_refused(stand: SinkStand, rows: Rows) -> None:
    with stand.pool.lend() as session:
        sink = identity_of(session)
    elsewhere = ServerIdentity("another", "host", 1, 1)

    def look(source: ServerIdentity, config: SinkConfig, *patterns: str) -> None:
        refuse_loop(
            config=config,
            sink=sink,
            source=source,
            patterns=TablePatterns.from_settings(patterns),
            captured=[BOOKS.name],
        )

    database = stand.config.address.database
    look(sink, stand.config, "shop.*")
    look(elsewhere, stand.config, "*.*")
    written = [f"{database}.{table}" for (table,) in rows("SHOW TABLES FROM {}")]
    assert len(written) > 2
    for pattern in ("*.*", f"{database}.*", "results_*.b*", *written):
        with pytest.raises(SinkRefused, match=r'"!.*\.\*"'):
            look(sink, stand.config, pattern)
    look(sink, stand.config, "*.*", f"!{database}.*")


def test_versions() -> None:
    assert version_numbers("9.7.4-2") == (9, 7, 4)
    assert version_numbers("5.5.5-10.11.6-MariaDB-log") == (10, 11, 6)


def test_servers_without_a_uuid_are_told_apart_by_what_they_have() -> None:
    one = ServerIdentity("", "db1", 3306, 1)
    assert one.is_same(ServerIdentity("", "db1", 3306, 1))
    assert not one.is_same(ServerIdentity("", "db1", 3307, 1))
