"""Definitions in the middle of the stream, from the source to the sink: new columns, TRUNCATE, any other ALTER, windows."""

from __future__ import annotations

from pathlib import Path

from tests import oracle
from tests.helpers import ServiceAddresses, execute
from tests.processes import Pipeline, pipeline
from tests.topics import Event, read_topics


def events_of(shop: Pipeline, table: str) -> list[Event]:
    return read_topics(shop.addresses.bootstrap_servers, [shop.topic(table)])


def barriers(events: list[Event], kind: str) -> list[int]:
    """The partitions in which barriers of that kind lie."""
    found = [event for event in events if event.op in ("m", "t") and event.value is not None]
    return sorted(event.partition for event in found if event.value and event.value["barrier"]["kind"] == kind)


def must_equal(shop: Pipeline, *tables: str) -> None:
    shop.wait()
    with shop.source() as source, shop.sink() as sink:
        oracle.report(oracle.sink_differences(source, shop.database, sink, shop.sink_schema, tables))


def jobs_done(shop: Pipeline, table: str) -> list[str]:
    """What a table's finished jobs have come from, in their order."""
    jobs = read_topics(shop.addresses.bootstrap_servers, [f"{shop.prefix}.__jobs"])
    states = [event.value for event in jobs if event.key["kind"] == "state" and event.value is not None]
    return [state["origin"] for state in states if state["table"] == table and state["status"] == "done"]


def columns_in_sink(shop: Pipeline, table: str) -> list[str]:
    with shop.sink() as sink:
        return [column.name for column in oracle.column_types(sink, shop.sink_schema, table)]


def test_definitions_in_the_middle_of_the_stream(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        # Ids of jobs and barriers hold a table's name, whatever its characters are.
        for table in ("ints", "größe"):
            execute(source, f"CREATE TABLE {table} (id INT PRIMARY KEY, amount BIGINT)")
            execute(source, f"INSERT INTO {table} VALUES (1, 1), (2, 2), (3, 3), (4, 4)")
        execute(
            source,
            "CREATE TABLE parts (id INT PRIMARY KEY, amount BIGINT, note VARCHAR(40), KEY (note(5), amount))"
            " PARTITION BY RANGE (id) (PARTITION low VALUES LESS THAN (3), PARTITION high VALUES LESS THAN MAXVALUE)",
        )
        execute(source, "INSERT INTO parts VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')")
        shop.start("reader")
        shop.wait_followed("ints", "größe", "parts")
        shop.start("worker")
        must_equal(shop, "ints", "größe", "parts")

        # Rows go without row events, and the shape stays: the table is read again.
        execute(source, "ALTER TABLE parts TRUNCATE PARTITION low")
        execute(source, "INSERT INTO parts VALUES (4, 4, 'd')")
        must_equal(shop, "parts")
        assert jobs_done(shop, "parts") == ["first read", "schema change"]
        assert barriers(events_of(shop, "parts"), "begin") == [0, 0, 1, 1, 2, 2]

        execute(source, "ALTER TABLE ints ADD COLUMN price DECIMAL(5,2) NOT NULL DEFAULT 1.50 AFTER id")
        execute(source, "INSERT INTO ints VALUES (5, 2.50, 5)")
        must_equal(shop, "ints")
        assert jobs_done(shop, "ints") == ["first read", "schema change"], (
            "wait returned before the old rows had the default"
        )
        assert barriers(events_of(shop, "ints"), "schema") == [0, 1, 2]

        execute(source, "ALTER TABLE ints ADD COLUMN note VARCHAR(10) DEFAULT 'none'")
        must_equal(shop, "ints")
        assert "note" in columns_in_sink(shop, "ints"), "a column without a row behind it"

        execute(source, "UPDATE ints SET amount = 0")
        execute(source, "TRUNCATE TABLE ints")
        execute(source, "INSERT INTO ints (id, amount) VALUES (3, 33)")
        must_equal(shop, "ints")
        assert barriers(events_of(shop, "ints"), "truncate") == [0, 1, 2]

        execute(source, "ALTER TABLE ints DROP COLUMN note")
        execute(source, "INSERT INTO ints (id, amount) VALUES (6, 6)")
        execute(source, "INSERT INTO größe VALUES (5, 5)")
        shop.wait_read()
        shop.until(lambda: shop.table_states()["ints"]["status"] == "stands still", 20, "the table to stand still")
        known = len(events_of(shop, "ints"))
        shop.until(lambda: not sink_findings(shop, "größe"), 20, "the other table to go on")
        execute(source, "INSERT INTO ints (id, amount) VALUES (7, 7)")
        shop.wait_read()
        assert len(events_of(shop, "ints")) == known
        assert shop.run("status").returncode == 1
        assert shop.run("snapshot", f"{shop.database}.ints").returncode == 0
        shop.until(lambda: shop.table_states()["ints"]["status"] == "followed", 30, "the table to be followed again")
        must_equal(shop, "größe")
        with shop.sink() as sink:
            rows = execute(sink, "SELECT id, amount FROM ints ORDER BY id")
        assert rows == execute(source, "SELECT id, amount FROM ints ORDER BY id")
        for table in ("ints", "parts"):
            oracle.report(oracle.unlike_schema_files(events_of(shop, table)))


def sink_findings(shop: Pipeline, table: str) -> list[str]:
    with shop.source() as source, shop.sink() as sink:
        return oracle.sink_differences(source, shop.database, sink, shop.sink_schema, [table])


def test_rule_j3_definitions_while_a_first_read_goes_on(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(source, "CREATE TABLE ints (id INT PRIMARY KEY AUTO_INCREMENT, amount BIGINT DEFAULT 1)")
        execute(source, "INSERT INTO ints (amount) VALUES " + ", ".join(["(1)"] * 500))
        for _ in range(6):
            execute(source, "INSERT INTO ints (amount) SELECT amount FROM ints")
        shop.start("reader")
        topic = shop.topic("ints")
        shop.until(lambda: topic in shop.table_topics() and len(events_of(shop, "ints")) > 3, 30, "the first rows")
        execute(source, "ALTER TABLE ints ADD COLUMN price INT NOT NULL DEFAULT 7")
        execute(source, "UPDATE ints SET amount = 2 WHERE id % 100 = 0")
        execute(source, "ALTER TABLE ints ADD COLUMN note VARCHAR(10) DEFAULT 'none' FIRST")
        execute(source, "DELETE FROM ints WHERE id % 7 = 0")
        shop.until(lambda: "schema change" in jobs_done(shop, "ints"), 60, "the job behind the new columns")
        shop.start("worker")
        must_equal(shop, "ints")
        execute(source, "TRUNCATE TABLE ints")
        execute(source, "INSERT INTO ints (amount) VALUES (9), (10)")
        must_equal(shop, "ints")


def test_generated_invisible_and_gipk_columns_by_both_ways(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(source, "SET SESSION sql_generate_invisible_primary_key = ON")
        execute(source, "CREATE TABLE keyless (amount BIGINT)")
        execute(
            source,
            "CREATE TABLE sums (id INT PRIMARY KEY, a INT, doubled INT AS (a * 2) STORED, tripled INT AS (a * 3) VIRTUAL,"
            " hidden INT DEFAULT 5 INVISIBLE)",
        )
        execute(source, "INSERT INTO keyless VALUES (1), (2)")
        execute(source, "INSERT INTO sums (id, a) VALUES (1, 1), (2, 2)")
        shop.start("reader")
        shop.wait_followed("keyless", "sums")
        shop.start("worker")
        must_equal(shop, "keyless", "sums")
        execute(source, "INSERT INTO keyless VALUES (3)")
        execute(source, "UPDATE keyless SET amount = 10 WHERE amount = 1")
        execute(source, "INSERT INTO sums (id, a, hidden) VALUES (3, 3, 6)")
        execute(source, "UPDATE sums SET a = 20 WHERE id = 1")
        must_equal(shop, "keyless", "sums")
        for table in ("keyless", "sums"):
            oracle.report(oracle.topic_differences(source, shop.database, table, events_of(shop, table)))
