"""The hot loop: packets -> events -> rows of whole source transactions.

Comes in: packets of a dump connection, in their order.  Goes out: batches of messages for Kafka, the place behind each
source transaction, and how many row images of a transaction went into parts that are published before its end.

Guarantees: nothing leaves a transaction before its end but in parts that the reader asked for by its limits; a ROLLBACK
takes back what isn't published, and stops loudly where parts are; events that may carry data and aren't known stop the
stream; the place moves at a transaction's end, and between transactions past every other event, never backwards.
Not here: I/O and the clock (``now_ms`` is set by the reader for each chunk).  Rules R4, R7, R9; faults S3, S4, S10, S12,
S13, S16 to S18, D8 to D11.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol

import zstandard

from cdc_reader import events
from cdc_reader.batches import Batch, Origin, event_tail, source_head, transaction_part
from cdc_reader.errors import SourceAway, SourceRefused, SourceStopped
from cdc_reader.gtids import Gtid, GtidParser, GtidSet, commit_timestamp_us, parse_tagged
from cdc_reader.plans import Plan
from cdc_reader.positions import Place, Position, file_number
from cdc_reader.row_counts import count_row_images
from cdc_reader.statements import Kind, Statement, parse_statement
from cdc_reader.table_map import Collation, parse_table_map, parse_table_name
from schemas.tables import TableName, TableSchema

_HEADER = struct.Struct("<IBIIIH").unpack_from
_PLANS_MAX = 4096
_UNCOUNTED_MAX = 256
_UNCOUNTED_BYTES_MAX = 1 << 22
"""Rows put aside keep the buffers that they lie in."""
_POSITIONS_MAX = 1 << 32
_PACKET_HEADER_BYTES = 1
_ERROR_POSITION_PURGED = (1236, 1789)


class Followed(Protocol):
    """A captured table's state, as the stream needs it."""

    publishing: bool
    fingerprint: str
    topic: str


class Tables(Protocol):
    """Who knows which tables are captured, and what a schema change or a statement means for them."""

    def find(self, name: TableName) -> Followed | None:
        """The captured table of that name; None where it isn't captured."""

    def changed(self, name: TableName, schema: TableSchema, origin: Origin) -> list[Batch]:
        """A TABLE_MAP has another fingerprint than the table had: what to publish before its rows."""

    def statement(self, statement: Statement, origin: Origin) -> list[Batch]:
        """A statement that may concern captured tables: what to publish for it; raises SourceStopped for DML."""

    def transactional(self, name: TableName) -> bool:
        """Whether the table's engine undoes its rows at a ROLLBACK."""


class MappedTable:
    """A version of a table as TABLE_MAP tells it, with its plan; one per TABLE_MAP body, kept in an LRU (R9)."""

    __slots__ = ("body", "fingerprint", "followed", "head", "headers", "name", "plan", "schema")

    def __init__(self, body: bytes, name: TableName, followed: Followed | None) -> None:
        self.body = body
        self.headers: dict[int, bytes] = {}
        """By event type: the bytes between flags and images of an event that was complete; the next has the same."""
        self.name = name
        self.followed = followed
        self.schema: TableSchema | None = None
        self.plan: Plan | None = None
        self.fingerprint = ""
        self.head = b""


class Stream:
    """Handles one event after the other; one instance for one connection."""

    def __init__(
        self,
        tables: Tables,
        position: Position,
        prefix: str,
        collations: Mapping[int, Collation],
        compile_plan: Callable[[TableSchema], Plan],
        *,
        checksums: bool,
        part_rows: int,
        part_bytes: int,
        publish_part: Callable[[], None],
    ) -> None:
        """``part_rows``, ``part_bytes`` (of the binlog): past one of them ``publish_part`` is called between two events."""
        self._tables = tables
        self._prefix = prefix
        self._collations = collations
        self._compile_plan = compile_plan
        self._checksums = checksums
        self._part_rows = part_rows
        self._part_bytes = part_bytes
        self._publish_part = publish_part
        self.now_ms = 0
        self.server_uuid = position.server_uuid
        self.gtids = GtidSet(position.gtids)
        self._with_gtids = bool(position.gtids)
        self._file = position.file
        self._pos = position.pos
        self._event_file = position.file
        self._last_log_pos = 0
        self._map_of = lru_cache(maxsize=_PLANS_MAX)(self._parse_map)
        self._mapped: dict[bytes, MappedTable] = {}
        self._gtid_parser = GtidParser()
        self._skip = position.rows_to_skip
        self._skip_gtid = position.skip_gtid
        self._start_place = position.place
        self.source_ms = position.source_ms
        self._reset()

    def _reset(self) -> None:
        """Forgets the transaction that has ended."""
        self.in_transaction = False
        self._prepared_xa = False
        self._gtid: Gtid | None = None
        self._gtid_text = ""
        self._commit_ms = 0
        self._transaction_part = b""
        self._transaction_part_key: tuple[int, str] = (-1, "")
        self.batches: list[Batch] = []
        self.pending_rows = 0
        self.pending_bytes = 0
        self._images = 0
        self._uncounted: list[tuple[bytes, bytes, int, int, int]] = []
        self._uncounted_bytes = 0
        self._parts = 0
        self._savepoints: dict[str, int] = {}
        self._mapped.clear()

    # ---- what the reader asks ----

    @property
    def place(self) -> Place:
        """The end of the last whole transaction, or of an event between two."""
        return Place(self._file, self._pos)

    def position(self) -> Position:
        """The position behind the last whole transaction; before the first one, what is published of it stays said."""
        gtids = str(self.gtids) if self._with_gtids else ""
        if not self._with_gtids and self._pos >= _POSITIONS_MAX:
            raise SourceStopped(
                f"{self._file} has grown past 4 GiB and the source has no GTIDs: a place in it can't be gone on from; "
                "run FLUSH BINARY LOGS on the source, then rowflow snapshot --all --start-over"
            )
        skip_gtid = self._skip_gtid if self._skip else ""
        return Position(self._file, self._pos, gtids, self.server_uuid, self._skip, skip_gtid, source_ms=self.source_ms)

    def part_position(self) -> Position:
        """The position in the middle of a transaction: its start, and the row images before the next event (R4)."""
        self._count_all()
        gtids = str(self.gtids) if self._with_gtids else ""
        skip_gtid = str(self._gtid) if self._gtid else ""
        start = self._start_place
        skip = max(self._images, self._skip)
        return Position(start.file, start.pos, gtids, self.server_uuid, skip, skip_gtid, source_ms=self.source_ms)

    def take(self) -> list[Batch]:
        """Takes the batches that have gathered; the reader publishes them."""
        taken, self.batches = self.batches, []
        self.pending_rows = self.pending_bytes = 0
        return taken

    def take_part(self) -> list[Batch]:
        """Takes the batches in the middle of a transaction: from here on it can't be rolled back."""
        self._parts += 1
        self._savepoints.clear()
        return self.take()

    def origin(self, ts_ms: int, server_id: int, pos: int) -> Origin:
        """Where the event at hand comes from."""
        return Origin(self._commit_ms or ts_ms, server_id, self._gtid_text, self._event_file, pos, self.now_ms)

    def place_text(self) -> str:
        """Where the stream is, for messages."""
        gtid = f", GTID {self._gtid_text}" if self._gtid_text else ""
        return f"{self._event_file}:{self._last_log_pos}{gtid}"

    # ---- one packet ----

    def handle(self, buffer: bytes, start: int, end: int) -> bool:
        """Handles the packet ``buffer[start:end]``; True where a source transaction has ended with it."""
        if buffer[start]:
            raise _not_an_event(buffer[start:end])
        header = start + _PACKET_HEADER_BYTES
        timestamp, event_type, server_id, size, log_pos, flags = _HEADER(buffer, header)
        if size != end - header:
            raise SourceStopped(f"an event at {self.place_text()} has {end - header} bytes and says that it has {size}")
        if self._checksums:
            if zlib.crc32(buffer[header:end]) != events.CRC32_RESIDUE:
                raise SourceStopped(
                    f"an event behind {self.place_text()} has a bad checksum: it was damaged on its way or in the file; "
                    "compare with mysqlbinlog --verify-binlog-checksum, then start again"
                )
            end -= events.CHECKSUM_BYTES
        if log_pos > self._last_log_pos:
            self._last_log_pos = log_pos
        elif log_pos:
            log_pos = self._last_log_pos = self._whole_log_pos(log_pos, event_type)
        body = header + events.HEADER_BYTES
        if event_type == events.TABLE_MAP:
            self._table_map(buffer, body, end, timestamp * 1000, server_id, log_pos - size)
            return False
        if events.WRITE_ROWS <= event_type <= events.DELETE_ROWS:
            self._rows(buffer, body, end, event_type, timestamp * 1000, server_id, log_pos - size, 0)
            return False
        return self._event(buffer, body, end, event_type, timestamp * 1000, server_id, log_pos - size, log_pos, flags)

    def _whole_log_pos(self, log_pos: int, event_type: int) -> int:
        """The 32 bits that events carry wrap in files over 4 GiB; an event that seems to go back has wrapped."""
        begin = self._last_log_pos & -_POSITIONS_MAX
        wrapped = begin + log_pos < self._last_log_pos and event_type not in (
            events.FORMAT_DESCRIPTION,
            events.HEARTBEAT,
        )
        return begin + log_pos + (_POSITIONS_MAX if wrapped else 0)

    def _event(
        self,
        buffer: bytes,
        body: int,
        end: int,
        event_type: int,
        ts_ms: int,
        server_id: int,
        pos: int,
        log_pos: int,
        flags: int,
        first_row: int = 0,
    ) -> bool:
        if events.WRITE_ROWS <= event_type <= events.DELETE_ROWS:
            self._rows(buffer, body, end, event_type, ts_ms, server_id, pos, first_row)
            return False
        if event_type == events.TABLE_MAP:
            self._table_map(buffer, body, end, ts_ms, server_id, pos)
            return False
        if event_type == events.GTID:
            self._begin(self._gtid_parser.parse(buffer, body, end), pos)
            return False
        if event_type == events.QUERY:
            return self._query(buffer, body, end, ts_ms, server_id, pos, log_pos)
        if event_type == events.XID:
            return self._end(log_pos)
        return self._seldom(buffer, body, end, event_type, ts_ms, server_id, pos, log_pos, flags)

    def _seldom(
        self,
        buffer: bytes,
        body: int,
        end: int,
        event_type: int,
        ts_ms: int,
        server_id: int,
        pos: int,
        log_pos: int,
        flags: int,
    ) -> bool:
        """The types of events that don't come with every transaction."""
        if event_type == events.ANONYMOUS_GTID:
            self._begin(None, pos)
            self._commit_ms = commit_timestamp_us(buffer, body, end) // 1000
        elif event_type == events.GTID_TAGGED:
            self._begin(parse_tagged(buffer, body, end), pos)
        elif event_type == events.TRANSACTION_PAYLOAD:
            return self._payload(buffer, body, end, ts_ms, server_id, pos, log_pos)
        elif event_type == events.XA_PREPARE:
            return self._xa_prepare(buffer, body, log_pos)
        elif event_type in events.ROWS_OF_VERSION_1:
            self._rows(buffer, body, end, event_type, ts_ms, server_id, pos, 0)
        elif event_type == events.PARTIAL_UPDATE_ROWS:
            self._partial_rows(buffer, body, end)
        elif event_type in events.WITHOUT_DATA:
            if not self.in_transaction and self._gtid is None:
                self._move(self._event_file, log_pos)
        elif not self._moved(buffer, body, end, event_type, log_pos):
            self._refuse(event_type, flags)
        return False

    def _moved(self, buffer: bytes, body: int, end: int, event_type: int, log_pos: int) -> bool:
        """Events that say where in the binlog we are; False for any other."""
        if event_type == events.ROTATE:
            self._rotate(*events.rotate_body(buffer, body, end))
        elif event_type in (events.HEARTBEAT, events.HEARTBEAT_V2):
            self._move(*events.heartbeat_place(buffer, body, end, event_type, log_pos))
        elif event_type == events.FORMAT_DESCRIPTION:
            self._format_description(buffer, body, end, log_pos)
        else:
            return False
        return True

    def _refuse(self, event_type: int, flags: int) -> None:
        """An event that may carry data and isn't known stops the stream; the server marks those that can be left out."""
        if event_type == events.INCIDENT:
            raise SourceStopped(
                f"the source has logged an incident at {self.place_text()}: changes are missing from its binlog; "
                "the copy has to be read anew: rowflow snapshot --all --start-over"
            )
        if not flags & events.IGNORABLE_FLAG:
            raise SourceStopped(
                f"an event of type {event_type} at {self.place_text()} is unknown to this version of Rowflow and may "
                "carry data; if it can be left out: rowflow snapshot --all --start-over"
            )

    # ---- transactions ----

    def _begin(self, gtid: Gtid | None, pos: int) -> None:
        if self.in_transaction:
            raise SourceStopped(f"a transaction begins inside another one at {self.place_text()}")
        if self._skip and self._skip_gtid and gtid is not None and str(gtid) != self._skip_gtid:
            raise SourceStopped(
                f"the source goes on with transaction {gtid}, but {self._skip_gtid} is published in part: it isn't the "
                "server that was read; rowflow snapshot --all --start-over"
            )
        self._start_place = Place(self._event_file, pos)
        self._gtid = gtid
        if gtid is not None:
            self._with_gtids = True
            self._gtid_text = str(gtid)
            self._commit_ms = gtid.commit_us // 1000

    def _end(self, log_pos: int) -> bool:
        if self._images < self._skip and self._skip:
            self._count_all()
            if self._images < self._skip:
                raise SourceStopped(
                    f"the transaction that ends at {self.place_text()} has {self._images} rows, but {self._skip} of it are "
                    "published: the binlog isn't the one that was read; rowflow snapshot --all --start-over"
                )
        self._skip = 0
        if self._gtid is not None:
            self.gtids.add(self._gtid)
        self._file, self._pos = self._event_file, log_pos
        self.source_ms = self._commit_ms or self.source_ms
        batches, rows, size = self.batches, self.pending_rows, self.pending_bytes
        self._reset()
        self.batches, self.pending_rows, self.pending_bytes = batches, rows, size
        return True

    def _move(self, file: str, pos: int) -> None:
        """Between transactions: the place moves forward past an event that carries no rows."""
        if self.in_transaction or not file or not pos:
            return
        if (file_number(file), pos) > (file_number(self._file), self._pos) or not self._file:
            self._file, self._pos = file, pos

    def _rotate(self, file: str, pos: int) -> None:
        self._event_file = file
        self._last_log_pos = 0
        self._move(file, pos)

    def _format_description(self, buffer: bytes, body: int, end: int, log_pos: int) -> None:
        whole = end + events.CHECKSUM_BYTES if self._checksums else end
        _, self._checksums = events.format_description(buffer, body, whole)
        self._move(self._event_file, log_pos)

    # ---- statements ----

    def _query(self, buffer: bytes, body: int, end: int, ts_ms: int, server_id: int, pos: int, log_pos: int) -> bool:
        database, text = events.query_body(buffer, body, end)
        if text == b"BEGIN":
            self.in_transaction = True
            return False
        statement = parse_statement(text, database)
        kind = statement.kind
        if kind is Kind.BEGIN:
            self.in_transaction = True
        elif kind is Kind.COMMIT:
            return self._end(log_pos)
        elif kind is Kind.ROLLBACK:
            self._roll_back(0)
            return self._end(log_pos)
        elif kind is Kind.SAVEPOINT:
            self._savepoints[statement.savepoint] = len(self.batches)
        elif kind is Kind.ROLLBACK_TO:
            self._roll_back(self._savepoints.get(statement.savepoint, -1))
        elif kind is Kind.XA:
            return self._xa(statement.savepoint, log_pos)
        else:
            self.batches += self._tables.statement(statement, self.origin(ts_ms, server_id, pos))
            if not self.in_transaction:
                return self._end(log_pos)
        return False

    def _roll_back(self, kept: int) -> None:
        """Takes back what is gathered behind the first ``kept`` batches: rows of engines that undo theirs."""
        if self._parts or self._skip or kept < 0:
            raise SourceStopped(
                f"the transaction at {self.place_text()} is rolled back, but its first rows are published already; "
                "the tables that it wrote to have to be read anew: rowflow snapshot --all --start-over"
            )
        behind = [
            batch for batch in self.batches[kept:] if batch.table is None or not self._tables.transactional(batch.table)
        ]
        self.batches[kept:] = behind

    def _xa(self, verb: str, log_pos: int) -> bool:
        if verb in ("START", "BEGIN"):
            self.in_transaction = True
            return False
        if verb == "END":
            return False
        return self._end(log_pos)

    def _xa_prepare(self, buffer: bytes, body: int, log_pos: int) -> bool:
        one_phase = buffer[body] != 0
        if not one_phase and (self._parts or any(batch.table is not None for batch in self.batches)):
            raise SourceStopped(
                f"an XA transaction that wrote to a captured table is prepared at {self.place_text()}: two-phase XA "
                "can't be followed yet, for it may still be rolled back; use one-phase commits, then "
                "rowflow snapshot --all --start-over"
            )
        return self._end(log_pos)

    # ---- rows ----

    def _parse_map(self, body: bytes) -> MappedTable:
        """What a TABLE_MAP body tells; called once per body (R9)."""
        name = parse_table_name(body)
        return MappedTable(body, name, self._tables.find(name))

    def _table_map(self, buffer: bytes, body: int, end: int, ts_ms: int, server_id: int, pos: int) -> None:
        mapped = self._map_of(buffer[body + 8 : end])
        self._mapped[buffer[body : body + 6]] = mapped
        followed = mapped.followed
        if followed is None or not followed.publishing:
            # Not even its columns are looked at: past an event that can't be followed leads a start over.
            return
        schema = mapped.schema or self._schema_of(mapped)
        if followed.fingerprint != mapped.fingerprint:
            self.batches += self._tables.changed(mapped.name, schema, self.origin(ts_ms, server_id, pos))

    def _schema_of(self, mapped: MappedTable) -> TableSchema:
        try:
            schema = mapped.schema = parse_table_map(mapped.body, self._collations)
        except SourceStopped as error:
            raise SourceStopped(f"{error} (at {self.place_text()})") from error
        mapped.fingerprint = schema.fingerprint
        mapped.head = source_head(self._prefix, mapped.name, mapped.fingerprint)
        return schema

    def _rows(
        self, buffer: bytes, body: int, end: int, event_type: int, ts_ms: int, server_id: int, pos: int, first_row: int
    ) -> int:
        """Decodes a ROWS event or puts it aside for counting; the number of its rows (0 where it isn't decoded)."""
        mapped = self._mapped.get(buffer[body : body + 6])
        if mapped is None:
            raise SourceStopped(f"rows of an unknown table at {self.place_text()}: their TABLE_MAP event is missing")
        self.pending_bytes += end - body
        followed = mapped.followed
        if followed is None or not followed.publishing:
            self._put_aside(mapped.body, buffer, body, end, event_type)
            return 0
        known = mapped.headers.get(event_type)
        if known is not None and buffer.startswith(known, body + events.ROWS_FLAGS_END):
            images = body + events.ROWS_FLAGS_END + len(known)
        else:
            images = self._images_start(mapped, buffer, body, event_type)
        if self._transaction_part_key != (server_id, self._event_file):
            self._transaction_part = transaction_part(server_id, self._gtid_text, self._event_file)
            self._transaction_part_key = (server_id, self._event_file)
        mid = b'%s%d%s%d,"row":' % (mapped.head, self._commit_ms or ts_ms, self._transaction_part, pos)
        plan = mapped.plan or self._planned(mapped)
        kind = event_type if event_type >= events.WRITE_ROWS else events.ROWS_OF_VERSION_1[event_type]
        decode = (
            plan.updates if kind == events.UPDATE_ROWS else plan.inserts if kind == events.WRITE_ROWS else plan.deletes
        )
        try:
            rows, messages = decode(buffer, images, end, mid, event_tail(self.now_ms), first_row)
        except SourceStopped as error:
            raise SourceStopped(f"{error} (at {self.place_text()})") from error
        if self._images < self._skip:
            messages = self._after_skipped(messages, rows, first_row)
        self._images += rows
        self.pending_rows += rows
        if messages:
            self.batches.append(Batch(followed.topic, messages, mapped.name))
        self._limit_part()
        return rows

    def _images_start(self, mapped: MappedTable, buffer: bytes, body: int, event_type: int) -> int:
        """Where the images of a ROWS event begin; a row that doesn't hold all columns stops the stream."""
        header = events.rows_header(buffer, body, event_type)
        if not header.complete:
            raise SourceStopped(
                f"a row of {mapped.name} at {self.place_text()} doesn't hold all columns: some session has "
                "binlog_row_image other than FULL; SET GLOBAL binlog_row_image=FULL, end that session, then "
                f"rowflow snapshot {mapped.name} --start-over"
            )
        mapped.headers[event_type] = buffer[body + events.ROWS_FLAGS_END : header.images]
        return header.images

    def _planned(self, mapped: MappedTable) -> Plan:
        assert mapped.schema is not None
        mapped.plan = self._compile_plan(mapped.schema)
        return mapped.plan

    def _after_skipped(self, messages: list[Any], rows: int, first_row: int) -> list[Any]:
        """What of an event's messages lies behind the rows that were published before a restart (R4)."""
        self._count_all()
        skipped = min(rows, self._skip - self._images)
        return [message for message in messages if message[0] >= first_row + skipped] if skipped > 0 else messages

    def _put_aside(self, body_of_map: bytes, buffer: bytes, body: int, end: int, event_type: int) -> None:
        """Rows that aren't published count too, but only where the transaction goes out in parts."""
        self._uncounted.append((body_of_map, buffer, body, end, event_type))
        self._uncounted_bytes += end - body
        many = len(self._uncounted) >= _UNCOUNTED_MAX or self._uncounted_bytes >= _UNCOUNTED_BYTES_MAX
        if many or self._images < self._skip:
            self._count_all()
        self._limit_part()

    def _count_all(self) -> None:
        for body_of_map, buffer, body, end, event_type in self._uncounted:
            if event_type == events.PARTIAL_UPDATE_ROWS:
                self._images += 1
            else:
                header = events.rows_header(buffer, body, event_type)
                self._images += count_row_images(body_of_map, header, buffer, end)
        self._uncounted.clear()
        self._uncounted_bytes = 0

    def _limit_part(self) -> None:
        if self.pending_rows >= self._part_rows or (self.pending_bytes >= self._part_bytes and self.batches):
            self._publish_part()

    def _partial_rows(self, buffer: bytes, body: int, end: int) -> None:
        """PARTIAL_JSON: of a captured table it stops the stream; else it counts as one."""
        mapped = self._mapped.get(buffer[body : body + 6])
        if mapped is None or (mapped.followed is not None and mapped.followed.publishing):
            name = mapped.name if mapped is not None else "an unknown table"
            raise SourceStopped(
                f"a row of {name} at {self.place_text()} holds only a part of a JSON value: some session has "
                "binlog_row_value_options=PARTIAL_JSON; SET GLOBAL binlog_row_value_options='', end that session, then "
                f"rowflow snapshot {name} --start-over"
            )
        self._put_aside(mapped.body, buffer, body, end, events.PARTIAL_UPDATE_ROWS)

    def _payload(self, buffer: bytes, body: int, end: int, ts_ms: int, server_id: int, pos: int, log_pos: int) -> bool:
        """A compressed transaction: its events are handled one by one; pos is the payload's, rows are counted through."""
        payload = events.transaction_payload(buffer, body, end)
        if payload.compression not in (0, 255):
            raise SourceStopped(
                f"the transaction at {self.place_text()} has the unknown compression {payload.compression}"
            )
        data = buffer[payload.start : end]
        reader = zstandard.ZstdDecompressor().stream_reader(data) if payload.compression == 0 else _Plain(data)
        rows, ended = 0, False
        while header := reader.read(events.HEADER_BYTES):
            timestamp, event_type, inner_server_id, size, _, flags = _HEADER(header, 0)
            inner = header + reader.read(size - events.HEADER_BYTES)
            if len(inner) != size:
                raise SourceStopped(f"the compressed transaction at {self.place_text()} is cut off")
            arguments = (inner, events.HEADER_BYTES, size, event_type, timestamp * 1000, inner_server_id, pos)
            if events.WRITE_ROWS <= event_type <= events.DELETE_ROWS:
                rows += self._rows(*arguments, rows)
            else:
                ended = self._event(*arguments, log_pos, flags) or ended
        return ended


class _Plain:
    """Reads an uncompressed payload as the decompressor reads a compressed one."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes, fewer at the end."""
        taken = self._data[self._offset : self._offset + size]
        self._offset += size
        return taken


def _not_an_event(packet: bytes) -> Exception:
    """What an ERR or EOF packet means (MySQL manual, "Protocol::ERR_Packet")."""
    if packet[0] != 0xFF:
        return SourceAway("the source has ended the binlog connection")
    code = packet[1] | packet[2] << 8
    text = packet[9:].decode("utf-8", "replace") if packet[3:4] == b"#" else packet[3:].decode("utf-8", "replace")
    if code in _ERROR_POSITION_PURGED and "server_id" not in text and "max_allowed_packet" not in text:
        return SourceRefused(
            f"the source can't go on from the last position: {text} (error {code}); what lies between is lost to the "
            "binlog; give up the old place and read the tables anew: rowflow snapshot --all --start-over"
        )
    return SourceAway(f"the source has ended the binlog connection: {text} (error {code})")
