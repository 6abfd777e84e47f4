"""The documentation is true: commands and options in it exist, settings are complete, what is to be copied works.

The README's ten minutes are typed in integration/test_services.py.
"""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
import pytest
from pydantic import BaseModel

from bench.stand import MYSQL_OPTIONS
from rowflow.main import COMMANDS, cli
from rowflow.setting_errors import section_of
from rowflow.settings import Settings, load_settings
from rowflow.template import TEMPLATE
from servers.mysql import MysqlServer
from sink.computed import load
from sink.dead_letters import SHOW_OPEN
from tests.documents import (
    ARCHITECTURE,
    DOCUMENTS,
    LINE_S,
    OPERATIONS,
    README,
    ROOT,
    blocks,
    code_of,
    paste,
    rowflow_lines,
    running,
    section,
    table_rows,
    text_of,
)
from tests.helpers import ServiceAddresses, connected, execute, wait_until
from tests.test_layout import ARROWS, ROOMS


def options_of(command: str) -> set[str]:
    """The options that a command takes."""
    made = cli.get_command(click.Context(cli), command)
    assert made is not None
    options = [parameter for parameter in made.params if isinstance(parameter, click.Option)]
    return {name for option in options for name in option.opts} | {"--help", "-h"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_options_exist(document: Path) -> None:
    for command, *rest in rowflow_lines(document):
        if command.startswith("-"):
            assert command == "--version"
            continue
        assert command in COMMANDS, f"{document.name}: rowflow {command}"
        options = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert options <= options_of(command), f"{document.name}: rowflow {command} {' '.join(rest)}"
    for option in re.findall(r"`(--[a-z-]+)`", text_of(document)):
        assert any(option in options_of(command) for command in COMMANDS), f"{document.name}: {option}"


def test_every_command_is_documented() -> None:
    shown = {command for command, *_ in rowflow_lines(README)}
    assert set(COMMANDS) <= shown


def test_every_option_of_a_commands_own_is_documented() -> None:
    """Flags of settings are in the table of settings; --config, --verbose and --help are everywhere."""
    documented = {word for document in DOCUMENTS for words in rowflow_lines(document) for word in words}
    documented |= {option for document in DOCUMENTS for option in re.findall(r"`(--?[a-z-]+)`", text_of(document))}
    flags = {f"--{name}".replace("_", "-").replace(".", "-") for name in setting_names()} | {"--tables", "--workers"}
    missing = {
        f"{command} {option}"
        for command in COMMANDS
        for option in options_of(command) - flags - {"--config", "--verbose", "-v", "--help", "-h"}
        if option not in documented
    }
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for line in code_of(document):
        found = re.match(r"(?:\w+=\S+ )*make ([a-z-]+)", line)
        if found is not None:
            assert found[1] in targets, line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_modules_to_run_exist_and_so_does_their_python(document: Path) -> None:
    """Debian has no `python` in the PATH, and its python3 has none of our packages."""
    for line in code_of(document):
        if re.search(r"\bpython3? -m ", line):
            found = re.match(r"\.venv/bin/python -m ([\w.]+)", line)
            assert found is not None, line
            assert find_spec(found[1]), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_inside_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(document)):
        if urlsplit(target).scheme:
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", text_of(file), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in anchors, f"{document.name}: {target}"


def test_paths_in_code_exist() -> None:
    for document in DOCUMENTS:
        for path in re.findall(r"`((?:docs|examples|tests|[a-z_]+)/[\w./-]*)`", text_of(document)):
            assert (ROOT / path).exists(), f"{document.name}: {path}"


def setting_names() -> dict[str, Any]:
    """Every setting, `section.name`, with its default; None where there is none."""
    found: dict[str, Any] = {}
    for section_name, field in Settings.model_fields.items():
        model = section_of(field.annotation)
        assert model is not None
        assert issubclass(model, BaseModel)
        for name, setting in model.model_fields.items():
            found[f"{section_name}.{name}"] = None if setting.is_required() else setting.default
    return found


def test_the_table_of_settings_is_complete_and_right() -> None:
    documented: dict[str, str] = {}
    for cells in table_rows(section(OPERATIONS, "Settings")):
        for section_name, name in re.findall(r"`\[(\w+)[.\]] ?(\w+)\]?`", cells[0]):
            documented[f"{section_name}.{name}"] = cells[2].strip("`")
    settings = setting_names()
    assert set(settings) - set(documented) == {"source.password", "sink.password"}
    assert set(documented) <= set(settings)
    for name, default in settings.items():
        if name in documented and default not in (None, {}):
            assert documented[name] == str(default), name


def test_the_settings_to_copy_are_those_that_a_command_prints(tmp_path: Path) -> None:
    (block,) = blocks(text_of(README), "toml")
    assert tomllib.loads(re.sub(r"rowflow_\w+@", "rowflow@", block)) == tomllib.loads(TEMPLATE)
    (tmp_path / "rowflow.toml").write_text(block, encoding="utf-8")
    assert load_settings(tmp_path / "rowflow.toml").stream.workers == 2


def test_the_function_to_copy_computes(tmp_path: Path) -> None:
    block, _ = blocks(text_of(README), "python")
    (tmp_path / "functions.py").write_text(block, encoding="utf-8")
    ((function,),) = load(tmp_path / "functions.py").by_table.values()
    assert function.column.name == "title_length"
    assert function.parameter({"title": "人间失格"}) == 4


def test_the_statement_for_dead_letters_is_the_printed_one() -> None:
    (block,) = blocks(section(OPERATIONS, "When something is wrong"), "sql")
    assert " ".join(block.split()) == f"{SHOW_OPEN};"


def test_the_rooms_are_those_that_there_are() -> None:
    documented = {}
    for cells in table_rows(section(ARCHITECTURE, "Rooms")):
        room = cells[0].strip("`/")
        documented[room] = {name for name in re.findall(r"`(\w+)`", cells[2]) if name in ARROWS}
    assert documented.pop("tests") == set()
    documented.pop("room", None)
    assert {room: documented[room] for room in ROOMS if room != "rowflow"} == {
        room: ARROWS[room] for room in ROOMS if room != "rowflow"
    }
    assert set(documented) == set(ARROWS)


def test_the_changelog_names_the_version() -> None:
    version = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"]
    assert f"## [{version}]" in text_of(ROOT / "CHANGELOG.md")


def test_the_figures_say_how_durable_their_servers_were() -> None:
    for name in ("sync_binlog", "innodb_flush_log_at_trx_commit"):
        assert f"`{name} = {MYSQL_OPTIONS[name]}`" in section(README, "Figures")


# ---- what the README tells to type ----


MEASURED = {
    "bench.ours": (r"(binlog to topic|topic to sink), (bulk|oltp) +│ +1,000 │ +[\d.]+ │ +[1-9][\d,]* │", 4),
    "bench.reread": (
        r"(Debezium|Rowflow), into (Kafka|results) +│ +([1-9]?)[\d,]* │ +[1-9],\d+ │ +[\d.]+ │ +[1-9][\d,]* │",
        6,
    ),
}
"""What each prints of its figures, and how many of them."""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", MEASURED)
def test_the_lines_that_repeat_the_figures_run(module: str, tmp_path: Path) -> None:
    """With few rows: all of it is there, in a minute or two.  Files go into .local of where one stands."""
    (line,) = re.findall(rf"`(\S+/python -m {module}[^`]*)`", section(README, "Figures"))
    line = re.sub(r"( --rows \d+)?$", " --rows 1000", line, count=1).replace(
        ".venv/bin/", f"{Path(sys.executable).parent}/"
    )
    printed = paste(line, tmp_path, COLUMNS="140")
    pattern, figures = MEASURED[module]
    assert len(set(re.findall(pattern, printed))) == figures, printed


@pytest.mark.timeout(240)
def test_own_tables_can_be_followed_with_what_is_to_be_copied(
    own_mysql: Callable[..., MysqlServer], services: ServiceAddresses, prefix: str, tmp_path: Path
) -> None:
    """my.cnf, users, settings and the start, as they stand there; only ports and the prefix are this test's own."""
    text = section(README, "Your own tables")
    (options,) = (block.removeprefix("[mysqld]\n") for block in blocks(text, "ini"))
    server = own_mysql(**dict(re.findall(r"^(\w+) = (\w+)$", options, re.MULTILINE)))
    with connected(server.root_url) as root:
        execute(root, "CREATE DATABASE shop")
        execute(root, "CREATE TABLE shop.orders (id INT PRIMARY KEY, note VARCHAR(20))")
        execute(root, "CREATE TABLE shop.log_orders (note VARCHAR(20))")
        execute(root, "INSERT INTO shop.orders VALUES (1, 'there before')")
        (statements,) = blocks(text, "sql")
        for statement in filter(None, map(str.strip, statements.split(";"))):
            execute(root, statement)
        (settings,) = blocks(text, "toml")
        settings = settings.replace("3306", str(server.port)).replace("127.0.0.1:9092", services.bootstrap_servers)
        (tmp_path / "rowflow.toml").write_text(settings.replace('"bookshop"', f'"{prefix}"'), encoding="utf-8")
        (start,) = blocks(text, "sh")
        *exports, up = start.strip().splitlines()
        passwords = dict(shlex.split(line.removeprefix("export "))[0].split("=", 1) for line in exports)
        up = up.replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        with running(up, tmp_path, tmp_path / "up.log", **passwords):
            execute(root, "INSERT INTO shop.orders VALUES (2, 'came later')")
            wait_until(lambda: "_rowflow_sink" in tables_of(root), LINE_S, "the workers' tables")
            paste(up.replace(" up", f" wait --timeout {LINE_S - 10:.0f}"), tmp_path, **passwords)
            assert execute(root, "SELECT * FROM results.orders ORDER BY id") == [(1, "there before"), (2, "came later")]
            assert "log_orders" not in tables_of(root)


def tables_of(root: Any) -> set[str]:
    """The tables of the results."""
    return {name for (name,) in execute(root, "SHOW TABLES FROM results")}
