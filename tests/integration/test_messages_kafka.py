"""What Kafka, and the topics in it, do to a start: what the message prints is done, whereupon the next start succeeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.cimpl import NewPartitions

from servers.kafka import KafkaServer
from servers.ports import free_port
from tests.helpers import ServiceAddresses, execute, topics_of, wait_until
from tests.messages import goes_on, message_of, refusal, row_arrives, run_command, stops_well
from tests.processes import Pipeline, Setting, pipeline

NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""

AWAY: tuple[tuple[str, dict[str, dict[str, Setting]], str], ...] = (
    ("reader", {"source": {"url": f"mysql://rowflow@{NOBODY}"}}, "[source] url"),
    ("reader", {"kafka": {"bootstrap_servers": NOBODY}}, "[kafka] bootstrap_servers"),
    ("worker", {"sink": {"url": f"mysql://rowflow@{NOBODY}/results"}}, "[sink] url"),
    ("worker", {"kafka": {"bootstrap_servers": NOBODY}}, "[kafka] bootstrap_servers"),
    ("up", {"sink": {"url": f"mysql://rowflow@{NOBODY}/results"}}, "[sink] url"),
    ("read", {"source": {"url": f"mysql://rowflow@{NOBODY}"}}, "[source] url"),
)
"""Who is started, with a server that is away, and the setting that the message names."""

OPTIONS = {"read": ("--to", "stdout")}


@pytest.fixture(scope="module", autouse=True)
def patient(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Pipeline]]:
    """A process for each of AWAY, which waits for half a minute while the other tests run."""
    with ExitStack() as stack:
        shops = []
        for command, settings, _ in AWAY:
            shop = stack.enter_context(pipeline(services, tmp_path_factory.mktemp("away"), settings))
            shop.start(command, *OPTIONS.get(command, ()))
            shops.append(shop)
        yield shops


@pytest.fixture
def shop(services: ServiceAddresses, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with one table of one row."""
    with pipeline(services, tmp_path) as made:
        make_table(made)
        yield made


def make_table(shop: Pipeline) -> None:
    """A table of one row."""
    with shop.source() as source:
        execute(source, "CREATE TABLE t (id INT PRIMARY KEY)")
        execute(source, "INSERT INTO t VALUES (1)")


def delete_topic(shop: Pipeline, topic: str) -> None:
    """Delete a topic and wait until it is gone."""
    shop.admin.delete_topics([topic])[topic].result()
    wait_until(lambda: topic not in topics_of(shop.addresses.bootstrap_servers, shop.prefix), 30, "it to be gone")


def test_a_changed_partition_count_is_refused_with_the_setting(shop: Pipeline) -> None:
    stops_well(goes_on(shop, with_job=True))
    shop.write_config({"kafka": {"partitions": 4}})
    message = refusal(shop, "reader", 3)
    found = re.search(r"set partitions = (\d+)", message)
    assert found is not None
    shop.write_config({"kafka": {"partitions": int(found[1])}})
    stops_well(goes_on(shop, with_job=False))


def test_a_topic_with_new_partitions_is_refused_by_the_worker_and_made_again(shop: Pipeline) -> None:
    stops_well(goes_on(shop, with_job=True))
    worker = shop.start("worker")
    shop.until(lambda: shop.sink_lag() == 0 and shop.progress(), 30, "the worker to store all")
    stops_well(worker)
    topic = shop.topic("t")
    shop.admin.create_partitions([NewPartitions(topic, 5)])[topic].result()
    message = refusal(shop, "worker", 3)
    assert "keys would move" in message
    assert "partitions = 5" in refusal(shop, "reader", 3)
    delete_topic(shop, topic)
    run_command(shop, message)
    reader = goes_on(shop, with_job=True)
    worker = shop.start("worker")
    shop.wait()
    stops_well(reader, worker)


@pytest.mark.parametrize("which", ["{prefix}.{database}.t", "{prefix}.__positions"])
def test_rule_w7_a_topic_that_was_deleted_is_a_loud_stop_of_the_reader(shop: Pipeline, which: str) -> None:
    stops_well(goes_on(shop, with_job=True))
    topic = which.format(prefix=shop.prefix, database=shop.database)
    delete_topic(shop, topic)
    message = refusal(shop, "reader", 4)
    assert topic in message
    run_command(shop, message)
    stops_well(goes_on(shop, with_job=True))


def test_an_offset_outside_the_log_is_a_loud_stop_with_the_command_that_starts_over(shop: Pipeline) -> None:
    reader = goes_on(shop, with_job=True)
    worker = shop.start("worker")
    shop.wait()
    stops_well(worker)
    row_arrives(shop)
    ends = [TopicPartition(*place, end) for place, end in shop.log_ends().items()]
    for deleted in shop.admin.delete_records(ends).values():
        deleted.result()
    message = refusal(shop, "worker", 4)
    assert re.search(rf"topic {shop.topic('t')} \[\d\]: the next offset is \d+, but the log holds \d+ to", message)
    run_command(shop, message)
    worker = shop.start("worker")
    shop.wait()
    with shop.source() as source, shop.sink() as sink:
        assert execute(sink, "SELECT id FROM t ORDER BY id") == execute(source, "SELECT id FROM t ORDER BY id")
    stops_well(reader, worker)


def test_rule_r6_of_two_readers_one_ends_and_says_so(shop: Pipeline) -> None:
    """Mostly the first; the second where the first comes back between the second's start and its claim (R5)."""
    readers = [goes_on(shop, with_job=True), shop.start("reader")]
    wait_until(lambda: not all(reader.running for reader in readers), 30, "one of two readers to end")
    ended, left = sorted(readers, key=lambda reader: reader.running)
    message = message_of(shop, ended, 4)
    assert f"another reader has taken over prefix {shop.prefix}" in message
    assert "stop one of them" in message
    row_arrives(shop)
    stops_well(left)
    stops_well(goes_on(shop, with_job=False))


@pytest.fixture
def misadvertised(tmp_path: Path) -> Iterator[KafkaServer]:
    """A broker with a listener for clients, whom it sends where nothing listens; it reaches itself by another one."""
    kafka = KafkaServer(tmp_path / "kafka")
    broker, controller = kafka._ports()
    clients = f"CLIENTS://127.0.0.1:{free_port()}"
    kafka.options.update(
        {
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CLIENTS:PLAINTEXT",
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller},{clients}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker},CLIENTS://{NOBODY}",
        }
    )
    kafka.start()
    yield kafka
    kafka.stop()


def test_advertised_listeners_that_cant_be_reached_are_named(
    services: ServiceAddresses, tmp_path: Path, misadvertised: KafkaServer
) -> None:
    clients = misadvertised.options["listeners"].rpartition("//")[2]
    with pipeline(replace(services, bootstrap_servers=clients), tmp_path / "shop") as shop:
        make_table(shop)
        message = refusal(shop, "reader", 3)
        assert f"answers, but the address that it advertises, {NOBODY}," in message
        assert "set advertised.listeners" in message
        advertised = misadvertised.options["advertised.listeners"].replace(NOBODY, clients)
        misadvertised.restart({"advertised.listeners": advertised})
        stops_well(goes_on(shop, with_job=True))


def test_a_server_that_is_not_reached_for_half_a_minute_is_refused_with_its_setting(patient: list[Pipeline]) -> None:
    for shop, (command, _, setting) in zip(patient, AWAY, strict=True):
        (program,) = shop.programs
        message = message_of(shop, program, 3)
        assert NOBODY in message, command
        assert setting in message, command
        assert topics_of(shop.addresses.bootstrap_servers, shop.prefix) == []
    # The setting mended, each of them does its work.
    started: list[tuple[str, Pipeline]] = []
    for shop, (command, _, _) in zip(patient, AWAY, strict=True):
        shop.settings = {}
        shop.write_config()
        make_table(shop)
        shop.start(command, *OPTIONS.get(command, ()))
        if command == "worker":
            shop.start("reader")
        started.append((command, shop))
    for command, shop in started:
        works(command, shop)
        stops_well(*shop.programs)


def works(command: str, shop: Pipeline) -> None:
    """What was started with a table of one row does its work: a change comes through."""
    if command == "read":
        shop.until(lambda: prints_a_change(shop), 30, "a printed change")
        return
    shop.wait_followed("t")
    row_arrives(shop)
    if command != "reader":
        shop.wait()
        with shop.sink() as sink:
            assert execute(sink, "SELECT id FROM t ORDER BY id") == [(1,), (2,)]


def prints_a_change(shop: Pipeline) -> bool:
    """Make a change; whether ``read``, which begins at its start, has printed one."""
    with shop.source() as source:
        execute(source, "INSERT INTO t SELECT MAX(id) + 1 FROM t")
    return f'"db":"{shop.database}","table":"t"' in shop.programs[-1].text()
