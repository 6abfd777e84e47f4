"""A stand for decoding: runs statements on the source and gives back what the decode plans make of their binlog events.

The events are fetched by a plain replica's request through PyMySQL, so nothing of the reader's own connection is used.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import orjson
import pymysql
from MySQLdb.connections import Connection

from cdc_reader.information_schema import COLLATIONS_SQL, read_schema
from cdc_reader.key_ranges import KeyRange
from cdc_reader.plans import Message, OnUndecodable, compile_plan
from cdc_reader.shard_plans import compile_shard_plan
from cdc_reader.sql import SourceSession
from cdc_reader.table_map import Collation, parse_table_map
from schemas.addresses import MysqlAddress
from schemas.tables import TableName, TableSchema
from tests.helpers import execute

_COM_BINLOG_DUMP = 0x12
_NON_BLOCKING = 1
_TABLE_MAP = 19
_CHECKSUM_BYTES = 4
_KINDS = {30: "inserts", 31: "updates", 32: "deletes"}
MID = b',"source":{"row":'
TAIL = b',"ts_ms":1}'


def address_of(url: str) -> MysqlAddress:
    """A `mysql://` URL as the rooms take it."""
    parts = urlsplit(url)
    return MysqlAddress(
        parts.hostname or "", parts.port or 3306, unquote(parts.username or ""), unquote(parts.password or "")
    )


@dataclass(frozen=True, slots=True)
class RowsEvent:
    """One ROWS event: its kind, the TABLE_MAP body before it, and its row images."""

    kind: str
    table_map: bytes
    images: bytes


def binlog_events(url: str, file: str, position: int) -> Iterator[tuple[int, bytes]]:
    """Type and body of the events from a place to the binlog's end."""
    address = address_of(url)
    connection = pymysql.connect(host=address.host, port=address.port, user=address.user, password=address.password)
    with connection, connection.cursor() as cursor:
        cursor.execute("SET @source_binlog_checksum = 'CRC32'")
        request = struct.pack("<IHI", position, _NON_BLOCKING, 4_000_000_001) + file.encode()
        connection._execute_command(_COM_BINLOG_DUMP, request)  # type: ignore[attr-defined] # a replica's command
        while True:
            packet = connection._read_packet()  # type: ignore[no-untyped-call] # the packet as it came
            data: bytes = packet.get_all_data()
            if data[0] == 0xFE:
                return
            yield data[5], data[20:-_CHECKSUM_BYTES]


def rows_events(events: Iterator[tuple[int, bytes]], database: str) -> Iterator[RowsEvent]:
    """The ROWS events among them that are of tables of that database."""
    maps: dict[bytes, bytes] = {}
    for kind, body in events:
        if kind == _TABLE_MAP:
            maps[body[:6]] = body[8:]
        elif kind in _KINDS:
            table_map = maps[body[:6]]
            if table_map[1 : 1 + table_map[0]] != database.encode():
                continue
            offset = 8 + int.from_bytes(body[8:10], "little")
            columns = body[offset]
            assert columns < 0xFB
            offset += 1 + (columns + 7) // 8 * (2 if kind == 31 else 1)
            yield RowsEvent(_KINDS[kind], table_map, body[offset:])


@dataclass(frozen=True, slots=True)
class Changes:
    """What the plans made of some events: the last schema, and all messages."""

    schema: TableSchema
    messages: list[Message]

    @property
    def images(self) -> list[dict[str, Any]]:
        """The images after each change (before it, for a delete), tombstones aside."""
        values = [orjson.loads(value) for _, _, value, _ in self.messages if value is not None]
        return [value["after"] if value["after"] is not None else value["before"] for value in values]


@dataclass(slots=True)
class DecodeStand:
    """A database of the source's."""

    root_url: str
    connection: Connection
    database: str
    session: SourceSession
    collations: dict[int, Collation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows = self.session.texts(COLLATIONS_SQL)
        self.collations = {int(row[0]): Collation(row[1], row[2], int(row[3])) for row in rows}
        execute(self.connection, f"USE {self.database}")
        execute(self.connection, "SET sql_mode = ''")

    def run(self, *statements: str) -> None:
        """Run statements in the database."""
        for statement in statements:
            execute(self.connection, statement)

    def events_of(self, *statements: str) -> list[RowsEvent]:
        """Run statements; the ROWS events that they left in the binlog."""
        file, position = execute(self.connection, "SHOW BINARY LOG STATUS")[0][:2]
        self.run(*statements)
        return list(rows_events(binlog_events(self.root_url, file, position), self.database))

    def changes(self, *statements: str, on_undecodable: OnUndecodable = "stop") -> Changes:
        """Run statements; what the decode plans make of their events."""
        messages: list[Message] = []
        schema: TableSchema | None = None
        for event in self.events_of(*statements):
            schema = parse_table_map(event.table_map, self.collations)
            plan = compile_plan(schema, on_undecodable=on_undecodable)
            # The images stand inside a bigger buffer, as they do in the reader's.
            buffer = b"\xff" * 7 + event.images + b"\xff" * 5
            _, decoded = getattr(plan, event.kind)(buffer, 7, 7 + len(event.images), MID, TAIL)
            messages += decoded
        assert schema is not None, "no ROWS event came"
        return Changes(schema, messages)

    def schema(self, table: str) -> TableSchema:
        """The table's schema by information_schema."""
        return read_schema(self.session, TableName(self.database, table))

    def shards(self, table: str, rows_max: int, on_undecodable: OnUndecodable = "stop") -> list[list[Message]]:
        """The table's rows as shards of so many rows."""
        plan = compile_shard_plan(self.schema(table), on_undecodable=on_undecodable)
        keys = KeyRange()
        shards: list[Any] = []
        while True:
            rows: Sequence[tuple[bytes | None, ...]] = self.session.rows(plan.select_sql(keys, rows_max))
            if not rows:
                return shards
            shards.append(plan.messages(rows, MID, TAIL).messages)
            keys = KeyRange(plan.last_key(rows[-1]))


def after_text(message: Message) -> bytes:
    """The JSON text of the image after the change, as it stands in the value."""
    value = message[2]
    assert value is not None
    return value[value.index(b',"after":') + 9 : value.index(MID)]
