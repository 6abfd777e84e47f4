"""The documentation as tests read it, and its lines as readers type them.

Comes in: the repository's documents, and the commands' help.  Goes out: sections, blocks, tables and command lines; and what a
line prints that is pasted into a shell.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from rowflow.main import cli
from rowflow.options import SettingsCommand
from servers.services import ROOT_VARIABLES, SERVER_VARIABLES

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
ARCHITECTURE = ROOT / "docs/architecture.md"
OPERATIONS = ROOT / "docs/operations.md"
DOCUMENTS = (README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")))

LINE_S = 90.0
END_S = 10.0
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SERVICES = {*SERVER_VARIABLES, *ROOT_VARIABLES}


def text_of(document: Path) -> str:
    """A document."""
    return document.read_text(encoding="utf-8")


def section(document: Path, heading: str) -> str:
    """What stands under a heading of the second level, up to the next one."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text_of(document), re.DOTALL | re.MULTILINE)
    assert found is not None, f"{document.name} has no heading {heading}"
    return found[1]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [block for kind, block in _FENCE.findall(text) if kind == language]


def table_rows(text: str) -> Iterator[list[str]]:
    """The cells of each line of tables, without headings and rules."""
    for line in re.findall(r"^\|(?!-|[ -]+\|[ -]+\|?$)(.*)\|$", text, re.MULTILINE):
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]


def code_of(document: Path) -> list[str]:
    """All that is set as code, line by line."""
    text = text_of(document)
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return lines + re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def rowflow_lines(document: Path) -> Iterator[list[str]]:
    """The words of every command line of rowflow in a document, from the command on."""
    for line in code_of(document):
        found = re.match(r"(?:\.venv/bin/)?rowflow ([a-z-].*)", line)
        if found is not None:
            yield shlex.split(found[1])


def example_of(command: str) -> list[str]:
    """The words of the example in a command's help, from the command on."""
    made = cli.get_command(click.Context(cli), command)
    assert isinstance(made, SettingsCommand)
    return shlex.split(made.example)[1:]


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This one, without servers and settings, with these variables."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("ROWFLOW_")}
    return {**{name: value for name, value in others.items() if name not in _SERVICES}, **variables}


def paste(line: str, directory: Path, **variables: str) -> str:
    """Run a line in a shell; gives what it printed."""
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        cwd=directory,
        env=environment(variables),
        capture_output=True,
        text=True,
        timeout=LINE_S,
        check=False,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def running(line: str, directory: Path, log: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a line beside what follows, up to its Ctrl-C, which it must end well."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            shlex.split(line), cwd=directory, env=environment(variables), stdout=output, stderr=output,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(END_S) == 0, log.read_text(encoding="utf-8")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
