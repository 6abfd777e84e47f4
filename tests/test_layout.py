"""The house's rules that no linter knows: which room imports which, where foreign libraries are, what is in no file."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from MySQLdb.connections import Connection

from tests.helpers import ServiceAddresses, execute

ROOT = Path(__file__).resolve().parents[1]

ARROWS: dict[str, set[str]] = {
    "schemas": set(),
    "cdc_reader": {"schemas"},
    "sink": {"schemas"},
    "stream_app": {"schemas", "sink"},
    "check": {"schemas", "cdc_reader", "sink"},
    "rowflow": {"schemas", "cdc_reader", "sink", "stream_app", "check"},
    "servers": set(),
    "examples": {"rowflow", "servers"},
    "bench": {"servers", "examples"},
}
"""Which rooms each may import; all of them may import themselves."""

CLIENTS = ("pymysqlreplication", "pymysql", "MySQLdb", "confluent_kafka", "aiokafka", "faust")
"""The foreign client libraries, each imported by one module of a room at most."""

ROOMS = ("schemas", "cdc_reader", "sink", "stream_app", "check", "rowflow")
"""The product's rooms: tools and examples aside."""

TOOLS = ("servers", "examples")


@cache
def modules(room: str) -> tuple[Path, ...]:
    """The Python files of a room."""
    return tuple(sorted((ROOT / room).rglob("*.py")))


@cache
def imports(file: Path) -> tuple[str, ...]:
    """The dotted names that a file imports, wherever it does; of `from a import b` it is a.b."""
    found: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), str(file))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def tracked_files() -> Iterator[Path]:
    """The files that are, or will be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        file = ROOT / name
        if file.is_file():
            yield file


def test_the_client_is_one_file_that_imports_no_room() -> None:
    names = imports(ROOT / "rowflow" / "client.py")
    assert not [name for name in names if name.partition(".")[0] in ARROWS]


def test_every_room_is_known() -> None:
    present = {file.parent.name for file in ROOT.glob("*/__init__.py")} | {"examples"}
    assert present == set(ARROWS)


@pytest.mark.parametrize("room", ARROWS)
def test_rooms_import_only_what_the_arrows_allow(room: str) -> None:
    allowed = {room, *ARROWS[room]}
    files = modules(room)
    assert files
    foreign = [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in files
        for name in imports(file)
        if name.partition(".")[0] in {*ARROWS, "tests"} - allowed
    ]
    assert not foreign


def test_examples_import_nothing_of_rowflow_but_the_mark() -> None:
    names = {name for file in modules("examples") for name in imports(file) if name.startswith("rowflow")}
    assert names == {"rowflow.computed"}


@pytest.mark.parametrize("room", [*ROOMS, *TOOLS])
def test_each_client_library_is_imported_by_one_module_of_a_room(room: str) -> None:
    for library in CLIENTS:
        users = [
            str(file.relative_to(ROOT))
            for file in modules(room)
            if file.name != "client.py" and any(name.partition(".")[0] == library for name in imports(file))
        ]
        assert len(users) <= 1, f"{library} is imported by {users}"


def test_of_the_binlog_library_only_the_connection_is_imported() -> None:
    names = {
        name for room in ARROWS for file in modules(room) for name in imports(file) if "pymysqlreplication" in name
    }
    assert names == {"pymysqlreplication.BinLogStreamReader"}


def test_importing_rowflow_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import rowflow; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = {name.partition(".")[0] for name in loaded.split()}
    assert packages - set(sys.stdlib_module_names) == {"rowflow"}


@pytest.mark.parametrize("room", ARROWS)
def test_every_module_says_what_it_is(room: str) -> None:
    for file in modules(room):
        docstring = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        assert docstring, f"{file.relative_to(ROOT)} has no docstring"


def test_no_file_names_a_path_of_a_machine_or_a_registrys_host() -> None:
    # Put together here, so that this file doesn't hold them.
    paths = "|".join(f"/{name}/" for name in ("work", "root", "home", "Users"))
    names = (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("maven", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("debian", "org"),
    )
    hosts = "|".join(re.escape(".".join(parts)) for parts in names)
    forbidden = re.compile(rf"(?<![\w.~}}-])(?:{paths})|{hosts}|repo\.maven\.apache")
    found = []
    for file in tracked_files():
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if file == Path(__file__):
            continue
        found += [
            f"{file.relative_to(ROOT)}:{text[: at.start()].count(chr(10)) + 1}: {at[0]}"
            for at in forbidden.finditer(text)
        ]
    assert not found


_WITHOUT_THE_LIBRARYS_DECODING = """
import sys
from pymysqlreplication import BinLogStreamReader, packet, event, row_event, table

def never(*arguments, **named):
    raise AssertionError("the library decodes")

for decoder in (packet.BinLogPacketWrapper, event.BinLogEvent, row_event.RowsEvent, row_event.TableMapEvent, table.Table):
    decoder.__init__ = never
BinLogStreamReader.fetchone = never

from rowflow.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_rows_are_read_where_the_library_can_decode_nothing(
    services: ServiceAddresses, database: str, source_root: Connection, tmp_path: Path
) -> None:
    execute(source_root, f"CREATE TABLE {database}.books (id INT PRIMARY KEY, tags JSON, price DECIMAL(10,2))")
    place = "{}:{}".format(*execute(source_root, "SHOW BINARY LOG STATUS")[0][:2])
    execute(source_root, f"INSERT INTO {database}.books VALUES (1, '[1, null]', 46.80)")
    command = [sys.executable, "-c", _WITHOUT_THE_LIBRARYS_DECODING, "read", "--to", "stdout", "--from", place]
    settings = {"ROWFLOW_SOURCE__URL": services.source_url, "ROWFLOW_SOURCE__TABLES": f"{database}.*"}
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROWFLOW_")}
    environment = {**others, **settings, "PYTHONPATH": str(ROOT)}
    with (
        (tmp_path / "stderr").open("wb") as log,
        subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert line, (tmp_path / "stderr").read_text()
    assert json.loads(line)["after"] == {"id": 1, "tags": "[1, null]", "price": "46.80"}


def test_rule_w12_rows_go_into_the_sink_by_insert_only() -> None:
    """LOAD DATA LOCAL makes warnings of errors: a value would be changed where an INSERT refuses it."""
    for file in sorted((ROOT / "sink").glob("*.py")):
        code = ast.unparse(ast.parse(file.read_text(encoding="utf-8")))
        assert not re.search(r"LOAD\s+DATA\s+LOCAL", code, re.IGNORECASE), f"{file.name} loads files"
