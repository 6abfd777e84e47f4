"""First reads while clients write the same keys: exactness.md J1 to J4."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servers.mysql import MysqlServer
from tests import oracle
from tests.fire import OlderReads, make_table, under_fire
from tests.helpers import ServiceAddresses
from tests.processes import Pipeline, pipeline
from tests.topics import following, read_topics

TRIES = 3


@pytest.fixture(scope="module")
def slow_source(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceAddresses]:
    """This run's Kafka and sink, with a source of this file's own: its commits are made slow for all of its sessions."""
    options = {"innodb_buffer_pool_size": "128M", "innodb_redo_log_capacity": "128M"}
    mysql = MysqlServer(tmp_path_factory.mktemp("mysql"), options)
    mysql.start()
    yield replace(services, source_url=mysql.root_url, source_root_url=mysql.root_url)
    mysql.stop()


def job_states(shop: Pipeline) -> list[dict[str, Any]]:
    """How far the jobs were, one after the other, as ``__jobs`` has it."""
    events = read_topics(shop.addresses.bootstrap_servers, [f"{shop.prefix}.__jobs"])
    return [event.value for event in events if event.key["kind"] == "state" and event.value]


def rows_published(shop: Pipeline) -> int:
    """How many rows the first read has published, as ``__jobs`` says."""
    topic = f"{shop.prefix}.__jobs"
    if topic not in shop.admin.list_topics(timeout=10).topics:
        return 0
    states = job_states(shop)
    return int(states[-1]["rows_read"]) if states else 0


def shards_at_a_time(shop: Pipeline) -> int:
    """The most that were read at the same time, as the job's receipt has it."""
    return int(job_states(shop)[-1]["shards_at_a_time"])


def first_read_under_fire(
    addresses: ServiceAddresses, directory: Path, rows: int, launcher: Sequence[str] = ("rowflow.main",)
) -> None:
    """The whole of it: writers on the same keys, the reader killed twice in the middle, all equal at the end."""
    with pipeline(addresses, directory) as shop:
        make_table(shop, rows)
        with under_fire(shop, rows) as writers:
            reader = shop.start("reader", launcher=launcher)
            for part in (0.1, 0.4):
                shop.until(lambda least=part: rows_published(shop) > rows * least, 60, f"{part:.0%} of the rows")  # type: ignore[misc]
                reader.kill()
                assert rows_published(shop) < rows, "the first read was over before the kill"
                reader = shop.start("reader", launcher=launcher)
            worker = shop.start("worker")
            shop.wait_followed("fire", timeout_s=120)
            written = sum(writer.written for writer in writers)
        shop.wait(120)
        assert written > rows // 20, "the writers wrote too little"
        events = read_topics(addresses.bootstrap_servers, [shop.topic("fire")])
        with shop.source() as source, shop.sink() as sink:
            oracle.report(oracle.topic_differences(source, shop.database, "fire", events))
            oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["fire"]))
        oracle.report(OlderReads().take(events))
        oracle.report(oracle.unlike_schema_files(events))
        oracle.report(oracle.broken_histories(events, complete=False))
        oracle.report(oracle.doubled(events))
        assert sum(event.op == "r" for event in events) > rows // 2
        assert shards_at_a_time(shop) > 1, "windows overlap"
        assert [program.stop() for program in (reader, worker)] == [0, 0]


def test_rule_j2_a_first_read_under_fire_with_the_reader_killed_twice(
    slow_source: ServiceAddresses, tmp_path: Path
) -> None:
    first_read_under_fire(slow_source, tmp_path, rows=12_000, launcher=("tests.faults.small_shards", "400"))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_rule_j2_a_large_first_read_under_fire(slow_source: ServiceAddresses, tmp_path: Path) -> None:
    first_read_under_fire(slow_source, tmp_path, rows=200_000)


def test_rule_j1_low_taken_from_show_binary_log_status_loses_updates(
    slow_source: ServiceAddresses, tmp_path: Path
) -> None:
    """The test above would notice: such reads find rows older than what the stream has passed.

    The first that is found is enough: what is left of the read, under fire, may take minutes on a busy machine.
    """
    rows = 8_000
    for attempt in range(TRIES):
        with (
            pipeline(slow_source, tmp_path / str(attempt)) as shop,
            following(slow_source.bootstrap_servers, shop.topic("fire")) as new_events,
        ):
            make_table(shop, rows)
            older = OlderReads()
            with under_fire(shop, rows, changes=40):
                shop.start("reader", launcher=("tests.faults.broken", "low_from_binary_log_status"))
                shop.until(lambda: older.take(new_events()) or is_followed(shop), 120, "a lost update")  # noqa: B023
            if older.findings:
                return
    pytest.fail(f"{TRIES} first reads with low from SHOW BINARY LOG STATUS, and none has lost an update")


def is_followed(shop: Pipeline) -> bool:
    """Whether the first read is done."""
    return shop.table_states().get("fire", {}).get("status") == "followed"
