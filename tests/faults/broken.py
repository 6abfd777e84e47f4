"""Starts Rowflow with one rule taken out, to show that the tests notice.

``python -m tests.faults.broken WHAT reader|worker ...``: what follows WHAT is Rowflow's own command line.

low_not_waited_for    a shard is read without waiting until its window's position is visible (exactness.md J1, J2)
without_agent         no Faust agent takes the slices
"""

from __future__ import annotations

import sys
from typing import Any
from unittest.mock import patch

import faust

from cdc_reader.positions import Position
from cdc_reader.shard_reader import ShardReader
from cdc_reader.sql import SourceSession
from rowflow.main import main as run
from stream_app import app as worker_app
from stream_app.transport import build_app


def low_not_waited_for() -> None:
    """Take the wait out."""

    def wait_visible(self: ShardReader, session: SourceSession, window: Position) -> bool:
        return True

    patch.object(ShardReader, "_wait_visible", wait_visible).start()


def without_agent() -> None:
    """Let the app have no agent."""

    def build_without(*arguments: Any, **named: Any) -> faust.App:
        app = build_app(*arguments, **named)
        app.agents.clear()
        return app

    patch.object(worker_app, "build_app", build_without).start()


WHATS = {what.__name__: what for what in (low_not_waited_for, without_agent)}


def main(what: str, *command_line: str) -> int:
    """Take the rule out and run Rowflow."""
    WHATS[what]()
    return run(command_line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
