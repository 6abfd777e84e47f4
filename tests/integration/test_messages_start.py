"""What the source may lack at a reader's start: the statement or setting that the message prints is made, then it starts.

Nothing was written before: each refusal leaves the pipeline's prefix without a topic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from MySQLdb.connections import Connection

from cdc_reader.config import SourceConfig
from cdc_reader.errors import SourceRefused
from cdc_reader.preflight import check_tables, source_facts
from cdc_reader.sql import SourceSession
from schemas.patterns import TablePatterns
from tests.decode_stand import address_of
from tests.helpers import ServiceAddresses, execute, topics_of, unique_name
from tests.messages import goes_on, refusal, row_arrives, run_on_source, run_statement, stops_well
from tests.processes import Pipeline, pipeline

CANARY = "canary-5d31"


@pytest.fixture
def shop(services: ServiceAddresses, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with one table of one row."""
    with pipeline(services, tmp_path) as made:
        with made.source() as source:
            execute(source, "CREATE TABLE t (id INT PRIMARY KEY)")
            execute(source, "INSERT INTO t VALUES (1)")
        yield made


@pytest.fixture
def user(services: ServiceAddresses, source_root: Connection) -> Iterator[str]:
    """A user who has no grants and is known from 127.0.0.1 and nowhere else; the password is the name."""
    name = unique_name("poor")
    execute(source_root, f"CREATE USER '{name}'@'127.0.0.1' IDENTIFIED BY '{name}'")
    yield name
    execute(source_root, f"DROP USER IF EXISTS '{name}'@'127.0.0.1', '{name}'@'%'")


def url_for(services: ServiceAddresses, user: str, password: str) -> str:
    """The source's address for another user."""
    parts = urlsplit(services.source_url)
    return f"mysql://{user}:{password}@{parts.hostname}:{parts.port}"


def nothing_written(shop: Pipeline) -> bool:
    """Whether there is no topic of the pipeline's."""
    return topics_of(shop.addresses.bootstrap_servers, shop.prefix) == []


def test_an_unknown_setting_is_refused_with_the_nearest(shop: Pipeline) -> None:
    shop.write_config({"source": {"on_undecodeable": "stop"}, "kafka": {"partition": 3}})
    for command in ("reader", "worker", "up"):
        message = refusal(shop, command, 2)
        assert "did you mean source.on_undecodable?" in message
        assert "did you mean kafka.partitions?" in message
    assert refusal(shop, "read", 2, "--to", "stdout") == message
    shop.write_config({"source": {"on_undecodable": "stop"}, "kafka": {"partitions": 3}})
    stops_well(goes_on(shop, with_job=True))


def test_a_pattern_that_matches_nothing_names_near_names_and_waits_for_the_table(shop: Pipeline) -> None:
    database = shop.database
    shop.write_config({"source": {"tables": [f"{database}.t", f"{database}.boks", f"{database}.ordrs*"]}})
    with shop.source() as source:
        execute(source, "CREATE TABLE books (id INT PRIMARY KEY)")
    reader = goes_on(shop, with_job=True)
    assert f"no table matches {database}.boks yet; near it: {database}.books" in reader.text()
    assert f"no table matches {database}.ordrs* yet" in reader.text()
    with shop.source() as source:
        execute(source, "CREATE TABLE boks (id INT PRIMARY KEY)")
        execute(source, "INSERT INTO boks VALUES (1)")
    shop.until(lambda: f"{database}.boks, 1 rows read" in reader.text(), 30, "the first read of the new table")
    row_arrives(shop, "boks")
    stops_well(reader)


def test_a_wrong_password_is_refused_with_the_statement_that_sets_it(
    services: ServiceAddresses, shop: Pipeline, user: str, source_root: Connection
) -> None:
    # Who is refused isn't told which account it would have been: the statement is for the usual one.
    execute(source_root, f"RENAME USER '{user}'@'127.0.0.1' TO '{user}'@'%'")
    execute(source_root, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO '{user}'@'%'")
    shop.write_config({"source": {"url": url_for(services, user, CANARY)}})
    message = refusal(shop, "reader", 3, "-v")
    assert refusal(shop, "read", 3, "--to", "stdout") == message
    assert CANARY not in message
    assert nothing_written(shop)
    run_statement(source_root, message.replace("'...'", f"'{CANARY}'"), "ALTER USER")
    stops_well(goes_on(shop, with_job=True))


def test_each_missing_grant_is_refused_with_its_statement(
    services: ServiceAddresses, shop: Pipeline, user: str, source_root: Connection
) -> None:
    shop.write_config({"source": {"url": url_for(services, user, user), "tables": [f"{shop.database}.t"]}})
    granted = [run_statement(source_root, refusal(shop, "reader", 3), "GRANT") for _ in range(2)]
    account = f"'{user}'@'127.0.0.1'"
    assert granted == [
        f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {account}",
        f"GRANT SELECT ON `{shop.database}`.`t` TO {account}",
    ]
    execute(source_root, f"REVOKE REPLICATION SLAVE ON *.* FROM {account}")
    run_statement(source_root, refusal(shop, "reader", 3), "GRANT REPLICATION SLAVE")
    # A wildcard, and a grant on another database that doesn't reach this one.
    execute(source_root, f"REVOKE SELECT ON {shop.database}.t FROM {account}")
    execute(source_root, f"GRANT SELECT ON shop.* TO {account}")
    shop.write_config({"source": {"url": url_for(services, user, user)}})
    message = refusal(shop, "read", 3, "--to", "stdout")
    assert nothing_written(shop)
    assert run_statement(source_root, message, "GRANT") == f"GRANT SELECT ON `{shop.database}`.* TO {account}"
    stops_well(goes_on(shop, with_job=True))


def test_a_table_without_a_primary_key_is_refused_with_its_statement(shop: Pipeline) -> None:
    with shop.source() as source:
        execute(source, "CREATE TABLE plain (id INT NOT NULL)")
    message = refusal(shop, "reader", 3)
    assert refusal(shop, "read", 3, "--to", "stdout") == message
    assert f"{shop.database}.plain has no primary key" in message
    assert nothing_written(shop)
    # Or it is left out.
    left_out = re.search(r'"(!\S+)"', message)
    assert left_out is not None
    shop.write_config({"source": {"tables": [f"{shop.database}.*", left_out[1]]}})
    stops_well(goes_on(shop, with_job=True))
    shop.write_config()
    run_on_source(shop, message.replace("(...), or leave it out", "(id);"), "ALTER TABLE")
    stops_well(goes_on(shop, "plain", with_job=True))


@pytest.mark.parametrize("rule", ["ON DELETE CASCADE", "ON UPDATE SET NULL"])
def test_fault_cascade_is_refused_where_the_server_does_not_log_it(
    services: ServiceAddresses, database: str, source_root: Connection, rule: str
) -> None:
    """Our server logs cascades, as all do from 9.6 on: it is asked here as if it were an older one."""
    execute(source_root, f"CREATE TABLE {database}.books (id INT PRIMARY KEY)")
    execute(
        source_root,
        f"CREATE TABLE {database}.items (id INT PRIMARY KEY, book INT,"
        f" CONSTRAINT its_book FOREIGN KEY (book) REFERENCES {database}.books (id) {rule})",
    )
    config = SourceConfig(address_of(services.source_url), TablePatterns.from_settings([f"{database}.*"]), 1)
    with SourceSession(config.address) as session:
        facts = source_facts(session)
        check_tables(session, facts, config)
        older = replace(facts, version="9.5.0")
        with pytest.raises(SourceRefused, match="its_book") as refused:
            check_tables(session, older, config)
        run_statement(source_root, str(refused.value).replace(" and add it", ";"), "ALTER TABLE")
        check_tables(session, older, config)


def test_a_sink_inside_the_source_is_refused_with_the_pattern_that_leaves_it_out(shop: Pipeline) -> None:
    patterns = [f"{shop.database}.*", f"{shop.sink_schema}.*"]
    shop.write_config({"source": {"tables": patterns}})
    message = refusal(shop, "reader", 3)
    assert refusal(shop, "worker", 3) == message
    assert nothing_written(shop)
    found = re.search(r'"(![^"]+)"', message)
    assert found is not None
    shop.write_config({"source": {"tables": [*patterns, found[1]]}})
    stops_well(goes_on(shop, with_job=True))
