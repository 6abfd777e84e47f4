"""What a sink may lack, and tables that can't have a mirror: the statement or setting is made, then all starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from MySQLdb.connections import Connection

from schemas.addresses import MysqlAddress
from sink.errors import SinkRefused
from sink.preflight import try_grants
from sink.sql import SessionPool
from tests.helpers import ServiceAddresses, connected, drop_database, execute, topics_of, unique_name
from tests.messages import goes_on, message_of, printed_statement, refusal, run_command, run_statement, stops_well
from tests.processes import Pipeline, pipeline

CANARY = "canary-e07a"
GRANTS = (
    "SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "ALTER", "DROP", "INDEX", "CREATE TEMPORARY TABLES",
)  # fmt: skip


@pytest.fixture
def shop(services: ServiceAddresses, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with one table of one row; `up` has one worker, for each costs a second and none of this needs two."""
    with pipeline(services, tmp_path, {"stream": {"workers": 1}}) as made:
        with made.source() as source:
            execute(source, "CREATE TABLE t (id INT PRIMARY KEY)")
            execute(source, "INSERT INTO t VALUES (1)")
        yield made


@pytest.fixture
def user(services: ServiceAddresses, sink_root: Connection) -> Iterator[str]:
    """A user of the sink without grants; the password is the name."""
    name = unique_name("poor")
    execute(sink_root, f"CREATE USER {name} IDENTIFIED BY '{name}'")
    yield name
    execute(sink_root, f"DROP USER {name}")


def url_for(services: ServiceAddresses, user: str, password: str, schema: str) -> str:
    """The sink's address for another user."""
    parts = urlsplit(services.sink_url)
    return f"mysql://{user}:{password}@{parts.hostname}:{parts.port}/{schema}"


def arrives(shop: Pipeline, mirror: str = "t") -> None:
    """The rows of a mirror are there."""

    def there() -> bool:
        with shop.sink() as sink:
            if not execute(sink, f"SHOW TABLES LIKE '{mirror}'"):
                return False
            return bool(execute(sink, f"SELECT 1 FROM {mirror} LIMIT 1"))

    shop.until(there, 60, f"rows of {mirror}")


def test_each_grant_that_the_sink_lacks_is_named_with_its_statement(
    services: ServiceAddresses, sink_root: Connection, sink_schema: str, user: str
) -> None:
    parts = urlsplit(services.sink_url)
    address = MysqlAddress(parts.hostname or "", parts.port or 3306, user, user, sink_schema)
    needed: list[str | None] = []
    for grant in GRANTS:
        execute(sink_root, f"GRANT {', '.join(GRANTS)} ON {sink_schema}.* TO {user}")
        execute(sink_root, f"REVOKE {grant} ON {sink_schema}.* FROM {user}")
        pool = SessionPool(address)
        try:
            with pytest.raises(SinkRefused) as refused, pool.lend() as session:
                try_grants(session)
        finally:
            pool.close()
            for (table,) in execute(sink_root, f"SHOW TABLES FROM {sink_schema}"):
                execute(sink_root, f"DROP TABLE {sink_schema}.{table}")
        statement = run_statement(sink_root, str(refused.value), "GRANT")
        needed.append(grant if f"{grant}," in statement or f"{grant} ON" in statement else None)
        with pool.lend() as session:
            try_grants(session)
        pool.close()
    assert needed == list(GRANTS)


def test_a_sink_that_refuses_us_names_password_schema_and_grant(
    services: ServiceAddresses, shop: Pipeline, user: str, sink_root: Connection
) -> None:
    schema = unique_name("results")
    shop.write_config({"sink": {"url": url_for(services, user, CANARY, schema)}})
    message = refusal(shop, "worker", 3, "-v")
    assert "mend user and password in [sink] url" in message
    assert CANARY not in message
    shop.write_config({"sink": {"url": url_for(services, user, user, schema)}})
    run_statement(sink_root, refusal(shop, "reader", 3), "GRANT")
    assert topics_of(services.bootstrap_servers, shop.prefix) == []
    try:
        run_statement(sink_root, refusal(shop, "up", 3), "CREATE DATABASE")
        up = shop.start("up")
        shop.sink_schema = schema
        arrives(shop)
        stops_well(up)
    finally:
        drop_database(services.sink_root_url, schema)


def test_tables_that_would_share_a_mirror_are_refused_with_the_setting(
    services: ServiceAddresses, shop: Pipeline, source_root: Connection
) -> None:
    second = unique_name("shop")
    execute(source_root, f"CREATE DATABASE {second}")
    try:
        execute(source_root, f"CREATE TABLE {second}.T (id INT PRIMARY KEY)")
        execute(source_root, f"INSERT INTO {second}.T VALUES (7)")
        patterns = [f"{shop.database}.*", f"{second}.*"]
        shop.write_config({"source": {"tables": patterns}})
        message = refusal(shop, "reader", 3)
        assert refusal(shop, "up", 3).endswith(message)
        assert f"{shop.database}.t" in message
        assert f"{second}.T" in message
        assert topics_of(services.bootstrap_servers, shop.prefix) == []
        found = re.search(r'table_name = "([^"]+)"', message)
        assert found is not None
        shop.write_config({"source": {"tables": patterns}, "sink": {"table_name": found[1]}})
        up = shop.start("up")
        arrives(shop, f"{shop.database}_t")
        arrives(shop, f"{second}_T")
        stops_well(up)
    finally:
        drop_database(services.source_root_url, second)


def test_a_key_that_is_too_long_for_the_sink_is_refused_by_name(services: ServiceAddresses, shop: Pipeline) -> None:
    with shop.source() as source:
        execute(source, "CREATE TABLE fits (k VARCHAR(768) CHARACTER SET latin1 PRIMARY KEY)")
        execute(source, "CREATE TABLE hashed (k VARCHAR(3000) CHARACTER SET latin1, PRIMARY KEY (k(700)))")
        execute(source, "CREATE TABLE wide (k VARCHAR(769) CHARACTER SET latin1 PRIMARY KEY)")
    message = refusal(shop, "reader", 3)
    assert f"the primary key of {shop.database}.wide takes 3076 bytes in the sink" in message
    assert topics_of(services.bootstrap_servers, shop.prefix) == []
    left_out = re.search(r'"(!\S+)"', message)
    assert left_out is not None
    shop.write_config({"source": {"tables": [f"{shop.database}.*", left_out[1]]}})
    up = shop.start("up")
    arrives(shop)
    # A table that is made later is met by the worker.
    with shop.source() as source:
        execute(source, "CREATE TABLE later (k VARCHAR(1000) CHARACTER SET latin1 PRIMARY KEY)")
        execute(source, "INSERT INTO later VALUES ('a')")
    message = message_of(shop, up, 4)
    assert f"the primary key of {shop.database}.later" in message
    more = re.search(r'"(!\S+)"', message)
    assert more is not None
    patterns = [f"{shop.database}.*", left_out[1], more[1]]
    shop.write_config({"source": {"tables": patterns}})
    up = shop.start("up")
    with shop.source() as source:
        execute(source, "INSERT INTO t VALUES (900)")
    shop.wait()
    stops_well(up)


def test_a_table_that_was_left_out_for_a_time_is_read_anew(shop: Pipeline) -> None:
    """What happened meanwhile was not published: to go on as if nothing had been missed would lose it."""
    with shop.source() as source:
        execute(source, "CREATE TABLE other (id INT PRIMARY KEY)")
    stops_well(goes_on(shop, with_job=True))
    shop.write_config({"source": {"tables": [f"{shop.database}.other"]}})
    reader = goes_on(shop, "other", with_job=False)
    with shop.source() as source:
        execute(source, "INSERT INTO t VALUES (500)")
    stops_well(reader)
    shop.write_config()
    reader = goes_on(shop, with_job=True)
    worker = shop.start("worker")
    shop.wait()
    with shop.sink() as sink:
        assert (500,) in execute(sink, "SELECT id FROM t")
    stops_well(reader, worker)


def test_what_somebody_made_or_moved_in_the_sink_is_told_of_and_mended(shop: Pipeline) -> None:
    """A table that has a mirror's name, and progress that the log doesn't hold (W2)."""
    shop.write_config({"stream": {"workers": 1}})
    with shop.sink() as sink:
        execute(sink, "CREATE TABLE t (mine INT)")
    up = shop.start("up")
    message = message_of(shop, up, 4)
    assert "Rowflow didn't make" in message
    with shop.sink() as sink:
        execute(sink, printed_statement(message, "RENAME TABLE"))
    up = shop.start("up")
    arrives(shop)
    with shop.sink() as sink:
        assert execute(sink, "SELECT COUNT(*) FROM t_old") == [(0,)]
        execute(sink, "UPDATE _rowflow_progress SET next_offset = next_offset + 1000")
    with shop.source() as source:
        execute(source, "INSERT INTO t VALUES (2)")
    message = message_of(shop, up, 4)
    assert "but the log holds 0 to" in message
    run_command(shop, message)
    up = shop.start("up")
    shop.wait()
    with shop.sink() as sink:
        assert execute(sink, "SELECT id FROM t ORDER BY id") == [(1,), (2,)]
    stops_well(up)


FUNCTIONS = """
from rowflow import computed

@computed("{database}.t")
def half(row: dict) -> int:
    raise RuntimeError("{canary}")
"""


def test_too_many_dead_letters_stop_with_the_select_that_shows_them(shop: Pipeline, tmp_path: Path) -> None:
    functions = tmp_path / "functions.py"
    functions.write_text(FUNCTIONS.format(database=shop.database, canary=CANARY))
    stream: dict[str, str | int] = {"functions": str(functions), "dead_letters_in_a_row_max": 3}
    shop.write_config({"kafka": {"partitions": 1}, "stream": stream})
    up = shop.start("up")
    shop.until(lambda: " is done: " in up.text(), 60, "the first read")
    for number in range(10, 20):
        with shop.source() as source:
            execute(source, f"INSERT INTO t VALUES ({number})")
    message = message_of(shop, up, 4)
    assert CANARY not in message
    with connected(shop.addresses.sink_url.rpartition("/")[0] + f"/{shop.sink_schema}") as sink:
        letters = execute(sink, printed_statement(message, "SELECT"))
    assert all(CANARY in letter[4] for letter in letters), "the reasons stand in the sink"
    setting = re.search(r"ROWFLOW_STREAM__(\w+)", message)
    assert setting is not None
    stream[setting[1].lower()] = 100
    shop.write_config({"kafka": {"partitions": 1}, "stream": stream})
    up = shop.start("up")
    shop.wait()
    with shop.sink() as sink:
        assert execute(sink, "SELECT COUNT(*) FROM _rowflow_dead_letters WHERE status = 'open'") == [(11,)]
    stops_well(up)
