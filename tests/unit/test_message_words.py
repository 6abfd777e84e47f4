"""No message names a command or an option that doesn't exist, and no command is there as a stub."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rowflow.main import COMMANDS, cli
from tests.test_layout import ROOMS, modules

_LATER = ("peek", "doctor", "replay", "dead-letters")
"""Commands of the design that come with other issues."""
_NAMED = re.compile(r"\browflow ([a-z][a-z-]*)((?: (?:--?[a-z][a-z-]*|[\w.{}*']+))*)")
_HOLE = "{}"


def texts(node: ast.AST) -> Iterator[str]:
    """The texts in a piece of code, parts of one text joined, docstrings left out."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else _HOLE for part in node.values)
        return
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
        return
    for child in ast.iter_child_nodes(node):
        # A text that stands alone is a docstring.
        if not (isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)):
            yield from texts(child)


def named_commands(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Each command that a text of the file names, with the options behind it."""
    for text in texts(ast.parse(file.read_text(encoding="utf-8"))):
        for command, rest in _NAMED.findall(text):
            yield command, [word for word in rest.split() if word.startswith("-")]


FILES = [file for room in ROOMS for file in modules(room)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_each_command_and_option_that_a_message_names_exists(file: Path) -> None:
    for command, options in named_commands(file):
        assert command in COMMANDS, f"{file}: rowflow {command}"
        found = cli.get_command(click.Context(cli), command)
        assert found is not None
        known = {option for parameter in found.params for option in parameter.opts}
        assert set(options) <= known, f"{file}: rowflow {command} {options}"


def test_the_search_finds_what_is_named() -> None:
    found = [named for file in FILES for named in named_commands(file)]
    assert len(found) > 40
    assert ("snapshot", ["--start-over"]) in found
    assert ("snapshot", ["--all", "--start-over"]) in found


@pytest.mark.parametrize("command", _LATER)
def test_no_command_is_there_as_a_stub(command: str) -> None:
    assert cli.get_command(click.Context(cli), command) is None
    assert command not in COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_does_something(command: str) -> None:
    file = next(file for file in FILES if file.parts[-2:] == ("commands", f"{command}.py"))
    source = file.read_text(encoding="utf-8")
    assert "NotImplementedError" not in source
    assert not re.search(r"not (yet )?(implemented|supported|there)", source, re.IGNORECASE)
