"""What a source's settings, binlog and identity do to a reader: on a server of this file's own.

The tests change the server's settings and log and put them back; the pipeline is a new one each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from servers.bookshop import SOURCE_USER, create_source_user
from servers.mysql import MysqlServer
from tests.helpers import ServiceAddresses, connected, execute
from tests.messages import (
    goes_on,
    message_of,
    refusal,
    row_arrives,
    run_command,
    run_on_source,
    stops_well,
)
from tests.processes import Pipeline, pipeline

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
        execute(root, f"PURGE BINARY LOGS TO '{last}'")
    end = shop.log_ends()
    message = refusal(shop, "reader", 3)
    assert "purged" in message
    assert shop.log_ends() == end, "something was published"
    run_command(shop, message)
    reader = goes_on(shop, with_job=True)
    shop.wait()
    with shop.sink() as sink:
        assert (60,) in execute(sink, "SELECT id FROM t"), "what lay between is in the copy"
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


def test_a_server_without_a_binlog_is_refused_with_the_line_for_my_cnf(shop: Pipeline, server: MysqlServer) -> None:
    server.restart({"disable_log_bin": "1"})
    message = refusal(shop, "reader", 3)
    assert "add log_bin = binlog to [mysqld] in my.cnf and restart" in message
    server.options.pop("disable_log_bin")
    server.restart({"log_bin": "binlog"})
    stops_well(goes_on(shop, with_job=True))
