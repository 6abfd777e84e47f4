"""A Kafka of our own: one node, KRaft, broker and controller in one process.

In: a directory, and broker settings to set otherwise. Out: a broker on 127.0.0.1 without authentication, where topics
are made by request only. Its ports are chosen once and stay the same from start to start.
"""

import secrets
import tempfile
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from servers.commands import printed_by, succeeds
from servers.errors import ServerError
from servers.kafka_files import KAFKA_VERSION, find_kafka, java, java_options
from servers.ports import free_port, is_free
from servers.processes import ServerProcess
from servers.templates import copied, kept

# One node, so one replica of everything. Few internal partitions and no waiting for company: ready in seconds.
DEFAULT_OPTIONS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",  # after a crash the broker waits until its former self has expired
    "group.initial.rebalance.delay.ms": "0",
    "log.initial.task.delay.ms": "1000",
    "log.cleaner.dedupe.buffer.size": "16777216",
}


class KafkaServer:
    """One broker. `directory` holds all of it: server.properties, data, log, pid file and ports."""

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None) -> None:
        """Take `options` (names of broker settings) over DEFAULT_OPTIONS; they count from the next start on."""
        self.directory = directory.resolve()
        self.options = {**DEFAULT_OPTIONS, **(options or {})}
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = ServerProcess(self.directory, "kafka")
        self._data = self.directory / "data"
        self._settings_file = self.directory / "server.properties"

    @property
    def pid(self) -> int | None:
        """The process id, or None when it does not run."""
        return self._process.pid

    @property
    def bootstrap_servers(self) -> str:
        """The address for clients, as in `127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._ports()[0]}"

    def start(self) -> None:
        """Start the broker and return when clients can work with it. Nothing to do if it runs."""
        if self.pid is None:
            jars = find_kafka()
            self.start_with(jars, f"-XX:SharedArchiveFile={_class_archive(jars)}")

    def start_with(self, jars: Path, *jvm_options: str) -> None:
        """Start it with options of the JVM."""
        if not all(is_free(port) for port in self._ports()):
            (self.directory / "ports").unlink()
        self._write_settings()
        if not self._data.exists():
            self._format(jars)
        # What Java unpacks stays behind when it is killed: in the server's own directory, then.
        own = ["-Xms256m", "-Xmx512m", f"-Djava.io.tmpdir={self.directory}", *jvm_options]
        self._process.start([java(), *own, *java_options(jars), "kafka.Kafka", str(self._settings_file)])
        self._process.wait_ready(self._answers, timeout_s=120)

    def stop(self, timeout_s: float = 30) -> None:
        """Shut the broker down in order."""
        self._process.stop(timeout_s)

    def kill(self) -> None:
        """End the broker as a crash would."""
        self._process.kill()

    def suspend(self) -> None:
        """Stop the process without ending it: it is there and does not answer."""
        self._process.suspend()

    def resume(self) -> None:
        """Let a suspended broker go on."""
        self._process.resume()

    def restart(self, options: Mapping[str, str] | None = None) -> None:
        """Stop and start, on the same ports; `options` are added to those it had."""
        self.stop()
        self.options.update(options or {})
        self.start()

    def _ports(self) -> tuple[int, int]:
        """Return the ports for clients and for the controller."""
        file = self.directory / "ports"
        if not file.exists():
            file.write_text(f"{free_port()} {free_port()}\n", encoding="ascii")
        broker, controller = file.read_text(encoding="ascii").split()
        return int(broker), int(controller)

    def _write_settings(self) -> None:
        broker, controller = self._ports()
        settings = {
            "listeners": f"PLAINTEXT://127.0.0.1:{broker},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{broker}",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "log.dirs": str(self._data),
            **self.options,
        }
        lines = [f"{name}={value}\n" for name, value in settings.items()]
        self._settings_file.write_text("".join(lines), encoding="utf-8")

    def _format(self, jars: Path) -> None:
        """Put a data directory there, a copy of one that was made before: a cluster id means nothing to one node."""
        node = self.options["node.id"]
        copied(kept(f"kafka-{KAFKA_VERSION}-data-{node}", lambda place: self._make_data(jars, place)), self._data)

    def _make_data(self, jars: Path, place: Path) -> None:
        settings_file = self.directory / "format.properties"
        settings_file.write_text(
            self._settings_file.read_text(encoding="utf-8") + f"log.dirs={place}\n", encoding="utf-8"
        )
        cluster_id = urlsafe_b64encode(secrets.token_bytes(16)).rstrip(b"=").decode()  # may begin with "-"
        tool = [java(), "-XX:TieredStopAtLevel=1", *java_options(jars), "kafka.tools.StorageTool", "format"]
        log_file = self._process.log_file
        if not succeeds([*tool, f"--cluster-id={cluster_id}", "--config", settings_file], log_file):
            raise ServerError(f"Kafka can't make its data directory, see {log_file}")

    def _answers(self) -> bool:
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": "0"})
        try:
            return bool(client.list_topics(timeout=2).brokers)
        except KafkaException:
            return False


def _class_archive(jars: Path) -> Path:
    """Return Kafka's classes as the JVM holds them in memory: a broker that begins with them needs half the CPU time."""
    return kept(f"kafka-{KAFKA_VERSION}-{_java_version()}.jsa", lambda place: _make_class_archive(jars, place))


@cache
def _java_version() -> str:
    """A JVM has to start to tell it: once for all brokers of a process."""
    return printed_by([java(), "--version"]).partition("\n")[0].replace(" ", "-")


def _make_class_archive(jars: Path, place: Path) -> None:
    """Let a broker run until it answers; at its end the JVM writes what it has loaded (JDK 13 and later)."""
    with tempfile.TemporaryDirectory(prefix="kafka-classes.") as scratch:
        broker = KafkaServer(Path(scratch))
        try:
            broker.start_with(jars, f"-XX:ArchiveClassesAtExit={place}")
        finally:
            broker.stop(timeout_s=60)
    # A JVM that can't write it starts without: an archive that it can't read is left alone.
    place.touch()
