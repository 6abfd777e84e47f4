"""A source with ``gtid_mode = OFF``: file and position alone, and first reads by log_status or FOR SHARE (J2).

The server has the plugin for semi-synchronous replication: with it a commit can be held between the binlog, where the
stream sees it, and the engine, where SELECT doesn't, for as long as a test wants (J1).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from servers.mysql import MysqlServer
from tests import oracle
from tests.fire import OlderReads, make_table, under_fire
from tests.helpers import ServiceAddresses, connected, execute, wait_until
from tests.processes import Pipeline, pipeline
from tests.topics import last_value, read_topics

_PASSWORD = "not-a-secret"  # noqa: S105 - of a server that lives for one test
_ROWS = 4_000
_FOR_SHARE = "without BACKUP_ADMIN shards are read with FOR SHARE"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MysqlServer]:
    """A server without GTIDs, with a user for each way of a first read."""
    options = {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF", "innodb_buffer_pool_size": "64M"}
    server = MysqlServer(tmp_path_factory.mktemp("mysql"), options)
    server.start()
    with connected(server.root_url) as root:
        for user, further in (("plain", ""), ("backup", ", BACKUP_ADMIN")):
            execute(root, f"CREATE USER {user} IDENTIFIED BY '{_PASSWORD}'")
            execute(root, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT{further} ON *.* TO {user}")
        execute(root, "GRANT SELECT ON performance_schema.log_status TO backup")
        execute(root, "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'")
        execute(root, "SET GLOBAL rpl_semi_sync_source_timeout = 60000")
    yield server
    server.stop()


def addresses(services: ServiceAddresses, server: MysqlServer, user: str) -> ServiceAddresses:
    return replace(services, source_url=server.url(user, _PASSWORD), source_root_url=server.root_url)


def must_equal(shop: Pipeline, table: str, *, complete: bool) -> None:
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic(table)])
    with shop.source() as source:
        oracle.report(oracle.topic_differences(source, shop.database, table, events))
    oracle.report(oracle.broken_histories(events, complete=complete))
    oracle.report(oracle.doubled(events))
    oracle.report(oracle.without_tombstone(events))
    oracle.report(OlderReads().take(events))


@pytest.mark.parametrize(("user", "locking"), [("backup", False), ("plain", True)])
def test_rule_j2_a_first_read_under_writes_and_an_exact_restart(
    services: ServiceAddresses, server: MysqlServer, tmp_path: Path, user: str, *, locking: bool
) -> None:
    with pipeline(addresses(services, server, user), tmp_path) as shop:
        make_table(shop, _ROWS)
        with under_fire(shop, _ROWS) as writers:
            reader = shop.start("reader")
            shop.wait_followed("fire")
            reader.kill()
            written = sum(writer.written for writer in writers)
            reader = shop.start("reader")
            shop.until(lambda: sum(writer.written for writer in writers) > written + 200, 20, "changes")
        shop.wait_read()
        position = last_value(services.bootstrap_servers, f"{shop.prefix}.__positions")
        assert position is not None
        assert position["gtids"] == ""
        assert reader.stop() == 0
        must_equal(shop, "fire", complete=False)
        assert (_FOR_SHARE in shop.programs[0].text()) == locking


@contextmanager
def held_commit(shop: Pipeline, statement: str) -> Iterator[None]:
    """While this lasts, the statement is in the binlog and its effect isn't in the engine."""

    def write() -> None:
        with shop.source() as source:
            execute(source, statement)

    writer = threading.Thread(target=write)
    with shop.source() as root:
        execute(root, "SET GLOBAL rpl_semi_sync_source_enabled = ON")
        before = shop.binlog_place()
        writer.start()
        wait_until(lambda: shop.binlog_place() > before, 20, "the statement in the binlog")
        try:
            yield
        finally:
            execute(root, "SET GLOBAL rpl_semi_sync_source_enabled = OFF")
            writer.join(20)
    assert not writer.is_alive()


def waits(root: Connection, how: str) -> bool:
    """Whether the shard reader waits, as the server tells it.

    log_status waits inside the server, for it stops all logs to look at them; so does a locking SELECT.  GTIDs are asked
    for again and again.
    """
    if how == "GTID_SUBSET":
        asked = "digest_text LIKE 'SELECT `GTID_SUBSET` (%%' AND schema_name IS NULL AND count_star >= 20"
        found = f"performance_schema.events_statements_summary_by_digest WHERE {asked}"
    else:
        found = f"information_schema.processlist WHERE time >= 1 AND info LIKE '%%{how}%%' AND id <> CONNECTION_ID()"
    return bool(execute(root, f"SELECT COUNT(*) FROM {found}", ())[0][0])


@pytest.mark.parametrize(
    ("gtid_mode", "user", "how"),
    [("OFF", "backup", "log_status"), ("OFF", "plain", "FOR SHARE"), ("ON", "plain", "GTID_SUBSET")],
)
def test_rule_j1_j2_what_the_stream_has_passed_is_waited_for(
    services: ServiceAddresses, server: MysqlServer, tmp_path: Path, gtid_mode: str, user: str, how: str
) -> None:
    if gtid_mode == "ON":
        with connected(server.root_url) as root:
            execute(root, "SET GLOBAL enforce_gtid_consistency = ON")
            for step in ("OFF_PERMISSIVE", "ON_PERMISSIVE", "ON"):
                execute(root, f"SET GLOBAL gtid_mode = {step}")
    with pipeline(addresses(services, server, user), tmp_path) as shop, shop.source() as source:
        make_table(shop, 20)
        reader = shop.start("reader")
        shop.wait_followed("fire")
        with held_commit(shop, "UPDATE fire SET version = 1"):
            shop.wait_read()
            execute(source, "TRUNCATE performance_schema.events_statements_summary_by_digest")
            assert shop.run("snapshot", f"{shop.database}.fire", "--yes").returncode == 0
            shop.until(lambda: waits(source, how), 30, f"a shard that waits by {how}")
            assert _reads(shop) == 20
        shop.until(lambda: _reads(shop) == 40, 30, "the second read's rows")
        assert reader.stop() == 0
        must_equal(shop, "fire", complete=False)


def _reads(shop: Pipeline) -> int:
    events = read_topics(shop.addresses.bootstrap_servers, [shop.topic("fire")])
    return sum(event.op == "r" for event in events)
