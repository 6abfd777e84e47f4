"""`rowflow check` beside a running pipeline: one for all of these, for what takes time is the first reads."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.helpers import ServiceAddresses, execute
from tests.processes import Pipeline, pipeline
from tests.workload import Workload, create_tables

WRITTEN = ("audit", "names", "everything")
"""Integer keys, text keys and every type."""
CAPTURED = (*WRITTEN, "still")
AUDIT = "SELECT COUNT(*) FROM audit"

Done = subprocess.CompletedProcess[str]


@dataclass(frozen=True, slots=True)
class Played:
    """A pipeline with all tables followed, and what `check` said before its reader had begun."""

    shop: Pipeline
    before: Done


@pytest.fixture(scope="module")
def played(services: ServiceAddresses, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    with pipeline(services, tmp_path_factory.mktemp("check")) as shop, shop.source() as source:
        create_tables(source)
        execute(source, "CREATE TABLE still (id INT PRIMARY KEY, n INT)")
        execute(source, "INSERT INTO still VALUES (1, 1)")
        shop.write_config({"source": {"tables": [f"{shop.database}.{table}" for table in CAPTURED]}})
        Workload(services.source_root_url, shop.database, 1, tables=WRITTEN, first_rows=60).write(50)
        before = shop.run("check", "--timeout", "1")
        shop.start("reader")
        shop.wait_followed(*CAPTURED)
        shop.start("worker")
        shop.wait()
        yield Played(shop, before)


@pytest.mark.timeout(240)
def test_tables_that_are_not_read_yet_are_named(played: Played) -> None:
    assert played.before.returncode == 1
    assert f"the reader hasn't begun with {played.shop.database}." in played.before.stderr


def test_rule_c5_while_writing_goes_on_the_one_real_difference_is_seen(
    played: Played, services: ServiceAddresses
) -> None:
    shop = played.shop
    with shop.source() as source, shop.sink() as sink:
        writer = Workload(services.source_root_url, shop.database, 2, tables=WRITTEN, per_s=40)
        writer.start()
        written_before = execute(source, AUDIT)
        ((key, number),) = execute(sink, "SELECT id, number FROM audit ORDER BY id LIMIT 1")
        execute(sink, "UPDATE audit SET number = -1 WHERE id = %s", (key,))
        running = shop.run("check", "--timeout", "60", timeout_s=120)
        written_after = execute(source, AUDIT)
        writer.stop()
        execute(sink, "UPDATE audit SET number = %s WHERE id = %s", (number, key))
    assert (running.returncode, running.stderr) == (1, ""), running.stdout
    assert written_before < written_after, "nothing was written meanwhile"
    assert [line for line in running.stdout.splitlines() if line.startswith("  ")] == [
        f'  {{"id":{key}}} differs in number'
    ]
    assert running.stdout.splitlines()[-1].startswith("1 difference in ")


def test_rule_c5_each_real_difference_is_seen(played: Played) -> None:
    shop = played.shop
    with shop.source() as source, shop.sink() as sink:
        execute(source, "SET sql_mode = 'ALLOW_INVALID_DATES'")
        execute(source, "INSERT INTO names VALUES ('Lost ', 1)")
        execute(source, "REPLACE INTO everything (id, float_) VALUES (1000, 0.1)")
        shop.wait()
        execute(sink, "DELETE FROM names WHERE name = 'Lost '")
        execute(sink, "INSERT INTO names VALUES ('lost', 1)")
        execute(sink, "UPDATE everything SET float_ = 0.10000001 WHERE id = 1000")
    found = shop.run("check")
    assert found.returncode == 1
    assert found.stdout.splitlines()[-1].startswith("3 differences in ")
    for line in (
        '  {"name":"Lost "} missing in the sink',
        '  {"name":"lost"} only in the sink',
        '  {"id":1000} differs in float_',
    ):
        assert line in found.stdout.splitlines()


def test_a_table_can_be_named(played: Played) -> None:
    one = played.shop.run("check", f"{played.shop.database}.audit")
    assert (one.returncode, len(one.stdout.splitlines())) == (0, 2), one
    unknown = played.shop.run("check", f"{played.shop.database}.audi")
    assert unknown.returncode == 2
    assert f"{played.shop.database}.audit" in unknown.stderr


def test_a_table_that_stands_still_is_named_and_the_others_are_compared(played: Played) -> None:
    shop = played.shop
    with shop.source() as source:
        execute(source, "ALTER TABLE still DROP COLUMN n")
        execute(source, "INSERT INTO still VALUES (2)")
    shop.until(lambda: shop.table_states()["still"]["status"] == "stands still", 30, "the table to stand still")
    after = shop.run("check")
    assert after.returncode == 1
    assert f"{shop.database}.still stands still" in after.stderr
    alone = shop.run("check", f"{shop.database}.audit")
    assert (alone.returncode, alone.stderr) == (0, "")


def test_a_sink_that_does_not_come_is_not_compared(played: Played) -> None:
    """The last one: it ends the worker."""
    shop = played.shop
    for program in shop.of("worker"):
        assert program.stop() == 0
    with shop.source() as source:
        execute(source, "INSERT INTO names VALUES ('late', 1)")
    behind = shop.run("check", "--timeout", "1", f"{shop.database}.names")
    assert behind.returncode == 1
    assert "not in time" in behind.stderr
