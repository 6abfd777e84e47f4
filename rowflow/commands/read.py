"""`rowflow read`."""

from __future__ import annotations

import os
import signal
import sys
import threading

import click

from cdc_reader import read as cdc_read
from rowflow.configs import source_config
from rowflow.options import settings_command
from rowflow.settings import Settings


@settings_command("read", "source", example="rowflow read --to stdout --tables 'shop.*'")
@click.option("--to", "target", type=click.Choice(["stdout"]), required=True, help="Where the events go.")
@click.option("--from", "start", metavar="FILE:POS|GTIDS", help="Begin behind this place or set instead of now.")
def read(settings: Settings, target: str, start: str | None) -> int:  # noqa: ARG001 - there is one target
    """Print change events as lines of JSON, from now on, until Ctrl-C.

    Needs only MySQL, writes nothing anywhere, and may run beside `rowflow up`.
    """
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    try:
        cdc_read.run(source_config(settings), start, _write, stopping)
    except BrokenPipeError:
        # Who read our output has gone; Python would complain once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _write(lines: bytes) -> None:
    sys.stdout.buffer.write(lines)
    sys.stdout.buffer.flush()
