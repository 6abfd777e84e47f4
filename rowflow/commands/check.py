"""`rowflow check`."""

from __future__ import annotations

from typing import Self

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from check import compare
from rowflow.configs import check_config
from rowflow.options import settings_command
from rowflow.pipeline import pipeline_of
from rowflow.settings import Settings
from rowflow.source import chosen_tables
from rowflow.waiting import Deadline, wait_until_held
from schemas.tables import TableName


@settings_command("check", "source", "kafka", "sink", "stream", example="rowflow check")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    default=60.0,
    metavar="S",
    help="Let the sink have S seconds to catch up, each time (60).",
)
def check(settings: Settings, tables: tuple[str, ...], timeout_s: float) -> int:
    """Compare the captured tables with their mirrors, value by value, while writes go on.

    TABLE is database.table, where * and ? stand for any characters; without it all are compared. Exit 1 if something
    differs, or if nothing was compared.
    """
    with pipeline_of(settings) as pipeline, _Bars(Console(stderr=True)) as bars:
        captured = pipeline.source.captured_tables()
        chosen = chosen_tables(tables, captured) if tables else captured

        def catch_up() -> None:
            wait_until_held(pipeline, Deadline.within(timeout_s), chosen)

        catch_up()
        found = compare.run(check_config(settings), chosen, catch_up, bars.show)
    for table in found.tables:
        for line in table.lines():
            click.echo(line)
    click.echo(found.summary())
    return 0 if found.right else 1


class _Bars:
    """A bar per table on a terminal; nothing elsewhere."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._bars: dict[TableName, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, at: compare.Progress) -> None:
        """Show how far the comparison is."""
        if at.table not in self._bars:
            self._bars[at.table] = self._progress.add_task(str(at.table))
        self._progress.update(self._bars[at.table], completed=at.read, total=max(at.read, at.estimate))
