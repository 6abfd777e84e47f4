"""Table schemas by fingerprint, from a real broker."""

import threading
from collections.abc import Callable, Iterator, Mapping

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from schemas.addresses import MysqlAddress
from schemas.tables import Column, KeyPart, TableName, TableSchema
from schemas.topics import schemas_topic
from servers.kafka import KafkaServer
from sink.config import SinkConfig
from stream_app import kafka as kafka_module
from stream_app import schema_topic
from stream_app.config import WorkerConfig
from stream_app.errors import KafkaUnreachable, SchemaUnknown
from stream_app.kafka import CompactedTopic
from stream_app.schema_topic import SchemaTopic
from tests.helpers import ServiceAddresses, wait_until

MakeSchemas = Callable[[str], SchemaTopic]


def schema(column: str) -> TableSchema:
    return TableSchema(TableName("shop", "books"), (Column(column, "int", nullable=False),), (KeyPart(column),))


@pytest.fixture
def topic(services: ServiceAddresses, prefix: str) -> Iterator[SchemaTopic]:
    """The schemas of a prefix of this test's own; its topic is not there yet."""
    sink = SinkConfig(MysqlAddress("127.0.0.1", 3306, "nobody", ""), prefix)
    topic = SchemaTopic(WorkerConfig(prefix, services.bootstrap_servers, sink))
    yield topic
    topic.close()


@pytest.fixture
def make_schemas() -> Iterator[MakeSchemas]:
    made: list[SchemaTopic] = []

    def make(bootstrap_servers: str) -> SchemaTopic:
        sink = SinkConfig(MysqlAddress("127.0.0.1", 3306, "nobody", ""), "p")
        made.append(SchemaTopic(WorkerConfig("p", bootstrap_servers, sink)))
        return made[-1]

    yield make
    for topic in made:
        topic.close()


def make_topic(services: ServiceAddresses, prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": services.bootstrap_servers})
    for created in admin.create_topics([NewTopic(schemas_topic(prefix), 1, 1)]).values():
        created.result()


def publish(services: ServiceAddresses, prefix: str, *schemas: TableSchema) -> None:
    producer = Producer({"bootstrap.servers": services.bootstrap_servers})
    for one in schemas:
        producer.produce(schemas_topic(prefix), one.to_json(), one.schema_key(), 0)
    assert producer.flush(30) == 0


def test_rule_w13_an_unknown_fingerprint_is_waited_for(
    services: ServiceAddresses, prefix: str, topic: SchemaTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = schema("id"), schema("number")
    make_topic(services, prefix)
    publish(services, prefix, old)
    assert topic.get("shop", "books", old.fingerprint) == old
    looks: list[int] = []
    refresh = CompactedTopic.refresh

    def looked(topic: CompactedTopic) -> Mapping[bytes, bytes]:
        looks.append(1)
        return refresh(topic)

    monkeypatch.setattr(CompactedTopic, "refresh", looked)
    found: list[TableSchema] = []
    waiting = threading.Thread(target=lambda: found.append(topic.get("shop", "books", new.fingerprint)))
    waiting.start()
    wait_until(lambda: len(looks) > 1, 20, "a look in vain")
    publish(services, prefix, new)
    wait_until(lambda: not waiting.is_alive(), 20, "the new schema")
    assert found == [new]


def test_rule_w13_a_fingerprint_that_never_comes_is_a_loud_stop(
    services: ServiceAddresses, prefix: str, topic: SchemaTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(services, prefix)
    publish(services, prefix, schema("id"))
    monkeypatch.setattr(schema_topic, "WAIT_S", 0.5)
    with pytest.raises(SchemaUnknown, match=r"holds no schema 0123 of shop\.books") as stop:
        topic.get("shop", "books", "0123")
    assert stop.value.exit_code == 4


def test_a_kafka_that_is_away_says_nothing_of_what_it_holds(
    own_kafka: Callable[..., KafkaServer], make_schemas: MakeSchemas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it was once: the loud stop of W13, whose remedy is to read the table whole."""
    kafka = own_kafka()
    broker = ServiceAddresses("", kafka.bootstrap_servers, "", "", "")
    old, new = schema("id"), schema("number")
    make_topic(broker, "p")
    publish(broker, "p", old)
    topic = make_schemas(kafka.bootstrap_servers)
    assert topic.get("shop", "books", old.fingerprint) == old
    monkeypatch.setattr(schema_topic, "WAIT_S", 0.5)
    monkeypatch.setattr(kafka_module, "ANSWER_TIMEOUT_S", 1.0)
    kafka.suspend()
    with pytest.raises(KafkaUnreachable):
        topic.get("shop", "books", new.fingerprint)
    kafka.resume()
    publish(broker, "p", new)
    assert topic.get("shop", "books", new.fingerprint) == new
