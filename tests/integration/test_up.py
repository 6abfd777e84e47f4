"""`rowflow up` on real servers, with the commands that one types beside it: where they can be, as their help shows them."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from tests.documents import example_of
from tests.helpers import ServiceAddresses, connected, execute, wait_until

BOOKS = """CREATE TABLE books (
    id BIGINT PRIMARY KEY, title VARCHAR(200) NOT NULL, price DECIMAL(10, 2), about JSON, sold_at DATETIME(6))"""
REPOSITORY = Path(__file__).parents[2]


class Installation:
    """A directory with a rowflow.toml, and the command run there."""

    def __init__(self, directory: Path, services: ServiceAddresses, *, database: str, prefix: str, sink: str) -> None:
        self.directory = directory
        self.variables: dict[str, str] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        (directory / "rowflow.toml").write_text(
            f"""
            [source]
            url = "{services.source_url}"
            tables = ["{database}.*"]
            server_id = {5000 + os.getpid() % 10_000}
            [kafka]
            bootstrap_servers = "{services.bootstrap_servers}"
            prefix = "{prefix}"
            partitions = 3
            [sink]
            url = "{services.sink_url.rpartition("/")[0]}/{sink}"
            """
        )

    def _command(self, *arguments: str) -> tuple[list[str], dict[str, str]]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ROWFLOW")}
        environment |= {"PYTHONPATH": str(REPOSITORY), **self.variables}
        return [sys.executable, "-m", "rowflow.main", *arguments], environment

    def run(self, *arguments: str, timeout_s: float = 90) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command, environment = self._command(*arguments)
        return subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command; its output goes into the file `output`."""
        command, environment = self._command(*arguments)
        with self.output_file.open("ab") as output:
            process = subprocess.Popen(
                command, cwd=self.directory, env=environment, stdout=output, stderr=output, start_new_session=True
            )
        self._running.append(process)
        return process

    @property
    def output_file(self) -> Path:
        """Where the output of what was started goes."""
        return self.directory / "output"

    @property
    def output(self) -> str:
        """What was started has printed so far."""
        return self.output_file.read_text(errors="replace")

    def wait_for_output(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """The first match in the output."""
        found = wait_until(lambda: re.search(pattern, self.output), timeout_s, f"{pattern} in {self.output_file}")
        assert found is not None
        return found

    def end(self) -> None:
        """End what still runs."""
        for process in self._running:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()


@pytest.fixture
def installation(
    tmp_path: Path, services: ServiceAddresses, database: str, prefix: str, sink_schema: str
) -> Iterator[Installation]:
    """Rowflow for one source database, topics and a sink of its own."""
    made = Installation(tmp_path, services, database=database, prefix=prefix, sink=sink_schema)
    yield made
    made.end()


@pytest.fixture
def books(source_root: Connection, database: str) -> Connection:
    """A connection to the source database, where there are three books."""
    source_root.select_db(database)
    execute(source_root, BOOKS)
    execute(
        source_root,
        "INSERT INTO books VALUES (1, 'Emma', 7.50, '{\"pages\": 474}', '2026-11-22 13:13:30.996694'),"
        " (2, 'Dune', NULL, NULL, NULL), (3, 'Ulysses', 9.99, NULL, NULL)",
    )
    return source_root


def mirrored(services: ServiceAddresses, schema: str, table: str = "books") -> list[tuple[object, ...]]:
    with connected(services.sink_root_url, schema) as connection:
        return execute(connection, f"SELECT * FROM {table} ORDER BY id")


def pid_of(installation: Installation, name: str) -> int:
    """The process id of a child of `up`, by its command line and its parent."""
    parent = installation._running[0].pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    kind = name.split(maxsplit=1)[0]
    found = [int(pid) for pid in children if f"\0{kind}\0" in Path(f"/proc/{pid}/cmdline").read_text() + "\0"]
    return found[0]


def test_the_main_way(
    installation: Installation, books: Connection, services: ServiceAddresses, database: str, sink_schema: str
) -> None:
    up = installation.start(*example_of("up"))
    wait = example_of("wait")
    assert installation.run(*wait).returncode == 0
    assert mirrored(services, sink_schema) == execute(books, "SELECT * FROM books ORDER BY id")

    execute(books, "UPDATE books SET price = price + 1 WHERE id < 3")
    execute(books, "DELETE FROM books WHERE id = 3")
    execute(books, "INSERT INTO books (id, title) VALUES (4, 'Middlemarch')")
    assert installation.run(*wait).returncode == 0
    assert mirrored(services, sink_schema) == execute(books, "SELECT * FROM books ORDER BY id")

    # A child that is killed comes back, and nothing is lost.
    for name in ("worker 1", "reader"):
        os.kill(pid_of(installation, name), signal.SIGKILL)
        execute(books, "UPDATE books SET title = CONCAT(title, '!')")
        installation.wait_for_output(rf"{name.split()[0]}[ 12]* is back after \d+\.\d s")
        assert installation.run(*wait).returncode == 0
        assert mirrored(services, sink_schema) == execute(books, "SELECT * FROM books ORDER BY id")

    shown = installation.run(*example_of("status"))
    assert shown.returncode == 0, shown.stdout
    status = json.loads(shown.stdout)
    assert status["healthy"] is True
    assert status["problems"] == []
    assert status["lag"] == 0
    assert status["reader"]["lag_s"] >= 0
    assert [line["table"] for line in status["tables"]] == [f"{database}.books"]
    assert [line["partition"] for line in status["partitions"]] == [0, 1, 2]
    assert [job["status"] for job in status["jobs"]] == ["done"]
    assert status["consumer_group"].endswith(status["sink_id"])
    assert f"{database}.books" in installation.run("status").stdout

    asked = installation.run("snapshot", f"{database}.bo*", "--wait", "--id", "mine")
    assert asked.returncode == 0, asked.stderr
    assert re.search(
        r"books: 3 rows read, 0 dropped .*, 3 published, 3 written to books; 1 shards, .*; from .* \(job mine\)",
        asked.stdout,
    )
    assert mirrored(services, sink_schema) == execute(books, "SELECT * FROM books ORDER BY id")

    checked = installation.run(*example_of("check"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "0 differences in 3 rows" in checked.stdout

    up.send_signal(signal.SIGINT)
    assert up.wait(10) == 0
    assert installation.output.rstrip().endswith("| ended")


def test_start_over_asks_and_goes_on_from_the_sources_present_end(
    installation: Installation, books: Connection, services: ServiceAddresses, sink_schema: str
) -> None:
    up = installation.start("up", "--workers", "1")
    assert installation.run("wait", "--timeout", "60").returncode == 0
    unasked = installation.run("snapshot", "--all", "--start-over")
    assert unasked.returncode == 1
    assert "Start over?" in unasked.stdout

    nightly = ("snapshot", "--all", "--start-over", "--yes", "--wait", "--id", "nightly")
    done = installation.run(*nightly)
    assert done.returncode == 0, done.stderr
    again = installation.run(*nightly)
    assert again.returncode == 2, "the sink would wait for a job that has run already"
    assert "take another --id" in again.stderr
    execute(books, "INSERT INTO books (id, title) VALUES (9, 'after')")
    assert installation.run("wait", "--timeout", "60").returncode == 0
    assert mirrored(services, sink_schema) == execute(books, "SELECT * FROM books ORDER BY id")
    up.terminate()
    assert up.wait(10) == 0


def test_fault_a_table_that_stands_still_is_red_and_its_command_mends_it(
    installation: Installation, books: Connection, services: ServiceAddresses, database: str, sink_schema: str
) -> None:
    installation.start(*example_of("reader"))
    installation.start(*example_of("worker"))
    assert installation.run("wait", "--timeout", "60").returncode == 0
    execute(books, "ALTER TABLE books DROP COLUMN about")
    execute(books, "INSERT INTO books (id, title) VALUES (9, 'after')")

    waited = installation.run("wait", "--timeout", "60")
    assert waited.returncode == 1
    assert f"{database}.books stands still" in waited.stderr
    shown = installation.run("status")
    assert shown.returncode == 1
    command = re.search(rf"rowflow (snapshot {database}\.books(?: --\S+)*)", waited.stderr)
    assert command is not None, waited.stderr
    assert installation.run(*command[1].split()).returncode == 0

    def mended() -> bool:
        return installation.run("status").returncode == 0

    wait_until(mended, 60, "the table to be followed again")
    assert installation.run("wait", "--timeout", "60").returncode == 0
    with connected(services.sink_root_url, sink_schema) as sink:
        assert execute(sink, "SELECT id, title FROM books ORDER BY id") == execute(
            books, "SELECT id, title FROM books ORDER BY id"
        )


def test_up_ends_with_its_childs_refusal_as_its_last_message(
    installation: Installation, books: Connection, database: str, source_root: Connection
) -> None:
    execute(source_root, "CREATE TABLE keyless (a INT)")
    installation.variables["ROWFLOW_KAFKA__PARTITIONS"] = "1"
    up = installation.start("up", "--workers", "2")
    assert up.wait(60) == 3
    assert "warning: 2 workers for 1 partitions" in installation.output
    last = installation.output[installation.output.rindex("\nrowflow: ") :]
    assert f"{database}.keyless" in last
    statement = re.search(r"ALTER TABLE \S+ ADD PRIMARY KEY \(", last)
    assert statement is not None, last
    execute(source_root, f"{statement[0]}a)")
    installation.start("up", "--workers", "1")
    assert installation.run("wait", "--timeout", "60").returncode == 0


def test_a_pattern_that_matches_nothing_is_told_with_near_names_and_waited_for(
    installation: Installation, books: Connection, database: str, services: ServiceAddresses, sink_schema: str
) -> None:
    installation.variables["ROWFLOW_SOURCE__TABLES"] = f"{database}.books,{database}.boks"
    installation.start("up", "--workers", "1")
    installation.wait_for_output(rf"{database}\.boks.*{database}\.books")
    execute(books, "CREATE TABLE boks (id INT PRIMARY KEY)")
    execute(books, "INSERT INTO boks VALUES (1), (2)")
    installation.wait_for_output(rf" is done: {database}\.boks,")
    assert installation.run(*example_of("snapshot")).returncode == 0
    assert mirrored(services, sink_schema, "boks") == [(1,), (2,)]


def test_read_needs_only_mysql(
    installation: Installation, books: Connection, services: ServiceAddresses, database: str
) -> None:
    installation.variables = {"ROWFLOW_SOURCE__URL": services.source_url, "ROWFLOW_SOURCE__TABLES": f"{database}.*"}
    (installation.directory / "rowflow.toml").unlink()
    (file, pos, *_), *_ = execute(books, "SHOW BINARY LOG STATUS")
    execute(books, "UPDATE books SET price = 3.14 WHERE id = 2")
    reading = installation.start("read", "--to", "stdout", "--from", f"{file}:{pos}")
    event = json.loads(installation.wait_for_output(r"(?m)^\{.*\}$")[0])
    assert (event["op"], event["before"]["price"], event["after"]["price"]) == ("u", None, "3.14")
    reading.send_signal(signal.SIGINT)
    assert reading.wait(10) == 0
