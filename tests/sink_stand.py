"""A stand for tests of the sink: a schema of their own, slices made by hand, and the worker's own way of writing them.

Records are built here from plain dicts, without code of the reader.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import orjson

from schemas.addresses import MysqlAddress
from schemas.errors import StoppedError
from schemas.events import BARRIER_KEY, BarrierKind
from schemas.tables import Column, KeyPart, TableName, TableSchema
from sink import preflight, progress
from sink.computed import ComputedFunctions
from sink.config import SinkConfig
from sink.mirrors import MirrorTarget
from sink.progress import LogRange, TopicFacts
from sink.slices import PlainRecord, Slice
from sink.sql import SessionPool
from stream_app.agents import Attempt, Outcome

BOOKS = TableSchema(
    TableName("shop", "books"),
    (
        Column("id", "bigint", unsigned=True, nullable=False),
        Column("title", "varchar", length=1020, charset="utf8mb4", collation="utf8mb4_0900_ai_ci"),
        Column("price", "decimal", length=10, scale=2),
        Column("stock", "int", nullable=False),
        Column("tags", "json"),
    ),
    (KeyPart("id"),),
)


def book(number: int, **columns: Any) -> dict[str, Any]:
    """A row of shop.books as it stands in an event."""
    return {
        "id": number, "title": f"Book {number}", "price": "46.80", "stock": 3, "tags": '{"genre": "poetry"}', **columns
    }  # fmt: skip


class KnownSchemas:
    """Schemas as the topic ``__schemas`` would give them."""

    def __init__(self, *schemas: TableSchema) -> None:
        self._schemas = {schema.fingerprint: schema for schema in schemas}

    def get(self, db: str, table: str, fingerprint: str) -> TableSchema:
        """The schema, as the topic would give it."""
        schema = self._schemas.get(fingerprint)
        if schema is None:
            raise StoppedError(f"no schema {fingerprint}")
        assert schema.name == (db, table)
        return schema


@dataclass
class Partition:
    """The log of one partition, written by hand."""

    schema: TableSchema
    records: list[PlainRecord] = field(default_factory=list)

    @property
    def end(self) -> int:
        """The offset behind the last record."""
        return self.records[-1].offset + 1 if self.records else 0

    def raw(self, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]] = ()) -> Self:
        """Append a record as it is."""
        self.records.append(PlainRecord(self.end, key, value, 0, headers))
        return self

    def event(
        self,
        op: str,
        before: Mapping[str, Any] | None,
        after: Mapping[str, Any] | None,
        *,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Self:
        """Append a change event."""
        name, row = self.schema.name, after if after is not None else before
        assert row is not None
        source = {"db": name.db, "table": name.table, "schema": self.schema.fingerprint}
        key = {part.column: _prefix(row[part.column], part.prefix_chars) for part in self.schema.primary_key}
        value = {"before": before, "after": after, "source": source, "op": op, "ts_ms": 0}
        return self.raw(orjson.dumps(key), orjson.dumps(value), headers)

    def create(self, row: Mapping[str, Any]) -> Self:
        """Append an insert."""
        return self.event("c", None, row)

    def update(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Self:
        """Append an update that keeps the key."""
        return self.event("u", before, after)

    def delete(self, row: Mapping[str, Any]) -> Self:
        """Append a delete and its tombstone."""
        self.event("d", row, None)
        return self.raw(self.records[-1].key, None)

    def barrier(self, kind: BarrierKind, barrier_id: str = "b1", **fields: Any) -> Self:
        """Append a barrier; ``fields`` are put into its field."""
        name = self.schema.name
        barrier = {
            "id": barrier_id, "kind": kind.value, "fingerprint": self.schema.fingerprint, "old_fingerprint": "",
            "job": "", **fields,
        }  # fmt: skip
        op = "t" if kind is BarrierKind.TRUNCATE else "m"
        source = {"db": name.db, "table": name.table}
        event = {"before": None, "after": None, "source": source, "op": op, "ts_ms": 0, "barrier": barrier}
        return self.raw(BARRIER_KEY, orjson.dumps(event))


class SinkStand:
    """A sink with one captured table in some partitions."""

    topic = "bookshop.shop.books"

    def __init__(
        self,
        url: str,
        sink_schema: str,
        schema: TableSchema = BOOKS,
        *,
        partitions: int = 1,
        functions: ComputedFunctions | None = None,
        known: Sequence[TableSchema] = (),
        log_begin: int = 0,
        dead_letters_in_a_row_max: int = 100,
    ) -> None:
        self.config = SinkConfig(
            sink_address(url, sink_schema), "bookshop", dead_letters_in_a_row_max=dead_letters_in_a_row_max
        )
        self.pool = SessionPool(self.config.address)
        self.schemas = KnownSchemas(schema, *known)
        self.logs = [Partition(schema) for _ in range(partitions)]
        facts = TopicFacts(
            self.topic, "id-1", schema.name, {number: LogRange(log_begin, log_begin) for number in range(partitions)}
        )
        with self.pool.lend() as session:
            progress.prepare_tables(session)
            progress.ensure(session, self.config, facts, now_ms=0)
        self.target = self.start(functions or ComputedFunctions())

    def start(self, functions: ComputedFunctions, look_at_functions: Callable[[], None] = lambda: None) -> MirrorTarget:
        """What a worker does when it starts."""
        return preflight.make_target(
            config=self.config,
            pool=self.pool,
            schemas=self.schemas,
            functions=functions,
            look_at_functions=look_at_functions,
        )

    def close(self) -> None:
        """Close what is idle."""
        self.pool.close()

    def next_offset(self, partition: int = 0) -> int:
        """Where the partition stands."""
        with self.pool.lend() as session:
            stands = progress.read(session, self.topic, partition)
        assert stands is not None
        return stands.next_offset

    def handle(self, partition: int = 0) -> Outcome:
        """Write what the partition has to give: one slice, up to the first barrier if there is one."""
        start = self.next_offset(partition)
        log = self.logs[partition]
        records = [record for record in log.records if record.offset >= start]
        slice_ = Slice(self.topic, partition, start, max(log.end, start), records)
        return Attempt(slice_, self.pool, self.target, lambda: True).run()

    def handle_in_parts(self, steps: Sequence[Callable[[], object]], cuts: int) -> None:
        """Do the steps, each of which writes to the log; a slice ends behind those whose bits ``cuts`` has, and at the end."""
        for number, step in enumerate(steps):
            step()
            if cuts >> number & 1:
                self.handle()
        self.handle()

    def finish(self, barrier_id: str = "b1") -> bool:
        """What a waiting partition asks each second."""
        return self.target.try_to_finish(self.topic, barrier_id, len(self.logs))

    def begin(self) -> None:
        """Make the mirror by the first barrier of all partitions."""
        for number, log in enumerate(self.logs):
            log.barrier(BarrierKind.BEGIN)
            assert self.handle(number) is Outcome.AT_BARRIER
        assert self.finish()


MakeStand = Callable[..., SinkStand]
Rows = Callable[[str], list[tuple[Any, ...]]]


def sink_address(url: str, sink_schema: str) -> MysqlAddress:
    parts = urlsplit(url)
    return MysqlAddress(
        parts.hostname or "127.0.0.1", parts.port or 3306, unquote(parts.username or ""),
        unquote(parts.password or ""), sink_schema,
    )  # fmt: skip


def _prefix(value: Any, prefix_chars: int) -> Any:
    return value[:prefix_chars] if prefix_chars else value
