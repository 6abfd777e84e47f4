"""`rowflow check`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from check import compare
from check.config import CheckConfig
from rowflow.configs import sink_config
from rowflow.errors import StandsStillError
from rowflow.feed import Feed
from rowflow.kafka import Kafka
from rowflow.options import settings_command
from rowflow.settings import Settings
from rowflow.source import Source, chosen_tables
from rowflow.waiting import Deadline, refuse_standing_still, unread_table, wait_until_held
from schemas.errors import SettingError
from schemas.tables import TableName
from sink.sql import SessionPool

DIFFERENT = 1
LINE_EVERY_S = 5.0
CATCH_UP_TIMEOUT_S = 120.0


@settings_command("check", "source", "kafka", "sink", "stream", example="rowflow check shop.books")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=CATCH_UP_TIMEOUT_S,
    show_default=True,
    metavar="S",
    help="Wait for the sink no longer than S seconds each time that it is behind (exit 1).",
)
def check(settings: Settings, tables: tuple[str, ...], timeout_s: float) -> int:
    """Compare the source's tables with their mirrors, value by value; writing may go on meanwhile.

    TABLE is database.table, where * and ? stand for any characters; without it all captured tables are compared.
    Exit 1 if there are differences, or if a table or all could not be compared.
    """
    source = Source(settings.require_source())
    captured = source.captured_tables()
    chosen = chosen_tables(tables, captured) if tables else captured
    if not chosen:
        raise SettingError("[source] tables captures no table that there is")
    kafka_settings = settings.require_kafka()
    kafka = Kafka(kafka_settings)
    sink = SessionPool(settings.require_sink().address)
    try:
        with Feed(kafka, kafka_settings.prefix) as feed, _Bars(Console()) as bars:
            feed.refresh()
            left_out = _left_out(feed, chosen)
            ready = [table for table in chosen if table not in left_out]
            followed = _source_of(settings, ready)

            def catch_up() -> None:
                deadline = Deadline.within(timeout_s)
                wait_until_held(kafka, feed, followed, sink, kafka_settings.prefix, deadline)

            report = compare.run(_config(settings), ready, catch_up, bars.show)
    finally:
        sink.close()
    for table, reason in left_out.items():
        click.echo(f"{table}: not compared: {reason}")
    for found in report.tables:
        for line in found.lines():
            click.echo(line)
    click.echo(report.summary())
    return 0 if report.right and not left_out else DIFFERENT


def _left_out(feed: Feed, chosen: Sequence[TableName]) -> dict[TableName, str]:
    """The tables that can't be compared now, and why: not read yet, or standing still."""
    reasons = {}
    for table in chosen:
        try:
            refuse_standing_still(feed.tables, [table])
            reason = unread_table(feed.tables, [table])
        except StandsStillError as error:
            reason = str(error)
        if reason is not None:
            reasons[table] = reason
    return reasons


def _source_of(settings: Settings, tables: Sequence[TableName]) -> Source:
    """The source as if only these tables were captured: the others aren't waited for."""
    patterns = tuple(f"{_literal(table.db)}.{_literal(table.table)}" for table in tables)
    return Source(
        settings.require_source().model_copy(update={"tables": patterns}) if patterns else settings.require_source()
    )


def _literal(name: str) -> str:
    """A name as a pattern that means nothing else."""
    return "`" + name.replace("`", "``") + "`"


def _config(settings: Settings) -> CheckConfig:
    source = settings.require_source()
    return CheckConfig(source.address, source.patterns, sink_config(settings), settings.stream.functions)


class _Bars:
    """A bar for the table that is being compared on a terminal; elsewhere a line every five seconds."""

    def __init__(self, console: Console) -> None:
        self._terminal = console.is_terminal
        self._said_s = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[doing]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
            transient=True,
        )
        self._bars: dict[TableName, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, state: compare.Progress) -> None:
        """Show how far the comparison of a table is."""
        doing = f"{state.suspects:,} keys to look at again" if state.suspects else ""
        if state.table not in self._bars:
            self._bars[state.table] = self._progress.add_task(str(state.table), doing=doing)
        self._progress.update(self._bars[state.table], completed=state.read, total=state.estimate, doing=doing)
        if not self._terminal and time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._said_s = time.monotonic()
            click.echo(
                f"{state.table}: {state.read:,} of about {state.estimate:,} rows read{', ' if doing else ''}{doing}"
            )
