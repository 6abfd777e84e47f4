"""A worker that is killed while its partitions stand at a barrier, and what `status` shows meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import oracle
from tests.faults.crashing import launcher
from tests.helpers import ServiceAddresses, execute, thread_states
from tests.processes import Pipeline, pipeline

JOB = "again"
ROWS = 40
FIRST_SHARD_ROWS = 16
STOPPED = "T"


def test_rule_b1_partitions_that_a_dead_worker_left_at_a_barrier_wait_there_for_the_others(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    """Partition 0 can't come to the barrier; the two others stand at it when their worker is killed."""
    with pipeline(services, tmp_path, {"source": {"on_undecodable": "dead-letter"}}) as shop, shop.source() as source:
        execute(source, "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(40) CHARACTER SET greek)")
        execute(source, f"INSERT INTO t VALUES {', '.join(f'({number}, NULL)' for number in range(1, ROWS))}")
        execute(source, "INSERT INTO t VALUES (0, X'D2')")
        execute(source, "ANALYZE TABLE t")
        reader = shop.start("reader", launcher=("tests.faults.held_job", JOB))
        first = shop.start("worker", launcher=launcher())
        shop.wait()

        with held(shop, partition=0):
            before = shop.progress()
            assert shop.run("snapshot", f"{shop.database}.t", "--id", JOB).returncode == 0
            shop.until(lambda: STOPPED in thread_states(reader.process.pid), 30, "the job to stand in its middle")
            execute(source, "UPDATE t SET note = CONCAT('a', id) WHERE id > 0")
            shop.until(lambda: first.text().count(f"barrier=begin-{JOB}") == 2, 30, "two partitions to wait")
            status = json.loads(shop.run("status", "--json").stdout)
            assert status["healthy"] is True
            must_show_the_barrier(status, shop)
            must_show_the_job(status)
            assert status["dead_letters"] == [{"topic": shop.topic("t"), "open": 1}]
            must_print_all_of_it(shop)
            stood = shop.progress()
            assert [place for place, offset in stood.items() if offset > before[place]] == waiting_places(shop)

            first.kill()
            reader.resume()
            second = shop.start("worker")
            shop.wait_read()
            shop.until(lambda: second.text().count(f"barrier=begin-{JOB}") == 2, 40, "the other to find them waiting")
            assert shop.progress() == stood, "partitions went on over a barrier that isn't done"
        execute(source, "UPDATE t SET note = 'mended' WHERE id = 0")
        shop.wait()
        with shop.sink() as sink:
            oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["t"]))


@contextmanager
def held(shop: Pipeline, partition: int) -> Iterator[None]:
    """A partition's progress can't move meanwhile."""
    with shop.sink() as holder:
        execute(holder, "BEGIN")
        row = "SELECT * FROM _rowflow_progress WHERE topic = %s AND partition_id = %s FOR UPDATE"
        execute(holder, row, (shop.topic("t"), partition))
        yield
        execute(holder, "ROLLBACK")


def waiting_places(shop: Pipeline) -> list[tuple[str, int]]:
    """The partitions that are not held."""
    return [(shop.topic("t"), 1), (shop.topic("t"), 2)]


def must_show_the_barrier(status: dict[str, Any], shop: Pipeline) -> None:
    (barrier,) = status["barriers"]
    assert barrier["topic"] == shop.topic("t")
    assert barrier["kind"] == "begin"
    assert barrier["waiting_partitions"] == [1, 2]
    assert barrier["missing_partitions"] == [0]
    with shop.sink() as sink:
        since = "SELECT DATE_FORMAT(MIN(entered_at), '%%Y-%%m-%%dT%%T.%%f') FROM _rowflow_barriers WHERE done = %s"
        assert execute(sink, since, (0,)) == [(barrier["since"].replace("Z", "000"),)]


def must_show_the_job(status: dict[str, Any]) -> None:
    (job,) = [line for line in status["jobs"] if line["id"] == JOB]
    assert (job["status"], job["rows_read"], job["rows_estimate"]) == ("reading", FIRST_SHARD_ROWS, ROWS)
    assert job["rows_per_s"] > 0
    assert job["eta_s"] == pytest.approx((ROWS - FIRST_SHARD_ROWS) / job["rows_per_s"], abs=0.1)


def must_print_all_of_it(shop: Pipeline) -> None:
    """`status` for people; the statement that it prints shows the letter."""
    shown = shop.run("status")
    assert shown.returncode == 0, shown.stdout
    assert re.search(
        rf"barrier +begin of {shop.topic('t')}: partitions \[1, 2\] wait since \S+ for \[0\]", shown.stdout
    )
    assert re.search(
        rf"{JOB} +{shop.database}\.t +reading +{FIRST_SHARD_ROWS} of ~{ROWS} +[\d,.]+ +[\d,.]+ s", shown.stdout
    )
    assert f"1 open dead letters of {shop.topic('t')}" in shown.stdout
    statement = re.search(r"in the sink: (SELECT [^;]*);", shown.stdout)
    assert statement is not None, shown.stdout
    with shop.sink() as sink:
        (letter,) = execute(sink, statement[1])
    assert letter[3] == '{"id":0}'
