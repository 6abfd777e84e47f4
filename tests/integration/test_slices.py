"""The worker's rules, each against real servers: slices counted by a real worker process."""

import json
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.cimpl import NewPartitions
from MySQLdb.connections import Connection

from schemas.topics import jobs_topic
from servers.kafka import KafkaServer
from tests.faults.counted import Stage
from tests.faults.counting_worker import EARLY_SIGTERM
from tests.helpers import ServiceAddresses, execute, suspend, wait_until
from tests.topics import committed_offsets

SOON_S = 40.0


@pytest.fixture
def stage(services: ServiceAddresses, sink_schema: str, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """One captured table with three partitions; workers are ended afterwards."""
    stage = stage_on(services, sink_schema, prefix, tmp_path)
    stage.set_up()
    yield stage
    stage.kill_workers()


def stage_on(services: ServiceAddresses, sink_schema: str, prefix: str, directory: Path) -> Stage:
    return Stage(
        prefix,
        services.bootstrap_servers,
        services.sink_root_url,
        f"{services.sink_url.rsplit('/', 1)[0]}/{sink_schema}",
        sink_schema,
        tables=("books",),
        log_directory=directory,
    )


@pytest.fixture
def counted(stage: Stage) -> Iterator[Connection]:
    """A root connection to the tables in which workers count."""
    connection = stage.connect()
    yield connection
    connection.close()


def write(stage: Stage, numbers: range, *, commit: bool = True, partition: int | None = None) -> None:
    """Write numbers as records in one transaction; returns when its markers stand in every partition.

    They come a moment after the commit: until then readers of what is committed end before readers of everything.
    """
    producer = Producer({"bootstrap.servers": stage.bootstrap_servers, "transactional.id": f"{stage.prefix}.test"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for number in numbers:
        where = number % stage.partitions if partition is None else partition
        producer.produce(stage.topics[0], b"%d" % number, b"%d" % number, where)
    producer.flush()
    if commit:
        producer.commit_transaction()
    else:
        producer.abort_transaction()
    wait_until(lambda: stage.log_ends() == stage.log_ends(IsolationLevel.READ_COMMITTED), SOON_S, "the markers")


def seen(counted: Connection) -> list[int]:
    """All numbers that were counted."""
    return sorted(int(number) for (number,) in execute(counted, "SELECT number FROM seen"))


def all_seen(counted: Connection, numbers: range) -> None:
    """Wait until exactly these numbers were counted, each once."""
    wait_until(lambda: len(seen(counted)) >= len(numbers), SOON_S, f"{len(numbers)} records")
    assert seen(counted) == list(numbers)


def log_of(stage: Stage, worker: subprocess.Popen[bytes]) -> str:
    """What a worker wrote to stdout and stderr."""
    return stage.log_of(worker)


def ended(stage: Stage, worker: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Wait for a worker's own end: its exit code and its last line."""
    wait_until(lambda: worker.poll() is not None, SOON_S, "the worker to end")
    assert worker.returncode is not None
    return worker.returncode, log_of(stage, worker).strip().splitlines()[-1]


def group_of(counted: Connection, stage: Stage) -> str:
    return f"rowflow-{stage.prefix}-{execute(counted, 'SELECT id FROM _rowflow_sink')[0][0]}"


def committed(stage: Stage, group: str) -> dict[tuple[str, int], int]:
    return committed_offsets(stage.bootstrap_servers, group, stage.log_ends())


def cut_off(stage: Stage, before: Mapping[int, int]) -> None:
    """Delete the records below an offset, by partition, as retention does."""
    places = [TopicPartition(stage.topics[0], number, offset) for number, offset in before.items()]
    for future in stage.admin.delete_records(places).values():
        future.result()


def test_rule_w1_the_moves_of_progress_join_from_0_to_the_logs_end(stage: Stage, counted: Connection) -> None:
    for begin in range(0, 500, 50):
        write(stage, range(begin, begin + 50), commit=begin != 100)
    stage.start_worker(slice_rows=7)
    wait_until(lambda: execute(counted, "SHOW TABLES LIKE '\\_rowflow\\_progress'"), SOON_S, "progress")
    stage.watch_progress()
    write(stage, range(500, 600))
    wait_until(stage.caught_up, SOON_S, "the logs' ends")
    assert seen(counted) == [*range(100), *range(150, 600)]
    moves = execute(counted, "SELECT partition_id, begins, ends FROM intervals ORDER BY id")
    stood: dict[int, int] = {}
    for partition, begins, ends in moves:
        assert begins < ends
        assert stood.get(partition, begins) == begins
        stood[partition] = ends
    assert stood == {partition: end for (_, partition), end in stage.log_ends().items()}


def test_rule_w2_an_offset_outside_the_log_is_a_loud_stop(stage: Stage, counted: Connection) -> None:
    write(stage, range(30))
    worker = stage.start_worker()
    all_seen(counted, range(30))
    execute(counted, "UPDATE _rowflow_progress SET next_offset = 1000 WHERE partition_id = 1")
    write(stage, range(30, 33), partition=1)
    code, last_line = ended(stage, worker)
    assert code == 4
    assert last_line == (
        f"rowflow: topic {stage.topics[0]} [1]: the next offset is 1000, but the log holds 0 to"
        f" {stage.log_ends()[stage.topics[0], 1]}; what lies between is lost to the sink."
        "  Read the table whole: rowflow snapshot shop.books --start-over"
    )
    assert seen(counted) == list(range(30))


def test_rule_w3_a_seek_behind_the_transports_back_neither_doubles_nor_loses(stage: Stage, counted: Connection) -> None:
    worker = stage.start_worker()
    write(stage, range(300))
    all_seen(counted, range(300))
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: "seeking anew: ChainBrokenError" in log_of(stage, worker), SOON_S, "the broken chain")
    write(stage, range(300, 400))
    all_seen(counted, range(400))
    assert worker.poll() is None


def test_rule_w4_only_the_sinks_progress_counts(stage: Stage, counted: Connection) -> None:
    write(stage, range(60))
    stage.start_worker()
    all_seen(counted, range(60))
    assert stage.end_workers() == [0]
    group = group_of(counted, stage)
    write(stage, range(60, 90))
    moved = [TopicPartition(topic, partition, end) for (topic, partition), end in stage.log_ends().items()]
    moved[0].offset = 3
    future = stage.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, moved)])
    future[group].result()
    worker = stage.start_worker()
    all_seen(counted, range(90))
    assert f"partition={moved[0].partition}: a tool set the group's offset to 3; it doesn't count" in log_of(
        stage, worker
    )


def test_rule_w5_markers_at_the_logs_end_leave_no_lag(stage: Stage, counted: Connection) -> None:
    stage.start_worker()
    write(stage, range(30))
    all_seen(counted, range(30))
    write(stage, range(30, 60), commit=False)
    wait_until(stage.caught_up, SOON_S, "progress behind the abort markers")
    assert seen(counted) == list(range(30))
    group = group_of(counted, stage)
    wait_until(lambda: committed(stage, group) == stage.log_ends(), SOON_S, "lag 0 for Kafka's tools")


def requests(stage: Stage) -> list[dict[str, object]]:
    """The job requests in ``__jobs``, read by a plain consumer."""
    options = {"group.id": "test", "enable.partition.eof": True, "isolation.level": "read_committed"}
    consumer = Consumer({"bootstrap.servers": stage.bootstrap_servers, **options})
    consumer.assign([TopicPartition(jobs_topic(stage.prefix), 0, 0)])
    found = []
    while (message := consumer.poll(10)) is not None and message.error() is None:
        if json.loads(message.key() or b"")["kind"] == "request":
            found.append(json.loads(message.value() or b""))
    consumer.close()
    return found


def test_rule_w6_without_progress_it_never_starts_in_the_middle(stage: Stage, counted: Connection) -> None:
    write(stage, range(60))
    ends = {partition: end for (_, partition), end in stage.log_ends().items()}
    cut_off(stage, {1: 5})
    stage.start_worker()
    stage.start_worker()
    asked = wait_until(lambda: requests(stage), SOON_S, "the request for a job")
    sink = execute(counted, "SELECT id FROM _rowflow_sink")[0][0]
    assert [request["id"] for request in asked] == [f"sink-{sink}-{stage.topics[0]}"]
    assert {key: asked[0][key] for key in ("db", "table", "origin", "fresh")} == {
        "db": "shop",
        "table": "books",
        "origin": "sink",
        "fresh": True,
    }
    assert {partition: offset for (_, partition), offset in stage.progress(counted).items()} == ends
    tables = execute(counted, "SELECT db, table_name, mirror, status, awaited_job FROM _rowflow_tables")
    assert tables == [("shop", "books", "books", "awaiting", asked[0]["id"])]
    wait_until(lambda: execute(counted, "SELECT sent FROM _rowflow_requests") == [(1,)], SOON_S, "the outbox")
    assert stage.end_workers() == [0, 0]
    stage.start_worker()
    write(stage, range(60, 63))
    all_seen(counted, range(60, 63))
    assert len(requests(stage)) == 1


def test_rule_w6_progress_below_the_logs_start_is_a_loud_stop(stage: Stage, counted: Connection) -> None:
    write(stage, range(30))
    stage.start_worker()
    all_seen(counted, range(30))
    assert stage.end_workers() == [0]
    write(stage, range(30, 60))
    end = stage.log_ends()[stage.topics[0], 2]
    cut_off(stage, {2: end - 1})
    code, last_line = ended(stage, stage.start_worker())
    assert code == 4
    assert f"topic {stage.topics[0]} [2]: the next offset is 11, but the log holds {end - 1} to {end};" in last_line
    assert last_line.endswith("rowflow snapshot shop.books --start-over")


@pytest.mark.parametrize("while_running", [False, True])
def test_rule_w7_a_topic_made_again_under_its_name_is_a_loud_stop(
    stage: Stage, counted: Connection, *, while_running: bool
) -> None:
    write(stage, range(30))
    worker = stage.start_worker()
    all_seen(counted, range(30))
    if not while_running:
        assert stage.end_workers() == [0]
    for future in stage.admin.delete_topics(stage.topics, operation_timeout=30).values():
        future.result()

    def made_again() -> bool:
        try:
            stage.make_topics(stage.topics)
        except KafkaException as error:
            if error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            raise
        return True

    wait_until(made_again, SOON_S, "the topic to be made again")
    write(stage, range(100, 160))
    if not while_running:
        worker = stage.start_worker()
    code, last_line = ended(stage, worker)
    assert code == 4
    assert f"rowflow: topic {stage.topics[0]} was deleted and made again" in last_line
    assert last_line.endswith("rowflow snapshot shop.books --start-over")
    assert seen(counted) == list(range(30))


def test_a_changed_partition_count_is_refused(stage: Stage, counted: Connection) -> None:
    stage.start_worker()
    write(stage, range(30))
    all_seen(counted, range(30))
    assert stage.end_workers() == [0]
    for future in stage.admin.create_partitions([NewPartitions(stage.topics[0], 5)]).values():
        future.result()
    code, last_line = ended(stage, stage.start_worker())
    assert code == 3
    assert f"topic {stage.topics[0]} has 5 partitions, the sink knows 3" in last_line


def test_a_new_captured_table_ends_the_worker_to_be_started_again(stage: Stage, counted: Connection) -> None:
    worker = stage.start_worker()
    write(stage, range(3))
    all_seen(counted, range(3))
    stage.tables = ("books", "orders")
    stage.make_topics([stage.topics[1]])
    stage.announce("orders")
    code, last_line = ended(stage, worker)
    assert code == 75
    assert "new captured table shop.orders" in last_line


def test_fault_w1_partitions_are_shared_by_two_workers_and_taken_over(stage: Stage, counted: Connection) -> None:
    first, second = stage.start_worker(), stage.start_worker()
    wait_until(lambda: "seek" in log_of(stage, first) and "seek" in log_of(stage, second), SOON_S, "both to have some")
    write(stage, range(300))
    all_seen(counted, range(300))
    wait_until(lambda: execute(counted, "SELECT COUNT(DISTINCT worker) FROM seen") == [(2,)], 1, "both to have worked")
    first.kill()
    write(stage, range(300, 600))
    all_seen(counted, range(600))


def test_a_commit_that_meets_a_rebalance_does_not_begin_the_next(stage: Stage, counted: Connection) -> None:
    worker = stage.start_worker()
    write(stage, range(30))
    all_seen(counted, range(30))
    group = group_of(counted, stage)
    wait_until(lambda: committed(stage, group) == stage.log_ends(), SOON_S, "lag 0 for Kafka's tools")
    seeks = log_of(stage, worker).count(" seek ")
    worker.send_signal(signal.SIGWINCH)
    write(stage, range(30, 60))
    wait_until(lambda: "stale commit answered" in log_of(stage, worker), SOON_S, "the refused commit")
    for number in range(60, 120, 3):
        write(stage, range(number, number + 3))
        wait_until(stage.caught_up, SOON_S, "the sink to follow")
    wait_until(lambda: committed(stage, group) == stage.log_ends(), SOON_S, "lag 0 for Kafka's tools")
    assert log_of(stage, worker).count(" seek ") == seeks


def in_transactions(counted: Connection, schema: str) -> int:
    """How many sessions wait inside their transactions for the table ``seen``."""
    return len(
        execute(
            counted,
            # Not information_schema.processlist: it can't show another test's statement with characters beyond utf8mb3.
            "SELECT 1 FROM performance_schema.threads WHERE processlist_state LIKE '%metadata lock%'"
            f" AND processlist_db = '{schema}' AND processlist_info LIKE 'INSERT INTO seen%'",
        )
    )


def test_partitions_of_one_worker_are_inside_their_transactions_together(stage: Stage, counted: Connection) -> None:
    stage.start_worker()
    write(stage, range(3))
    all_seen(counted, range(3))
    with stage.connect() as holder:
        execute(holder, "LOCK TABLES seen WRITE")
        write(stage, range(3, 30))
        wait_until(lambda: in_transactions(counted, stage.schema) == 3, SOON_S, "three open transactions")
        execute(holder, "UNLOCK TABLES")
    all_seen(counted, range(30))


@pytest.mark.timeout(180)
def test_rule_w9_a_worker_stopped_inside_a_transaction_holds_nobody_up_and_writes_nothing_later(
    stage: Stage, counted: Connection
) -> None:
    zombie = stage.start_worker()
    write(stage, range(3))
    all_seen(counted, range(3))
    with stage.connect() as holder:
        execute(holder, "LOCK TABLES seen WRITE")
        write(stage, range(3, 30))
        wait_until(lambda: in_transactions(counted, stage.schema) == 3, SOON_S, "three open transactions")
        suspend(zombie.pid)
        execute(holder, "UNLOCK TABLES")
    stage.start_worker()
    wait_until(lambda: len(seen(counted)) >= 30, 60, "the other worker to go on")
    zombie.send_signal(signal.SIGCONT)
    write(stage, range(30, 60))
    all_seen(counted, range(60))
    assert stage.end_workers() == [0, 0]
    assert seen(counted) == list(range(60))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_worker_cleanly_within_ten_seconds(
    stage: Stage, counted: Connection, tmp_path: Path, number: int
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    worker = stage.start_worker(variables={"TMPDIR": str(temporary)})
    write(stage, range(30))
    all_seen(counted, range(30))
    assert not list(temporary.iterdir()), "what a worker that is killed would leave behind"
    worker.send_signal(number)
    assert worker.wait(10) == 0
    assert not list(temporary.iterdir())
    assert "Traceback" not in log_of(stage, worker)


def test_a_broker_that_takes_no_such_session_is_named_with_its_setting(
    services: ServiceAddresses, sink_schema: str, prefix: str, tmp_path: Path, own_kafka: Callable[..., KafkaServer]
) -> None:
    """As it was once: aiokafka keeps the error for a user that asks, and the worker stayed, alive and deaf."""
    kafka = own_kafka({"group.min.session.timeout.ms": "30000"})
    strict = replace(services, bootstrap_servers=kafka.bootstrap_servers)
    stage = stage_on(strict, sink_schema, prefix, tmp_path)
    try:
        stage.set_up()
        worker = stage.start_worker()
        assert worker.wait(SOON_S) == 3
        assert "group.min.session.timeout.ms to 10000" in log_of(stage, worker)
    finally:
        stage.kill_workers()


def test_a_signal_that_comes_before_faust_handles_them_ends_the_worker(stage: Stage, counted: Connection) -> None:
    worker = stage.start_worker(variables={EARLY_SIGTERM: "1"})
    assert worker.wait(20) == 0
    assert "cut off" not in log_of(stage, worker)
    assert "Traceback" not in log_of(stage, worker)


def test_a_worker_listens_on_no_socket(stage: Stage, counted: Connection) -> None:
    worker = stage.start_worker()
    write(stage, range(30))
    all_seen(counted, range(30))
    sockets = set()
    for descriptor in Path(f"/proc/{worker.pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            sockets.add(target.removeprefix("socket:[").removesuffix("]"))
    listening = {
        line.split()[9]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/{worker.pid}/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A"
    }
    assert sockets
    assert not sockets & listening


def test_a_worker_waits_for_the_first_captured_table_saying_so(
    services: ServiceAddresses, sink_schema: str, prefix: str, tmp_path: Path
) -> None:
    sink_url = f"{services.sink_url.rsplit('/', 1)[0]}/{sink_schema}"
    stage = Stage(prefix, services.bootstrap_servers, services.sink_root_url, sink_url, sink_schema, ("books",))
    stage.log_directory = tmp_path
    worker = stage.start_worker()
    try:
        wait_until(lambda: "no captured table" in log_of(stage, worker), SOON_S, "it to say so")
        worker.terminate()
        assert worker.wait(10) == 0
    finally:
        stage.kill_workers()


def worker_against(stage: Stage, sink_url: str) -> subprocess.Popen[bytes]:
    stage.sink_url = sink_url
    return stage.start_worker()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda url: url.replace("rowflow_sink:", "rowflow_sink:wrong"), "error 1045"),
        (lambda url: url.rsplit("/", 1)[0] + "/nothing_there", "GRANT SELECT, INSERT, UPDATE"),
    ],
)
def test_a_sink_that_lets_nobody_in_is_refused_with_the_way_on(
    stage: Stage, spoil: Callable[[str], str], words: str
) -> None:
    code, last_line = ended(stage, worker_against(stage, spoil(stage.sink_url)))
    assert code == 3
    assert words in last_line
