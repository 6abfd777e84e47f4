"""The terminal: sentences, a bar, a live table; without a terminal, plain lines of the same numbers.

In: what the story has to show.  Out: text on stdout.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from examples.bookshop.gauges import PartitionGauge

LINE_EVERY_S = 2.0
INDENT = "  "
_LONG = 30
"""A column with a text longer than this takes the room that the others leave."""


class Screen:
    """Where the story is told."""

    def __init__(self) -> None:
        self._console = Console(highlight=False, soft_wrap=True)

    def title(self, text: str) -> None:
        """Begin a part of the story."""
        self._console.print(Text(f"\n{text}", "bold"))

    def say(self, text: str, style: str = "") -> None:
        """A sentence, or several lines."""
        for line in text.splitlines():
            self._console.print(Text(INDENT + line, style))  # a style given to print() colours a live table as well

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar for as long as the block runs; what is given moves it to so many of ``total``."""
        columns = (TextColumn(INDENT + "{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        said_s, said = time.monotonic(), 0
        with Progress(*columns, console=self._console, disable=not self._console.is_terminal) as progress:
            task = progress.add_task(what, total=total)

            def move(completed: int) -> None:
                nonlocal said_s, said
                progress.update(task, completed=completed)
                if self._console.is_terminal or completed == said or time.monotonic() - said_s < LINE_EVERY_S:
                    return
                said_s, said = time.monotonic(), completed
                self.say(f"{what}: {completed:,} of {total:,}")

            yield move

    @contextmanager
    def live(self) -> Iterator[Callable[[float, Sequence[PartitionGauge]], None]]:
        """A table for as long as the block runs; what is given shows the seconds gone by and the gauges."""
        said_s = time.monotonic()
        live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        block: AbstractContextManager[object] = live or nullcontext()
        with block:

            def show(seconds: float, gauges: Sequence[PartitionGauge]) -> None:
                nonlocal said_s
                if live is not None:
                    live.update(Padding(_gauge_table(seconds, gauges), (0, 0, 0, len(INDENT))), refresh=True)
                elif time.monotonic() - said_s >= LINE_EVERY_S:
                    said_s = time.monotonic()
                    self.say(_gauge_line(seconds, gauges))

            yield show

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """A few rows; where the terminal is too narrow, long texts are cut, and nothing else."""
        texts = [["NULL" if value is None else _on_one_line(value) for value in row] for row in rows]
        table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
        for number, column in enumerate(columns):
            long = any(len(row[number]) > _LONG for row in texts)
            table.add_column(column, no_wrap=True, overflow="ellipsis", ratio=1 if long else None)
            table.expand |= long
        for row in texts:
            table.add_row(*row)
        self._console.print(Padding(table, (0, 0, 0, len(INDENT))), soft_wrap=False)


def _on_one_line(value: object) -> str:
    """A value without line breaks and markup."""
    return escape(" ".join(str(value).split()))


def total_lag_ms(gauges: Sequence[PartitionGauge]) -> float:
    """The lag of the partition that is furthest behind."""
    return max((gauge.lag_ms for gauge in gauges if gauge.lag_ms is not None), default=0.0)


def _gauge_table(seconds: float, gauges: Sequence[PartitionGauge]) -> Table:
    table = Table("partition", title=f"{seconds:.0f} s", title_justify="left", show_footer=True)
    table.columns[0].footer = "all"
    total_rate = sum(gauge.rows_per_s for gauge in gauges)
    for name, footer in (
        ("rows/s", f"{total_rate:,.0f}"),
        ("lag ms", f"{total_lag_ms(gauges):,.0f}"),
        ("next offset", ""),
        ("end of the log", ""),
    ):
        table.add_column(name, footer, justify="right")
    for gauge in gauges:
        table.add_row(
            str(gauge.partition),
            f"{gauge.rows_per_s:,.0f}",
            "" if gauge.lag_ms is None else f"{gauge.lag_ms:,.0f}",
            f"{gauge.next_offset:,}",
            f"{gauge.end_offset:,}",
        )
    return table


def _gauge_line(seconds: float, gauges: Sequence[PartitionGauge]) -> str:
    partitions = ", ".join(f"[{gauge.partition}] {gauge.next_offset:,} of {gauge.end_offset:,}" for gauge in gauges)
    rate = sum(gauge.rows_per_s for gauge in gauges)
    return f"{seconds:4.0f} s: {rate:,.0f} rows/s, lag {total_lag_ms(gauges):,.0f} ms, partitions {partitions}"
