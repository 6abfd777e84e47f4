"""What `make services` promises: servers with the bookshop in them, the files that lead to them, and nothing left."""

import json
import os
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from servers.services import SERVER_VARIABLES, Services
from tests.helpers import ServiceAddresses, connected, execute

_ROOT = Path(__file__).parents[2]
_VARIABLES = {*SERVER_VARIABLES, "SOURCE_ROOT_URL", "SINK_ROOT_URL"}
_OWN_ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in _VARIABLES}


@dataclass(frozen=True, slots=True)
class ServicesSet:
    """A set started from the command line: its directory, what the start printed, its services.env."""

    directory: Path
    printed: str
    environment: dict[str, str]


def _servers(
    directory: Path, *words: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "servers", "--dir", directory, *words],
        cwd=_ROOT,
        env=_OWN_ENVIRONMENT if environment is None else environment,
        capture_output=True,
        text=True,
        check=False,
    )


def _pids(directory: Path) -> tuple[int | None, int | None]:
    services = Services(directory)
    return services.mysql.pid, services.kafka.pid


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServicesSet]:
    """A set of its own for this module."""
    directory = tmp_path_factory.mktemp("services")
    try:
        started = _servers(directory, "up")
        assert started.returncode == 0, started.stderr
        lines = (directory / "services.env").read_text().splitlines()
        environment = dict(line.split("=", maxsplit=1) for line in lines)
        yield ServicesSet(directory, started.stdout, environment)
    finally:
        Services(directory).stop()


def test_starting_again_finds_the_running_servers(up: ServicesSet) -> None:
    pids = _pids(up.directory)

    again = _servers(up.directory, "up")

    assert again.returncode == 0, again.stderr
    assert None not in pids
    assert _pids(up.directory) == pids
    assert [line for line in again.stdout.splitlines() if "ready after" not in line] == [
        line for line in up.printed.splitlines() if "ready after" not in line
    ]


def test_two_sets_run_side_by_side(up: ServicesSet, services: ServiceAddresses) -> None:
    with connected(up.environment["SOURCE_ROOT_URL"]) as one, connected(services.source_root_url) as other:
        uuids = {execute(connection, "SELECT @@server_uuid")[0] for connection in (one, other)}
    assert len(uuids) == 2
    assert up.environment["ROWFLOW_KAFKA__BOOTSTRAP_SERVERS"] != services.bootstrap_servers


def test_the_source_has_the_three_books_and_the_settings(up: ServicesSet) -> None:
    with connected(up.environment["SOURCE_ROOT_URL"]) as root:
        assert execute(root, "SELECT COUNT(*), COUNT(DISTINCT isbn) FROM shop.books") == [(3, 3)]
        settings = (
            "@@binlog_format, @@binlog_row_image, @@binlog_row_metadata, @@gtid_mode, @@local_infile, @@sync_binlog"
        )
        assert execute(root, f"SELECT {settings}") == [("ROW", "FULL", "FULL", "ON", 1, 1)]
        assert execute(root, "SELECT @@performance_schema, @@bind_address") == [(1, "127.0.0.1")]


def test_the_users_have_their_grants_and_no_others(up: ServicesSet) -> None:
    with connected(up.environment["ROWFLOW_SOURCE__URL"]) as source:
        source_grants = {grant for (grant,) in execute(source, "SHOW GRANTS")}
    with connected(up.environment["ROWFLOW_SINK__URL"]) as sink:
        sink_grants = {grant for (grant,) in execute(sink, "SHOW GRANTS")}
        assert execute(sink, "SELECT DATABASE()") == [("results",)]

    assert source_grants == {"GRANT SELECT, REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO `rowflow_source`@`%`"}
    sink_privileges = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, ALTER, CREATE TEMPORARY TABLES"
    assert sink_grants == {
        "GRANT USAGE ON *.* TO `rowflow_sink`@`%`",
        f"GRANT {sink_privileges} ON `results`.* TO `rowflow_sink`@`%`",
        f"GRANT {sink_privileges} ON `results\\_%`.* TO `rowflow_sink`@`%`",
    }


def test_files_with_passwords_are_for_their_owner_only(up: ServicesSet) -> None:
    password = up.environment["SOURCE_ROOT_URL"].partition("root:")[2].partition("@")[0]
    assert len(password) == 32
    kept = [path for path in up.directory.rglob("*") if path.is_file() and password.encode() in path.read_bytes()]

    assert {path.name for path in kept} >= {"services.env", "root-password"}
    for path in (*kept, up.directory / "rowflow.toml"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_the_settings_name_the_same_servers(up: ServicesSet) -> None:
    settings = tomllib.loads((up.directory / "rowflow.toml").read_text())

    assert settings["source"]["url"] == up.environment["ROWFLOW_SOURCE__URL"]
    assert settings["kafka"]["bootstrap_servers"] == up.environment["ROWFLOW_KAFKA__BOOTSTRAP_SERVERS"]
    assert settings["sink"]["url"] == up.environment["ROWFLOW_SINK__URL"]
    assert up.printed.splitlines()[-2].strip() == f".venv/bin/rowflow up --config {up.directory / 'rowflow.toml'}"


def test_the_tools_run(up: ServicesSet) -> None:
    def tool(name: str, *words: str) -> str:
        return subprocess.run([up.directory / "bin" / name, *words], capture_output=True, text=True, check=True).stdout

    broker = ("--bootstrap-server", up.environment["ROWFLOW_KAFKA__BOOTSTRAP_SERVERS"])
    tool("kafka-topics", *broker, "--create", "--topic", "books", "--partitions", "2")
    subprocess.run(
        ["kcat", "-q", "-P", "-b", broker[1], "-t", "books", "-p", "1"],
        input="Der Steppenwolf\n",
        text=True,
        check=True,
    )

    assert tool("kafka-get-offsets", *broker, "--topic", "books").split() == ["books:0:0", "books:1:1"]
    consumer = ("--topic", "books", "--from-beginning", "--max-messages", "1", "--group", "readers")
    read = tool("kafka-console-consumer", *broker, *consumer, "--isolation-level", "read_committed")
    assert read == "Der Steppenwolf\n"
    assert "readers" in tool("kafka-consumer-groups", *broker, "--list")
    titles = tool("mysql", "-N", "-e", "SELECT title FROM shop.books ORDER BY id").splitlines()
    assert titles == ["人间失格", "Designing Data-Intensive Applications", "Der Steppenwolf"]


def test_the_two_lines_to_type_next_do_what_they_say(up: ServicesSet) -> None:
    first, second = (line.strip() for line in up.printed.splitlines()[-2:])
    with subprocess.Popen(
        ["sh", "-c", f"exec {first}"], cwd=_ROOT, env=_OWN_ENVIRONMENT, stderr=subprocess.PIPE
    ) as running:
        try:
            done = subprocess.run(
                ["sh", "-c", second], cwd=_ROOT, env=_OWN_ENVIRONMENT, capture_output=True, text=True, check=False
            )
        finally:
            running.send_signal(signal.SIGINT)
            _, messages = running.communicate(timeout=10)
    assert done.returncode == 0, done.stderr + messages.decode()
    with connected(up.environment["SOURCE_ROOT_URL"]) as root:
        books = execute(root, "SELECT id, title, stock FROM shop.books ORDER BY id")
    for book in books:
        assert all(str(value) in done.stdout for value in book), done.stdout
    assert running.returncode == 0, messages.decode()


def test_given_servers_are_used_and_none_is_started(tmp_path: Path, up: ServicesSet) -> None:
    environment = {**_OWN_ENVIRONMENT, **{name: up.environment[name] for name in SERVER_VARIABLES}}
    show = (
        "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('ROWFLOW')})); exit(7)"
    )

    ran = _servers(tmp_path / "set", "run", "--", sys.executable, "-c", show, environment=environment)
    ready = _servers(tmp_path / "set", "up", environment=environment)

    assert ran.returncode == 7
    assert json.loads(ran.stdout) == {name: up.environment[name] for name in SERVER_VARIABLES}
    assert ready.returncode == 0, ready.stderr
    settings = tomllib.loads((tmp_path / "set" / "rowflow.toml").read_text())
    assert settings["sink"]["url"] == up.environment["ROWFLOW_SINK__URL"]
    assert not (tmp_path / "set" / "mysql").exists()


def test_after_a_crash_up_brings_the_data_back_and_down_ends_it_all(up: ServicesSet) -> None:
    with connected(up.environment["SOURCE_ROOT_URL"], "shop") as root:
        execute(root, "INSERT INTO books (isbn, title, author, price) VALUES ('9780141439518', 'Emma', 'Austen', 9)")
    crashed = Services(up.directory)
    crashed.mysql.kill()
    crashed.kafka.kill()

    again = _servers(up.directory, "up")

    assert again.returncode == 0, again.stderr
    with connected(up.environment["SOURCE_ROOT_URL"]) as root:
        assert execute(root, "SELECT COUNT(*) FROM shop.books") == [(4,)]
    pids = _pids(up.directory)
    assert _servers(up.directory, "down").returncode == 0
    assert {_state(pid) for pid in pids} <= {"gone", "Z"}
    assert _servers(up.directory, "down").returncode == 0


def _state(pid: int | None) -> str:
    """Return the one-letter state of a process (Z: ended, its parent did not look yet), or "gone"."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "gone"


def test_run_has_an_empty_set_and_leaves_nothing_running_when_it_is_ended(up: ServicesSet) -> None:
    count = f"{up.directory}/bin/mysql -N -e 'SELECT COUNT(*) FROM shop.books'; exec sleep 300"
    command = [sys.executable, "-m", "servers", "--dir", str(up.directory), "run", "--", "sh", "-c", count]
    with subprocess.Popen(command, cwd=_ROOT, env=_OWN_ENVIRONMENT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("Starting")
        assert "ready after" in run.stdout.readline()
        assert run.stdout.readline() == "3\n"  # the fourth book is gone
        assert None not in _pids(up.directory)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 128 + signal.SIGTERM

    assert _pids(up.directory) == (None, None)
