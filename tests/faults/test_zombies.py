"""Processes that stand still and go on when others have taken over: nothing is written twice, nothing is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin._listoffsets import OffsetSpec

from servers.kafka import KafkaServer
from tests import oracle
from tests.faults.crashing import launcher
from tests.helpers import ServiceAddresses, execute, thread_states
from tests.processes import Pipeline, Program, pipeline, waiting_workers
from tests.topics import read_topics

SESSION_S = 3.0
GOES_ON_S = 60.0
STOPPED = "T"


@pytest.fixture(scope="module")
def brokers(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceAddresses]:
    """This run's MySQL, with a broker that gives transactions up soon and takes short sessions."""
    kafka = KafkaServer(
        tmp_path_factory.mktemp("kafka"),
        {
            "group.min.session.timeout.ms": "1000",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
        },
    )
    kafka.start()
    yield replace(services, bootstrap_servers=kafka.bootstrap_servers)
    kafka.stop()


def test_rule_w1_w9_a_worker_stopped_inside_its_transaction_writes_nothing_later(
    brokers: ServiceAddresses, tmp_path: Path
) -> None:
    with pipeline(brokers, tmp_path) as shop, shop.source() as source, shop.sink() as sink:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        execute(source, "INSERT INTO ints SELECT seq, 0 FROM JSON_TABLE(CONCAT('[', REPEAT('1,', 99), '1]'), '$[*]'"
                " COLUMNS (seq FOR ORDINALITY)) AS numbers")  # fmt: skip
        shop.start("reader")
        shop.wait_followed("ints")
        workers = [shop.start("worker", launcher=launcher(session_s=SESSION_S)) for _ in range(2)]
        shop.wait()
        oracle.watch_progress(sink)

        with shop.sink() as holder:
            execute(holder, "BEGIN")
            execute(holder, "SELECT id FROM ints FOR UPDATE")
            execute(source, "UPDATE ints SET amount = amount + 1")
            waiting = shop.until(lambda: both_wait(shop, workers), GOES_ON_S, "both workers inside their transactions")
            zombie = workers[0]
            sessions = [session for session, pid in waiting if pid == zombie.process.pid]
            zombie.suspend()
            execute(holder, "ROLLBACK")
        execute(source, "UPDATE ints SET amount = amount + 1")
        shop.wait(GOES_ON_S)
        moves = execute(sink, "SELECT MAX(id) FROM moves")[0][0]

        zombie.resume()
        rejoins = len(zombie.text())
        execute(source, "UPDATE ints SET amount = amount + 1")
        shop.until(lambda: " seek " in zombie.text()[rejoins:], GOES_ON_S, "the zombie to be given partitions again")
        shop.wait(GOES_ON_S)
        late = execute(
            sink, "SELECT topic, partition_id, begins, ends, connection_id FROM moves WHERE id > %s", (moves,)
        )
        assert late, "nothing was written at the end"
        assert not [move for move in late if move[4] in sessions]
        oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["ints"]))
        oracle.report(oracle.broken_moves(sink, shop.log_ends(), from_zero=False))
        assert execute(sink, "SELECT MIN(amount), MAX(amount), COUNT(*) FROM ints") == [(3, 3, 100)]
        for program in shop.programs:
            program.must_run()


def both_wait(shop: Pipeline, workers: list[Program]) -> list[tuple[int, int]]:
    """The sessions that wait for locks, with the processes they belong to, once both workers have one; else nothing."""
    waiting = waiting_workers(shop)
    return waiting if {pid for _, pid in waiting} >= {worker.process.pid for worker in workers} else []


def test_rule_r5_a_reader_stopped_longer_than_its_transaction_goes_on(
    brokers: ServiceAddresses, tmp_path: Path
) -> None:
    with stopped_in_its_transaction(brokers, tmp_path) as (shop, reader):
        reader.resume()
        shop.wait_read()
        reader.must_run()
        assert "timed out" in reader.text()
        must_hold(shop)
        assert reader.stop() == 0


def test_rule_r5_r6_a_stopped_reader_that_was_replaced_ends_with_4(brokers: ServiceAddresses, tmp_path: Path) -> None:
    with stopped_in_its_transaction(brokers, tmp_path) as (shop, reader):
        second = shop.start("reader")
        shop.wait_read()
        reader.resume()
        assert reader.ended(GOES_ON_S) == 4, reader.tail()
        assert "another reader has taken over" in reader.tail()
        shop.programs.remove(reader)
        with shop.source() as source:
            execute(source, "UPDATE ints SET amount = amount + 7")
        shop.wait_read()
        must_hold(shop)
        assert second.stop() == 0


@contextmanager
def stopped_in_its_transaction(addresses: ServiceAddresses, directory: Path) -> Iterator[tuple[Pipeline, Program]]:
    """A pipeline whose reader stopped itself inside a Kafka transaction that the broker has given up since."""
    settings = {"kafka": {"producer": {"transaction.timeout.ms": 3000}}}
    with pipeline(addresses, directory, settings) as shop, shop.source() as source:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        first = shop.start("reader")
        shop.wait_followed("ints")
        assert first.stop() == 0
        reader = shop.start("reader", launcher=launcher("in_kafka_transaction", 2, "SIGSTOP"))
        execute(source, "INSERT INTO ints VALUES (0, 1), (1, 1)")
        shop.wait_read()
        execute(source, "INSERT INTO ints VALUES (2, 1), (3, 1)")
        shop.until(
            lambda: STOPPED in thread_states(reader.process.pid), GOES_ON_S, "the reader to stop inside its transaction"
        )
        assert open_transaction(shop, "ints")
        shop.until(lambda: not open_transaction(shop, "ints"), GOES_ON_S, "the broker to give the transaction up")
        execute(source, "UPDATE ints SET amount = amount + 1")
        yield shop, reader


def must_hold(shop: Pipeline) -> None:
    """The topic's events are the table, once each."""
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic("ints")])
    with shop.source() as source:
        oracle.report(oracle.topic_differences(source, shop.database, "ints", events))
    oracle.report(oracle.broken_histories(events, complete=True))
    oracle.report(oracle.doubled(events))


def open_transaction(shop: Pipeline, table: str) -> bool:
    """Whether a partition has records that read_committed consumers can't see yet."""
    ends = []
    for isolation in (IsolationLevel.READ_COMMITTED, IsolationLevel.READ_UNCOMMITTED):
        places = {TopicPartition(shop.topic(table), number): OffsetSpec.latest() for number in range(3)}
        found = shop.admin.list_offsets(places, isolation_level=isolation)
        ends.append([future.result().offset for _, future in sorted(found.items(), key=lambda item: item[0].partition)])
    return ends[0] != ends[1]
