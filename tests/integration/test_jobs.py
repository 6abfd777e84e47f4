"""Jobs as a user asks for them: a part of a table, all of it into a mirror that was spoilt; paused, resumed, cancelled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from subprocess import CompletedProcess
from typing import Any

import orjson
import pytest
from MySQLdb.connections import Connection

from rowflow.client import Client, JobEnded, NotInTime
from tests.helpers import ServiceAddresses, execute, wait_until
from tests.processes import Pipeline, pipeline
from tests.topics import read_topics

ROWS = 3_000
SLOW = {"jobs": {"rows_per_s": 80}}
_BOOKS = "CREATE TABLE books (id INT PRIMARY KEY, title VARCHAR(60), price DECIMAL(8,2), added DATETIME(3))"
_FILL = (
    "INSERT INTO books WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < %s)"
    " SELECT i, CONCAT('Book ', i), i %% 200 + 0.5, '2026-01-01 00:00:00' + INTERVAL i SECOND FROM n"
)


@pytest.fixture(scope="module")
def shop(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """A pipeline that has followed 3,000 books to their end."""
    with pipeline(services, tmp_path_factory.mktemp("jobs")) as made:
        made.write_config()
        with made.source() as source:
            execute(source, _BOOKS)
            execute(source, "SET SESSION cte_max_recursion_depth = 100000")
            execute(source, _FILL, (ROWS,))
        made.start("reader")
        made.start("worker")
        made.wait_followed("books")
        made.wait()
        yield made


def asked(shop: Pipeline, *arguments: str, code: int = 0) -> CompletedProcess[str]:
    done = shop.run("snapshot", f"{shop.database}.books", *arguments)
    assert done.returncode == code, done.stderr
    return done


def receipt(shop: Pipeline, *arguments: str) -> dict[str, Any]:
    return shop.receipt("books", *arguments)


def listed(shop: Pipeline) -> dict[str, dict[str, Any]]:
    lines = shop.run("jobs", "--json").stdout.splitlines()
    return {line["id"]: line for line in map(json.loads, lines)}


def books(connection: Connection) -> list[tuple[Any, ...]]:
    return execute(connection, "SELECT id, title, price, added FROM books ORDER BY id")


def restart_reader(shop: Pipeline, settings: dict[str, dict[str, Any]] | None = None) -> None:
    for reader in shop.of("reader"):
        assert reader.stop() == 0
    shop.write_config(settings)
    shop.start("reader")


def test_a_part_of_a_table_is_read_in_shards_and_the_receipt_says_what_was_read(shop: Pipeline) -> None:
    with shop.sink() as sink:
        execute(sink, "UPDATE books SET title = 'spoilt' WHERE id IN (1, 150)")
    found = receipt(shop, "--where", "price > 150 AND id < 2000", "--shards", "60", "--id", "part")
    with shop.source() as source, shop.sink() as sink:
        wanted = execute(source, "SELECT COUNT(*) FROM books WHERE price > 150 AND id < 2000")[0][0]
        right = execute(source, "SELECT title FROM books WHERE id = 150")
        assert execute(sink, "SELECT title FROM books WHERE id IN (1, 150) ORDER BY id") == [("spoilt",), *right]
    counts = {name: found[name] for name in ("rows_read", "rows_dropped", "rows_published", "rows_written")}
    assert counts == {"rows_read": wanted, "rows_dropped": 0, "rows_published": wanted, "rows_written": wanted}
    assert found["shards"] >= 30, "about so many as were asked for; 14 without"
    assert ROWS / 2 < listed(shop)["part"]["rows_seen"] < ROWS * 2, "about the whole table lies behind"
    assert found["results"] == "books"
    assert found["checksum"] == _checksum_in_topic(shop, found)


def _checksum_in_topic(shop: Pipeline, found: dict[str, Any]) -> str:
    """What a consumer makes of the job's events: the sums of both halves of the MD5 of each row."""
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic("books")])
    values = [event.value for event in events if event.op == "r" and event.value is not None]
    rows = [value["after"] for value in values if value["source"]["row"] >= ROWS]
    assert len(rows) == found["rows_read"], "the first read's rows have smaller numbers"
    digests = [hashlib.md5(orjson.dumps(row), usedforsecurity=False).digest() for row in rows]
    halves = (sum(int.from_bytes(digest[half]) for digest in digests) for half in (slice(8), slice(8, None)))
    return "".join(f"{half % 2**64:016x}" for half in halves)


def test_whatever_became_of_the_mirror_a_whole_job_makes_it_equal(shop: Pipeline) -> None:
    with shop.source() as source, shop.sink() as sink:
        execute(sink, "UPDATE books SET price = -1 WHERE id % 300 = 0")
        execute(sink, "DELETE FROM books WHERE id % 299 = 0")
        execute(sink, "INSERT INTO books (id, title) SELECT id + 100000, 'invented' FROM books LIMIT 10")
        execute(sink, "CREATE INDEX of_my_own ON books (price)")
        execute(source, "UPDATE books SET title = 'changed' WHERE id = 7")
        found = receipt(shop)
        execute(sink, "COMMIT")
        assert books(sink) == books(source)
        assert execute(sink, "SHOW INDEX FROM books WHERE Key_name = 'of_my_own'"), "the mirror is the same table"
        assert execute(sink, "SHOW TABLES LIKE '\\_rowflow\\_seen%'") == []
        execute(sink, "DROP INDEX of_my_own ON books")
    assert found["rows_read"] == ROWS
    assert found["shards_at_a_time"] > 1, "shards overlap"
    assert shop.run("check", f"{shop.database}.books").returncode == 0


def test_the_receipt_comes_when_the_sink_holds_the_rows_and_not_when_they_are_published(shop: Pipeline) -> None:
    for worker in shop.of("worker"):
        worker.suspend()
    with ThreadPoolExecutor(1) as command:
        waiting = command.submit(asked, shop, "--id", "stored", "--wait")
        try:
            wait_until(lambda: listed(shop).get("stored", {}).get("status") == "done", 30, "the rows to be published")
            # Another command begins and ends meanwhile: this one had the time to print its receipt.
            listed(shop)
            assert not waiting.done()
        finally:
            for worker in shop.of("worker"):
                worker.resume()
        assert "(job stored)" in waiting.result(60).stdout


def test_from_python_a_job_is_asked_for_followed_and_waited_for(shop: Pipeline) -> None:
    table = f"{shop.database}.books"
    with Client.from_file(shop.config, {}) as client, shop.source() as source, shop.sink() as sink:
        execute(sink, "UPDATE books SET price = -2 WHERE id = 9")
        job = client.snapshot(table, job_id="python")
        assert client.snapshot(table, job_id="python").id == "python", "asked twice, it runs once"
        receipt = job.wait(60)
        assert (receipt.rows_read, receipt.rows_written, job.results) == (ROWS, ROWS, "books")
        assert job.progress().status == "done"
        assert books(sink) == books(source)
        execute(source, "UPDATE books SET title = 'asked by Python' WHERE id = 10")
        client.wait(60)
        assert execute(sink, "SELECT title FROM books WHERE id = 10") == [("asked by Python",)]
        client.snapshot(table, job_id="python")
        for where, why in (
            ("nosuch > 1", "Unknown column"),
            ("id = 1 OR SLEEP(0.001)", "column 11: the function SLEEP"),
        ):
            with pytest.raises(JobEnded, match=why):
                client.snapshot(table, where=where).wait(60)
        # Jobs run one after the other, as they were asked for: it would have run again by now.
        assert job.receipt() == receipt, "nor does it run again when it is done"
        for worker in shop.of("worker"):
            worker.suspend()
        execute(source, "UPDATE books SET title = 'late' WHERE id = 10")
        with pytest.raises(NotInTime, match="next offset"):
            client.wait(2)
        for worker in shop.of("worker"):
            worker.resume()
        client.wait(60)


def test_a_paused_job_stays_so_through_a_restart_goes_on_and_is_cancelled_within_a_second(shop: Pipeline) -> None:
    restart_reader(shop, SLOW)
    asked(shop, "--id", "slow")
    wait_until(lambda: listed(shop)["slow"]["rows_read"] > 0, 30, "the job to read")
    paused = shop.run("jobs", "pause", "slow")
    assert (paused.returncode, paused.stdout) == (0, "job slow is paused\n")
    read = listed(shop)["slow"]["rows_read"]
    restart_reader(shop, SLOW)
    shop.wait_read()
    assert {"status": "paused", "rows_read": read}.items() <= listed(shop)["slow"].items()

    with shop.source() as source:
        execute(source, "UPDATE books SET title = 'while it is paused' WHERE id = 8")
    assert shop.run("jobs", "resume", "slow").returncode == 0
    wait_until(lambda: listed(shop)["slow"]["rows_read"] > read, 30, "the job to go on")
    cancelled = shop.run("jobs", "cancel", "slow")
    assert (cancelled.returncode, cancelled.stdout) == (0, "job slow is cancelled\n")
    assert listed(shop)["slow"]["rows_read"] < ROWS
    restart_reader(shop)
    shop.wait()
    with shop.source() as source, shop.sink() as sink:
        assert books(sink) == books(source), "nothing was taken away"
        assert execute(sink, "SHOW TABLES LIKE '\\_rowflow\\_seen%'") == []
    over = shop.run("jobs", "pause", "slow")
    assert (over.returncode, over.stdout) == (0, "job slow is cancelled already\n")
    waited = asked(shop, "--id", "slow", "--wait", code=1)
    assert "was cancelled" in waited.stderr


def test_what_is_being_read_of_a_job_that_is_cancelled_ends_on_the_source_too(shop: Pipeline) -> None:
    restart_reader(shop, SLOW)
    asked(shop, "--id", "held")
    wait_until(lambda: listed(shop)["held"]["rows_read"] > 0, 30, "the job to read")
    with shop.source() as source, shop.source() as looking:
        execute(source, "LOCK TABLES books WRITE")
        wait_until(lambda: _waiting(looking), 30, "a shard that waits for the lock")
        assert shop.run("jobs", "cancel", "held").stdout == "job held is cancelled\n"
        # By itself it would wait for as long as the reader's lock_wait_timeout, 30 s.
        wait_until(lambda: not _waiting(looking), 5, "its statements to end, though the lock is still held")
        execute(source, "UNLOCK TABLES")
    shop.wait()


def _waiting(source: Connection) -> list[tuple[Any, ...]]:
    """The statements that wait for a table's lock."""
    return execute(
        source,
        "SELECT processlist_id FROM performance_schema.threads WHERE processlist_state LIKE 'Waiting for table%'",
    )


def test_while_the_source_has_much_to_do_no_shard_is_read(shop: Pipeline) -> None:
    restart_reader(shop, {"jobs": {"threads_running_max": 10}})
    connections = [shop.connect_source() for _ in range(12)]
    numbers = [connection.thread_id() for connection in connections]
    with ThreadPoolExecutor(len(connections)) as busy, shop.source() as source:
        sleeping = [busy.submit(execute, connection, "SELECT SLEEP(600)") for connection in connections]
        try:
            wait_until(lambda: _threads_running(source) > 12, 30, "the statements to run")
            asked(shop, "--id", "patient")
            wait_until(lambda: listed(shop)["patient"]["status"] == "reading", 30, "the job to begin")
            shop.wait_read()
            assert listed(shop)["patient"]["rows_read"] == 0
        finally:
            for number in numbers:
                execute(source, f"KILL QUERY {number}")
        assert [done.result() for done in sleeping] == [[(1,)]] * len(sleeping)
        wait_until(lambda: listed(shop)["patient"]["status"] == "done", 30, "the job to be done")
    for connection in connections:
        connection.close()


def _threads_running(source: Connection) -> int:
    return int(execute(source, "SHOW GLOBAL STATUS LIKE 'Threads_running'")[0][1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--where", "price >"), "column 7"),
        (("--where", "nosuch = 1"), "Unknown column 'nosuch'"),
        (("--where", "id = 1", "--start-over", "--yes"), "leave out --where"),
        (("--shards", "0"), "0 is not in the range"),
    ],
)
def test_what_cant_be_asked_for_is_refused_with_its_place(
    shop: Pipeline, arguments: tuple[str, ...], words: str
) -> None:
    assert words in asked(shop, *arguments, code=2).stderr


def test_a_job_that_nobody_asked_for_is_refused_with_the_nearest_name(shop: Pipeline) -> None:
    asked(shop, "--id", "nightly", "--wait")
    refused = shop.run("jobs", "cancel", "nigthly")
    assert refused.returncode == 2
    assert "did you mean nightly?" in refused.stderr
    assert shop.run("jobs", "pause").returncode == 2
    assert listed(shop)["nightly"]["rows_read"] == ROWS
