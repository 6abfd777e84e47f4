"""What Kafka, and the topics in it, do to a start: what the message prints is done, whereupon the next start succeeds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin._acl import AclBinding, AclBindingFilter, AclOperation, AclPermissionType
from confluent_kafka.admin._resource import ResourcePatternType, ResourceType
from confluent_kafka.cimpl import NewPartitions

from rowflow.client import Client, ClientError
from schemas.topics import jobs_topic
from servers.kafka import KafkaServer
from servers.ports import free_port
from sink.config import SinkConfig
from stream_app.config import WorkerConfig
from stream_app.errors import WorkerRefused
from stream_app.kafka import RequestSender
from tests.decode_stand import address_of
from tests.helpers import ServiceAddresses, execute, topics_of, wait_until
from tests.messages import goes_on, message_of, refusal, row_arrives, run_command, stops_well, told
from tests.processes import Pipeline, Setting, pipeline

HOST = "127.0.0.1"
NOBODY = f"{HOST}:1"
"""An address at which nothing listens."""
NOWHERE = "nobody.invalid:9092"
"""An address that there is nowhere (RFC 2606); librdkafka tries one that refuses without a pause, which costs a core."""

SOURCE_AWAY: dict[str, dict[str, Setting]] = {"source": {"url": f"mysql://rowflow@{NOBODY}"}}
KAFKA_AWAY: dict[str, dict[str, Setting]] = {"kafka": {"bootstrap_servers": NOBODY}}
SINK_AWAY: dict[str, dict[str, Setting]] = {"sink": {"url": f"mysql://rowflow@{NOBODY}/results"}}

AWAY: tuple[tuple[str, dict[str, dict[str, Setting]], str], ...] = (
    ("reader", SOURCE_AWAY, "[source] url"),
    ("worker", SINK_AWAY, "[sink] url"),
    ("worker", KAFKA_AWAY, "[kafka] bootstrap_servers"),
    ("up", SINK_AWAY, "[sink] url"),
    ("up", SOURCE_AWAY, "[source] url"),
    ("up", {**KAFKA_AWAY, "stream": {"workers": 1}}, "[kafka] bootstrap_servers"),
    ("read", SOURCE_AWAY, "[source] url"),
)
"""Who is started, with a server that is away, and the setting that the message names; `up` says what its reader does."""

AWAY_AGAIN = (("reader", SOURCE_AWAY), ("reader", KAFKA_AWAY), ("worker", KAFKA_AWAY))
"""Children of `up` that were killed while a server is away."""

SENT_ELSEWHERE = (("reader",), ("worker",), ("snapshot", "--all"))
"""Who is started with a broker that sends its clients where nobody is."""

OPTIONS = {"read": ("--to", "stdout")}
POOR = "poor"
"""A user of that broker, who may do nothing in it."""
_ALLOWED = re.compile(r"((?:[A-Z][a-z]+(?:, | and )?)+) on (topics|transactional ids|groups) that begin with (\S+?),? ")


class Patient(NamedTuple):
    """What is started at this file's begin, and waits for half a minute while the other tests run."""

    refused: list[Pipeline]
    """By AWAY."""
    restarted: list[Pipeline]
    """By AWAY_AGAIN."""
    misadvertised: KafkaServer
    sent_elsewhere: Pipeline
    """By SENT_ELSEWHERE."""


@pytest.fixture(scope="module", autouse=True)
def patient(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """All that waits."""
    with ExitStack() as stack:

        def start(command: str, settings: dict[str, dict[str, Setting]], *, restarted: bool) -> Pipeline:
            made = stack.enter_context(pipeline(services, tmp_path_factory.mktemp("away"), settings))
            if command == "reader":
                # With a sink it would be looked at first, and the source by who looks there.
                made.config.write_text(made.config.read_text().partition("[sink]")[0])
            made.start(command, *OPTIONS.get(command, ()), restarted=restarted)
            return made

        kafka = KafkaServer(tmp_path_factory.mktemp("kafka"))
        with ThreadPoolExecutor() as pool:
            kafka_started = pool.submit(start_misadvertised, kafka)
            stack.callback(kafka.stop)
            # These first: that they outlive the others says that they have no such end.
            restarted = [start(*child, restarted=True) for child in AWAY_AGAIN]
            refused = [start(command, settings, restarted=False) for command, settings, _ in AWAY]
            kafka_started.result()
        addresses = replace(services, bootstrap_servers=kafka.bootstrap_servers)
        elsewhere = stack.enter_context(
            pipeline(addresses, tmp_path_factory.mktemp("elsewhere"), by_clients_listener(kafka))
        )
        make_table(elsewhere)
        for line in SENT_ELSEWHERE:
            elsewhere.start(*line)
        yield Patient(refused, restarted, kafka, elsewhere)


def start_misadvertised(kafka: KafkaServer) -> None:
    """Start it with a listener for clients, whom it sends where nobody is, and an authorizer that lets them do nothing."""
    broker, controller = kafka._ports()
    clients = f"CLIENTS://{HOST}:{free_port()}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    kafka.options.update(
        {
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CLIENTS:SASL_PLAINTEXT",
            "listeners": f"PLAINTEXT://{HOST}:{broker},CONTROLLER://{HOST}:{controller},{clients}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{broker},CLIENTS://{NOWHERE}",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.clients.plain.sasl.jaas.config": f'{login} user_{POOR}="{POOR}";',
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
    )
    kafka.start()


def by_clients_listener(kafka: KafkaServer) -> dict[str, dict[str, Setting]]:
    """Settings that lead to the listener for clients, whose address comes last, as POOR."""
    login: dict[str, Setting] = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": POOR,
        "sasl.password": POOR,
    }
    address = kafka.options["listeners"].rpartition("//")[2]
    return {"kafka": {"bootstrap_servers": address}, "kafka.consumer": login, "kafka.producer": login}


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


def test_an_event_that_is_too_large_for_kafka_is_a_loud_stop_with_two_ways_on(shop: Pipeline) -> None:
    with shop.source() as source:
        execute(source, "CREATE TABLE large (id INT PRIMARY KEY, note LONGTEXT)")
        execute(source, "CREATE TABLE small (id INT PRIMARY KEY)")
    reader = goes_on(shop, "large", with_job=True)
    messages = []
    for number in (100, 200):
        with shop.source() as source:
            execute(source, f"INSERT INTO large VALUES ({number}, REPEAT('x', {17 << 20}))")
        messages.append(message_of(shop, reader, 4))
        assert re.search(rf"an event for topic {shop.topic('large')} has 17\d{{6}} bytes", messages[-1])
        if number == 100:
            with shop.source() as source:
                execute(source, "UPDATE large SET note = 'short' WHERE id = 100")
            run_command(shop, messages[-1])
            reader = goes_on(shop, "large", with_job=True)
    left_out = re.search(r'"(!\S+)"', messages[-1])
    assert left_out is not None
    shop.write_config({"source": {"tables": [f"{shop.database}.*", left_out[1]]}})
    stops_well(goes_on(shop, "small", with_job=False))


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


def test_advertised_listeners_that_cant_be_reached_and_missing_grants_are_named(patient: Patient) -> None:
    kafka, shop = patient.misadvertised, patient.sent_elsewhere
    for program in list(shop.programs):
        message = message_of(shop, program, 3)
        assert f"answers, but the address that it advertises, {NOWHERE}," in message, program.name
        assert "set advertised.listeners" in message
    clients = kafka.options["listeners"].rpartition("//")[2]
    kafka.restart({"advertised.listeners": kafka.options["advertised.listeners"].replace(NOWHERE, clients)})
    programs = {command: shop.start(command, *options) for command, *options in SENT_ELSEWHERE}
    messages = {command: message_of(shop, program, 3) for command, program in programs.items()}
    assert "Kafka refuses this command" in messages["snapshot"]
    for command in ("reader", "worker"):
        assert f"Kafka refuses the {command}" in messages[command]
    # Each with what its own message says, and nothing more: together they may do nearly all.
    allow_only(shop, messages["reader"])
    stops_well(goes_on(shop, with_job=True))
    allow_only(shop, messages["worker"])
    worker = shop.start("worker")
    shop.until(lambda: shop.progress() and not shop.sink_lag(), 30, "the worker to store all")
    stops_well(worker)
    allow_only(shop, messages["snapshot"].replace("Read and Write", "Read"))
    writes_are_refused(shop)
    allow_only(shop, messages["snapshot"])
    asked = shop.run("snapshot", "--all")
    assert asked.returncode == 0, asked.stderr


def writes_are_refused(shop: Pipeline) -> None:
    """Who may read and not write is told so, by all three that ask for jobs."""
    asked = shop.run("snapshot", "--all")
    assert asked.returncode == 3, asked.stderr
    assert "Kafka refuses this command" in told(asked.stderr)
    login = {name: str(value) for name, value in shop.settings["kafka.consumer"].items()}
    address = str(shop.settings["kafka"]["bootstrap_servers"])
    sink = SinkConfig(address_of(shop.addresses.sink_url), shop.prefix)
    sender = RequestSender(WorkerConfig(shop.prefix, address, sink, login), jobs_topic(shop.prefix))
    with pytest.raises(WorkerRefused, match="Kafka refuses the worker"):
        sender.send(b"key", b"value")
    with Client.from_file(shop.config, {}) as client, pytest.raises(ClientError, match="authorization failed"):
        client.snapshot(f"{shop.database}.t")


def allow_only(shop: Pipeline, message: str) -> None:
    """Let POOR do what a message says that it has to be allowed: operations, and on what whose names begin with what."""
    anything: Any = None  # the stubs know no other word for it
    everything = AclBindingFilter(
        ResourceType.ANY, anything, ResourcePatternType.ANY, anything, anything, AclOperation.ANY, AclPermissionType.ANY
    )
    for deleted in shop.admin.delete_acls([everything]).values():
        deleted.result()
    found = _ALLOWED.findall(message.replace("PREFIX", shop.prefix))
    assert found, message
    bindings = [
        AclBinding(
            ResourceType[kind], begin, ResourcePatternType.PREFIXED, f"User:{POOR}", "*",
            AclOperation[operation.upper()], AclPermissionType.ALLOW,
        )
        for operations, kinds, begin in found
        for kind in [{"topics": "TOPIC", "transactional ids": "TRANSACTIONAL_ID", "groups": "GROUP"}[kinds]]
        for operation in re.findall(r"[A-Z]\w+", operations)
    ]  # fmt: skip
    for made in shop.admin.create_acls(bindings).values():
        made.result()


def test_a_server_that_is_not_reached_for_half_a_minute_is_refused_with_its_setting(patient: Patient) -> None:
    for shop, (command, _, setting) in zip(patient.refused, AWAY, strict=True):
        (program,) = shop.programs
        message = message_of(shop, program, 3)
        assert NOBODY in message, command
        assert setting in message, command
        assert topics_of(shop.addresses.bootstrap_servers, shop.prefix) == []
    for shop in patient.restarted:
        shop.must_run()
        stops_well(*shop.programs)
    # The setting mended, each of them does its work; of those of one kind, one.
    mended = {command: shop for shop, (command, _, _) in zip(patient.refused, AWAY, strict=True)}
    for command, shop in mended.items():
        shop.settings = {}
        shop.write_config()
        make_table(shop)
        shop.start(command, *OPTIONS.get(command, ()))
        if command == "worker":
            shop.start("reader")
    for command, shop in mended.items():
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
