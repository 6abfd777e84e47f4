"""Starts Rowflow so that it kills or stops itself at the n-th passage of a named point.

``python -m tests.faults.crashing POINT N SIGNAL SESSION_S reader|worker ...``: what follows is Rowflow's own command line.
The product carries no hooks; the points are wrapped around it here:

before_kafka_commit   the reader's Kafka transaction is full, its position record in it; not committed
in_kafka_transaction  messages are handed to the open Kafka transaction; the broker has them
after_kafka_commit    the broker has committed
before_sink_commit    the slice is written, its progress moved; not committed
in_sink_transaction   the progress row is moved in the open transaction, nothing else yet
after_sink_commit     the sink has committed
never                 it goes on like any other

Only what carries data counts: Kafka transactions with rows of a table from the stream (not a claim, a position alone), and
sink transactions that have moved the progress over records (not a miss, not an idle move, not bookkeeping).

SESSION_S: how long a worker that died is missed by its consumer group, instead of ten seconds; brokers take less than six
with ``group.min.session.timeout.ms`` below it.  The sink's sessions then have as little to be given up in, instead of 30 s.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any
from unittest.mock import patch

import faust

import sink.progress
import sink.sql
from cdc_reader.kafka import TransactionalProducer
from rowflow.main import main as run

READER_POINTS = ("before_kafka_commit", "in_kafka_transaction", "after_kafka_commit")
WORKER_POINTS = ("before_sink_commit", "in_sink_transaction", "after_sink_commit")
NEVER = "never"
PASSED = "crashing: passed"


def _end_at(point: str, passage: int, number: signal.Signals) -> Callable[[], None]:
    """Give what is to be called at each passage."""
    count = itertools.count(1)

    def pass_by() -> None:
        if next(count) == passage:
            os.write(2, f"{PASSED} {point}\n".encode())
            # To this very thread: it takes the signal before it comes back from here.
            signal.pthread_kill(threading.get_ident(), number)

    return pass_by


def _wrap_reader(point: str, pass_by: Callable[[], None]) -> None:
    commit, add, forget = TransactionalProducer.commit, TransactionalProducer.add, TransactionalProducer._forget
    with_rows: list[TransactionalProducer] = []
    """The producer, while rows of a table are in its open transaction."""

    def hand_over(producer: TransactionalProducer) -> None:
        producer._produce_waiting()
        assert producer._producer.flush(10) == 0, "the broker hasn't all of the transaction"

    def commit_and_die(self: TransactionalProducer) -> None:
        counts = self in with_rows
        if counts and point == "before_kafka_commit":
            hand_over(self)
            pass_by()
        commit(self)
        if counts and point == "after_kafka_commit":
            pass_by()

    def add_and_die(self: TransactionalProducer, batches: Any) -> None:
        add(self, batches)
        if any(batch.table is not None for batch in batches):
            with_rows[:] = [self]
            if point == "in_kafka_transaction":
                hand_over(self)
                pass_by()

    def forget_rows(self: TransactionalProducer) -> None:
        with_rows.clear()
        forget(self)

    patch.object(TransactionalProducer, "commit", commit_and_die).start()
    patch.object(TransactionalProducer, "add", add_and_die).start()
    patch.object(TransactionalProducer, "_forget", forget_rows).start()


def _wrap_worker(point: str, pass_by: Callable[[], None]) -> None:
    advance = sink.progress.advance
    commit, rollback = sink.sql.Session.commit, sink.sql.Session.rollback
    with_records: set[sink.sql.Session] = set()
    """Sessions whose open transaction has moved the progress over records."""

    def advance_and_die(session: sink.sql.Session, *arguments: Any, records: int) -> bool:
        moved = advance(session, *arguments, records=records)
        if moved and records:
            with_records.add(session)
            if point == "in_sink_transaction":
                pass_by()
        return moved

    def commit_and_die(self: sink.sql.Session) -> None:
        counts = self in with_records
        if counts and point == "before_sink_commit":
            pass_by()
        commit(self)
        with_records.discard(self)
        if counts and point == "after_sink_commit":
            pass_by()

    def rollback_and_forget(self: sink.sql.Session) -> None:
        rollback(self)
        with_records.discard(self)

    patch.object(sink.progress, "advance", advance_and_die).start()
    patch.object(sink.sql.Session, "commit", commit_and_die).start()
    patch.object(sink.sql.Session, "rollback", rollback_and_forget).start()


def _shorten_sessions(session_s: float) -> None:
    make = faust.App.__init__

    @functools.wraps(make)
    def make_with_short_sessions(self: faust.App, *arguments: Any, **settings: Any) -> None:
        shorter = {"broker_session_timeout": session_s, "broker_heartbeat_interval": session_s / 6}
        make(self, *arguments, **settings | shorter)

    patch.object(faust.App, "__init__", make_with_short_sessions).start()
    usual = " wait_timeout=30"
    assert any(usual in setting for setting in sink.sql._SETTINGS), (
        "sessions with the sink have no wait_timeout of 30 s"
    )
    shorter = tuple(setting.replace(usual, f" wait_timeout={session_s:.0f}") for setting in sink.sql._SETTINGS)
    patch.object(sink.sql, "_SETTINGS", shorter).start()
    # As in the product, the pool lends none that the server may have closed.
    patch.object(sink.sql, "IDLE_MAX_S", sink.sql.IDLE_MAX_S * session_s / 30).start()


def main(point: str, passage: str, signal_name: str, session_s: str, *command_line: str) -> int:
    """Wrap the point and run Rowflow."""
    _shorten_sessions(float(session_s))
    pass_by = _end_at(point, int(passage), signal.Signals[signal_name])
    if point in READER_POINTS:
        _wrap_reader(point, pass_by)
    elif point in WORKER_POINTS:
        _wrap_worker(point, pass_by)
    elif point != NEVER:
        raise SystemExit(f"unknown point {point}")
    return run(command_line)


def launcher(
    point: str = NEVER, passage: int = 0, signal_name: str = "SIGKILL", session_s: float = 6.0
) -> Sequence[str]:
    """What ``Pipeline.start`` takes."""
    return "tests.faults.crashing", point, str(passage), signal_name, str(session_s)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
