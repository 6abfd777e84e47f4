"""Random JSON documents and keys; what MySQL prints, and where librdkafka puts them, is what must come out."""

import json
import random
from collections.abc import Iterator
from typing import Any

import jsonschema
import orjson
import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from MySQLdb.connections import Connection

from cdc_reader.sql import SourceSession
from schemas.keys import partition_of
from tests.decode_stand import DecodeStand, address_of
from tests.helpers import ServiceAddresses, execute
from tests.unit.test_decode_plans import schema_file

_DOCUMENTS = 400
_LETTERS = ("a", "B", "é", "数", "🙂", '"', "\\", "/", "\n", "\x01", "\x7f", "\u2028", "'", "%", " ", "")


def _text(choice: random.Random, longest: int = 8) -> str:
    return "".join(choice.choice(_LETTERS) for _ in range(choice.randrange(longest)))


def _scalar(choice: random.Random) -> Any:
    exponent = choice.choice((0, 1, 15, 16, 31, 32, 53, 63))
    kinds = (
        lambda: choice.choice((None, True, False)),
        lambda: choice.choice((-1, 1)) * (2**exponent - choice.randrange(2)),
        lambda: choice.randrange(2**64),
        lambda: choice.uniform(-1, 1) * 10.0 ** choice.randrange(-320, 308),
        lambda: float(choice.randrange(-(10**6), 10**6)) / choice.choice((1, 10, 1000)),
        lambda: _text(choice, choice.choice((3, 30, 300))),
        lambda: "x" * choice.choice((127, 128, 16_383, 16_384, 70_000)) if choice.random() < 0.05 else "x",
    )
    return choice.choice(kinds)()


def _document(choice: random.Random, depth: int) -> Any:
    if depth == 0 or choice.random() < 0.3:
        return _scalar(choice)
    size = choice.choice((0, 1, 2, 5, 40)) if depth > 1 else choice.randrange(6)
    if choice.random() < 0.5:
        return [_document(choice, depth - 1) for _ in range(size)]
    return {_text(choice): _document(choice, depth - 1) for _ in range(size)}


@pytest.fixture
def stand(services: ServiceAddresses, source_root: Connection, database: str) -> Iterator[DecodeStand]:
    with SourceSession(address_of(services.source_root_url)) as session:
        yield DecodeStand(services.source_root_url, source_root, database, session)


def test_json_is_the_text_that_the_server_prints(stand: DecodeStand) -> None:
    choice = random.Random(20261124)
    documents = [json.dumps(_document(choice, 3), ensure_ascii=False) for _ in range(_DOCUMENTS)]
    stand.run("CREATE TABLE staged (id INT PRIMARY KEY, v LONGTEXT)", "CREATE TABLE t (id INT PRIMARY KEY, v JSON)")
    with stand.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO staged VALUES (%s, %s)", list(enumerate(documents)))
    changes = stand.changes("INSERT INTO t SELECT id, v FROM staged ORDER BY id")
    printed = [row[0] for row in execute(stand.connection, "SELECT CAST(v AS CHAR) FROM t ORDER BY id")]
    assert len(changes.images) == _DOCUMENTS
    for image, text in zip(changes.images, printed, strict=True):
        assert image["v"] == text
    for _, key, value, _ in changes.messages:
        jsonschema.validate(orjson.loads(key), schema_file("key"))
        assert value is not None


def test_keys_lie_where_librdkafka_puts_them(services: ServiceAddresses, prefix: str) -> None:
    partitions, topic = 7, f"{prefix}.keys"
    admin = AdminClient({"bootstrap.servers": services.bootstrap_servers})
    for created in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
        created.result()
    choice = random.Random(7)
    keys = [choice.randbytes(choice.randrange(1, 40)) for _ in range(500)]
    keys += [orjson.dumps({"id": choice.randrange(10**9), "name": _text(choice)}) for _ in range(500)]
    placed: dict[bytes, int] = {}

    def delivered(error: object, message: Message) -> None:
        assert error is None
        placed[message.key() or b""] = message.partition() or 0

    producer = Producer({"bootstrap.servers": services.bootstrap_servers, "partitioner": "murmur2_random"})
    for key in keys:
        producer.produce(topic, b"", key, on_delivery=delivered)
    assert producer.flush(30) == 0
    assert placed == {key: partition_of(key, partitions) for key in keys}
    assert set(placed.values()) == set(range(partitions))
