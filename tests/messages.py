"""What messages print is done: the stand on which tests take Rowflow's messages at their word.

Comes in: a pipeline in which something is wrong.  Goes out: the message that a process ends with, and what it prints:
statements, run as an administrator, and commands, run as they stand.
"""

from __future__ import annotations

import re
import shlex

from MySQLdb.connections import Connection

from tests.helpers import connected, execute, wait_until
from tests.processes import Pipeline, Program
from tests.topics import read_topics

END_S = 40.0
_COMMAND = re.compile(r"rowflow (snapshot(?: \w+\.\w+| --[a-z-]+)+)")
_TOLD = re.compile(r"^rowflow: (.*)", re.MULTILINE | re.DOTALL)


def told(output: str) -> str:
    """The message that a process ended with: what follows ``rowflow: ``."""
    found = _TOLD.search(output)
    assert found is not None, f"no message:\n{output}"
    return found[1].strip()


def message_of(shop: Pipeline, program: Program, code: int) -> str:
    """The message that a running process ends with, which has to be with that code."""
    ended = program.ended(END_S)
    shop.programs.remove(program)
    assert ended == code, f"{program.name} ended with {ended}:\n{program.tail()}"
    return told(program.text())


def refusal(shop: Pipeline, command: str, code: int, *arguments: str) -> str:
    """The message that ``rowflow COMMAND`` ends with."""
    return message_of(shop, shop.start(command, *arguments), code)


def printed_command(message: str) -> list[str]:
    """The command line that a message prints, without ``rowflow``."""
    found = _COMMAND.search(message)
    assert found is not None, f"no command in: {message}"
    return shlex.split(found[1])


def run_command(shop: Pipeline, message: str) -> None:
    """Run the command that a message prints."""
    line = printed_command(message)
    done = shop.run(*line, *(["--yes"] if "--start-over" in line else []))
    assert done.returncode == 0, done.stderr


def printed_statement(message: str, begin: str) -> str:
    """The statement that a message prints, which begins like that and ends with the message's part."""
    found = re.search(rf"{begin}[^;]*", message)
    assert found is not None, f"no {begin} in: {message}"
    return found[0].strip()


def run_statement(connection: Connection, message: str, begin: str) -> str:
    """Run the statement that a message prints."""
    statement = printed_statement(message, begin)
    execute(connection, statement)
    return statement


def run_on_source(shop: Pipeline, message: str, begin: str) -> str:
    """Run the statement that a message prints, on the source, as its administrator."""
    with connected(shop.addresses.source_root_url) as root:
        return run_statement(root, message, begin)


def goes_on(shop: Pipeline, table: str = "t", *, with_job: bool) -> Program:
    """A reader starts, and a row that is written now comes to the topic; the reader is left running.

    ``with_job``: first it has a job to do, a first read or one that was asked for.
    """
    reader = shop.start("reader")
    if with_job:
        shop.until(lambda: f" is done: {shop.database}.{table}," in reader.text(), 30, "the reader's job")
    row_arrives(shop, table)
    return reader


def row_arrives(shop: Pipeline, table: str = "t") -> None:
    """A row that is written now comes to the topic."""
    with shop.source() as source:
        number = execute(source, f"SELECT COALESCE(MAX(id), 0) + 1 FROM {table}")[0][0]
        execute(source, f"INSERT INTO {table} (id) VALUES ({number})")

    def arrived() -> bool:
        shop.must_run()
        events = read_topics(shop.addresses.bootstrap_servers, [shop.topic(table)])
        return any(event.op == "c" and event.value["after"]["id"] == number for event in events if event.value)

    wait_until(arrived, 30, f"row {number} of {table} in its topic")


def stops_well(*programs: Program) -> None:
    """Processes end with 0 when they are told to."""
    for program in programs:
        assert program.stop() == 0, program.tail()
