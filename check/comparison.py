"""One table, ready to be compared.

Comes in: both sides, and the computed columns' check.  Goes out: for a row of the source and one of the sink, what is
wrong; for a key, how it stands in Kafka.  Does no I/O itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from check.computed import ComputedCheck
from check.forms import Value, event_value
from check.plans import Key, Row
from check.report import Kind
from check.sides import TableSide
from schemas.keys import key_bytes
from schemas.tables import TableSchema


class Verdict(NamedTuple):
    """What is wrong with a key's row; ``computed`` are the columns of functions that differ."""

    kind: Kind
    columns: tuple[str, ...] = ()
    computed: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableComparison:
    """Both sides of a table.  A row of the sink has its computed columns behind what a row of the source has.

    ``source_keys`` and ``sink_keys`` read keys alone.  ``value_names``: of the columns that a row has behind its key.
    ``order``: sorts keys as both sides do; None where they may do it differently.  ``sink_has``: the names of computed
    columns that the mirror has, the others being NULL for all rows.
    """

    schema: TableSchema
    source: TableSide
    sink: TableSide
    source_keys: TableSide
    sink_keys: TableSide
    value_names: tuple[str, ...]
    computed: ComputedCheck | None
    order: Callable[[Row], tuple[int | bytes, ...]] | None

    @property
    def values_per_row(self) -> int:
        """How many columns are compared."""
        return len(self.schema.columns) + (len(self.computed.names) if self.computed else 0)

    def equal(self, source_row: Row, sink_row: Row) -> bool:
        """Whether two rows with the same key are; either may have more behind its width."""
        width = self.source.plan.width
        if source_row[:width] != sink_row[:width]:
            return False
        return self.computed is None or not self.computed.differing(source_row, sink_row[width:])

    def verdict(self, source_row: Row | None, sink_row: Row | None) -> Verdict | None:
        """What is wrong; None: nothing, as where neither side has the key."""
        if source_row is None or sink_row is None:
            if source_row is sink_row:
                return None
            return Verdict(Kind.MISSING if sink_row is None else Kind.INVENTED)
        start, width = len(self.schema.primary_key), self.source.plan.width
        columns = tuple(
            name
            for name, one, other in zip(self.value_names, source_row[start:width], sink_row[start:width], strict=True)
            if one != other
        )
        computed = self.computed.differing(source_row, sink_row[width:]) if self.computed else ()
        return Verdict(Kind.DIFFERS, columns, computed) if columns or computed else None

    def kafka_key(self, key: Key) -> bytes:
        """The key as records of the table's topic have it."""
        values: Mapping[str, object] = {
            part.column: _event_value(self.schema, part.column, value)
            for part, value in zip(self.schema.primary_key, key, strict=True)
        }
        return key_bytes(values, self.schema.key_columns)


def _event_value(schema: TableSchema, column: str, value: Value) -> object:
    return event_value(schema.by_name[column])(value)
