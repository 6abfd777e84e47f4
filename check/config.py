"""What a comparison has to be told.

Comes in: validated settings.  Goes out: one frozen value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from schemas.addresses import MysqlAddress
from schemas.patterns import TablePatterns
from sink.config import SinkConfig


@dataclass(frozen=True, slots=True)
class CheckConfig:
    """Where both sides are, and how much is looked at together."""

    source: MysqlAddress
    patterns: TablePatterns
    sink: SinkConfig
    functions: Path | None = None
    """The file of computed columns, ``[stream] functions``."""
    page_rows: int = 5000
    page_bytes: int = 16 << 20
    """Pages of tables with long rows have fewer rows; by the table's average row length."""
    suspects_max: int = 10_000
    """So many keys are kept for a second look before it is taken."""
    keys_listed_max: int = 100
    """So many keys of a kind are named per table; all are counted."""
