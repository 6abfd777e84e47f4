"""The topics hold all: results are made again from them, and a topic that no longer holds all is noticed."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewTopic

from tests import oracle
from tests.helpers import ServiceAddresses, connected, execute
from tests.processes import Pipeline, pipeline
from tests.topics import read_topics
from tests.workload import TABLES, Workload, create_tables


def forget_results(shop: Pipeline) -> None:
    """Drop the sink's schema, results and bookkeeping, and make it anew."""
    for worker in shop.of("worker"):
        assert worker.stop() == 0
    with connected(shop.addresses.sink_root_url) as sink:
        execute(sink, f"DROP DATABASE {shop.sink_schema}")
        execute(sink, f"CREATE DATABASE {shop.sink_schema} CHARACTER SET utf8mb4")


def cut_off(shop: Pipeline, topic: str) -> None:
    """Delete what the topic's logs hold, but for their ends."""
    ends = shop.log_ends([topic])
    places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in ends.items()]
    for deleted in shop.admin.delete_records(places).values():
        deleted.result()


def must_equal(shop: Pipeline, tables: tuple[str, ...] = TABLES) -> None:
    """The sink is the source."""
    with shop.source() as source, shop.sink() as sink:
        oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, tables))


def requests(shop: Pipeline) -> list[dict[str, object]]:
    """The jobs that were asked for by a sink."""
    events = read_topics(shop.addresses.bootstrap_servers, [f"{shop.prefix}.__jobs"])
    found = [event.value for event in events if event.key["kind"] == "request"]
    return [request for request in found if request is not None and request["origin"] == "sink"]


def test_rule_w6_results_come_again_from_the_topics_and_a_cut_off_topic_is_read_anew(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        create_tables(source)
        shop.start("reader")
        shop.wait_followed(*TABLES)
        writer = Workload(services.source_root_url, shop.database, 5, first_rows=60)
        writer.write(250)
        shop.start("worker")
        shop.start("worker")
        shop.wait()
        must_equal(shop)

        forget_results(shop)
        shop.of("reader")[0].kill()
        shop.start("worker")
        shop.until(lambda: shop.progress() and not shop.sink_lag(), 60, "the sink to come to the logs' ends")
        must_equal(shop)
        assert not requests(shop)

        forget_results(shop)
        cut_off(shop, shop.topic("everything"))
        shop.start("worker")
        shop.start("reader")
        shop.until(lambda: bool(requests(shop)), 30, "the sink to ask for a whole table")
        writer.write(30)
        shop.wait()
        must_equal(shop)
        assert [request["table"] for request in requests(shop)] == ["everything"]


def test_rule_w7_a_topic_made_again_under_its_name_is_a_loud_stop(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        execute(source, "INSERT INTO ints VALUES (1, 1), (2, 2), (3, 3)")
        reader = shop.start("reader")
        shop.wait_followed("ints")
        worker = shop.start("worker")
        shop.wait()
        assert [reader.stop(), worker.stop()] == [0, 0]

        topic = shop.topic("ints")
        shop.admin.delete_topics([topic], operation_timeout=30)[topic].result()
        shop.until(lambda: topic not in shop.table_topics(), 30, "the topic to be gone")
        shop.admin.create_topics([NewTopic(topic, 3, 1)])[topic].result()
        ended = [shop.start("worker"), shop.start("reader")]
        assert [program.ended(30) for program in ended] == [4, 4]
        command = f"rowflow snapshot {shop.database}.ints --start-over"
        for program in ended:
            assert topic in program.tail()
            assert command in program.tail()
            shop.programs.remove(program)

        done = shop.run(*command.split()[1:], "--yes")
        assert done.returncode == 0, done.stderr
        execute(source, "UPDATE ints SET amount = amount + 1")
        shop.start("reader")
        shop.start("worker")
        shop.wait()
        must_equal(shop, ("ints",))
