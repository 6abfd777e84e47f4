"""What a source's settings, binlog and identity do to a reader: on a server of this file's own.

The tests change the server's settings and log and put them back; the pipeline is a new one each time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from servers.bookshop import SOURCE_USER, create_source_user
from servers.mysql import MysqlServer
from tests.helpers import ServiceAddresses, connected, execute, wait_until
from tests.messages import (
    goes_on,
    message_of,
    refusal,
    row_arrives,
    run_command,
    run_on_source,
    stops_well,
)
from tests.processes import Pipeline, Program, pipeline
from tests.rewritten_binlog import damage_last_rows, end_with_rollback, retype_last_rows

_OPTIONS = {"innodb_buffer_pool_size": "64M", "innodb_redo_log_capacity": "64M"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MysqlServer]:
    """The source; its user's password is its name."""
    made = MysqlServer(tmp_path_factory.mktemp("source"), _OPTIONS)
    made.start()
    connection = made.connect()
    create_source_user(connection, SOURCE_USER)
    connection.close()
    yield made
    made.stop()


@pytest.fixture
def shop(services: ServiceAddresses, server: MysqlServer, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline from the server of this file to the common ones, with one table of one row."""
    addresses = replace(services, source_url=server.url(SOURCE_USER, SOURCE_USER), source_root_url=server.root_url)
    with pipeline(addresses, tmp_path) as made:
        with made.source() as source:
            execute(source, "CREATE TABLE t (id INT PRIMARY KEY, note TEXT)")
            execute(source, "INSERT INTO t (id) VALUES (1)")
        yield made


def as_root(shop: Pipeline, *statements: str) -> None:
    """Run statements on the source."""
    with connected(shop.addresses.source_root_url) as root:
        for statement in statements:
            execute(root, statement)


def must_catch_up(shop: Pipeline, message: str, worker: Program) -> None:
    """The command that a message prints, the next start, and a copy that is equal to the source."""
    run_command(shop, message)
    reader = goes_on(shop, with_job=True)
    must_be_equal(shop)
    stops_well(reader, worker)


def must_be_equal(shop: Pipeline) -> None:
    """The sink comes to hold the source's rows."""
    shop.wait()
    with shop.source() as source, shop.sink() as sink:
        assert execute(sink, "SELECT id FROM t ORDER BY id") == execute(source, "SELECT id FROM t ORDER BY id")


WRONG = {
    "binlog_format": "STATEMENT",
    "binlog_row_image": "MINIMAL",
    "binlog_row_metadata": "MINIMAL",
    "binlog_row_value_options": "PARTIAL_JSON",
}


def test_each_wrong_server_setting_is_refused_with_its_statement(shop: Pipeline) -> None:
    as_root(shop, *(f"SET GLOBAL {name} = '{value}'" for name, value in WRONG.items()))
    mended: list[str] = []
    for _ in WRONG:
        message = refusal(shop, "reader", 3)
        assert refusal(shop, "read", 3, "--to", "stdout") == message if not mended else True
        mended.append(run_on_source(shop, message, "SET GLOBAL").split()[2])
    assert mended == list(WRONG)
    stops_well(goes_on(shop, with_job=True))


def test_names_missing_in_the_metadata_are_a_loud_stop(shop: Pipeline) -> None:
    """The setting counts for all sessions, at once: a reader that runs meets it in an event."""
    reader = goes_on(shop, with_job=True)
    as_root(shop, "SET GLOBAL binlog_row_metadata = 'MINIMAL'", f"INSERT INTO {shop.database}.t (id) VALUES (50)")
    message = message_of(shop, reader, 4)
    assert f"names of the columns of {shop.database}.t" in message
    assert "binlog." in message
    run_on_source(shop, message.replace(" on the source, then", ";"), "SET GLOBAL")
    run_command(shop, message)
    stops_well(goes_on(shop, with_job=True))


def test_fault_s1_purged_position_is_refused_with_the_command_that_starts_over(
    shop: Pipeline, server: MysqlServer
) -> None:
    worker = shop.start("worker")
    stops_well(goes_on(shop, with_job=True))
    with connected(server.root_url) as root:
        execute(root, f"INSERT INTO {shop.database}.t (id) VALUES (60)")
        execute(root, "FLUSH BINARY LOGS")
        last = execute(root, "SHOW BINARY LOG STATUS")[0][0]
        purge(root, last)
    end = shop.log_ends()
    message = refusal(shop, "reader", 3)
    assert "purged" in message
    assert shop.log_ends() == end, "something was published"
    must_catch_up(shop, message, worker)


def purge(connection: Connection, last: str) -> None:
    """Purge the binlogs before that one; the server leaves those alone that somebody is sent just now, as a reader was."""

    def purged() -> bool:
        execute(connection, f"PURGE BINARY LOGS TO '{last}'")
        return bool(execute(connection, "SHOW BINARY LOGS")[0][0] == last)

    wait_until(purged, 20, f"the binlogs before {last} to be gone")


def without_gtids(shop: Pipeline) -> None:
    """Let the source go over to anonymous transactions, as one may while it runs."""
    steps = ("ON_PERMISSIVE", "OFF_PERMISSIVE", "OFF")
    as_root(shop, *(f"SET GLOBAL gtid_mode = {step}" for step in steps))


@pytest.fixture
def with_gtids_again(server: MysqlServer) -> Iterator[None]:
    """Behind a test that took the server's GTIDs away."""
    yield
    with connected(server.root_url) as root:
        for step in ("OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"):
            execute(root, f"SET GLOBAL gtid_mode = {step}")


def test_fault_s1_read_is_refused_a_place_that_the_source_does_not_have(shop: Pipeline) -> None:
    with shop.source() as source:
        file, pos = execute(source, "SHOW BINARY LOG STATUS")[0][:2]
        gtids = execute(source, "SELECT @@GLOBAL.gtid_executed")[0][0]
        execute(source, "INSERT INTO t (id) VALUES (2)")
        execute(source, "FLUSH BINARY LOGS")
        last, end = execute(source, "SHOW BINARY LOG STATUS")[0][:2]
        purge(source, last)
        execute(source, "INSERT INTO t (id) VALUES (3)")
    message = refusal(shop, "read", 3, "--to", "stdout", "--from", f"{file}:{pos}")
    assert f"the source has purged {file}" in message
    begin = re.search(r"--from (\S+)", message)
    assert begin is not None
    assert "purged" in refusal(shop, "read", 3, "--to", "stdout", "--from", gtids)
    assert f"{last} ends at" in refusal(shop, "read", 3, "--to", "stdout", "--from", f"{last}:{end + 1_000_000}")
    # No event begins there.
    assert f"{last}" in refusal(shop, "read", 3, "--to", "stdout", "--from", f"{last}:{end + 1}")
    read = shop.start("read", "--to", "stdout", "--from", begin[1])
    shop.until(lambda: '"after":{"id":3,' in read.text(), 30, "the change behind the purge")
    assert '"after":{"id":2,' not in read.text()
    stops_well(read)


@pytest.mark.usefixtures("with_gtids_again")
def test_fault_s1_without_gtids_a_purged_file_is_refused_with_the_command_that_starts_over(shop: Pipeline) -> None:
    without_gtids(shop)
    worker = shop.start("worker")
    stops_well(goes_on(shop, with_job=True))
    with shop.source() as source:
        file = execute(source, "SHOW BINARY LOG STATUS")[0][0]
        execute(source, "INSERT INTO t (id) VALUES (61)")
        execute(source, "FLUSH BINARY LOGS")
        last = execute(source, "SHOW BINARY LOG STATUS")[0][0]
        purge(source, last)
    end = shop.log_ends()
    message = refusal(shop, "reader", 3)
    assert f"the source has purged {file} (its first file is {last})" in message
    assert shop.log_ends() == end, "something was published"
    must_catch_up(shop, message, worker)


@pytest.mark.usefixtures("with_gtids_again")
def test_fault_s2_without_gtids_a_position_beyond_the_files_end_is_refused(shop: Pipeline) -> None:
    """As after a crash of a server that doesn't sync its binlog: the same server, the same file, less in it."""
    without_gtids(shop)
    as_root(shop, "RESET BINARY LOGS AND GTIDS")
    worker = shop.start("worker")
    stops_well(goes_on(shop, with_job=True))
    as_root(shop, "RESET BINARY LOGS AND GTIDS", f"INSERT INTO {shop.database}.t (id) VALUES (62)")
    with shop.source() as source:
        file, pos = execute(source, "SHOW BINARY LOG STATUS")[0][:2]
    end = shop.log_ends()
    message = refusal(shop, "reader", 3)
    assert f"the source's {file} ends at {pos}, before the last position" in message
    assert shop.log_ends() == end, "something was published"
    must_catch_up(shop, message, worker)


def test_rule_r4_a_rollback_behind_published_parts_is_a_loud_stop(shop: Pipeline, server: MysqlServer) -> None:
    worker = shop.start("worker")
    stops_well(goes_on(shop, with_job=True))
    with shop.source() as source:
        file = execute(source, "SHOW BINARY LOG STATUS")[0][0]
        execute(source, "SET SESSION cte_max_recursion_depth = 30000")
        numbers = "WITH RECURSIVE s AS (SELECT 1000 AS n UNION ALL SELECT n + 1 FROM s WHERE n < 25999) SELECT n FROM s"
        execute(source, f"INSERT INTO t (id) {numbers}")
        execute(source, "FLUSH BINARY LOGS")
        execute(source, "SET SESSION sql_log_bin = OFF")
        execute(source, "DELETE FROM t WHERE id >= 1000")
    end_with_rollback(server.directory / "data" / file)
    message = refusal(shop, "reader", 4)
    assert "is rolled back, but its first rows are published already" in message
    assert file in message
    shop.until(lambda: shop.sink_lag() == 0, 30, "the worker to store the part")
    with shop.sink() as sink:
        assert 20_000 <= execute(sink, "SELECT COUNT(*) FROM t WHERE id >= 1000")[0][0] < 25_000, (
            "no part was published"
        )
    assert refusal(shop, "reader", 4) == message, "it went on behind it"
    must_catch_up(shop, message, worker)


HARMS: tuple[tuple[Callable[[Path], None], str], ...] = (
    (damage_last_rows, "bad checksum"),
    (lambda file: retype_last_rows(file, 99), "an event of type 99"),
    (lambda file: retype_last_rows(file, 26), "has logged an incident"),
)


def test_fault_s12_s18_an_event_that_cant_be_followed_in_the_log_is_a_loud_stop(
    shop: Pipeline, server: MysqlServer
) -> None:
    worker = shop.start("worker")
    reader = goes_on(shop, with_job=True)
    for number, (harm, words) in enumerate(HARMS, start=70):
        stops_well(reader)
        with shop.source() as source:
            file = execute(source, "SHOW BINARY LOG STATUS")[0][0]
            execute(source, f"INSERT INTO t VALUES ({number}00, 'comes in an event that is harmed')")
            execute(source, "FLUSH BINARY LOGS")
        harm(server.directory / "data" / file)
        message = refusal(shop, "reader", 4)
        assert words in message
        assert file in message
        assert refusal(shop, "reader", 4) == message, "it went on behind it"
        run_command(shop, message)
        reader = goes_on(shop, with_job=True)
    must_be_equal(shop)
    stops_well(reader, worker)


def test_fault_s2_lost_transactions_and_another_server_are_refused(shop: Pipeline, server: MysqlServer) -> None:
    stops_well(goes_on(shop, with_job=True))
    as_root(shop, "RESET BINARY LOGS AND GTIDS", "FLUSH BINARY LOGS")
    message = refusal(shop, "reader", 3)
    assert "lacks transactions that were read already" in message
    (server.directory / "data" / "auto.cnf").unlink()
    server.restart()
    message = refusal(shop, "reader", 4)
    assert "it is another server" in message
    run_command(shop, message)
    stops_well(goes_on(shop, with_job=True))


def test_fault_s2_without_gtids_a_position_holds_for_one_server(shop: Pipeline, server: MysqlServer) -> None:
    server.restart({"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"})
    stops_well(goes_on(shop, with_job=True))
    (server.directory / "data" / "auto.cnf").unlink()
    server.restart({"gtid_mode": "ON", "enforce_gtid_consistency": "ON"})
    message = refusal(shop, "reader", 4)
    assert "the source is now server" in message
    run_command(shop, message)
    reader = goes_on(shop, with_job=True)
    row_arrives(shop)
    stops_well(reader)


def test_a_server_that_logs_nothing_or_not_all_is_refused_with_the_lines_for_my_cnf(
    shop: Pipeline, server: MysqlServer
) -> None:
    server.restart({"disable_log_bin": "1"})
    message = refusal(shop, "reader", 3)
    assert "add log_bin = binlog to [mysqld] in my.cnf and restart" in message
    server.options.pop("disable_log_bin")
    server.restart({"log_bin": "binlog", "binlog_ignore_db": shop.database, "log_replica_updates": "OFF"})
    # Nothing is replicated, but a replica it is.
    as_root(shop, "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1'")
    message = refusal(shop, "reader", 3)
    assert f"leaves {shop.database} out of its binlog" in message
    assert refusal(shop, "read", 3, "--to", "stdout") == message
    left_out = re.search(r'"(!\S+)"', message)
    assert left_out is not None
    shop.write_config({"source": {"tables": [f"{shop.database}.*", left_out[1]]}})
    message = refusal(shop, "reader", 3)
    assert "is a replica that doesn't log what it replicates" in message
    line = re.search(r"add (\w+) = (\w+) to \[mysqld\]", message)
    assert line is not None
    server.restart({line[1]: line[2]})
    reader = shop.start("reader")
    shop.until(lambda: "begins at the source's present end" in reader.text(), 30, "a start without that table")
    stops_well(reader)
    server.options.pop("binlog_ignore_db")
    server.restart()
    shop.write_config()
    stops_well(goes_on(shop, with_job=True))
    as_root(shop, "STOP REPLICA", "RESET REPLICA ALL")
