"""What a comparison found, and the words for it.

Comes in: counts and keys, table by table.  Goes out: lines for people, and whether all is well.  Keys are shown, as the
JSON that Kafka's records have for keys; values of rows never are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from schemas.tables import TableName
from sink.dead_letters import SHOW_OPEN


class Kind(StrEnum):
    """What is wrong with a key."""

    MISSING = "missing in the sink"
    INVENTED = "only in the sink"
    DIFFERS = "differs"
    CHANGING = "changing, not verified"


class FoundKey(NamedTuple):
    """A key, as in Kafka, what is wrong with it, and the columns that differ."""

    key: str
    kind: Kind
    columns: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key} {self.kind}" + (f" in {', '.join(self.columns)}" if self.columns else "")


@dataclass(slots=True)
class FoundKeys:
    """Keys of one sort: all are counted, the first ``listed_max`` named."""

    listed_max: int
    count: int = 0
    listed: list[FoundKey] = field(default_factory=list)

    def add(self, found: FoundKey) -> None:
        """One more."""
        self.count += 1
        if len(self.listed) < self.listed_max:
            self.listed.append(found)

    def lines(self) -> Iterator[str]:
        """A line per named key, and one for the others."""
        for found in self.listed:
            yield f"  {found}"
        if self.count > len(self.listed):
            yield f"  and {self.count - len(self.listed):,} more"


class TableReport:
    """What was found in one table; mutable while it is compared."""

    def __init__(self, table: TableName, keys_listed_max: int) -> None:
        self.table = table
        self.rows = 0
        """Keys whose rows were compared: equal or not, but not those that kept changing."""
        self.values = 0
        self.differences = FoundKeys(keys_listed_max)
        self.with_dead_letters = FoundKeys(keys_listed_max)
        """Differing keys of which records lie in the dead letters."""
        self.outdated = FoundKeys(keys_listed_max)
        """Rows of which only computed columns differ, after ``functions.py`` was changed."""
        self.changing = FoundKeys(keys_listed_max)
        self.not_compared = ""
        """Why the table, or its rest, was not compared."""

    @property
    def right(self) -> bool:
        """Whether all that was compared is equal, and nothing was left out but what keeps changing."""
        wrong = self.differences.count or self.with_dead_letters.count or self.outdated.count
        return not (wrong or self.not_compared)

    def lines(self) -> Iterator[str]:
        """The table's lines: one that sums up, and one per named key."""
        if self.not_compared:
            yield f"{self.table}: not compared: {self.not_compared}"
            if not self.rows:
                return
        count = self.differences.count
        yield f"{self.table}: {self.rows:,} rows, {self.values:,} values compared, {_counted(count, 'difference')}"
        yield from self.differences.lines()
        if self.with_dead_letters.count:
            yield f"  {_counted(self.with_dead_letters.count, 'key')} with open dead letters differ; to see why, in the sink:"
            yield f"  {SHOW_OPEN};"
            yield from self.with_dead_letters.lines()
        if self.outdated.count:
            yield (
                f"  {_counted(self.outdated.count, 'row')} computed by an earlier functions.py;"
                f" to renew them: rowflow snapshot {self.table}"
            )
            yield from self.outdated.lines()
        if self.changing.count:
            yield from self.changing.lines()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found in all tables."""

    tables: Sequence[TableReport]

    @property
    def rows(self) -> int:
        """How many rows were compared."""
        return sum(table.rows for table in self.tables)

    @property
    def differences(self) -> int:
        """How many of them differ, those apart that lie in dead letters or were computed by an earlier file."""
        return sum(table.differences.count for table in self.tables)

    @property
    def right(self) -> bool:
        """Whether something was compared, and all tables are right."""
        return self.rows > 0 and all(table.right for table in self.tables)

    def summary(self) -> str:
        """The last line."""
        if not self.rows:
            return "nothing was compared, so nothing is known to be right"
        text = f"{_counted(self.differences, 'difference')} in {self.rows:,} rows"
        apart = (
            (sum(table.with_dead_letters.count for table in self.tables), "with open dead letters"),
            (sum(table.outdated.count for table in self.tables), "computed by an earlier functions.py"),
            (sum(table.changing.count for table in self.tables), "changing, not verified"),
        )
        text += "".join(f"; {_counted(count, 'key')} {what}" for count, what in apart if count)
        left_out = [str(table.table) for table in self.tables if table.not_compared]
        return text + (f"; not compared: {', '.join(left_out)}" if left_out else "")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
