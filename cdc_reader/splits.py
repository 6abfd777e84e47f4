"""Where a range of keys is cut in two, so that two connections can read it.

Comes in: a range and a session on the source.  Goes out: a key of the table about in its middle, or None where none is found.
For keys of every type: the server alone orders keys and says which exist.  A value between two keys is guessed from what they
print; the next key that exists is asked for, by one look into the index; how many rows lie before and behind it the optimizer
estimates, by a few more.  Then the larger side is halved again.  No OFFSET, no scan: some dozens of such looks, mostly.

A wrong guess only makes a split uneven, or none: what is read, and that it is read once, doesn't depend on it.
Source: MySQL manual, "EXPLAIN Output Format" (rows), "Equality Range Optimization of Many-Valued Comparisons" (index dives).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import chain

from cdc_reader.charsets import decoder
from cdc_reader.information_schema import Queries
from cdc_reader.key_ranges import Key, KeyRange
from cdc_reader.shard_plans import INTEGERS, ShardPlan, literal_of
from schemas.tables import Column

_ROUNDS = 12
_GUESSES = 64
"""Numbers with huge gaps need many: each halves the distance."""
_EVEN = 3
"""A split is good enough where no side has more than so many times the other's rows."""
_ROWS_COLUMN = 9
"""Of EXPLAIN: the rows that are looked at; behind it stands how many percent of them the range has."""
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_LAST_CHARACTER = 0x7E
_DEPTH = 4


def middle_key(queries: Queries, plan: ShardPlan, keys: KeyRange, rows_min: int) -> Key | None:
    """A key about in the middle of a range; None where the range has fewer than ``rows_min`` rows, or none is found."""
    if not plan.splits:
        return None
    first, last = (_key(queries, plan.end_sql(keys, last=last)) for last in (False, True))
    if first is None or last is None or first == last:
        return None
    best: tuple[int, Key] | None = None
    low, high = first, last
    for _ in range(_ROUNDS):
        found = _between(queries, plan, KeyRange(low, high), high)
        if found is None:
            break
        before = rows_about(queries, plan, KeyRange(keys.after, found))
        behind = rows_about(queries, plan, KeyRange(found, keys.until))
        smaller = min(before, behind)
        if best is None or smaller > best[0]:
            best = smaller, found
        if max(before, behind) <= _EVEN * max(1, smaller):
            break
        low, high = (low, found) if before > behind else (found, high)
    if best is None or best[0] * 2 < rows_min:
        return None
    return best[1]


def small_parts(queries: Queries, plan: ShardPlan, keys: KeyRange, rows_max: int) -> tuple[Key, ...]:
    """Keys, in order, that cut a range so that its first part has about ``rows_max`` rows; none where it is small as it is.

    For SELECTs of which the LIMIT bounds nothing, for few rows fulfil their condition.
    """
    cuts: list[Key] = []
    until = keys.until
    while rows_about(queries, plan, KeyRange(keys.after, until)) > _EVEN * rows_max:
        middle = middle_key(queries, plan, KeyRange(keys.after, until), rows_min=rows_max)
        if middle is None:
            break
        cuts.insert(0, middle)
        until = middle
    return tuple(cuts)


def _key(queries: Queries, statement: str) -> Key | None:
    rows = queries.rows(statement)
    return tuple(part or b"" for part in rows[0]) if rows else None


def rows_about(queries: Queries, plan: ShardPlan, keys: KeyRange) -> int:
    """How many rows of the table a range has, by a few looks into the index."""
    rows = queries.rows(plan.estimate_sql(keys))
    looked_at, percent = rows[0][_ROWS_COLUMN : _ROWS_COLUMN + 2]
    return int(int(looked_at or 0) * float(percent or 0) / 100)


def _between(queries: Queries, plan: ShardPlan, keys: KeyRange, high: Key) -> Key | None:
    """A key that exists, behind ``keys.after`` and before ``high``; the first guess that finds one."""
    assert keys.after is not None
    equal = 0
    while equal < len(high) and keys.after[equal] == high[equal]:
        equal += 1
    if equal == len(high):
        return None
    column = plan.key_columns[equal]
    for literal in _guesses(column, keys.after[equal], high[equal]):
        found = _key(queries, plan.behind_sql(keys, high[:equal], literal))
        if found is not None and found != high:
            return found
    if equal + 1 == len(high):
        return None
    # Nothing between two values of one part: between the first one's own rows, or behind the last of them.
    last = _key(queries, plan.end_sql(keys, last=True, equal=keys.after[: equal + 1]))
    if last is None or last == high:
        return None
    return _between(queries, plan, KeyRange(keys.after, last), last) or last


def _guesses(column: Column, low: bytes, high: bytes) -> Iterator[str]:
    """Literals of values that may lie between two printed ones, the likeliest first."""
    if column.charset and not column.members:
        yield from _text_guesses(column, low, high)
        return
    guess = _BETWEEN.get(column.type, _between_binary)
    if column.members or column.type in INTEGERS:
        guess = _between_integers
    with suppress(ValueError, ArithmeticError):
        for _ in range(_GUESSES):
            between = guess(low, high)
            if between is None or between == high:
                return
            yield literal_of(column, between)
            # There is nothing between the guess and the end: the next one lies nearer to the begin.
            high = between


def _between_integers(low: bytes, high: bytes) -> bytes:
    return b"%d" % ((int(low) + int(high) + 1) // 2)


def _between_decimals(low: bytes, high: bytes) -> bytes:
    first, last = Decimal(low.decode()), Decimal(high.decode())
    return format((first + last) / 2, "f").encode()


def _between_floats(low: bytes, high: bytes) -> bytes:
    return f"{(float(low) + float(high)) / 2:.17g}".replace("e+", "e").encode()


def _between_dates(low: bytes, high: bytes) -> bytes:
    first, last = date.fromisoformat(low.decode()), date.fromisoformat(high.decode())
    return (first + (last - first + timedelta(days=1)) // 2).isoformat().encode()


def _between_datetimes(low: bytes, high: bytes) -> bytes:
    first, last = datetime.fromisoformat(low.decode()), datetime.fromisoformat(high.decode())
    return (first + (last - first) / 2).isoformat(" ").encode()


def _between_binary(low: bytes, high: bytes) -> bytes:
    size = max(len(low), len(high)) + 1
    first, last = (int.from_bytes(value.ljust(size, b"\0"), "big") for value in (low, high))
    return ((first + last) // 2).to_bytes(size, "big").rstrip(b"\0")


_BETWEEN: dict[str, Callable[[bytes, bytes], bytes | None]] = {
    "decimal": _between_decimals,
    "float": _between_floats,
    "double": _between_floats,
    "date": _between_dates,
    "datetime": _between_datetimes,
    "timestamp": _between_datetimes,
    "time": lambda _low, _high: None,
    "bit": lambda low, high: ((int.from_bytes(low, "big") + int.from_bytes(high, "big") + 1) // 2).to_bytes(8, "big"),
}


def _text_guesses(column: Column, low: bytes, high: bytes) -> Iterator[str]:
    """First as the code points lie, then by letters and digits: a collation orders characters in its own way."""
    decode = decoder(column.charset)
    first, last = decode(low), decode(high)
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    begin = first[:shared]
    lower = ord(first[shared]) if shared < len(first) else 0
    upper = ord(last[shared]) if shared < len(last) else 0
    texts: Iterable[str] = ()
    if abs(upper - lower) > 1:
        texts = [begin + chr((lower + upper) // 2)]
    elif shared < len(first):
        following = ord(first[shared + 1]) if shared + 1 < len(first) else 0x20
        texts = chain([first[: shared + 1] + chr((following + _LAST_CHARACTER) // 2 + 1)], _deeper(first, shared))
    middle = len(_ALPHABET) // 2
    letters = sorted(range(len(_ALPHABET)), key=lambda index: abs(index - middle))
    for text in chain(texts, (begin + _ALPHABET[index] for index in letters)):
        if "\ud800" <= text[-1] <= "\udfff":
            continue
        yield f"CONVERT(_utf8mb4 X'{text.encode().hex()}' USING {column.charset}) COLLATE {column.collation}"


def _deeper(first: str, shared: int) -> Iterator[str]:
    """Texts a little behind the first one, where its next character and the last one's are neighbours (a1ff.., a200..)."""
    for depth in range(shared + 1, min(len(first), shared + 1 + _DEPTH)):
        behind = [letter for letter in _ALPHABET if letter > first[depth].lower()]
        for index in sorted(range(len(behind)), key=lambda index: abs(index - len(behind) // 4)):
            yield first[:depth] + behind[index]
