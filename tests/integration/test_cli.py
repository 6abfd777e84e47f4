"""The command line as a process: exit codes, what goes to stdout and to stderr."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from rowflow import __version__
from rowflow.main import COMMANDS, cli
from rowflow.template import TEMPLATE
from tests.documents import example_of
from tests.helpers import ServiceAddresses

CANARY = "canary-8c2e"
NOBODY = "127.0.0.1:1"
"""An address at which nothing listens."""


def rowflow(*arguments: str, directory: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command with no settings but those given."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ROWFLOW")}
    return subprocess.run(
        [sys.executable, "-m", "rowflow.main", *arguments],
        cwd=directory,
        env={**environment, **variables, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def settings_of(services: ServiceAddresses, prefix: str) -> dict[str, str]:
    return {
        "ROWFLOW_SOURCE__URL": services.source_url,
        "ROWFLOW_SOURCE__TABLES": "shop.*",
        "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS": services.bootstrap_servers,
        "ROWFLOW_KAFKA__PREFIX": prefix,
        "ROWFLOW_SINK__URL": services.sink_url,
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_each_commands_help_ends_with_an_example(command: str) -> None:
    """The examples are run as they stand: in test_up.py, `read`'s in test_services.py."""
    shown = CliRunner().invoke(cli, [command, "--help"])
    assert shown.exit_code == 0
    assert re.search(rf"Example:\n  rowflow {command}( .*)?\n\Z", shown.stdout), shown.stdout
    assert shown.stdout.endswith(f"  {shlex.join(['rowflow', *example_of(command)])}\n")


def test_the_version_is_the_packages(tmp_path: Path) -> None:
    assert rowflow("--version", directory=tmp_path).stdout == f"rowflow {__version__}\n"


def test_without_settings_a_command_prints_a_file_that_works_and_ends_with_2(tmp_path: Path) -> None:
    ended = rowflow("wait", directory=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == TEMPLATE
    assert ended.stderr.startswith("rowflow: nothing is configured")
    (tmp_path / "rowflow.toml").write_text(ended.stdout.replace("9092", "1"))
    assert "nothing is configured" not in rowflow("wait", "--timeout", "0", directory=tmp_path).stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["statsu"], "did you mean status?"),
        (["wait", "--timeout", "soon"], "valid float"),
        (["wait", "--timeot", "1"], "--timeout"),
        (["wait", "--config", "missing.toml"], "missing.toml"),
        (["up", "--workers", "none"], "stream.workers"),
        (["read", "--to", "kafka"], "stdout"),
    ],
)
def test_usage_that_cant_be_ends_with_2(arguments: list[str], words: str, tmp_path: Path) -> None:
    if "missing.toml" not in arguments:
        (tmp_path / "rowflow.toml").write_text(TEMPLATE)
    ended = rowflow(*arguments, directory=tmp_path)
    assert ended.returncode == 2
    assert words in ended.stderr


@pytest.mark.parametrize(
    ("command", "section", "options", "words"),
    [
        ("up", "producer", '"linger.mss" = 5', 'No such configuration property: "linger.mss"'),
        ("reader", "consumer", '"fetch.wait.max.ms" = "soon"', "Invalid value for configuration property"),
        ("worker", "producer", "acks = 1", '"acks" can\'t be set'),
        ("status", "consumer", '"isolation.level" = "read_uncommitted"', "can't be set"),
    ],
)
def test_kafka_options_that_cant_be_end_with_2(
    command: str, section: str, options: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "rowflow.toml").write_text(TEMPLATE + f"\n[kafka.{section}]\n{options}\n")
    ended = rowflow(command, directory=tmp_path)
    assert ended.returncode == 2
    assert f"[kafka.{section}]" in ended.stderr
    assert words in ended.stderr


def test_a_kafka_that_doesnt_answer_is_named_with_its_setting(
    services: ServiceAddresses, prefix: str, tmp_path: Path
) -> None:
    settings = settings_of(services, prefix) | {"ROWFLOW_KAFKA__BOOTSTRAP_SERVERS": NOBODY}
    ended = rowflow("snapshot", "--all", directory=tmp_path, **settings)
    assert ended.returncode == 3
    assert NOBODY in ended.stderr
    assert "[kafka] bootstrap_servers" in ended.stderr


def test_a_wrong_password_ends_with_3_and_isnt_shown(services: ServiceAddresses, prefix: str, tmp_path: Path) -> None:
    settings = settings_of(services, prefix) | {"ROWFLOW_SOURCE__PASSWORD": CANARY}
    for command in (["wait", "-v"], ["snapshot", "--all", "-v"], ["reader", "-v"]):
        ended = rowflow(*command, directory=tmp_path, **settings)
        assert ended.returncode == 3
        assert "password" in ended.stderr
        assert CANARY not in ended.stdout + ended.stderr


def test_a_table_that_isnt_captured_is_refused_with_the_nearest(
    services: ServiceAddresses, prefix: str, tmp_path: Path
) -> None:
    ended = rowflow("snapshot", "shop.boks", directory=tmp_path, **settings_of(services, prefix))
    assert ended.returncode == 2
    assert "did you mean shop.books?" in ended.stderr


@pytest.mark.parametrize("arguments", [["snapshot"], ["snapshot", "shop.books", "--all"]])
def test_snapshot_takes_tables_or_all(
    arguments: list[str], services: ServiceAddresses, prefix: str, tmp_path: Path
) -> None:
    ended = rowflow(*arguments, directory=tmp_path, **settings_of(services, prefix))
    assert ended.returncode == 2
    assert "--all" in ended.stderr


def test_snapshot_before_any_reader_names_what_to_start(
    services: ServiceAddresses, prefix: str, tmp_path: Path
) -> None:
    ended = rowflow("snapshot", "--all", directory=tmp_path, **settings_of(services, prefix))
    assert ended.returncode == 3
    assert "rowflow up" in ended.stderr


def test_wait_without_a_reader_isnt_in_time(services: ServiceAddresses, prefix: str, tmp_path: Path) -> None:
    ended = rowflow("wait", "--timeout", "0.5", directory=tmp_path, **settings_of(services, prefix))
    assert ended.returncode == 1
    assert "not in time (0.5 s)" in ended.stderr


def test_a_sink_inside_the_source_is_refused_with_the_pattern_that_mends_it(
    services: ServiceAddresses, sink_schema: str, prefix: str, tmp_path: Path
) -> None:
    sink_url = services.sink_url.rpartition("/")[0] + f"/{sink_schema}"
    settings = settings_of(services, prefix) | {"ROWFLOW_SINK__URL": sink_url, "ROWFLOW_SOURCE__TABLES": "*.*"}
    for command in ("up", "reader", "worker"):
        ended = rowflow(command, directory=tmp_path, **settings)
        assert ended.returncode == 3
        assert f'"!{sink_schema}.*"' in ended.stderr
