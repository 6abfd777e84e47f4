"""What a worker's start and end mean to the others: its partitions taken over, logs that have grown meanwhile."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from tests.faults.counted import Stage, Writer
from tests.helpers import ServiceAddresses, execute, wait_until
from tests.topics import committed_offsets

SOON_S = 40.0
TAKEN_OVER_S = 60.0


@pytest.fixture
def stage(services: ServiceAddresses, sink_schema: str, prefix: str, tmp_path: Path) -> Iterator[Stage]:
    """Two captured tables with three partitions each; workers are ended afterwards."""
    stage = Stage(
        prefix,
        services.bootstrap_servers,
        services.sink_root_url,
        f"{services.sink_url.rsplit('/', 1)[0]}/{sink_schema}",
        sink_schema,
        log_directory=tmp_path,
    )
    stage.set_up()
    yield stage
    stage.kill_workers()


@pytest.fixture
def counted(stage: Stage) -> Iterator[Connection]:
    """A root connection to the tables in which workers count."""
    connection = stage.connect()
    yield connection
    connection.close()


@pytest.fixture
def writer(stage: Stage) -> Iterator[Writer]:
    """Writes transactions without an end, without barriers (each would be a seek); to be started."""
    writer = Writer(stage, seed=5, pause_s=0.05, barriers=0.0)
    yield writer
    if writer.is_alive():
        writer.stop()


@pytest.mark.timeout(240)
def test_fault_w1_the_partitions_of_a_worker_killed_under_load_go_on_within_a_minute(
    stage: Stage, counted: Connection, writer: Writer
) -> None:
    """Offsets are committed all the while: one that a rebalance refuses must not begin the next rebalance."""
    writer.start()
    killed, other = stage.start_worker(), stage.start_worker()
    wait_until(lambda: latest_workers(counted) == {killed.pid, other.pid}, SOON_S, "work for both")
    killed.kill()
    killed.wait()
    ends = stage.log_ends()
    wait_until(
        lambda: beyond(stage.progress(counted), ends), TAKEN_OVER_S, "the sink to go beyond where the logs ended"
    )
    seeks = stage.log_of(other).count(" seek ")
    for _ in range(3):
        ends = stage.log_ends()
        wait_until(lambda: reached(stage.progress(counted), ends), SOON_S, "the sink to go on")  # noqa: B023
        wait_until(lambda: reached(committed(stage, counted), ends), SOON_S, "Kafka to be told")  # noqa: B023
    assert stage.log_of(other).count(" seek ") == seeks
    writer.stop()
    wait_until(stage.caught_up, SOON_S, "the logs' ends")
    seen = "SELECT COUNT(*), COUNT(DISTINCT number) FROM seen"
    assert execute(counted, seen) == [(writer.committed, writer.committed)]
    assert stage.end_workers() == [0]


def test_rule_w2_what_others_stored_while_a_worker_started_is_no_loss(
    stage: Stage, counted: Connection, writer: Writer
) -> None:
    """The second worker has asked for the logs' ends and waits for the lock; when it gets it, the sink is beyond them."""
    writer.start()
    stage.start_worker()
    wait_until(lambda: len(latest_workers(counted)) == 1, SOON_S, "work")
    assert execute(counted, "SELECT GET_LOCK(%s, 20)", (lock_name(stage, stage.topics[0]),)) == [(1,)]
    second = stage.start_worker()
    waits = (
        "SELECT 1 FROM performance_schema.threads"
        f" WHERE processlist_db = '{stage.schema}' AND processlist_state = 'User lock'"
    )
    wait_until(lambda: execute(counted, waits), SOON_S, "the second worker to wait for the lock")
    ends = stage.log_ends()
    wait_until(lambda: beyond(stage.progress(counted), ends), SOON_S, "the sink to go beyond those ends")
    execute(counted, "SELECT RELEASE_LOCK(%s)", (lock_name(stage, stage.topics[0]),))
    wait_until(lambda: second.pid in latest_workers(counted), SOON_S, "work for the second")
    assert "looking again" not in stage.log_of(second)


def test_rule_w2_a_log_that_ends_before_the_progress_is_looked_at_again(stage: Stage, counted: Connection) -> None:
    """A log that ends there for good, and one that doesn't."""
    first = stage.start_worker()
    wait_until(lambda: " seek " in stage.log_of(first), SOON_S, "the first worker to run")
    assert stage.end_workers() == [0]
    execute(counted, "UPDATE _rowflow_progress SET next_offset = 7 WHERE partition_id = 1")
    stops = stage.start_worker(log_end_patience_s=1.0)
    goes_on = stage.start_worker()
    assert stops.wait(SOON_S) == 4
    assert stage.log_of(stops).splitlines()[-1] == (
        f"rowflow: topic {stage.topics[0]} [1]: the next offset is 7, but the log holds 0 to 0; what lies between is lost"
        " to the sink.  Read the table whole: rowflow snapshot shop.books --start-over"
    )
    assert "looking again: topic" in stage.log_of(stops)
    wait_until(lambda: "looking again: topic" in stage.log_of(goes_on), SOON_S, "the second to look again")
    execute(counted, "UPDATE _rowflow_progress SET next_offset = 0")
    wait_until(lambda: " seek " in stage.log_of(goes_on), SOON_S, "the second to go on")
    assert first.returncode == 0
    assert goes_on.poll() is None


def latest_workers(counted: Connection) -> set[int]:
    """Which processes stored the last 400 records."""
    latest = "SELECT DISTINCT worker FROM (SELECT worker FROM seen ORDER BY id DESC LIMIT 400) AS latest"
    return {worker for (worker,) in execute(counted, latest)}


def reached(offsets: dict[tuple[str, int], int], ends: dict[tuple[str, int], int]) -> bool:
    """Whether each offset is at its end or beyond."""
    return all(offsets.get(place, -1) >= end for place, end in ends.items())


def beyond(offsets: dict[tuple[str, int], int], ends: dict[tuple[str, int], int]) -> bool:
    """Whether each offset is beyond its end."""
    return all(offsets[place] > end for place, end in ends.items())


def committed(stage: Stage, counted: Connection) -> dict[tuple[str, int], int]:
    """What Kafka's tools see of the group."""
    group = f"rowflow-{stage.prefix}-{execute(counted, 'SELECT id FROM _rowflow_sink')[0][0]}"
    return committed_offsets(stage.bootstrap_servers, group, stage.log_ends())


def lock_name(stage: Stage, topic: str) -> str:
    """The lock under which a topic's progress rows are made and looked at."""
    return "rowflow:" + hashlib.sha256(f"{stage.schema}\0{topic}".encode()).hexdigest()[:32]
