"""The first pass over a table: which keys are worth a second look?

Comes in: a table's comparison.  Goes out, page by page: how many rows were equal, and the keys of which they weren't.

Where both sides order keys alike, their pages are merged: one pass finds missing, differing and invented rows.  Else the
source's keys are looked up in the sink, then the sink's in the source: a binary collation orders texts otherwise than
the source does (exactness.md C3), and what the source finds equal may be several keys in the sink.

Memory: a few pages.  The next page is read while the last is compared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from check.comparison import TableComparison
from check.plans import Key, Row
from check.sides import TableSide

Order = Callable[[Row], tuple[int | bytes, ...]]


class Seen(NamedTuple):
    """What came of one step: ``read`` counts rows and keys, for progress only."""

    equal: int
    suspects: Sequence[Key]
    read: int


def walk(comparison: TableComparison, page_rows: int) -> Iterator[Seen]:
    """Compare all rows once."""
    if comparison.order is not None:
        yield from _merged(comparison, comparison.order, page_rows)
    else:
        yield from _looked_up(comparison, page_rows)
        yield from _looked_back(comparison, page_rows)


class _Pages:
    """The pages of one side, of which the next is always being read."""

    def __init__(self, side: TableSide, page_rows: int, threads: ThreadPoolExecutor) -> None:
        self._side = side
        self._page_rows = page_rows
        self._threads = threads
        self._next: Future[list[Row]] | None = threads.submit(side.page, None, page_rows)

    def next(self) -> list[Row]:
        """The next page; empty: there are no more."""
        if self._next is None:
            return []
        page = self._next.result()
        self._next = None
        if len(page) == self._page_rows:
            self._next = self._threads.submit(self._side.page, self._side.plan.cursor(page[-1]), self._page_rows)
        return page


class _Merge:
    """What is left of one side's pages."""

    def __init__(self, pages: _Pages, order: Order) -> None:
        self._pages = pages
        self._order = order
        self._rows: list[Row] = []
        self._ended = False

    def last(self) -> tuple[Any, ...] | None:
        """The key up to which this side is known; None: to its end."""
        if not self._rows and not self._ended:
            self._rows = self._pages.next()
            self._ended = not self._rows
        return None if self._ended else self._order(self._rows[-1])

    def take(self, bound: tuple[Any, ...] | None) -> list[Row]:
        """The rows up to a key, or all."""
        cut = len(self._rows) if bound is None else bisect_right(self._rows, bound, key=self._order)
        taken, self._rows = self._rows[:cut], self._rows[cut:]
        return taken


def _merged(comparison: TableComparison, order: Order, page_rows: int) -> Iterator[Seen]:
    with ThreadPoolExecutor(2, "check") as threads:
        source, sink = (
            _Merge(_Pages(side, page_rows, threads), order) for side in (comparison.source, comparison.sink)
        )
        while True:
            bounds = [bound for bound in (source.last(), sink.last()) if bound is not None]
            if not bounds:
                return
            source_rows, sink_rows = source.take(min(bounds)), sink.take(min(bounds))
            yield _compared(comparison, source_rows, sink_rows)


def _compared(comparison: TableComparison, source_rows: Sequence[Row], sink_rows: Sequence[Row]) -> Seen:
    """Rows of both sides, of the same stretch of keys."""
    read = len(source_rows) + len(sink_rows)
    if comparison.computed is None and source_rows == sink_rows:
        return Seen(len(source_rows), (), read)
    parts = len(comparison.schema.primary_key)
    left = {row[:parts]: row for row in sink_rows}
    equal, suspects = _matched(comparison, source_rows, left)
    return Seen(equal, [*suspects, *left], read)


def _matched(
    comparison: TableComparison, source_rows: Sequence[Row], sink_rows: dict[Key, Row]
) -> tuple[int, list[Key]]:
    """How many rows of the source are equal in the sink, and the keys of the others; takes out what was found."""
    parts = len(comparison.schema.primary_key)
    suspects = []
    for row in source_rows:
        found = sink_rows.pop(row[:parts], None)
        if found is None or not comparison.equal(row, found):
            suspects.append(row[:parts])
    return len(source_rows) - len(suspects), suspects


def _looked_up(comparison: TableComparison, page_rows: int) -> Iterator[Seen]:
    """The source's rows, looked up in the sink."""
    parts = len(comparison.schema.primary_key)
    with ThreadPoolExecutor(1, "check") as threads:
        pages = _Pages(comparison.source, page_rows, threads)
        while rows := pages.next():
            found = comparison.sink.lookup([row[:parts] for row in rows])
            equal, suspects = _matched(comparison, rows, found)
            yield Seen(equal, suspects, len(rows))


def _looked_back(comparison: TableComparison, page_rows: int) -> Iterator[Seen]:
    """The sink's keys, looked up in the source; what is there was compared already, or will be looked at again."""
    parts = len(comparison.schema.primary_key)
    with ThreadPoolExecutor(1, "check") as threads:
        pages = _Pages(comparison.sink_keys, page_rows, threads)
        while rows := pages.next():
            keys = [row[:parts] for row in rows]
            found = comparison.source_keys.lookup(keys)
            yield Seen(0, [key for key in keys if key not in found], len(rows))
