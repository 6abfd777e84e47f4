"""A prefix, a sink schema and workers that count: what the torture and the slices' tests are played on."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from confluent_kafka import IsolationLevel, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic
from MySQLdb.connections import Connection

from schemas.jobs import TableState, TableStatus
from schemas.tables import TableName
from schemas.topics import jobs_topic, schemas_topic, table_topic
from tests.helpers import connect, connected, execute

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Stage:
    """Topics of captured tables in Kafka, and the tables in which workers count."""

    prefix: str
    bootstrap_servers: str
    root_url: str
    sink_url: str
    schema: str
    tables: Sequence[str] = ("books", "orders")
    partitions: int = 3
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    log_directory: Path = Path("/tmp")  # noqa: S108

    @property
    def topics(self) -> list[str]:
        """The captured tables' topics."""
        return [table_topic(self.prefix, TableName("shop", table)) for table in self.tables]

    def set_up(self) -> None:
        """Make the topics, say in ``__jobs`` that the tables are captured, and make the counting tables."""
        self.make_topics(self.topics)
        own = [NewTopic(name, 1, 1) for name in (jobs_topic(self.prefix), schemas_topic(self.prefix))]
        for created in self.admin.create_topics(own).values():
            created.result()
        for table in self.tables:
            self.announce(table)
        with connected(self.root_url, self.schema) as root:
            execute(
                root,
                "CREATE TABLE seen (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, topic VARCHAR(100) NOT NULL,"
                " partition_id INT NOT NULL, record_offset BIGINT NOT NULL, number VARCHAR(40) NOT NULL,"
                " worker INT NOT NULL, KEY (topic, partition_id, record_offset))",
            )
            execute(root, "CREATE TABLE finished (topic VARCHAR(100) NOT NULL, barrier_id VARCHAR(40) NOT NULL)")
            execute(
                root,
                "CREATE TABLE intervals (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, topic VARCHAR(100) NOT NULL,"
                " partition_id INT NOT NULL, begins BIGINT NOT NULL, ends BIGINT NOT NULL)",
            )

    @cached_property
    def admin(self) -> AdminClient:
        """A client of the brokers; kept, for what it began ends with it."""
        return AdminClient({"bootstrap.servers": self.bootstrap_servers})

    def make_topics(self, topics: Sequence[str]) -> None:
        """Make topics for captured tables."""
        for created in self.admin.create_topics([NewTopic(name, self.partitions, 1) for name in topics]).values():
            created.result()

    def announce(self, table: str) -> None:
        """Say in ``__jobs`` that a table is captured, as the reader does."""
        state = TableState("shop", table, TableStatus.FOLLOWED, "f", "t")
        producer = Producer({"bootstrap.servers": self.bootstrap_servers})
        producer.produce(jobs_topic(self.prefix), state.to_json(), state.key(), partition=0)
        assert producer.flush(10) == 0

    def watch_progress(self) -> None:
        """Write down every move of the progress rows."""
        with connected(self.root_url, self.schema) as root:
            execute(
                root,
                "CREATE TRIGGER moves AFTER UPDATE ON _rowflow_progress FOR EACH ROW INSERT INTO intervals"
                " (topic, partition_id, begins, ends)"
                " VALUES (NEW.topic, NEW.partition_id, OLD.next_offset, NEW.next_offset)",
            )

    def start_worker(
        self, slice_rows: int = 200, log_end_patience_s: float = 30.0, variables: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start one more worker."""
        log = self.log_directory / f"{self.prefix}-{len(self.workers)}-{time.time_ns() // 1_000_000}.log"
        command = [sys.executable, "-m", "tests.faults.counting_worker"]
        command += [self.prefix, self.bootstrap_servers, self.sink_url, str(slice_rows), str(log_end_patience_s)]
        with log.open("wb") as file:
            worker = subprocess.Popen(
                # A SIGHUP that comes before the worker listens for it is not to end it.
                ["nohup", *command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(variables or {})},
            )
        self.workers.append(worker)
        return worker

    def log_of(self, worker: subprocess.Popen[bytes]) -> str:
        """What a worker wrote to stdout and stderr."""
        number = self.workers.index(worker)
        return next(self.log_directory.glob(f"{self.prefix}-{number}-*.log")).read_text(encoding="utf-8")

    def end_workers(self, timeout_s: float = 10.0) -> list[int]:
        """SIGTERM to all that are left; their exit codes."""
        left = [worker for worker in self.workers if worker.poll() is None]
        for worker in left:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        return [worker.wait(timeout_s) for worker in left]

    def kill_workers(self) -> None:
        """Leave nothing behind."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()

    def log_ends(self, isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED) -> dict[tuple[str, int], int]:
        """Where the logs end, markers included, for readers of everything or of what is committed."""
        places = [TopicPartition(topic, number) for topic in self.topics for number in range(self.partitions)]
        ends = self.admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()), isolation_level=isolation)
        return {(place.topic, place.partition): future.result().offset for place, future in ends.items()}

    def progress(self, root: Connection) -> dict[tuple[str, int], int]:
        """Where the sink stands."""
        rows = execute(root, "SELECT topic, partition_id, next_offset FROM _rowflow_progress")
        return {(topic, partition): offset for topic, partition, offset in rows}

    def caught_up(self) -> bool:
        """Whether the sink stands at the logs' ends."""
        with connected(self.root_url, self.schema) as root:
            return self.progress(root) == self.log_ends()

    def connect(self) -> Connection:
        """A root connection to the schema."""
        return connect(self.root_url, self.schema)


class Writer(threading.Thread):
    """Writes transactions of random sizes; one in ten is aborted; ``barriers``: the share with one in every partition."""

    def __init__(self, stage: Stage, seed: int, pause_s: float = 0.1, barriers: float = 0.01) -> None:
        super().__init__(name="writer")
        self._stage = stage
        self._random = random.Random(seed)
        self._pause_s = pause_s
        self._barrier_share = barriers
        self._enough = threading.Event()
        self.committed = 0
        self.aborted = 0
        self.barriers = 0
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write until told to stop."""
        try:
            self._write()
        except BaseException as error:
            self.failure = error
            raise

    def stop(self) -> None:
        """End after the present transaction."""
        self._enough.set()
        self.join()

    def _write(self) -> None:
        options = {"transactional.id": self._stage.prefix, "partitioner": "murmur2_random"}
        producer = Producer({"bootstrap.servers": self._stage.bootstrap_servers, **options})
        producer.init_transactions(30)
        number = 0
        choice = self._random
        while not self._enough.wait(choice.random() * self._pause_s):
            producer.begin_transaction()
            size = choice.randrange(1, 400)
            for _ in range(size):
                topic = choice.choice(self._stage.topics)
                producer.produce(topic, b"%d" % number, b"%d" % choice.randrange(1000))
                number += 1
            marks = self._produce_barriers(producer, number) if choice.random() < self._barrier_share else 0
            producer.flush()
            if choice.random() < 0.1:
                producer.abort_transaction()
                self.aborted += size
            else:
                producer.commit_transaction()
                self.committed += size
                self.barriers += marks

    def _produce_barriers(self, producer: Producer, number: int) -> int:
        topic = self._random.choice(self._stage.topics)
        for partition in range(self._stage.partitions):
            producer.produce(topic, b"barrier:%d/%d" % (number, partition), b"barrier", partition)
        return 1
