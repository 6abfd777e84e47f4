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

import click

from rowflow import __version__
from rowflow.commands.read import read
from rowflow.commands.reader import reader
from rowflow.commands.snapshot import snapshot
from rowflow.commands.status import status
from rowflow.commands.up import up
from rowflow.commands.wait import wait
from rowflow.commands.worker import worker
from rowflow.errors import NoSettingsError
from rowflow.logs import describe_place, describe_traceback
from rowflow.template import TEMPLATE
from schemas.errors import RowflowError

log = logging.getLogger(__name__)

FAILED = 1
MISUSED = 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, prog_name="rowflow", message="%(prog)s %(version)s")
def cli() -> None:
    """Keep results in MySQL up to date from the changes of other MySQL tables.

    Settings are in ./rowflow.toml; a command that finds none prints one to copy.
    """


for command in (up, reader, worker, read, snapshot, wait, status):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; ``arguments`` are without the program's name, and sys.argv's if None."""
    try:
        return int(cli.main(arguments, prog_name="rowflow", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return MISUSED
    except click.Abort:
        tell("interrupted")
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
