"""`rowflow check` beside a running pipeline."""

import re
from pathlib import Path

import pytest

from tests.helpers import ServiceAddresses, execute
from tests.processes import pipeline
from tests.workload import Workload, create_tables

WRITTEN = ("audit", "ints", "names", "everything")
"""Integer keys, text keys and every type; few, for the first read of each takes its time."""
AUDIT = "SELECT COUNT(*) FROM audit"


@pytest.mark.timeout(240)
def test_rule_c5_no_difference_is_seen_while_writing_goes_on_and_each_real_one_is(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source, shop.sink() as sink:
        create_tables(source)
        shop.write_config({"source": {"tables": [f"{shop.database}.{table}" for table in WRITTEN]}})
        Workload(services.source_root_url, shop.database, 1, tables=WRITTEN, first_rows=60).write(50)
        shop.start("reader")
        shop.wait_followed(*WRITTEN)
        shop.start("worker")
        writer = Workload(services.source_root_url, shop.database, 2, tables=WRITTEN, per_s=40)
        writer.start()
        shop.wait()
        written_before = execute(source, AUDIT)
        running = shop.run("check", "--timeout", "60", timeout_s=120)
        written_after = execute(source, AUDIT)
        writer.stop()
        assert (running.returncode, running.stderr) == (0, ""), running.stdout
        assert written_before < written_after, "nothing was written meanwhile"
        assert re.search(r"^0 differences in [0-9,]+ rows", running.stdout.splitlines()[-1])

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

        one = shop.run("check", f"{shop.database}.ints")
        assert (one.returncode, len(one.stdout.splitlines())) == (0, 2)
        unknown = shop.run("check", f"{shop.database}.int")
        assert unknown.returncode == 2
        assert f"{shop.database}.ints" in unknown.stderr

        for program in shop.of("worker"):
            assert program.stop() == 0
        execute(source, "INSERT INTO names VALUES ('late', 1)")
        behind = shop.run("check", "--timeout", "1", f"{shop.database}.names")
        assert behind.returncode == 1
        assert "not in time" in behind.stderr


def test_tables_that_are_not_read_yet_or_stand_still_are_named(services: ServiceAddresses, tmp_path: Path) -> None:
    with pipeline(services, tmp_path) as shop, shop.source() as source:
        execute(source, "CREATE TABLE still (id INT PRIMARY KEY, n INT)")
        execute(source, "CREATE TABLE well (id INT PRIMARY KEY)")
        execute(source, "INSERT INTO still VALUES (1, 1)")
        execute(source, "INSERT INTO well VALUES (1)")
        before = shop.run("check", "--timeout", "1")
        assert before.returncode == 1
        assert f"the reader hasn't begun with {shop.database}." in before.stderr
        shop.start("reader")
        shop.wait_followed("still", "well")
        shop.start("worker")
        shop.wait()
        execute(source, "ALTER TABLE still DROP COLUMN n")
        execute(source, "INSERT INTO still VALUES (2)")
        shop.until(lambda: shop.table_states()["still"]["status"] == "stands still", 30, "the table to stand still")
        after = shop.run("check")
        assert after.returncode == 1
        assert f"{shop.database}.still stands still" in after.stderr
        alone = shop.run("check", f"{shop.database}.well")
        assert (alone.returncode, alone.stderr) == (0, "")
