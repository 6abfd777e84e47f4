"""A job whose source, broker or connections die in its midst goes on at its shard.  When its reader dies: test_reread.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from MySQLdb.connections import Connection

from servers.kafka import KafkaServer
from servers.mysql import MysqlServer
from tests import oracle
from tests.helpers import ServiceAddresses, connected, execute, unique_name, wait_until
from tests.processes import Pipeline, pipeline
from tests.topics import read_topics

ROWS = 3_000
SLOW = {"jobs": {"rows_per_s": 1_000, "connections": 3}}
SMALL_SHARDS = ("tests.faults.small_shards", "150")
_BOOKS = "CREATE TABLE books (id INT PRIMARY KEY, title VARCHAR(60), stock INT NOT NULL DEFAULT 0)"
_FILL = (
    "INSERT INTO books (id, title) WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < %s)"
    " SELECT i, CONCAT('Book ', i) FROM n"
)


@pytest.fixture(scope="module")
def mysql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MysqlServer]:
    """A source to be killed."""
    server = MysqlServer(tmp_path_factory.mktemp("mysql"), {"innodb_buffer_pool_size": "64M"})
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker to be killed."""
    server = KafkaServer(tmp_path_factory.mktemp("kafka"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def shop(
    services: ServiceAddresses, mysql: MysqlServer, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    """A pipeline that has followed 3,000 books to their end."""
    own = replace(
        services,
        source_url=mysql.root_url,
        source_root_url=mysql.root_url,
        bootstrap_servers=kafka.bootstrap_servers,
    )
    with pipeline(own, tmp_path_factory.mktemp("shop"), SLOW) as made:
        with made.source() as source:
            execute(source, _BOOKS)
            execute(source, "SET SESSION cte_max_recursion_depth = 100000")
            execute(source, _FILL, (ROWS,))
        made.start("reader", launcher=SMALL_SHARDS)
        made.start("worker")
        made.wait_followed("books")
        made.wait()
        yield made


@pytest.fixture
def job(shop: Pipeline) -> str:
    """The name of a job that is under way and has read a fifth of the rows."""
    name = unique_name("job")
    assert shop.run("snapshot", f"{shop.database}.books", "--id", name).returncode == 0
    shop.until(lambda: _rows_read(shop, name) > ROWS // 5, 30, "a fifth of the rows")
    return name


def _rows_read(shop: Pipeline, job: str) -> int:
    states = shop.job_states(job)
    return int(states[-1]["rows_read"]) if states else 0


def must_end_as_if_nothing_had_been(shop: Pipeline, job: str, rows_read: int) -> dict[str, Any]:
    """The job was cut off after ``rows_read``; it ends, has read no row twice, and both sides are equal."""
    receipt = shop.receipt("books", "--id", job)
    shop.must_run()
    states = shop.job_states(job)
    assert ROWS // 5 < rows_read < ROWS, "it was cut off in its midst"
    read = [state["rows_read"] for state in states]
    assert read == sorted(read), "the job has gone back"
    assert receipt["rows_read"] == ROWS
    assert receipt["rows_written"] == receipt["rows_published"] == ROWS - receipt["rows_dropped"]
    shop.wait()
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic("books")])
    numbers = range(states[-1]["first_row"], states[-1]["first_row"] + ROWS)
    rows = [event for event in events if event.op == "r" and event.value and event.value["source"]["row"] in numbers]
    assert len(rows) == receipt["rows_published"]
    assert not [key for key, count in Counter(event.key_bytes for event in rows).items() if count > 1]
    oracle.report(oracle.broken_histories(events, complete=False))
    with shop.source() as source, shop.sink() as sink:
        oracle.report(oracle.topic_differences(source, shop.database, "books", events))
        oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["books"]))
    return receipt


def test_rule_j4_the_source_crashes(shop: Pipeline, job: str, mysql: MysqlServer) -> None:
    mysql.kill()
    rows_read = _rows_read(shop, job)
    mysql.start()
    with shop.source() as source:
        execute(source, "UPDATE books SET stock = stock + 1 WHERE id % 3 = 0")
    must_end_as_if_nothing_had_been(shop, job, rows_read)


def test_rule_j4_the_broker_crashes(shop: Pipeline, job: str, kafka: KafkaServer) -> None:
    kafka.kill()
    with shop.source() as source:
        execute(source, "UPDATE books SET stock = stock + 1 WHERE id % 3 = 0")
    kafka.start()
    rows_read = wait_until(lambda: _rows_read(shop, job), 30, "the broker to answer")
    must_end_as_if_nothing_had_been(shop, job, rows_read)


def test_rule_j2_connections_are_lost_in_their_windows(shop: Pipeline, job: str) -> None:
    """The shards wait for a table's lock; their windows stay open, with what was written before and after the loss."""
    with shop.source() as source, connected(shop.addresses.source_root_url) as root:
        execute(source, "LOCK TABLES books WRITE")
        waiting = wait_until(lambda: _waiting(root, least=3), 30, "shards that wait for the lock")
        rows_read = _rows_read(shop, job)
        execute(source, "UPDATE books SET stock = stock + 1")
        for session in waiting:
            execute(root, f"KILL {session}")
        wait_until(lambda: _others(_waiting(root, least=3), waiting), 30, "the shards to be read on new connections")
        execute(source, "UPDATE books SET title = 'after the loss' WHERE id % 2 = 0")
        execute(source, "UNLOCK TABLES")
    receipt = must_end_as_if_nothing_had_been(shop, job, rows_read)
    assert receipt["rows_dropped"] > 0, "nothing was written in the windows"


def _waiting(root: Connection, least: int) -> list[int]:
    """The sessions that wait for a table's lock, where there are so many."""
    waits = "SELECT processlist_id FROM performance_schema.threads WHERE processlist_state LIKE 'Waiting for table%'"
    found = execute(root, waits)
    return [number for (number,) in found] if len(found) >= least else []


def _others(found: Sequence[int], before: Sequence[int]) -> bool:
    return bool(found) and set(found).isdisjoint(before)
