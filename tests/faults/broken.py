"""Starts Rowflow with one rule taken out, to show that the tests notice.

``python -m tests.faults.broken WHAT reader|worker ...``: what follows WHAT is Rowflow's own command line.

low_from_binary_log_status  a shard's low watermark is SHOW BINARY LOG STATUS, taken before the SELECT (exactness.md J1)
without_agent               no Faust agent takes the slices
whole                       nothing is taken out

Of the last two each says when Faust's consumer has started.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import faust

from cdc_reader import reader, stream
from cdc_reader.batches import Batch
from cdc_reader.followed import FollowedTables, note_published
from cdc_reader.jobs import JobRunner
from cdc_reader.positions import Place, Position
from cdc_reader.shard_reader import ShardReader
from cdc_reader.sql import SourceSession, binlog_status
from rowflow.main import main as run
from stream_app import app as worker_app
from stream_app.transport import SliceThread, build_app
from tests.faults.small_shards import limit_shards
from tests.fire import SHARD_ROWS


class _LowFromStatus:
    """Windows that reach from the binlog's end before the SELECT to its end behind it."""

    def __init__(self) -> None:
        self._low: Place | None = None
        self._published: dict[bytes, Place] = {}
        self._stream_place: Place | None = None

    def wait_visible(self, shard_reader: ShardReader, session: SourceSession, window: Position) -> bool:
        self._low = binlog_status(session).place
        return True

    def transactions_done(self, session: Any) -> None:
        self._stream_place = session._stream.place
        self._original_done(session)

    def note(self, tables: FollowedTables, batches: Sequence[Batch]) -> None:
        note_published(tables, batches)
        place = self._stream_place
        if place is not None:
            self._published.update(
                (message[1], place) for batch in batches if batch.table for message in batch.messages
            )

    def publish_shard(
        self, runner: JobRunner, job: Any, table: Any, result: Any, noted: set[bytes], moment: Any
    ) -> Any:
        low = self._low
        assert low is not None
        inside = {key for key in noted if self._published[key].order > low.order}
        return self._original_publish(runner, job, table, result, inside, moment)

    def start(self) -> None:
        """Put it in the place of what the rules say."""
        self._original_done = reader._Session._transactions_done
        self._original_publish = JobRunner._publish_shard
        patch.object(ShardReader, "_wait_visible", _as_method(self.wait_visible)).start()
        # The place is noted behind each transaction.
        patch.object(stream, "_TRANSACTIONS_TOGETHER", 1).start()
        patch.object(reader._Session, "_transactions_done", _as_method(self.transactions_done)).start()
        patch.object(reader, "note_published", self.note).start()
        patch.object(JobRunner, "_publish_shard", _as_method(self.publish_shard)).start()


def _as_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """A bound method as what a class may hold: it is given the instance too."""

    def method(*given: Any) -> Any:
        return function(*given)

    return method


def low_from_binary_log_status() -> None:
    """Note keys from there on only."""
    limit_shards(SHARD_ROWS)
    _LowFromStatus().start()


STARTED = "broken: Faust's consumer has started"


def whole() -> None:
    """Say when Faust's consumer has started, and leave all as it is."""
    start = SliceThread.on_start

    async def start_and_tell(self: SliceThread) -> None:
        await start(self)
        os.write(2, f"{STARTED}\n".encode())

    patch.object(SliceThread, "on_start", start_and_tell).start()


def without_agent() -> None:
    """Let the app have no agent."""
    whole()

    def build_without(*arguments: Any, **named: Any) -> faust.App:
        app = build_app(*arguments, **named)
        app.agents.clear()
        return app

    patch.object(worker_app, "build_app", build_without).start()


WHATS = {what.__name__: what for what in (low_from_binary_log_status, without_agent, whole)}


def main(what: str, *command_line: str) -> int:
    """Take the rule out and run Rowflow."""
    WHATS[what]()
    return run(command_line)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
