"""A whole table read again on four connections while it is written, the reader killed three times, the mirror spoilt before."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.books import SteadyWriter, fill_large, steady_writes
from servers.bookshop import create_books
from servers.mysql import MysqlServer
from tests import oracle
from tests.helpers import ServiceAddresses, connected, execute
from tests.processes import Pipeline, pipeline
from tests.topics import read_topics

log = logging.getLogger(__name__)

KILLED_AT = (0.1, 0.4, 0.7)
"""The parts of the rows that are read when the reader dies."""
SPOILT = 10
WRITERS = 4
_JOB = "again"


@dataclass(frozen=True, slots=True)
class Play:
    """How large; ``least_per_s``: what writers achieve beside all else where tests share two cores."""

    rows: int
    writes_per_s: int
    least_per_s: int
    timeout_s: float
    rows_per_s: int = 0
    """So slow is the job made; 0: as fast as it can."""
    launcher: tuple[str, ...] = ("rowflow.main",)


SHORT = Play(
    rows=6_000,
    writes_per_s=400,
    least_per_s=100,
    timeout_s=90,
    rows_per_s=2_500,
    launcher=("tests.faults.small_shards", "250"),
)
LONG = Play(rows=1_000_000, writes_per_s=2_000, least_per_s=1_600, timeout_s=600)


def read_again(addresses: ServiceAddresses, directory: Path, play: Play) -> None:
    """The whole of it; at the end both sides are equal, by the own check and by what both servers print."""
    settings = {"jobs": {"connections": 4, "rows_per_s": play.rows_per_s}}
    with pipeline(addresses, directory, settings) as shop:
        _followed(shop, play)
        _spoil(shop)
        writers = [
            SteadyWriter(shop.connect_source(), play.rows, play.writes_per_s / WRITERS, "books", seed)
            for seed in range(WRITERS)
        ]
        with steady_writes(writers):
            begin_s = time.time()
            _ask_and_kill(shop, play)
            # Asked for once more under its name, the job is not run once more: the answer is how it ends.
            receipt = shop.receipt("books", "--id", _JOB, timeout_s=play.timeout_s)
            end_s = time.time()
        shop.wait(play.timeout_s)
        log.info("%s\nin %.1f s with its deaths, the sink part, and the looks of this test", receipt, end_s - begin_s)
        _must_be_complete(receipt, play)
        changed_per_s = sum(writer.per_s(begin_s, end_s) for writer in writers)
        assert changed_per_s >= play.least_per_s, f"{changed_per_s:.0f} rows a second were changed meanwhile"
        _must_be_equal(shop, play)
        _a_tenth(shop, play)


def _followed(shop: Pipeline, play: Play) -> None:
    """The table is filled, read once, and in the sink."""
    with shop.source() as source:
        execute(source, "CREATE TABLE books LIKE shop.books")
        fill_large(source, play.rows, "books")
    shop.start("reader", launcher=play.launcher)
    for _ in range(2):
        shop.start("worker")
    shop.wait_followed("books", timeout_s=play.timeout_s)
    shop.wait(play.timeout_s)


def _spoil(shop: Pipeline) -> None:
    """Rows of the mirror are changed, deleted and invented."""
    with shop.sink() as sink:
        assert execute(sink, "SELECT COUNT(*) FROM books WHERE id % 97 = 0")[0][0] >= SPOILT
        execute(sink, f"UPDATE books SET title = 'spoilt' WHERE id % 97 = 0 LIMIT {SPOILT}")
        execute(sink, f"DELETE FROM books WHERE id % 89 = 0 LIMIT {SPOILT}")
        execute(
            sink,
            "INSERT INTO books (id, isbn, title, author, price, currency, stock, created_at, updated_at)"
            " SELECT id + 900000000, isbn, title, author, price, currency, stock, created_at, updated_at"
            f" FROM books LIMIT {SPOILT}",
        )


def _ask_and_kill(shop: Pipeline, play: Play) -> None:
    assert shop.run("snapshot", f"{shop.database}.books", "--id", _JOB).returncode == 0
    for part in KILLED_AT:
        shop.until(partial(_has_read, shop, play.rows * part), play.timeout_s, f"{part:.0%} of the rows")
        (reader,) = shop.of("reader")
        reader.kill()
        assert shop.job_states(_JOB)[-1]["status"] == "reading", "the job was over before the kill"
        shop.start("reader", launcher=play.launcher)


def _has_read(shop: Pipeline, least: float) -> bool:
    states = shop.job_states(_JOB)
    return bool(states) and states[-1]["rows_read"] > least


def _must_be_complete(receipt: dict[str, Any], play: Play) -> None:
    assert receipt["rows_read"] == receipt["rows_published"] + receipt["rows_dropped"]
    assert receipt["rows_read"] > play.rows * 0.9
    assert receipt["rows_dropped"] > 0, "no row was written while its window was open"
    assert receipt["rows_written"] == receipt["rows_published"]
    assert receipt["shards_at_a_time"] > 1, "shards overlap in time"


def _must_be_equal(shop: Pipeline, play: Play) -> None:
    checked = shop.run("check", f"{shop.database}.books", timeout_s=play.timeout_s)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    with shop.source() as source, shop.sink() as sink:
        oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, ["books"]))
        assert execute(sink, "SHOW TABLES LIKE '\\_rowflow\\_seen%'") == []
    if play is SHORT:  # the events of a million rows would fill this process's memory
        events = read_topics(shop.addresses.bootstrap_servers, [shop.topic("books")])
        oracle.report(oracle.broken_histories(events, complete=False))
        oracle.report(oracle.doubled(events))


def _a_tenth(shop: Pipeline, play: Play) -> None:
    """A part of the table: its spoilt rows are mended, the others are not touched."""
    with shop.source() as source, shop.sink() as sink:
        execute(sink, "UPDATE books SET title = 'spoilt' WHERE id % 97 = 0")
        receipt = shop.receipt("books", "--where", "id % 10 = 0", timeout_s=play.timeout_s)
        log.info("%s", receipt)
        assert receipt["rows_read"] == execute(source, "SELECT COUNT(*) FROM books WHERE id % 10 = 0")[0][0]
        left = execute(sink, "SELECT id FROM books WHERE title = 'spoilt' ORDER BY id")
        assert left == execute(source, "SELECT id FROM books WHERE id % 97 = 0 AND id % 10 > 0 ORDER BY id")


@pytest.fixture
def without_gtids(services: ServiceAddresses, own_mysql: Callable[..., MysqlServer]) -> ServiceAddresses:
    """This run's Kafka and sink, with a source of this test's own."""
    source = own_mysql(gtid_mode="OFF", enforce_gtid_consistency="OFF", innodb_buffer_pool_size="256M")
    return replace(services, source_url=source.root_url, source_root_url=source.root_url)


@pytest.fixture(params=["ON", pytest.param("OFF", marks=pytest.mark.soak)])
def addresses(request: pytest.FixtureRequest, services: ServiceAddresses) -> ServiceAddresses:
    """Servers whose source has `gtid_mode` as the parameter says, with `shop.books` to copy the table from."""
    found: ServiceAddresses = services if request.param == "ON" else request.getfixturevalue("without_gtids")
    with connected(found.source_root_url) as root:
        create_books(root)
    return found


@pytest.mark.timeout(240)
def test_a_table_read_again_under_writes_and_three_deaths_is_equal(addresses: ServiceAddresses, tmp_path: Path) -> None:
    read_again(addresses, tmp_path, SHORT)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_million_books_read_again_under_two_thousand_writes_a_second_are_equal(
    addresses: ServiceAddresses, tmp_path: Path
) -> None:
    read_again(addresses, tmp_path, LONG)
