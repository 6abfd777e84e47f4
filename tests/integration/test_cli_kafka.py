"""How the commands read Kafka: what is committed, and where logs end."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from rowflow.errors import UnreachableError
from rowflow.feed import Feed
from rowflow.kafka import Kafka, LogEnds
from rowflow.settings import KafkaSettings
from schemas.jobs import JobRequest, JobState, TableState
from schemas.topics import jobs_topic
from tests.helpers import ServiceAddresses, wait_until


@pytest.fixture
def kafka(services: ServiceAddresses, prefix: str) -> Kafka:
    return Kafka(KafkaSettings(bootstrap_servers=services.bootstrap_servers, prefix=prefix))


@pytest.fixture
def topic(services: ServiceAddresses, prefix: str) -> str:
    """The topic of jobs."""
    admin = AdminClient({"bootstrap.servers": services.bootstrap_servers})
    name = jobs_topic(prefix)
    for made in admin.create_topics([NewTopic(name, 1, 1), NewTopic(f"{prefix}.wide", 3, 1)]).values():
        made.result()
    return name


@pytest.fixture
def producer(services: ServiceAddresses, prefix: str) -> Iterator[Producer]:
    """A transactional producer."""
    made = Producer({"bootstrap.servers": services.bootstrap_servers, "transactional.id": f"{prefix}-test"})
    made.init_transactions(30)
    yield made
    made.purge()


def test_a_topic_that_isnt_there_is_empty_and_isnt_made(kafka: Kafka, prefix: str) -> None:
    with kafka.follow(jobs_topic(prefix)) as follower:
        assert follower.new_records() == []
    assert kafka.shapes([jobs_topic(prefix)]) == {}
    assert kafka.log_ends([jobs_topic(prefix)]) == {}


def test_only_what_is_committed_is_read_and_read_once(kafka: Kafka, topic: str, producer: Producer) -> None:
    with kafka.follow(topic) as follower:
        assert follower.new_records() == []
        for value, commit in ((b"1", True), (b"2", False), (b"3", True)):
            producer.begin_transaction()
            producer.produce(topic, value, b"key")
            producer.flush(10)
            assert (b"key", value) not in follower.new_records()
            if commit:
                producer.commit_transaction(30)
                assert wait_until(follower.new_records, 10, "the marker behind it") == [(b"key", value)]
            else:
                producer.abort_transaction(30)
                assert follower.new_records() == []


class BreaksOff:
    """A consumer whose broker goes away once, behind the first record."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self._polls = itertools.count()

    def poll(self, timeout_s: float) -> Message | None:
        message = self._consumer.poll(timeout_s)
        if message is not None and next(self._polls) == 1:
            raise UnreachableError("the broker went away")
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def test_what_a_broken_off_call_has_read_is_given_by_the_next(kafka: Kafka, topic: str) -> None:
    kafka.send(topic, [(b"key", str(number).encode()) for number in range(3)])
    with kafka.follow(topic) as follower:
        follower._consumer = BreaksOff(follower._consumer)  # type: ignore[assignment]
        with pytest.raises(UnreachableError):
            follower.new_records()
        assert [value for _, value in follower.new_records()] == [b"0", b"1", b"2"]
        assert follower.new_records() == []


def test_the_tail_holds_the_last_records(kafka: Kafka, topic: str) -> None:
    kafka.send(topic, [(b"key", str(number).encode()) for number in range(1_000)])
    with kafka.follow(topic, tail=True) as follower:
        values = [value for _, value in follower.new_records()]
    assert values == [str(number).encode() for number in range(800, 1_000)]


def test_rule_c1_ends_of_logs_count_what_isnt_committed_yet(
    kafka: Kafka, topic: str, prefix: str, producer: Producer
) -> None:
    wide = f"{prefix}.wide"
    producer.begin_transaction()
    producer.produce(wide, b"1", b"key", partition=1)
    producer.flush(10)
    topic_id = kafka.shapes([wide])[wide].topic_id
    ends = kafka.log_ends([wide])
    assert ends == {(wide, number): LogEnds(0, int(number == 1), topic_id) for number in range(3)}
    producer.commit_transaction(30)
    wait_until(lambda: kafka.log_ends([wide])[wide, 1] == LogEnds(0, 2, topic_id), 10, "the marker")


def test_the_last_record_of_a_job_counts(kafka: Kafka, topic: str, prefix: str) -> None:
    request = JobRequest("shop", "books", "j", "command line", 1)
    state = JobState("shop", "books", "j", "command line", fresh=True, status="reading", started_ms=1)
    table = TableState("shop", "books", "followed", "f", "id")
    with Feed(kafka, prefix) as feed:
        kafka.send(topic, [(record.key(), record.to_json()) for record in (request, state, table)])
        feed.refresh()
        assert (feed.requests, feed.jobs, feed.tables) == ({"j": request}, {"j": state}, {table.name: table})
        kafka.send(topic, [(table.key(), table.standing_still("why", 2).to_json())])
        feed.refresh()
        assert feed.tables[table.name].reason == "why"
        assert feed.position is None
