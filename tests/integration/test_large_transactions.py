"""Source transactions larger than a Kafka transaction: in parts, in bounded memory, through deaths in the middle (R4)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from MySQLdb.connections import Connection

from tests import oracle
from tests.faults.crashing import PASSED, launcher
from tests.helpers import ServiceAddresses, execute
from tests.processes import Pipeline, pipeline, resident_bytes
from tests.topics import consumer, last_value, read_topics

MEMORY_MAX = 300_000_000


def numbers(count: int, first: int = 0) -> str:
    """A table of numbers, as a subquery."""
    return (
        f"(WITH RECURSIVE s AS (SELECT {first} AS n UNION ALL SELECT n + 1 FROM s WHERE n + 1 < {first + count}) "
        "SELECT /*+ SET_VAR(cte_max_recursion_depth = 4294967295) */ n FROM s) AS numbers"
    )


def make_tables(shop: Pipeline, source: Connection) -> None:
    """A captured table that is followed, and one that isn't captured."""
    shop.write_config({"source": {"tables": [f"{shop.database}.big"]}})
    execute(source, "CREATE TABLE big (id INT PRIMARY KEY, version INT NOT NULL, payload VARCHAR(9000) NOT NULL)")
    execute(source, "CREATE TABLE aside (id INT PRIMARY KEY, payload LONGTEXT)")
    reader = shop.start("reader")
    shop.wait_followed("big")
    assert reader.stop() == 0


def position(shop: Pipeline) -> dict[str, object]:
    found = last_value(shop.addresses.bootstrap_servers, f"{shop.prefix}.__positions")
    assert found is not None
    return found


@pytest.mark.parametrize("compressed", ["OFF", pytest.param("ON", marks=pytest.mark.soak)])
def test_rule_r3_r4_a_reader_killed_between_parts_goes_on_behind_them(
    services: ServiceAddresses, tmp_path: Path, compressed: str
) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        make_tables(shop, source)
        execute(source, f"SET SESSION binlog_transaction_compression = {compressed}")
        execute(source, "BEGIN")
        # 225 MB in the half that is written once: who held what it has read would be over the limit at the second death.
        payload = "REPEAT('x', IF(n < 25000, n % 150, 9000))"
        execute(source, f"INSERT INTO big SELECT n, 0, {payload} FROM {numbers(50_000)}")
        execute(source, f"INSERT INTO aside SELECT n, 'not captured' FROM {numbers(15_000)}")
        execute(source, "UPDATE big SET version = 1 WHERE id < 25000")
        execute(source, "UPDATE big SET id = id + 1000000 WHERE id < 5000")
        execute(source, "DELETE FROM big WHERE id BETWEEN 20000 AND 24999")
        execute(source, "COMMIT")
        execute(source, "INSERT INTO big VALUES (-1, 0, 'behind it')")

        skipped = [0]
        # Each commit with rows, here, is a part.
        for point, part in (("after_kafka_commit", 2), ("before_kafka_commit", 15)):
            crashing = shop.start("reader", launcher=launcher(point, part, "SIGSTOP"))
            shop.until(lambda log=crashing: PASSED in log.text(), 60, point)  # type: ignore[misc]
            assert resident_bytes(crashing.process.pid) < MEMORY_MAX
            crashing.kill()
            found = position(shop)
            skipped.append(int(str(found["rows_to_skip"])))
            assert skipped[-1] > skipped[-2], found
        assert skipped[-1] >= 60_000
        reader = shop.start("reader")
        shop.wait_read()
        assert resident_bytes(reader.process.pid) < MEMORY_MAX
        assert reader.stop() == 0
        assert position(shop)["rows_to_skip"] == 0

        events = read_topics(services.bootstrap_servers, [shop.topic("big")])
        oracle.report(oracle.topic_differences(source, shop.database, "big", events))
        oracle.report(oracle.broken_histories(events, complete=True))
        oracle.report(oracle.doubled(events))
        oracle.report(oracle.without_tombstone(events))


def test_rule_r4_large_rows_that_are_not_captured_take_no_memory(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        make_tables(shop, source)
        execute(source, "BEGIN")
        execute(source, "INSERT INTO big VALUES (1, 0, 'before')")
        execute(source, f"INSERT INTO aside SELECT n, REPEAT('x', 2000000) FROM {numbers(200)}")
        execute(source, "INSERT INTO big VALUES (2, 0, 'behind')")
        execute(source, "COMMIT")
        reader = shop.start("reader")
        shop.wait_read()
        assert resident_bytes(reader.process.pid) < MEMORY_MAX
        assert reader.stop() == 0


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_million_rows_in_one_transaction_take_no_memory(services: ServiceAddresses, tmp_path: Path) -> None:
    rows = 1_000_000
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        make_tables(shop, source)
        reader = shop.start("reader")
        execute(source, f"INSERT INTO big SELECT n, 0, REPEAT('x', 200) FROM {numbers(rows)}")
        execute(source, "UPDATE big SET version = 1")
        shop.wait_read(300)
        assert resident_bytes(reader.process.pid) < MEMORY_MAX
        assert reader.stop() == 0
        found = {"c": bytearray(rows), "u": bytearray(rows)}
        for op, number in _changes(shop):
            found[op][number] += 1
        assert all(count == 1 for counts in found.values() for count in counts)


def _changes(shop: Pipeline) -> Iterator[tuple[str, int]]:
    """Op and id of all events, read as they come."""
    topic = shop.topic("big")
    ends = {partition: end for (_, partition), end in shop.log_ends([topic]).items()}
    with consumer(shop.addresses.bootstrap_servers) as reader:
        reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in ends])
        while ends:
            for message in reader.consume(5_000, 1.0):
                if message.error() is not None:
                    ends.pop(message.partition() or 0, None)
                    continue
                value = json.loads(message.value() or b"")
                if value["op"] != "m":
                    yield value["op"], value["after"]["id"]
