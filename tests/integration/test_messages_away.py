"""A server that goes away for a while: it is said, waited for in bounded memory, and by itself all goes on and is there."""

from __future__ import annotations

import time
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
    ("said", "transactions"),
    [
        # Too little to tell of memory, which the other one does.
        pytest.param("Kafka doesn't answer", 10, id="ten-seconds"),
        # The Kafka transaction's own time is up, which begins the session anew.
        pytest.param("going on from the last committed position", TRANSACTIONS, id="a-minute", marks=pytest.mark.soak),
    ],
)
def test_kafka_goes_away_and_comes_back(
    services: ServiceAddresses,
    tmp_path: Path,
    own_kafka: Callable[..., KafkaServer],
    said: str,
    transactions: int,
) -> None:
    kafka = own_kafka()
    with pipeline(replace(services, bootstrap_servers=kafka.bootstrap_servers), tmp_path / "shop") as shop:
        make_table(shop)
        reader, worker = shop.start("reader"), shop.start("worker")
        shop.wait()
        kafka.kill()
        write_much(shop, transactions)
        shop.until(lambda: said in reader.text(), 90, "the reader to say so")
        shop.until(lambda: "WARNING waiting: Kafka: " in worker.text(), 60, "the worker to say so")
        kafka.start()
        must_be_whole(shop)


def test_rule_w4_source_and_sink_go_away_and_a_worker_with_it(services: ServiceAddresses, tmp_path: Path) -> None:
    """Said, and with a back-off: pauses from 0.1 s, doubled up to 5 s; without any there are hundreds of attempts a second."""
    source, sink = urlsplit(services.source_url), urlsplit(services.sink_url)
    assert source.port is not None
    assert sink.port is not None
    with silent_proxy(source.port) as source_proxy, silent_proxy(sink.port) as sink_proxy:
        by_proxies = replace(
            services,
            source_url=services.source_url.replace(f":{source.port}", f":{source_proxy.port}"),
            sink_url=services.sink_url.replace(f":{sink.port}", f":{sink_proxy.port}"),
        )
        with pipeline(by_proxies, tmp_path) as shop:
            make_table(shop)
            reader = shop.start("reader")
            worker, other = shop.start("worker"), shop.start("worker")
            shop.until(lambda: shop.members() == 2, 30, "two workers")
            shop.wait()
            source_proxy.hang_up()
            sink_proxy.hang_up()
            away_since_s = time.monotonic()
            other.kill()
            shop.programs.remove(other)
            shop.until(lambda: source_proxy.refused >= 5, 30, "the reader to try again and again")
            assert time.monotonic() - away_since_s > 0.1 + 0.2 + 0.4 + 0.8, (
                "the reader tries without longer and longer pauses"
            )
            assert "the source has closed the binlog connection; going on from the last committed" in reader.text()
            assert f"@127.0.0.1:{source_proxy.port} can't be reached: Lost connection" in reader.text()
            source_proxy.speak()
            write_much(shop)
            shop.wait_read()
            shop.until(lambda: shop.members() == 1, 60, "its partitions to be assigned, while the sink is away")
            said = f"no progress yet: sink {sink.username}@127.0.0.1:{sink_proxy.port}/{shop.sink_schema}: error 2013"
            shop.until(lambda: worker.text().count(said) >= 3, 60, "the worker to say so of each partition")
            away_s = time.monotonic() - away_since_s
            assert sink_proxy.refused < 50 + 3 * away_s, f"the worker tries too often in {away_s:.0f} s"
            sink_proxy.speak()
            must_be_whole(shop)
