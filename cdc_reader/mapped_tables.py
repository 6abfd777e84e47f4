"""Versions of tables as TABLE_MAP events tell them, each with its decode plan.

Comes in: the body of a TABLE_MAP event, less table id, flags and checksum.  Goes out: the version, one for all events with the
same body.  That body is the key of the cache, an LRU: a table id that is used again, a crash or an ALTER can't meet the wrong
plan (exactness.md R9).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Protocol

from cdc_reader import events
from cdc_reader.batches import source_head
from cdc_reader.plans import DecodeRows, Plan
from cdc_reader.table_map import Collation, parse_table_map, parse_table_name
from schemas.tables import TableName, TableSchema

_PLANS_MAX = 4096


class Followed(Protocol):
    """A captured table's state, as the stream needs it."""

    publishing: bool
    fingerprint: str
    topic: str


class MappedTable:
    """A version of a table; what lies behind its name is looked at only where it is followed."""

    __slots__ = ("body", "decode", "fingerprint", "followed", "head", "headers", "name", "schema")

    def __init__(self, body: bytes, name: TableName, followed: Followed | None) -> None:
        self.body = body
        self.name = name
        self.followed = followed
        self.schema: TableSchema | None = None
        self.fingerprint = ""
        self.head = b""
        """What stands in ``source`` for all of its events."""
        self.decode: dict[int, DecodeRows] = {}
        """By event type."""
        self.headers: dict[int, bytes] = {}
        """By event type: the bytes between flags and images of an event that was complete; the next has the same."""


class MappedTables:
    """The cache."""

    def __init__(
        self,
        find: Callable[[TableName], Followed | None],
        prefix: str,
        collations: Mapping[int, Collation],
        compile_plan: Callable[[TableSchema], Plan],
    ) -> None:
        """``find`` gives the captured table of that name; None where it isn't captured."""
        self._find = find
        self._prefix = prefix
        self._collations = collations
        self._compile_plan = compile_plan
        self.of: Callable[[bytes], MappedTable] = lru_cache(maxsize=_PLANS_MAX)(self._named)
        """The version with that body; raises EventUnreadable."""

    def _named(self, body: bytes) -> MappedTable:
        name = parse_table_name(body)
        return MappedTable(body, name, self._find(name))

    def complete(self, mapped: MappedTable) -> TableSchema:
        """Reads the schema and makes the plan, where that isn't done; raises as ``parse_table_map`` and ``Plan`` do."""
        if mapped.schema is None:
            schema = parse_table_map(mapped.body, self._collations)
            plan = self._compile_plan(schema)
            mapped.decode = {
                events.WRITE_ROWS: plan.inserts,
                events.UPDATE_ROWS: plan.updates,
                events.DELETE_ROWS: plan.deletes,
                events.WRITE_ROWS_V1: plan.inserts,
                events.UPDATE_ROWS_V1: plan.updates,
                events.DELETE_ROWS_V1: plan.deletes,
            }
            mapped.head = source_head(self._prefix, mapped.name, schema.fingerprint)
            mapped.fingerprint = schema.fingerprint
            mapped.schema = schema
        return mapped.schema
