"""Which tables are captured: the patterns of ``[source] tables``.

Comes in: texts like ``shop.*``, ``shop.order_?`` and ``!shop.log_*``.  Goes out: whether a table is meant, and, for a
pattern that matches nothing, the names that are nearest to it.

A table is captured when a pattern matches it and no pattern with ``!`` does; the order doesn't matter.  ``*`` stands
for any characters and ``?`` for one, within the name of the database or of the table, never across the dot.  Letters
count as they are, lower or upper.  A name in backticks is taken literally: ``shop.`a*b` ``.  MySQL's own databases are
never captured.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

from schemas.errors import SettingError
from schemas.tables import TableName

SYSTEM_DATABASES = frozenset({"mysql", "sys", "information_schema", "performance_schema"})
"""Databases of the server itself, in MySQL and MariaDB."""

_NEAR_NAMES_MAX = 3
_NEAR_CUTOFF = 0.6
_PART = r"`(?:[^`]|``)+`|[^`.!][^`.]*"
_PATTERN = re.compile(rf"(?P<out>!?)\s*(?P<db>{_PART})\.(?P<table>{_PART})")


def _expression(part: str) -> str:
    """A pattern's part as a regular expression."""
    if part.startswith("`"):
        return re.escape(part[1:-1].replace("``", "`"))
    return "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in part)


@dataclass(frozen=True)
class TablePattern:
    """One pattern; ``text`` is as it was written, ``leaves_out`` whether it begins with ``!``."""

    text: str
    leaves_out: bool
    db: str
    table: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Take a pattern apart; raises SettingError where it isn't ``db.table``."""
        parts = _PATTERN.fullmatch(text.strip())
        if parts is None:
            raise SettingError(
                f"{text!r} isn't a pattern of tables: write database.table, where * and ? may stand for any characters,"
                " with ! in front to leave tables out, and names that have dots in backticks"
            )
        return cls(text.strip(), bool(parts["out"]), parts["db"], parts["table"])

    @cached_property
    def _expressions(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        return re.compile(_expression(self.db), re.DOTALL), re.compile(_expression(self.table), re.DOTALL)

    def covers(self, name: TableName) -> bool:
        """Whether the names fit the pattern, without regard to ``leaves_out``."""
        return self.covers_database(name.db) and self._expressions[1].fullmatch(name.table) is not None

    def covers_database(self, db: str) -> bool:
        """Whether the part before the dot fits."""
        return self._expressions[0].fullmatch(db) is not None

    def nearest(self, tables: Iterable[TableName]) -> tuple[str, ...]:
        """What was perhaps meant: tables of the databases it covers; where it covers none, databases like its own."""
        tables = list(tables)
        in_covered = [name for name in tables if self.covers_database(name.db)]
        if in_covered:
            by_table = {name.table: str(name) for name in in_covered}
            return tuple(by_table[table] for table in near_names(self.table, by_table))
        return tuple(f"{near}.{self.table}" for near in near_names(self.db, {name.db for name in tables}))


class Unmatched(NamedTuple):
    """A pattern that covers no table, and the patterns or tables nearest to it that cover some."""

    pattern: str
    near: tuple[str, ...]


@dataclass(frozen=True)
class TablePatterns:
    """All patterns of a setting."""

    patterns: tuple[TablePattern, ...]

    @classmethod
    def from_settings(cls, texts: Sequence[str]) -> Self:
        """Parse the setting; raises SettingError where a pattern can't be read or all of them only leave out."""
        patterns = tuple(TablePattern.parse(text) for text in texts)
        if all(pattern.leaves_out for pattern in patterns):
            raise SettingError("no pattern says which tables to capture: add one without !, like shop.*")
        return cls(patterns)

    def matches(self, name: TableName) -> bool:
        """Whether the table is captured."""
        if name.db.lower() in SYSTEM_DATABASES:
            return False
        fitting = [pattern.leaves_out for pattern in self.patterns if pattern.covers(name)]
        return bool(fitting) and not any(fitting)

    def reach_into(self, db: str) -> bool:
        """Whether a table of that database may be captured, whatever its name."""
        return any(not pattern.leaves_out and pattern.covers_database(db) for pattern in self.patterns)

    def unmatched(self, tables: Iterable[TableName]) -> list[Unmatched]:
        """The patterns that cover none of these tables, each with what is nearest to it."""
        tables = list(tables)
        return [
            Unmatched(pattern.text, pattern.nearest(tables))
            for pattern in self.patterns
            if not any(pattern.covers(name) for name in tables)
        ]


def near_names(wanted: str, names: Iterable[str]) -> tuple[str, ...]:
    """At most three names that look most like ``wanted``, the nearest first; letter case is passed over."""
    by_folded: dict[str, str] = {}
    for name in sorted(names):
        by_folded.setdefault(name.casefold(), name)
    found = difflib.get_close_matches(wanted.casefold(), by_folded, n=_NEAR_NAMES_MAX, cutoff=_NEAR_CUTOFF)
    return tuple(by_folded[folded] for folded in found)
