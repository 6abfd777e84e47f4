"""What the sink has to be told.

Comes in: validated settings.  Goes out: one frozen value that everything in this room is made from.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.addresses import MysqlAddress
from schemas.tables import TableName


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """``address.database`` is the schema that holds the results and Rowflow's bookkeeping."""

    address: MysqlAddress
    prefix: str
    """Of the topics, ``[kafka] prefix``."""
    table_name: str = "{table}"
    """How a mirror is named: ``{db}`` and ``{table}`` stand for the captured table's names."""
    dead_letters_in_a_row_max: int = 100
    """So many records in a row that can't be processed stop the worker."""

    def mirror_name(self, table: TableName) -> str:
        """The name of a captured table's mirror in the sink."""
        return self.table_name.replace("{db}", table.db).replace("{table}", table.table)
