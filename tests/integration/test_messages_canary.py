"""No password and no value of a row is in any output at -v, whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from MySQLdb.connections import Connection

from tests.helpers import ServiceAddresses, execute, unique_name
from tests.messages import message_of, stops_well
from tests.processes import Pipeline, pipeline

PASSWORD = "canary-password-91d4"  # noqa: S105 - it is there to be looked for
VALUE = "canary-value-3b7e"
FUNCTIONS = """
from rowflow import computed

@computed("{database}.t")
def length(row: dict) -> int:
    if row["id"] == 3:
        raise RuntimeError("can't do " + row["note"])
    return 2**40 if row["id"] == 4 else len(row["note"])
"""


@pytest.fixture
def user(services: ServiceAddresses, source_root: Connection) -> Iterator[str]:
    """A user of source and sink who has the canary for a password."""
    name = unique_name("canary")
    execute(source_root, f"CREATE USER {name} IDENTIFIED BY '{PASSWORD}'")
    execute(source_root, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO {name}")
    yield name
    execute(source_root, f"DROP USER {name}")


@pytest.fixture
def shop(services: ServiceAddresses, source_root: Connection, user: str, tmp_path: Path) -> Iterator[Pipeline]:
    """A pipeline with that user, and a function that fails for some rows."""
    with pipeline(services, tmp_path) as made:
        execute(source_root, f"GRANT ALL ON {made.sink_schema}.* TO {user}")
        functions = tmp_path / "functions.py"
        functions.write_text(FUNCTIONS.format(database=made.database))
        parts = urlsplit(services.source_url)
        url = f"mysql://{user}:{PASSWORD}@{parts.hostname}:{parts.port}"
        made.settings = {
            "source": {"url": url},
            "sink": {"url": f"{url}/{made.sink_schema}"},
            "stream": {"functions": str(functions)},
        }
        made.write_config()
        with made.source() as source:
            execute(source, "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(200), facts JSON)")
            execute(source, f"INSERT INTO t VALUES (1, '{VALUE}', JSON_OBJECT('a', '{VALUE}')), (3, '{VALUE}', NULL)")
        yield made


def test_canaries_are_in_no_output(shop: Pipeline) -> None:
    reader = shop.start("reader", "-v")
    shop.until(lambda: " is done: " in reader.text(), 30, "the first read")
    worker, read = shop.start("worker", "-v"), shop.start("read", "-v", "--to", "stdout")
    with shop.source() as source:
        execute(source, f"INSERT INTO t VALUES (4, '{VALUE}', NULL), (5, '{VALUE}', NULL)")
        execute(source, f"UPDATE t SET note = '{VALUE}-2' WHERE id = 1")
        execute(source, "DELETE FROM t WHERE id = 5")
    shop.wait()
    with shop.sink() as sink:
        letters = execute(sink, "SELECT reason FROM _rowflow_dead_letters")
        assert any(VALUE in reason for (reason,) in letters), "the computed function's message is kept in the sink"
        assert execute(sink, "SELECT note FROM t WHERE id = 1") == [(f"{VALUE}-2",)]
        # A change of the mirror by hand fails statements that hold values.
        execute(sink, "ALTER TABLE t DROP COLUMN note")
    texts = [shop.run(command, "-v") for command in ("status", "check")]
    outputs = [text.stdout + text.stderr for text in texts if "check" not in text.args]
    stops_well(read)
    shop.programs.remove(read)
    with shop.source() as source:
        execute(source, f"INSERT INTO t VALUES (6, '{VALUE}', NULL)")
    message_of(shop, worker, 4)
    with shop.source() as source:
        execute(source, "SET SESSION binlog_row_image = 'MINIMAL'")
        execute(source, f"UPDATE t SET note = '{VALUE}-3'")
    message_of(shop, reader, 4)
    outputs += [program.text() for program in (reader, worker)]
    for output in outputs:
        assert output
        assert PASSWORD not in output
        assert VALUE not in output
        assert VALUE.encode().hex() not in output
    for output in (read.text(), *(text.stdout + text.stderr for text in texts)):
        assert PASSWORD not in output
