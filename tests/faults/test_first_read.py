"""First reads while clients write the same keys: exactness.md J1 to J4."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from servers.mysql import MysqlServer
from tests import oracle
from tests.fire import CHANGES, SHARD_ROWS, FireWriter, OlderReads, make_table, under_fire
from tests.helpers import ServiceAddresses
from tests.processes import Pipeline, pipeline
from tests.topics import Event, following, read_topics

TRIES = 3
ROWS = 12_000
BUSY_PER_S = 400
"""Changes that eight writers make even where all tests share two cores; alone they make 1,200."""


@pytest.fixture(scope="module")
def slow_source(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceAddresses]:
    """This run's Kafka and sink, with a source of this file's own: its commits are made slow for all of its sessions."""
    options = {"innodb_buffer_pool_size": "128M", "innodb_redo_log_capacity": "128M"}
    mysql = MysqlServer(tmp_path_factory.mktemp("mysql"), options)
    mysql.start()
    yield replace(services, source_url=mysql.root_url, source_root_url=mysql.root_url)
    mysql.stop()


def rows_read(shop: Pipeline) -> int:
    """How many rows the first read has read, as ``__jobs`` says."""
    states = shop.job_states()
    return int(states[-1]["rows_read"]) if states else 0


def first_read_under_fire(
    addresses: ServiceAddresses,
    directory: Path,
    rows: int,
    least_per_s: int,
    changes: int = CHANGES,
    launcher: Sequence[str] = ("rowflow.main",),
) -> None:
    """The whole of it: writers on the same keys, the reader killed twice in the middle, all equal at the end."""
    with pipeline(addresses, directory) as shop:
        make_table(shop, rows)
        with under_fire(shop, rows, changes) as writers:
            reader = shop.start("reader", launcher=launcher)
            for part in (0.1, 0.4):
                shop.until(lambda least=part: rows_read(shop) > rows * least, 60, f"{part:.0%} of the rows")  # type: ignore[misc]
                reader.kill()
                assert shop.job_states()[-1]["status"] == "reading", "the first read was over before the kill"
                reader = shop.start("reader", launcher=launcher)
            worker = shop.start("worker")
            shop.wait_followed("fire", timeout_s=120)
        shop.wait(120)
        events = read_topics(addresses.bootstrap_servers, [shop.topic("fire")])
        with shop.source() as source, shop.sink() as sink:
            oracle.report(oracle.topic_differences(source, shop.database, "fire", events))
            oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["fire"]))
        oracle.report(OlderReads().take(events))
        oracle.report(oracle.unlike_schema_files(events))
        oracle.report(oracle.broken_histories(events, complete=False))
        oracle.report(oracle.doubled(events))
        must_be_one_job(shop.job_states(), events, rows, writers, least_per_s)
        assert [program.stop() for program in (reader, worker)] == [0, 0]


def must_be_one_job(
    states: Sequence[dict[str, Any]],
    events: Sequence[Event],
    rows: int,
    writers: Sequence[FireWriter],
    least_per_s: int,
) -> None:
    """Rule J4: through its crashes the job never goes back and publishes no row twice; and it was under fire."""
    job = states[-1]
    assert {state["id"] for state in states} == {job["id"]}
    assert job["status"] == "done"
    read = [state["rows_read"] for state in states]
    assert read == sorted(read), "the job has gone back"
    published = Counter(event.key_bytes for event in events if event.op == "r")
    assert not [key for key, count in published.items() if count > 1], "a row was published twice"
    assert job["rows_published"] == published.total() > rows // 2
    assert job["rows_read"] == job["rows_published"] + job["rows_dropped"]
    assert job["rows_dropped"] > 0, "no key was written while its window was open"
    assert job["shards_at_a_time"] > 1, "windows overlap"
    begin_s, end_s = job["started_ms"] / 1000, job["finished_ms"] / 1000
    written = sum(writer.written_between(begin_s, end_s) for writer in writers)
    assert written / (end_s - begin_s) >= least_per_s, f"{written} changes in {end_s - begin_s:.1f} s"


def test_rule_j2_j4_a_first_read_under_fire_with_the_reader_killed_twice(
    slow_source: ServiceAddresses, tmp_path: Path
) -> None:
    launcher = ("tests.faults.small_shards", str(SHARD_ROWS))
    first_read_under_fire(slow_source, tmp_path, ROWS, BUSY_PER_S, launcher=launcher)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_rule_j2_j4_a_large_first_read_under_a_thousand_changes_a_second(
    slow_source: ServiceAddresses, tmp_path: Path
) -> None:
    first_read_under_fire(slow_source, tmp_path, rows=200_000, least_per_s=1_000, changes=8)


def test_rule_j1_low_taken_from_show_binary_log_status_loses_updates(
    slow_source: ServiceAddresses, tmp_path: Path
) -> None:
    """The first test would notice, with the same table, shards and fire: such reads find rows that are too old.

    The first that is found is enough: what is left of the read, under fire, may take minutes on a busy machine.
    """
    for attempt in range(TRIES):
        with (
            pipeline(slow_source, tmp_path / str(attempt)) as shop,
            following(slow_source.bootstrap_servers, shop.topic("fire")) as new_events,
        ):
            make_table(shop, ROWS)
            older = OlderReads()
            with under_fire(shop, ROWS):
                shop.start("reader", launcher=("tests.faults.broken", "low_from_binary_log_status"))
                shop.until(lambda: older.take(new_events()) or is_followed(shop), 120, "a lost update")  # noqa: B023
            if older.findings:
                return
    pytest.fail(f"{TRIES} first reads with low from SHOW BINARY LOG STATUS, and none has lost an update")


def is_followed(shop: Pipeline) -> bool:
    """Whether the first read is done."""
    return shop.table_states().get("fire", {}).get("status") == "followed"
