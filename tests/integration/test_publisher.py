"""The reader's producer and its topics, on a real broker: exactness.md R1 to R3."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from confluent_kafka import IsolationLevel, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType

from cdc_reader import kafka as kafka_module
from cdc_reader.batches import Batch
from cdc_reader.config import KafkaConfig
from cdc_reader.errors import BrokerAway, BrokerFenced, BrokerStopped
from cdc_reader.kafka import TRANSACTION_TIMEOUT_MS, Topics
from cdc_reader.positions import POSITION_KEY, Position
from cdc_reader.publisher import Publisher, check_fenced, last_position
from rowflow.supervisor import END_TIME_S
from schemas.topics import jobs_topic, positions_topic, schemas_topic
from tests.helpers import ServiceAddresses, wait_until
from tests.proxy import silent_proxy
from tests.topics import read_topics

MakePublisher = Callable[[str], Publisher]


@pytest.fixture
def config(services: ServiceAddresses, prefix: str) -> KafkaConfig:
    """A prefix of this test's own, whose topics are made with three partitions a table."""
    made = KafkaConfig(services.bootstrap_servers, prefix, partitions=3)
    Topics(made).ensure_own()
    Topics(made).ensure_tables([f"{prefix}.shop.books"])
    return made


@pytest.fixture
def publisher(config: KafkaConfig) -> Iterator[MakePublisher]:
    made: list[Publisher] = []

    def make(instance: str) -> Publisher:
        made.append(Publisher(config, instance, lambda: 1, threading.Event()))
        return made[-1]

    yield make
    for one in made:
        with suppress(BrokerAway, BrokerFenced):
            one.close()


def at(pos: int) -> Position:
    return Position("binlog.000001", pos, "", "uuid")


def a_row(config: KafkaConfig, number: int) -> Batch:
    return Batch(f"{config.prefix}.shop.books", [(0, b'{"id":%d}' % number, b'{"op":"c"}', None)])


def committed_end(config: KafkaConfig) -> int:
    """Behind the last record of ``__positions`` that read_committed consumers may see, markers included."""
    place = TopicPartition(positions_topic(config.prefix), 0)
    admin = AdminClient({"bootstrap.servers": config.bootstrap_servers})
    found = admin.list_offsets({place: OffsetSpec.latest()}, isolation_level=IsolationLevel.READ_COMMITTED)
    return int(found[place].result().offset)


def test_rule_r1_a_start_fences_goes_on_from_the_last_commit_and_claims(
    config: KafkaConfig, publisher: MakePublisher, caplog: pytest.LogCaptureFixture
) -> None:
    first = publisher("first")
    assert first.committed is None
    first.add([a_row(config, 1)])
    first.commit(at(100))
    # Behind the position stands its transaction's marker: who waited for a record at "end - 1" would hang.
    wait_until(lambda: committed_end(config) == 2, 10, "a position and its marker")
    first.add([a_row(config, 2)])
    first._producer._produce_waiting()
    assert first._producer._producer.flush(10) == 0

    second = publisher("second")
    assert second.committed is not None
    assert (second.committed.pos, second.committed.instance) == (100, "first")
    second.claim()
    claim = last_position(config)
    assert claim is not None
    assert (claim.pos, claim.instance) == (100, "second")
    with pytest.raises(BrokerFenced):
        first.commit(at(200))
    with pytest.raises(BrokerStopped, match="another reader has taken over"):
        check_fenced(config, "first", 1)
    check_fenced(config, "second", 2)
    assert "timed out while this reader stood still (2 since its start)" in caplog.text
    keys = [event.key_bytes for event in read_topics(config.bootstrap_servers, [f"{config.prefix}.shop.books"])]
    assert keys == [b'{"id":1}'], "what the first had not committed is given up"


def test_rule_r2_own_topics_have_one_partition_and_positions_small_segments(config: KafkaConfig) -> None:
    names = [topic(config.prefix) for topic in (positions_topic, schemas_topic, jobs_topic)]
    admin = AdminClient({"bootstrap.servers": config.bootstrap_servers})
    assert {name: len(admin.list_topics(name, timeout=10).topics[name].partitions) for name in names} == dict.fromkeys(
        names, 1
    )
    resource = ConfigResource(ResourceType.TOPIC, names[0])
    settings = admin.describe_configs([resource])[resource].result()
    assert (settings["cleanup.policy"].value, settings["segment.bytes"].value) == ("compact", str(16 * 1024 * 1024))


def test_a_describe_that_nobody_answers_is_given_up_while_the_reader_can_still_end(
    services: ServiceAddresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that waits for it can't end; librdkafka's own limit is 10 s, and `up` kills before that."""
    assert kafka_module._CALL_TIMEOUT_S < END_TIME_S
    monkeypatch.setattr(kafka_module, "_CALL_TIMEOUT_S", 0.5)
    with silent_proxy(int(services.bootstrap_servers.rpartition(":")[2])) as proxy:
        proxy.silence()
        topics = Topics(KafkaConfig(f"127.0.0.1:{proxy.port}", "p", partitions=3))
        began_s = time.monotonic()
        with pytest.raises(BrokerAway):
            topics.ids(["p.shop.books"])
        assert time.monotonic() - began_s < 5


def test_rule_r2_the_last_position_is_read_from_the_end(config: KafkaConfig, publisher: MakePublisher) -> None:
    """Behind it may lie any number of aborted ones, and markers."""
    one = publisher("one")
    one.commit(at(7))
    for number in range(100):
        one.add([Batch(positions_topic(config.prefix), [(0, POSITION_KEY, at(number).to_json(), None)], None, 0)])
        one._producer._produce_waiting()
        one._producer._producer.flush(10)
        one.abort()
    found = last_position(config)
    assert found is not None
    assert found.pos == 7


def test_rule_r3_a_transaction_begins_at_its_first_event_and_is_given_up_in_time(
    config: KafkaConfig, publisher: MakePublisher
) -> None:
    """An idle reader holds none open: the broker would time it out, and fence the reader."""
    one = publisher("one")
    seen = [one.open]
    one.commit(at(1))
    seen.append(one.open)
    one.add([a_row(config, 1)])
    seen.append(one.open)
    one.commit(at(2))
    assert [*seen, one.open] == [False, False, True, False]
    assert TRANSACTION_TIMEOUT_MS == 60_000
    wait_until(lambda: committed_end(config) == 4, 10, "two positions and two markers")
