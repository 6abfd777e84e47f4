"""The command ``rowflow``.

Comes in: the command line.  Goes out: an exit code: 0 done, 1 differences, time-out or failure, 2 settings or usage,
3 refused at start, 4 stopped loudly.  A failure is told on stderr in its own words behind ``rowflow: ``; one that
nobody foresaw with its type and place, and with its traceback at ``-v``.

The rooms, and the way of one row through them::

    MySQL binlog -> cdc_reader -> Kafka -> stream_app -> sink -> MySQL

    cdc_reader/   binlog -> Kafka: connection, packets, events, decode plans, transactions, positions, publisher, jobs
    stream_app/   Kafka -> slices: Faust app, slice transport, agents, functions, dead letters
    sink/         slice -> MySQL: progress, mirrors, barriers, statements, table DDL
    schemas/      the contract between them: change event, table schema, column types, keys, topic names
    check/        is the copy right? compares source and sink
    rowflow/      the command line: settings, up, wait, status, ...

Which room may import which::

    schemas <- cdc_reader          schemas <- sink <- stream_app
    check: cdc_reader, sink        rowflow: all
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from rowflow import __version__
from rowflow.errors import NoSettingsError
from rowflow.logs import describe_place, describe_traceback
from rowflow.template import TEMPLATE
from schemas.errors import RowflowError
from schemas.patterns import near_names

log = logging.getLogger(__name__)

FAILED = 1
MISUSED = 2


COMMANDS = ("up", "reader", "worker", "read", "snapshot", "jobs", "wait", "check", "status")
"""In the order of the help; each is in the file of its name in rowflow/commands/."""


class CommandGroup(click.Group):
    """Imports a command's file when it is asked for: `status` doesn't wait for what only workers need."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None: there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"rowflow.commands.{cmd_name}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As the base class does, naming the nearest command where there is none of that name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = near_names(args[0], COMMANDS)
            raise click.UsageError(f"no such command: {args[0]}" + (f"; did you mean {near[0]}?" if near else ""), ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="rowflow", message="%(prog)s %(version)s")
def cli() -> None:
    """Keep results in MySQL up to date from the changes of other MySQL tables.

    Settings are in ./rowflow.toml; a command that finds none prints one to copy.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are without the program's name, and sys.argv's if None."""
    try:
        return int(cli.main(arguments, prog_name="rowflow", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return MISUSED
    except click.Abort:
        tell("given up")
        return FAILED
    except RowflowError as error:
        if isinstance(error, NoSettingsError):
            click.echo(TEMPLATE, nl=False)
        tell(str(error))
        return error.exit_code
    except BrokenPipeError:
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last resort: told, and an exit code
        log.debug("unforeseen failure\n%s", describe_traceback(error))
        tell(f"unforeseen failure: {describe_place(error)}; -v shows how it came to it")
        return FAILED


def tell(message: str) -> None:
    """Say on stderr why the command ends; ``up`` finds a child's message by its beginning."""
    click.echo(f"rowflow: {message}", err=True)


if __name__ == "__main__":
    sys.exit(main())
