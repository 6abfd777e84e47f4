"""A server that goes away for a while: it is said, waited for in bounded memory, and by itself all goes on and is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from MySQLdb.connections import Connection

from servers.kafka import KafkaServer
from tests.helpers import ServiceAddresses, execute
from tests.messages import stops_well
from tests.processes import Pipeline, pipeline, resident_bytes
from tests.proxy import silent_proxy

MEMORY_MAX = 300_000_000
TRANSACTIONS, ROWS, ROW_BYTES = 100, 1_000, 2_000
"""What is written while a server is away: two thirds of MEMORY_MAX, and as Python objects more than that."""


def make_table(shop: Pipeline) -> None:
    """A table of one row."""
    with shop.source() as source:
        execute(source, "CREATE TABLE t (id INT PRIMARY KEY, note TEXT)")
        execute(source, "INSERT INTO t VALUES (-1, 'before')")


def write_much(shop: Pipeline, transactions: int = TRANSACTIONS) -> None:
    """Transactions of many rows each."""
    with shop.source() as source:
        for number in range(transactions):
            first = number * ROWS
            numbers = (
                f"WITH RECURSIVE s AS (SELECT {first} AS n UNION ALL SELECT n + 1 FROM s WHERE n < {first + ROWS - 1})"
            )
            execute(source, f"INSERT INTO t {numbers} SELECT n, REPEAT(CHAR(65 + n %% 50), {ROW_BYTES}) FROM s", ())


def contents(connection: Connection) -> list[tuple[object, ...]]:
    """What a copy of the table has to have in common with it."""
    return execute(connection, "SELECT COUNT(*), SUM(id), BIT_XOR(CRC32(CONCAT(id, note))) FROM t")


def must_be_whole(shop: Pipeline) -> None:
    """By itself the sink comes to hold all that was written; nobody ended, nor took more memory than that."""
    with shop.source() as source:
        execute(source, "INSERT INTO t VALUES (-2, 'after')")
        shop.wait(120)
        with shop.sink() as sink:
            assert contents(sink) == contents(source)
    for program in shop.programs:
        assert resident_bytes(program.process.pid) < MEMORY_MAX, program.name
    stops_well(*shop.programs)


@pytest.mark.parametrize(
    ("said", "times", "transactions"),
    [
        pytest.param("Kafka doesn't answer", 2, 10, id="ten-seconds"),
        # The Kafka transaction's own time is up, which begins the session anew.
        pytest.param(
            "going on from the last committed position", 1, TRANSACTIONS, id="a-minute", marks=pytest.mark.soak
        ),
    ],
)
def test_kafka_goes_away_and_comes_back(
    services: ServiceAddresses,
    tmp_path: Path,
    own_kafka: Callable[..., KafkaServer],
    said: str,
    times: int,
    transactions: int,
) -> None:
    kafka = own_kafka()
    with pipeline(replace(services, bootstrap_servers=kafka.bootstrap_servers), tmp_path / "shop") as shop:
        make_table(shop)
        reader, worker = shop.start("reader"), shop.start("worker")
        shop.wait()
        kafka.kill()
        write_much(shop, transactions)
        shop.until(lambda: reader.text().count(said) >= times, 90, "the reader to say so")
        shop.until(lambda: "Kafka: describing topics: no answer" in worker.text(), 60, "the worker to say so")
        kafka.start()
        must_be_whole(shop)


def test_rule_w4_the_sink_goes_away_and_a_worker_with_it(services: ServiceAddresses, tmp_path: Path) -> None:
    parts = urlsplit(services.sink_url)
    assert parts.port is not None
    with silent_proxy(parts.port) as proxy:
        by_proxy = replace(services, sink_url=services.sink_url.replace(f":{parts.port}", f":{proxy.port}"))
        with pipeline(by_proxy, tmp_path) as shop:
            make_table(shop)
            shop.start("reader")
            worker, other = shop.start("worker"), shop.start("worker")
            shop.until(lambda: shop.members() == 2, 30, "two workers")
            shop.wait()
            proxy.cut()
            other.kill()
            shop.programs.remove(other)
            write_much(shop)
            shop.wait_read()
            shop.until(lambda: shop.members() == 1, 60, "its partitions to be assigned, while the sink is away")
            # Each partition says it once in ten seconds, and Rowflow's own statements as well.
            shop.until(lambda: worker.text().count("Can't connect to server") > 3, 60, "the worker to say so")
            proxy.mend()
            must_be_whole(shop)
