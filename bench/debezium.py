"""Debezium beside Rowflow: its MySQL connector on Kafka Connect, standalone, from its Maven artifacts.

In: running servers.  Out: a process that puts the changes of `shop.books` into `peer.shop.books`, and an incremental snapshot
of it on request.  Tuned: large batches and queue, lz4, short polls; schemaless JSON, `acks=all`, as many partitions as ours;
chunks of 8,192 rows instead of 1,024.  Its windows are opened and closed by rows in a table of the source, `peer.signals`: in
its read-only way, by GTIDs, a window at rest stays open until something else is written (a thousand rows a second).
Facts: Debezium's documentation of the MySQL connector, "Incremental snapshots", "Signals", "Notifications".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import Popen
from urllib.parse import unquote, urlsplit

from confluent_kafka import OFFSET_BEGINNING, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from bench.stand import DIRECTORY, Stand, log_of, reading, started, until
from servers.kafka_files import java
from servers.maven import Jars
from servers.ports import free_port

PREFIX = "peer"
TOPIC = f"{PREFIX}.shop.books"
PARTITIONS = 4
_SIGNALS, _NOTIFICATIONS = "peer.signals", f"{PREFIX}-notifications"
_HERE = Path(__file__).parent
_JARS = Jars("debezium-3.6.1", _HERE / "debezium_pom.xml", _HERE / "debezium_jars.sha256")


class Debezium:
    """One connector, streaming from the source's present end."""

    def __init__(self, stand: Stand, program: Popen[bytes]) -> None:
        """Take a process that streams already."""
        self.program, self._stand = program, stand
        self._bootstrap_servers = stand.services.kafka.bootstrap_servers
        self._snapshots = 0

    def read_again(self) -> tuple[float, int]:
        """Read `shop.books` again; how many seconds by Kafka's time stamps, and how many rows came of it."""
        self._snapshots += 1
        before = _ends(self._bootstrap_servers, TOPIC)
        what = {"type": "incremental", "data-collections": ["shop.books"]}
        order = (f"again-{self._snapshots}", "execute-snapshot", json.dumps(what))
        with closing(self._stand.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {_SIGNALS} VALUES (%s, %s, %s)", order)
            connection.commit()
        begin_ms, end_ms = self._notified("STARTED"), self._notified("COMPLETED")
        return (end_ms - begin_ms) / 1000, _count(
            self._bootstrap_servers, TOPIC, before, lambda value: b'"op":"r"' in value
        )

    def _notified(self, kind: str) -> int:
        """When this snapshot's notification of a kind was written, in ms."""
        with reading(self._bootstrap_servers, {(_NOTIFICATIONS, 0): OFFSET_BEGINNING}) as consumer:

            def look() -> int:
                for message in consumer.consume(100, timeout=0.2):
                    said = json.loads(message.value() or b"{}")
                    if said.get("aggregate_type") == "Incremental Snapshot" and said.get("type") == kind:
                        found.append(message.timestamp()[1])
                return found[self._snapshots - 1] if len(found) >= self._snapshots else 0

            found: list[int] = []
            return until(look, f"Debezium's snapshot to be {kind}")


@contextmanager
def running(stand: Stand) -> Iterator[Debezium]:
    """Debezium, streaming, until the end of the block."""
    admin = AdminClient({"bootstrap.servers": stand.services.kafka.bootstrap_servers})
    topics = {TOPIC: PARTITIONS, f"{PREFIX}.{_SIGNALS}": 1, _NOTIFICATIONS: 1}
    for made in admin.create_topics([NewTopic(topic, number, 1) for topic, number in topics.items()]).values():
        made.result()
    with closing(stand.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE DATABASE peer")
        cursor.execute(
            f"CREATE TABLE {_SIGNALS} (id VARCHAR(42) PRIMARY KEY, type VARCHAR(32) NOT NULL, data VARCHAR(2048))"
        )
    worker, connector = _write(stand)
    jars = _JARS.find()
    command = [
        java(), "-Xms512m", "-Xmx2g", f"-Djava.io.tmpdir={DIRECTORY}", "-cp", f"{jars}/*",
        "org.apache.kafka.connect.cli.ConnectStandalone", str(worker), str(connector),
    ]  # fmt: skip
    with started({"debezium": command}) as (program,):
        until(lambda: _streams(program), "Debezium to stream")
        yield Debezium(stand, program)


def _streams(program: Popen[bytes]) -> bool:
    said = log_of("debezium").read_bytes()
    if program.poll() is not None or b"Task is being killed" in said:
        raise SystemExit(f"Debezium has ended; see {log_of('debezium')}")
    return b"Keepalive thread is running" in said


def _write(stand: Stand) -> tuple[Path, Path]:
    """The settings' files of Kafka Connect and of the connector."""
    kafka = stand.services.kafka.bootstrap_servers
    source = urlsplit(stand.services.mysql.root_url)
    worker = {
        "bootstrap.servers": kafka,
        "listeners": f"http://127.0.0.1:{free_port()}",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "key.converter.schemas.enable": "false",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "offset.storage.file.filename": f"{DIRECTORY}/debezium-offsets",
        "producer.acks": "all",
        "producer.compression.type": "lz4",
        "producer.linger.ms": "5",
    }
    connector = {
        "name": PREFIX,
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "tasks.max": "1",
        "database.hostname": source.hostname or "",
        "database.port": str(source.port),
        "database.user": unquote(source.username or ""),
        "database.password": unquote(source.password or ""),
        "database.server.id": "5499",
        "driver.allowPublicKeyRetrieval": "true",
        "topic.prefix": PREFIX,
        "table.include.list": "shop.books",
        "include.schema.changes": "false",
        "snapshot.mode": "no_data",
        "snapshot.locking.mode": "none",
        "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
        "schema.history.internal.file.filename": f"{DIRECTORY}/debezium-schemas",
        "max.batch.size": "8192",
        "max.queue.size": "32768",
        "poll.interval.ms": "10",
        "incremental.snapshot.chunk.size": "8192",
        "signal.data.collection": _SIGNALS,
        "notification.enabled.channels": "sink",
        "notification.sink.topic.name": _NOTIFICATIONS,
    }
    return _properties("connect", worker), _properties("debezium", connector)


def _properties(name: str, settings: dict[str, str]) -> Path:
    file = DIRECTORY / f"{name}.properties"
    file.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
    return file


def _ends(bootstrap_servers: str, topic: str) -> dict[tuple[str, int], int]:
    """Where the partitions of a topic end."""
    with reading(bootstrap_servers, {}) as consumer:
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        return {
            (topic, number): consumer.get_watermark_offsets(TopicPartition(topic, number))[1] for number in partitions
        }


def _count(
    bootstrap_servers: str, topic: str, begins: dict[tuple[str, int], int], counts: Callable[[bytes], bool]
) -> int:
    """How many values of a topic count, from some offsets to its present end."""
    found = 0
    left = {place: end for place, end in _ends(bootstrap_servers, topic).items() if end > begins[place]}
    with reading(bootstrap_servers, {place: begins[place] for place in left}) as consumer:
        while left:
            for message in consumer.consume(10_000, timeout=1.0):
                place = (message.topic() or "", message.partition() or 0)
                found += counts(message.value() or b"")
                if (message.offset() or 0) + 1 >= left.get(place, 0):
                    left.pop(place, None)
    return found
