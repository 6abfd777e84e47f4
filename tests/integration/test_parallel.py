"""Partitions are written at the same time, by several workers and by one; and only through a Faust agent.

A worker without an agent is given twice the time in which one that has it, from the same moment of its start, delivers.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

from tests.helpers import ServiceAddresses, execute
from tests.processes import Pipeline, Program, pipeline, waiting_workers

ROWS = 60
CONSUMER_STARTED = "broken: Faust's consumer has started"


def all_inside(shop: Pipeline) -> Counter[int]:
    """How many transactions each worker process has waiting in the sink, once all three partitions' wait; else nothing."""
    found = Counter(pid for _, pid in waiting_workers(shop))
    return found if found.total() >= 3 else Counter()


def test_partitions_are_in_their_sink_transactions_at_the_same_time_and_records_come_through_the_agent(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source, shop.sink() as sink:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY, amount BIGINT)")
        rows = ", ".join(f"({number}, 0)" for number in range(ROWS))
        execute(source, f"INSERT INTO ints VALUES {rows}")
        shop.start("reader")
        shop.wait_followed("ints")
        workers = [shop.start("worker"), shop.start("worker")]
        shop.until(lambda: all(" seek " in worker.text() for worker in workers), 60, "both workers to have partitions")
        shop.wait()

        with shop.sink() as holder:
            execute(holder, "BEGIN")
            execute(holder, "SELECT id FROM ints FOR UPDATE")
            execute(source, "UPDATE ints SET amount = 1")
            inside = shop.until(lambda: all_inside(shop), 30, "all partitions inside their transactions")
            assert set(inside) == {worker.process.pid for worker in workers}, "one of the workers had nothing to do"
            assert max(inside.values()) == 2, "no worker wrote two partitions at the same time"
            execute(holder, "ROLLBACK")
        shop.wait()
        assert execute(sink, "SELECT COUNT(*), SUM(amount) FROM ints") == [(ROWS, ROWS)]

        assert [worker.stop() for worker in workers] == [0, 0]
        execute(source, "UPDATE ints SET amount = 2")
        worker, delivered_s = started(shop, "whole"), time.monotonic()
        shop.wait()
        delivered_s = time.monotonic() - delivered_s
        assert execute(sink, "SELECT COUNT(*), SUM(amount) FROM ints") == [(ROWS, 2 * ROWS)]
        assert worker.stop() == 0

        before = shop.progress()
        execute(source, "UPDATE ints SET amount = 3")
        without = started(shop, "without_agent")
        assert shop.run("wait", "--timeout", f"{2 * delivered_s:.1f}").returncode == 1
        assert shop.progress() == before, "records have come to the sink by another way than the agent"
        without.must_run()


def started(shop: Pipeline, what: str) -> Program:
    """A worker whose Faust consumer has just started."""
    worker = shop.start("worker", launcher=("tests.faults.broken", what))
    shop.until(lambda: CONSUMER_STARTED in worker.text(), 30, "Faust's consumer")
    return worker
