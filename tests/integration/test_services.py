"""What `make services` promises: servers with the bookshop in them, the files that lead to them, and nothing left."""

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from servers.mysql import MysqlServer
from servers.services import ROOT_VARIABLES, SERVER_VARIABLES, Services
from tests.documents import (
    ARCHITECTURE,
    DOCUMENTS,
    END_S,
    LINE_S,
    README,
    ROOT,
    blocks,
    example_of,
    paste,
    rowflow_lines,
    running,
    section,
    table_rows,
)
from tests.helpers import ServiceAddresses, connected, execute, wait_until
from tests.terminal import CTRL_C, on_terminal

_VARIABLES = {*SERVER_VARIABLES, *ROOT_VARIABLES}
_SINK_PRIVILEGES = "SELECT, INSERT, UPDATE, DELETE, CREATE, DROP, INDEX, ALTER, CREATE TEMPORARY TABLES"
"""In the order in which MySQL prints them."""
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
        cwd=ROOT,
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
    assert sink_grants == {
        "GRANT USAGE ON *.* TO `rowflow_sink`@`%`",
        f"GRANT {_SINK_PRIVILEGES} ON `results`.* TO `rowflow_sink`@`%`",
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
    """Those that the demo's lines don't call; see test_demo.py."""

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
    titles = tool("mysql", "-N", "-e", "SELECT title FROM shop.books ORDER BY id").splitlines()
    assert titles == ["人间失格", "Designing Data-Intensive Applications", "Der Steppenwolf"]


@pytest.mark.timeout(300)
def test_the_ten_minutes_can_be_typed(up: ServicesSet, tmp_path: Path) -> None:
    """The README's lines, those that the start prints, and those of other documents; this set is what `make services` makes."""
    text = section(README, "Ten minutes").replace(".local/", f"{up.directory}/")
    start, supervise, others, read, stop = blocks(text, "sh")
    assert (start.strip(), stop.strip()) == ("make services", "make services-down")
    printed_up, printed_change = (line.strip() for line in up.printed.splitlines()[-2:])
    assert supervise.strip() == printed_up
    change, wait, look, *asking = others.strip().splitlines()
    with (
        on_terminal(
            shlex.split(supervise), tmp_path / "up", directory=ROOT, environment=_OWN_ENVIRONMENT
        ) as supervisor,
        connected(up.environment["SOURCE_ROOT_URL"]) as root,
    ):
        execute(root, "CREATE TABLE shop.orders (id INT PRIMARY KEY)")
        by_example = f"{ROOT}/.venv/bin/{shlex.join(['rowflow', *example_of('read')])}"
        prints = [tmp_path / "read", tmp_path / "read by example"]
        with running(read, ROOT, prints[0]), running(by_example, up.directory, prints[1]):
            wait_until(lambda: _dumps(root) == 3, LINE_S, "the reader and both `read` at the binlog")
            wait_until(lambda: paste(wait, ROOT) == "", LINE_S, "the first read")
            stock_before = _stocks(paste(look, ROOT))
            assert len(stock_before) == 3
            paste(change, ROOT)
            paste(wait, ROOT)
            assert _stocks(paste(look, ROOT)) == [stock + 10 for stock in stock_before]
            status, check = (paste(line, ROOT) for line in asking)
            assert "consumer group rowflow-bookshop-" in status
            assert "0 differences in 3 rows" in check
            assert _stocks(paste(printed_change, ROOT)) == [stock + 20 for stock in stock_before]
            expected = [("u", 10)] * 6
            wait_until(
                lambda: all(len(_changes(file)) == len(expected) for file in prints), LINE_S, "the changes' events"
            )
        assert [_changes(file) for file in prints] == [expected, expected]
        wait_until(lambda: _STATUS_LINE.search(supervisor.shown), LINE_S, "where everything stands, on the terminal")
        _run_documented_lines(up.directory)
        _run_documented_client(up.directory)
        with on_terminal(
            [f"{ROOT}/.venv/bin/rowflow", "status", "--watch"],
            tmp_path / "status", directory=up.directory, environment=_OWN_ENVIRONMENT,
        ) as watching:  # fmt: skip
            wait_until(lambda: watching.shown.count("consumer group") > 1, LINE_S, "a second look")
            watching.press(CTRL_C)
            assert watching.wait(END_S) == 0, watching.shown
        with connected(up.environment["SINK_ROOT_URL"], "results") as sink:
            tables = {name for (name,) in execute(sink, "SHOW TABLES LIKE '\\_rowflow\\_%'")}
        supervisor.press(CTRL_C)
        assert supervisor.wait(END_S) == 0, supervisor.shown
    documented = {cells[0].strip("`") for cells in table_rows(section(ARCHITECTURE, "The sink"))} - {"table"}
    assert documented == tables
    assert "going on from the last committed position" not in supervisor.shown, "`read` has disturbed the reader"


_STATUS_LINE = re.compile(
    r"^up +\| reader at binlog\.\d+:\d+, lag [\d.]+ s; sink [\d,]+ rows/s, \d+ behind$", re.MULTILINE
)


def _stocks(printed: str) -> list[int]:
    """The last column of what the MySQL client printed."""
    return [int(line.split()[-1]) for line in printed.splitlines()[1:]]


def _changes(printed: Path) -> list[tuple[str, int]]:
    """What happened to the stock, by the change events that `read` has printed, of whole lines."""
    lines = printed.read_text(encoding="utf-8").split("\n")[:-1]
    events = [json.loads(line) for line in lines if line.startswith("{")]
    return [(event["op"], event["after"]["stock"] - event["before"]["stock"]) for event in events]


def _dumps(root: Connection) -> int:
    """How many clients are sent the binlog."""
    threads = "performance_schema.threads WHERE processlist_command LIKE 'Binlog Dump%%'"
    count: int = execute(root, f"SELECT COUNT(*) FROM {threads}", ())[0][0]
    return count


_IN_ONE_PROCESS = """
import json, sys
from rowflow.main import main

for line in json.load(sys.stdin):
    code = main(line)
    print("rowflow", *line, "ended with", code, flush=True)
"""


def _run_documented_lines(directory: Path) -> None:
    """All command lines of the documents that end by themselves, beside `up`: in one process, for a start takes longer."""
    lines = {tuple(line): None for document in DOCUMENTS for line in rowflow_lines(document) if len(line) > 1}
    typed = [
        [*line, "--yes"] if "--start-over" in line else [*line]
        for line in lines
        if not {"TABLE", "--config", "--watch"}.intersection(line) and line[0] != "read"
    ]
    assert len(typed) > 6
    typed += [["wait", "--timeout", "60"], ["check"]]
    done = subprocess.run(
        [sys.executable, "-c", _IN_ONE_PROCESS],
        cwd=directory, env=_OWN_ENVIRONMENT, input=json.dumps(typed), capture_output=True, text=True, timeout=LINE_S,
        check=True,
    )  # fmt: skip
    for line in typed:
        assert f"rowflow {' '.join(line)} ended with 0" in done.stdout, done.stdout + done.stderr
    assert "0 differences in 3 rows" in done.stdout.splitlines()[-2]


def _run_documented_client(directory: Path) -> None:
    """The README's Python, that asks for all books."""
    _, program = blocks(README.read_text(encoding="utf-8"), "python")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory, env=_OWN_ENVIRONMENT, capture_output=True, text=True, timeout=LINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rows_read=3, rows_dropped=0, rows_published=3, rows_written=3" in done.stdout
    assert done.stdout.splitlines()[-1] == "the results are in books"


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
    assert "set SOURCE_ROOT_URL and SINK_ROOT_URL too" in ready.stdout
    settings = tomllib.loads((tmp_path / "set" / "rowflow.toml").read_text())
    assert settings["sink"]["url"] == up.environment["ROWFLOW_SINK__URL"]
    assert not (tmp_path / "set" / "mysql").exists()


def test_given_servers_get_the_bookshop_where_their_administrators_are_given(
    tmp_path: Path, own_mysql: Callable[..., MysqlServer], up: ServicesSet
) -> None:
    server = own_mysql()
    address = f"127.0.0.1:{server.port}"
    given = {
        "ROWFLOW_SOURCE__URL": f"mysql://reads:it%27s@{address}",
        "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS": up.environment["ROWFLOW_KAFKA__BOOTSTRAP_SERVERS"],
        "ROWFLOW_SINK__URL": f"mysql://writes:secret@{address}/copies",
        "SOURCE_ROOT_URL": server.root_url,
        "SINK_ROOT_URL": server.root_url,
    }
    ready = _servers(tmp_path / "set", "up", environment={**_OWN_ENVIRONMENT, **given})
    assert ready.returncode == 0, ready.stderr
    lines = (tmp_path / "set" / "services.env").read_text().splitlines()
    assert dict(line.split("=", maxsplit=1) for line in lines) == given
    with connected(given["ROWFLOW_SOURCE__URL"]) as source, connected(given["ROWFLOW_SINK__URL"]) as sink:
        assert execute(source, "SELECT COUNT(*) FROM shop.books") == [(3,)]
        grants = [grant for (grant,) in execute(sink, "SHOW GRANTS")]
    assert grants == ["GRANT USAGE ON *.* TO `writes`@`%`", f"GRANT {_SINK_PRIVILEGES} ON `copies`.* TO `writes`@`%`"]
    refused = _servers(
        tmp_path / "set", "up", environment={**_OWN_ENVIRONMENT, **given, "SINK_ROOT_URL": given["ROWFLOW_SINK__URL"]}
    )
    assert refused.returncode == 1
    assert "SINK_ROOT_URL have to be users who may make databases and users" in refused.stderr


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
    with subprocess.Popen(command, cwd=ROOT, env=_OWN_ENVIRONMENT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline().startswith("Starting")
        assert "ready after" in run.stdout.readline()
        assert run.stdout.readline() == "3\n"  # the fourth book is gone
        assert None not in _pids(up.directory)
        run.send_signal(signal.SIGTERM)
        assert run.wait(30) == 128 + signal.SIGTERM

    assert _pids(up.directory) == (None, None)
