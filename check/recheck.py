"""Second looks at keys whose rows weren't equal: is it a difference, or was the sink only behind?

Comes in: suspects, and a way to wait until the sink holds what the source has committed.  Goes out: for each key, a
verdict, or that it keeps changing (exactness.md C5).

A difference is what stays: through several rounds the source's row was the same before and after the sink had caught up,
and the sink's row was the same and another than it.  One round isn't enough: a row that is switched to and fro may be
caught in the same state twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from check.comparison import TableComparison, Verdict
from check.plans import Key, Row

ROUNDS_MAX = 8
CONFIRMATIONS = 3


class Outcome(NamedTuple):
    """What became of the suspects."""

    equal: int
    gone: int
    """Keys that neither side has any more."""
    wrong: dict[Key, Verdict]
    changing: list[Key]


class _Suspect(NamedTuple):
    """A key's rows when they were looked at last, and for how many rounds they have stayed so."""

    source_row: Row | None
    sink_row: Row | None
    rounds: int


def recheck(comparison: TableComparison, suspects: Sequence[Key], catch_up: Callable[[], None]) -> Outcome:
    """Look at keys again until each is settled, or the rounds are over."""
    before = comparison.source.lookup(suspects)
    left = {key: _Suspect(before.get(key), None, 0) for key in suspects}
    equal = gone = 0
    wrong: dict[Key, Verdict] = {}
    for _ in range(ROUNDS_MAX):
        catch_up()
        keys = list(left)
        # The sink first: what it lacks may come later, what the source has then is newer.
        sink_rows = comparison.sink.lookup(keys)
        source_rows = comparison.source.lookup(keys)
        for key in keys:
            source_row, sink_row = source_rows.get(key), sink_rows.get(key)
            verdict = comparison.verdict(source_row, sink_row)
            if verdict is None:
                del left[key]
                equal += source_row is not None
                gone += source_row is None
                continue
            last = left[key]
            same = source_row == last.source_row and (last.rounds == 0 or sink_row == last.sink_row)
            rounds = last.rounds + 1 if same else 0
            left[key] = _Suspect(source_row, sink_row, rounds)
            if rounds == CONFIRMATIONS:
                wrong[key] = verdict
                del left[key]
        if not left:
            break
    return Outcome(equal, gone, wrong, list(left))
