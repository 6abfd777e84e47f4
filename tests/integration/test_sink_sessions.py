"""Sessions with the sink and the progress row, against a real server."""

import threading
from collections.abc import Iterator

import pytest
from MySQLdb.connections import Connection

from schemas.jobs import JobRequest
from schemas.tables import TableName
from sink import progress
from sink.config import SinkConfig
from sink.errors import (
    LockConflict,
    SinkRefused,
    SinkStopped,
    StatementFailed,
    Unreachable,
    ValueRefused,
)
from sink.progress import LogRange, TopicFacts
from sink.slices import PlainRecord, Slice
from sink.sql import Session, SessionPool
from stream_app.agents import Attempt, Outcome
from tests.faults.counting_worker import CountingTarget, sink_address
from tests.helpers import ServiceAddresses, connected, execute, wait_until

TOPIC = "bookshop.shop.books"


@pytest.fixture
def config(services: ServiceAddresses, sink_schema: str) -> SinkConfig:
    """The sink user's access to a schema of this test's own."""
    return SinkConfig(sink_address(f"{services.sink_url.rsplit('/', 1)[0]}/{sink_schema}"), "bookshop")


@pytest.fixture
def pool(config: SinkConfig) -> Iterator[SessionPool]:
    """Sessions of the sink's user."""
    pool = SessionPool(config.address)
    yield pool
    pool.close()


@pytest.fixture
def root(services: ServiceAddresses, sink_schema: str) -> Iterator[Connection]:
    """A plain client in the same schema."""
    with connected(services.sink_root_url, sink_schema) as connection:
        yield connection


def facts(*logs: LogRange, topic: str = TOPIC, topic_id: str = "id-1", table: str = "books") -> TopicFacts:
    return TopicFacts(topic, topic_id, TableName("shop", table), dict(enumerate(logs)))


COMMITTING = [
    "ALTER TABLE kept ADD COLUMN more INT",
    "CREATE TABLE another (id INT PRIMARY KEY)",
    "TRUNCATE TABLE other",
    "DROP TABLE other",
    "TRUNCATE TABLE staged",
    "ALTER TABLE staged ADD COLUMN more INT",
    "CREATE INDEX more ON kept (id)",
    "START TRANSACTION",
    "/* hidden */ TRUNCATE TABLE other",
    "ANALYZE TABLE other",
]
KEEPING = [
    "DELETE FROM other",
    "CREATE TEMPORARY TABLE more (id INT PRIMARY KEY)",
    "DROP TEMPORARY TABLE staged",
    "INSERT INTO other SELECT id + 10 FROM other",
    "REPLACE INTO other VALUES (1)",
]


@pytest.fixture
def three_tables(root: Connection) -> Connection:
    """Tables to be written, emptied and dropped."""
    execute(root, "CREATE TABLE kept (id INT PRIMARY KEY)")
    execute(root, "CREATE TABLE other (id INT PRIMARY KEY)")
    execute(root, "INSERT INTO other VALUES (1)")
    return root


@pytest.mark.parametrize("statement", COMMITTING + KEEPING)
def test_rule_w8_what_commits_implicitly_is_refused_and_nothing_else(
    pool: SessionPool, three_tables: Connection, statement: str
) -> None:
    """The oracle is a plain client: whether its ROLLBACK still takes back what came before the statement."""
    execute(three_tables, "CREATE TEMPORARY TABLE staged (id INT PRIMARY KEY)")
    execute(three_tables, "START TRANSACTION")
    execute(three_tables, "INSERT INTO kept VALUES (1)")
    execute(three_tables, statement)
    execute(three_tables, "ROLLBACK")
    commits = bool(execute(three_tables, "SELECT 1 FROM kept"))
    execute(three_tables, "DELETE FROM kept")
    execute(three_tables, "CREATE TABLE IF NOT EXISTS other (id INT PRIMARY KEY)")
    assert commits == (statement in COMMITTING)
    with pool.lend() as session:
        session.execute("CREATE TEMPORARY TABLE staged (id INT PRIMARY KEY)")
        session.begin()
        session.execute("INSERT INTO kept (id) VALUES (2)")
        if commits:
            with pytest.raises(StatementFailed, match="would commit the open transaction"):
                session.execute(statement)
        else:
            session.execute(statement)
    assert not execute(three_tables, "SELECT 1 FROM kept")


def test_rule_w9_every_session_has_its_settings(pool: SessionPool) -> None:
    variables = (
        "transaction_isolation, time_zone, innodb_lock_wait_timeout, lock_wait_timeout, wait_timeout, autocommit,"
        " sql_mode, character_set_connection"
    )
    with pool.lend() as session:
        row = session.fetch(f"SELECT {', '.join('@@' + name.strip() for name in variables.split(','))}")[0]
    assert row[:6] == ("READ-COMMITTED", "+00:00", 10, 10, 30, 1)
    assert set(row[6].split(",")) == {
        "STRICT_ALL_TABLES",
        "STRICT_TRANS_TABLES",
        "ALLOW_INVALID_DATES",
        "NO_AUTO_VALUE_ON_ZERO",
        "NO_ENGINE_SUBSTITUTION",
    }
    assert row[7] == "utf8mb4"


def connection_id(session: Session) -> int:
    return int(session.fetch("SELECT CONNECTION_ID()")[0][0])


def test_rule_w9_a_session_that_was_lost_is_reported_and_not_lent_again(pool: SessionPool, root: Connection) -> None:
    with pool.lend() as session:
        lost = connection_id(session)
    with pool.lend() as session:
        assert connection_id(session) == lost
        execute(root, f"KILL {lost}")
        with pytest.raises(Unreachable):
            wait_until(lambda: session.fetch("SELECT 0")[0][0], 10, "the loss")
        assert session.broken
    with pool.lend() as session:
        assert connection_id(session) != lost


def test_rule_w10_what_a_session_leaves_open_is_rolled_back(pool: SessionPool, three_tables: Connection) -> None:
    with pool.lend() as session:
        session.begin()
        session.execute("INSERT INTO kept VALUES (1)")
    with pool.lend() as session:
        assert not session.in_transaction
        assert session.fetch("SELECT COUNT(*) FROM kept") == ((0,),)


def test_fault_k1_a_deadlock_is_a_conflict_and_leaves_the_session_usable(
    pool: SessionPool, three_tables: Connection
) -> None:
    execute(three_tables, "INSERT INTO other VALUES (2)")
    crossed = threading.Barrier(2)
    conflicts = []

    def cross(first: int, second: int) -> None:
        with pool.lend() as session:
            session.begin()
            session.execute("SELECT id FROM other WHERE id = %s FOR UPDATE", (first,))
            crossed.wait()
            try:
                session.execute("DELETE FROM other WHERE id = %s", (second,))
            except LockConflict as error:
                conflicts.append(error.code)
                session.rollback()
                session.begin()
                session.execute("DELETE FROM other WHERE id = %s", (second,))
            session.commit()

    threads = [threading.Thread(target=cross, args=pair) for pair in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert conflicts == [1213]
    assert not execute(three_tables, "SELECT 1 FROM other")


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("INSERT INTO narrow VALUES ('too long')", 1406),
        ("INSERT IGNORE INTO narrow VALUES ('too long')", 1265),
        ("INSERT INTO narrow VALUES (NULL)", 1048),
    ],
)
def test_fault_k5_a_value_that_would_be_changed_is_refused_without_being_told(
    pool: SessionPool, root: Connection, statement: str, code: int
) -> None:
    execute(root, "CREATE TABLE narrow (text VARCHAR(3) NOT NULL)")
    with pool.lend() as session, pytest.raises(ValueRefused) as refused:
        session.execute(statement)
    assert refused.value.code == code
    assert "too long" not in str(refused.value)


def test_parameters_arrive_as_they_are(pool: SessionPool) -> None:
    values = ("Žluťoučký 'kůň' \\ % 📚", b"\x00\xff'\\%s", None, 18446744073709551615)
    with pool.lend() as session:
        assert session.fetch("SELECT %s, %s, %s, %s", values) == (values,)
        assert session.fetch("SELECT '100%'") == (("100%",),)


def test_a_sink_is_given_its_id_once(pool: SessionPool) -> None:
    with pool.lend() as session:
        first = progress.prepare_tables(session)
        assert progress.prepare_tables(session) == first
    assert len(first) == 8


def prepared(session: Session, config: SinkConfig, topic: TopicFacts) -> None:
    progress.prepare_tables(session)
    progress.ensure(session, config, topic, now_ms=1)


def test_rule_w1_progress_moves_only_from_where_it_stands(pool: SessionPool, config: SinkConfig) -> None:
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50)))
        assert progress.advance(session, TOPIC, 0, 0, 10, records=7)
        assert not progress.advance(session, TOPIC, 0, 0, 10, records=7)
        assert not progress.advance(session, TOPIC, 0, 5, 20, records=7)
        assert progress.advance(session, TOPIC, 0, 10, 12, records=1)
        assert session.fetch("SELECT next_offset, records FROM _rowflow_progress") == ((12, 8),)
        with pytest.raises(ValueError, match="no progress"):
            progress.advance(session, TOPIC, 0, 12, 12, records=0)


def test_rule_w6_whole_logs_are_read_from_0_and_no_job_is_asked_for(pool: SessionPool, config: SinkConfig) -> None:
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50), LogRange(0, 0)))
        assert session.fetch("SELECT next_offset FROM _rowflow_progress ORDER BY partition_id") == ((0,), (0,))
        assert session.fetch("SELECT status, awaited_job FROM _rowflow_tables") == (("new", ""),)
        assert progress.pending_requests(session) == []


def test_rule_w6_many_workers_insert_the_rows_and_the_request_once(pool: SessionPool, config: SinkConfig) -> None:
    topic = facts(LogRange(3, 50), LogRange(0, 20))
    with pool.lend() as session:
        progress.prepare_tables(session)

    def ensure() -> None:
        with pool.lend() as session:
            progress.ensure(session, config, topic, now_ms=1)

    threads = [threading.Thread(target=ensure) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with pool.lend() as session:
        assert session.fetch("SELECT next_offset FROM _rowflow_progress ORDER BY partition_id") == ((50,), (20,))
        [request] = progress.pending_requests(session)
        job = JobRequest.from_json(request.value)
        assert (job.id, job.origin, job.fresh) == (f"sink-{progress.sink_id(session)}-{TOPIC}", "sink", True)
        assert request.key == job.key()
        progress.mark_sent(session, request)
        assert progress.pending_requests(session) == []


def test_rule_w6_a_second_loss_of_progress_asks_for_another_job(pool: SessionPool, config: SinkConfig) -> None:
    topic = facts(LogRange(3, 50))
    with pool.lend() as session:
        prepared(session, config, topic)
        session.execute("DELETE FROM _rowflow_progress")
        progress.ensure(session, config, topic, now_ms=1)
        ids = [request.id for request in progress.pending_requests(session)]
        first = f"sink-{progress.sink_id(session)}-{TOPIC}"
        assert ids == [first, f"{first}-2"]
        assert session.fetch("SELECT awaited_job FROM _rowflow_tables") == ((f"{first}-2",),)


def test_rule_w7_another_topic_id_is_a_loud_stop(pool: SessionPool, config: SinkConfig) -> None:
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50)))
        with pytest.raises(SinkStopped, match=r"rowflow snapshot shop\.books --start-over"):
            progress.ensure(session, config, facts(LogRange(0, 50), topic_id="id-2"), now_ms=1)


def test_starting_over_gives_the_old_place_up(pool: SessionPool, config: SinkConfig) -> None:
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50), LogRange(0, 50)))
        session.execute(
            "INSERT INTO _rowflow_barriers (topic, barrier_id, partition_id, barrier, entered_at)"
            " VALUES (%s, 'b', 0, '', UTC_TIMESTAMP(3))",
            (TOPIC,),
        )
        stands = progress.read(session, TOPIC, 0)
        assert stands is not None
        assert stands.open_barrier == "b"
        renewed = facts(LogRange(7, 9), LogRange(0, 4), LogRange(0, 0), topic_id="id-2")
        progress.start_over(session, config, renewed, request_of("job-7"))
        assert [progress.read(session, TOPIC, number) for number in range(4)] == [
            progress.Progress(9, "id-2", None),
            progress.Progress(4, "id-2", None),
            progress.Progress(0, "id-2", None),
            None,
        ]
        assert session.fetch("SELECT status, awaited_job FROM _rowflow_tables") == (("awaiting", "job-7"),)
        progress.ensure(session, config, renewed, now_ms=1)
        session.begin()
        assert [request.id for request in progress.pending_requests(session)] == ["job-7"], "nobody would send it"
        session.rollback()


def test_a_mirror_waits_for_another_job_than_the_one_that_failed(pool: SessionPool, config: SinkConfig) -> None:
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50)))
        assert not progress.await_instead(session, TOPIC, "job-7", request_of("job-8")), "it waits for nothing"
        progress.start_over(session, config, facts(LogRange(0, 50)), request_of("job-7"))
        assert not progress.await_instead(session, TOPIC, "job-6", request_of("job-8"))
        assert progress.await_instead(session, TOPIC, "job-7", request_of("job-größe"))
        assert session.fetch("SELECT status, awaited_job FROM _rowflow_tables") == (("awaiting", "job-größe"),)
        session.begin()
        assert {request.id for request in progress.pending_requests(session)} == {"job-7", "job-größe"}
        session.rollback()


def request_of(job_id: str) -> JobRequest:
    return JobRequest("shop", "books", job_id, "command line", 1, fresh=True)


def test_two_captured_tables_never_share_a_mirror(pool: SessionPool, config: SinkConfig) -> None:
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50)))
        other = TopicFacts("bookshop.blog.Books", "id-9", TableName("blog", "Books"), {0: LogRange(0, 0)})
        with pytest.raises(SinkRefused, match="table_name = "):
            progress.ensure(session, config, other, now_ms=1)
        assert session.fetch("SELECT DISTINCT topic FROM _rowflow_progress") == ((TOPIC,),)


@pytest.fixture
def attempt(pool: SessionPool, config: SinkConfig, root: Connection) -> Attempt:
    """A slice on its way to a counting table."""
    with pool.lend() as session:
        prepared(session, config, facts(LogRange(0, 50)))
    execute(
        root,
        "CREATE TABLE seen (topic VARCHAR(100), partition_id INT, record_offset BIGINT, number VARCHAR(40), worker INT)",
    )
    slice_ = Slice(TOPIC, 0, 0, 5, [PlainRecord(1, b"k", b"one"), PlainRecord(3, b"k", b"two")])
    return Attempt(slice_, pool, CountingTarget(pool), lambda: True)


def test_rule_w11_a_commit_whose_answer_was_lost_is_not_done_twice(
    attempt: Attempt, root: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = Session.commit

    def commit_unheard(session: Session) -> None:
        commit(session)
        raise Unreachable("the answer was lost")

    monkeypatch.setattr(Session, "commit", commit_unheard)
    with pytest.raises(Unreachable):
        attempt.run()
    monkeypatch.undo()
    assert attempt.run() is Outcome.MISSED
    assert execute(root, "SELECT number FROM seen ORDER BY record_offset") == [("one",), ("two",)]


def test_rule_w11_a_commit_that_never_arrived_is_done_again(
    attempt: Attempt, root: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(session: Session) -> None:
        session.close()
        raise Unreachable("the connection was lost")

    monkeypatch.setattr(Session, "commit", lost)
    with pytest.raises(Unreachable):
        attempt.run()
    monkeypatch.undo()
    assert attempt.run() is Outcome.STORED
    assert execute(root, "SELECT number FROM seen ORDER BY record_offset") == [("one",), ("two",)]
    assert execute(root, "SELECT next_offset, records FROM _rowflow_progress") == [(5, 2)]


def test_rule_w10_a_slice_of_an_old_epoch_is_rolled_back(attempt: Attempt, root: Connection) -> None:
    attempt._is_current = lambda: False
    assert attempt.run() is Outcome.GIVEN_UP
    assert execute(root, "SELECT number FROM seen") == []
    assert execute(root, "SELECT next_offset FROM _rowflow_progress") == [(0,)]
