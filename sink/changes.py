"""What became of a table's schema.

Comes in: two versions of one table's schema.  Goes out: the columns that were added, and in words everything else that
differs.  Where nothing else differs, a mirror follows by ALTER TABLE ... ADD COLUMN; else it is made anew.
"""

from __future__ import annotations

from dataclasses import fields
from typing import NamedTuple

from schemas.tables import Column, TableSchema


class SchemaChange(NamedTuple):
    """``added``: names of new columns, in the order of the new schema; ``other``: all other differences, in words."""

    added: tuple[str, ...]
    other: tuple[str, ...]


def difference(old: TableSchema, new: TableSchema) -> SchemaChange:
    """Compare two versions of a table.  A renamed column shows as one dropped and one added (exactness.md B2)."""
    other = [f"column {name} is gone" for name in old.by_name if name not in new.by_name]
    for name, column in old.by_name.items():
        if name in new.by_name and new.by_name[name] != column:
            other.append(f"column {name} changed its {_differing(column, new.by_name[name])}")
    kept_before = [name for name in old.by_name if name in new.by_name]
    kept_after = [name for name in new.by_name if name in old.by_name]
    if kept_before != kept_after:
        other.append("columns changed places")
    if old.primary_key != new.primary_key:
        other.append("the primary key changed")
    return SchemaChange(tuple(name for name in new.by_name if name not in old.by_name), tuple(other))


def _differing(old: Column, new: Column) -> str:
    names = [field.name for field in fields(Column) if getattr(old, field.name) != getattr(new, field.name)]
    return ", ".join(names)
