"""The hot loop: chunks -> events -> rows of whole source transactions.

Comes in: chunks of a dump connection, in their order.  Goes out: batches of messages for Kafka, the place behind each
source transaction, and how many row images of a transaction went into parts that are published before its end.

Guarantees: nothing leaves a transaction before its end but in parts that the reader asked for by its limits; a ROLLBACK
takes back what isn't published, and stops loudly where parts are; events that may carry data and aren't known stop the
stream, with the place and the way past them; the place moves at a transaction's end, and between transactions past every
other event, never backwards.
Not here: I/O and the clock, which is passed in with each chunk.  Rules R4, R7, R9; faults S3, S4, S10, S12, S13, S16 to S18,
D8 to D11.

What a source transaction of one row costs is the cost of its five events; so the types that come with each are looked for
first, whole transactions are handed over many at a time, and what they have in common is written once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from cdc_reader import events
from cdc_reader.batches import Batch, Origin, SourceWriter, event_tail
from cdc_reader.charsets import CHARSETS, UTF8_CHARSETS, decoder
from cdc_reader.errors import EventUnreadable, SourceStopped, TableUnfollowable
from cdc_reader.gtids import Gtid, GtidParser, GtidSet, commit_timestamp_us, parse_tagged
from cdc_reader.mapped_tables import Followed, MappedTable, MappedTables
from cdc_reader.packets import EventSplitter
from cdc_reader.payloads import payload_events
from cdc_reader.plans import Plan
from cdc_reader.positions import Place, Position, file_number
from cdc_reader.row_counts import RowsAside
from cdc_reader.statements import Kind, Statement, parse_statement
from cdc_reader.table_map import Collation
from schemas.tables import TableName, TableSchema

_POSITIONS_MAX = 1 << 32
_TRANSACTIONS_TOGETHER = 64
_ROWS_TOGETHER = 1_000


class Tables(Protocol):
    """Who knows which tables are captured, and what a schema change or a statement means for them."""

    def find(self, name: TableName) -> Followed | None:
        """The captured table of that name; None where it isn't captured."""

    def changed(self, name: TableName, schema: TableSchema, origin: Origin) -> list[Batch]:
        """A TABLE_MAP has another fingerprint than the table had: what to publish before its rows."""

    def unfollowable(self, name: TableName, why: str, origin: Origin) -> list[Batch]:
        """A followed table's TABLE_MAP holds what isn't known: what to publish; the table isn't ``publishing`` any more."""

    def statement(self, statement: Statement, origin: Origin) -> list[Batch]:
        """A statement that may concern captured tables: what to publish for it; raises SourceStopped for DML."""

    def transactional(self, name: TableName) -> bool:
        """Whether the table's engine undoes its rows at a ROLLBACK."""


class Stream:
    """Handles one chunk after the other; one instance for one connection."""

    def __init__(
        self,
        tables: Tables,
        position: Position,
        prefix: str,
        collations: Mapping[int, Collation],
        compile_plan: Callable[[TableSchema], Plan],
        splitter: EventSplitter,
        *,
        with_gtids: bool,
        part_rows: int,
        part_bytes: int,
        publish_part: Callable[[], None],
    ) -> None:
        """``with_gtids``: the position's GTID set holds all that lies before it, so that positions may say theirs.

        ``part_rows``, ``part_bytes`` (of the binlog): past one of them ``publish_part`` is called between two events.
        """
        self._tables = tables
        self._mapped_tables = MappedTables(tables.find, prefix, collations, compile_plan)
        self._collations = collations
        self._splitter = splitter
        self._part_rows = part_rows
        self._part_bytes = part_bytes
        self._publish_part = publish_part
        self._now_ms = 0
        self._tail = event_tail(0)
        self._source = SourceWriter()
        self.server_uuid = position.server_uuid
        self.gtids = GtidSet(position.gtids)
        self._with_gtids = with_gtids
        self._file = position.file
        self._pos = position.pos
        self._event_file = position.file
        self._last_log_pos = 0
        self._gtid_parser = GtidParser()
        self._skip = position.rows_to_skip
        self._skip_gtid = position.skip_gtid
        self._start_place = position.place
        self.source_ms = position.source_ms
        self._batches: list[Batch] = []
        self._whole_batches = 0
        """How many of them are of transactions that have ended."""
        self.whole_rows = 0
        self.whole_bytes = 0
        """Rows, and bytes of their events, that :meth:`take` will give."""
        self._mapped: dict[bytes, MappedTable] = {}
        """By table id, which holds for one transaction (R9)."""
        self._aside = RowsAside()
        self._savepoints: dict[str, int] = {}
        self._forget_transaction()

    def _forget_transaction(self) -> None:
        self.in_transaction = False
        self._gtid: Gtid | None = None
        self._commit_ms = 0
        self._rows_pending = 0
        self._bytes_pending = 0
        self._images = 0
        self._parts = 0
        self._mapped.clear()
        self._aside.forget()
        if self._savepoints:
            self._savepoints.clear()

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
        self._images += self._aside.count()
        gtids = str(self.gtids) if self._with_gtids else ""
        skip_gtid = str(self._gtid) if self._gtid else ""
        start = self._start_place
        skip = max(self._images, self._skip)
        return Position(start.file, start.pos, gtids, self.server_uuid, skip, skip_gtid, source_ms=self.source_ms)

    def take(self) -> list[Batch]:
        """Takes the batches of the transactions that have ended; the reader publishes them."""
        whole = self._whole_batches
        taken, self._batches = self._batches[:whole], self._batches[whole:]
        self._whole_batches = self.whole_rows = self.whole_bytes = 0
        return taken

    def take_part(self) -> list[Batch]:
        """Takes all batches, in the middle of a transaction: from here on it can't be rolled back."""
        self._parts += 1
        self._savepoints.clear()
        taken, self._batches = self._batches, []
        self._whole_batches = self.whole_rows = self.whole_bytes = 0
        self._rows_pending = self._bytes_pending = 0
        return taken

    @property
    def skips(self) -> bool:
        """Whether the next transaction is published in part, by an earlier connection: its rows are passed over (R4)."""
        return self._skip > 0

    @property
    def now_ms(self) -> int:
        """The time that the last chunk came with."""
        return self._now_ms

    def origin(self, ts_ms: int, server_id: int, pos: int) -> Origin:
        """Where the event at hand comes from."""
        gtid = str(self._gtid) if self._gtid else ""
        return Origin(self._commit_ms or ts_ms, server_id, gtid, self._event_file, pos, self._now_ms)

    def place_text(self) -> str:
        """Where the stream is, for messages."""
        gtid = f", GTID {self._gtid}" if self._gtid else ""
        return f"{self._event_file}:{self._last_log_pos}{gtid}"

    # ---- events ----

    def feed(self, chunk: bytes, now_ms: int) -> Iterator[None]:
        """Handles the events that end in ``chunk``; yields where whole transactions may be taken, seldom but at its end.

        In between the stream stands between two source transactions; at the chunk's end it may be in one.
        """
        if now_ms != self._now_ms:
            self._now_ms, self._tail = now_ms, event_tail(now_ms)
        ended = 0
        try:
            for buffer, body, end, event_type, time_s, server_id, size, log_pos in self._splitter.split(chunk):
                if log_pos > self._last_log_pos:
                    self._last_log_pos = log_pos
                elif log_pos:
                    log_pos = self._last_log_pos = self._whole_log_pos(log_pos, event_type)  # noqa: PLW2901
                if self._event(buffer, body, end, event_type, time_s * 1000, server_id, log_pos - size, log_pos):
                    ended += 1
                    if ended == _TRANSACTIONS_TOGETHER or self.whole_rows >= _ROWS_TOGETHER:
                        ended = 0
                        yield
        except EventUnreadable as error:
            raise self._past(str(error), error.table) from error
        except (LookupError, ValueError, struct.error) as error:
            raise self._past("an event can't be read, for its parts don't fit each other", None) from error
        if ended:
            yield

    def _past(self, what: str, table: TableName | None) -> SourceStopped:
        """The loud stop at an event that can't be read."""
        which, command = ("the table", str(table)) if table else ("the tables", "--all")
        return SourceStopped(
            f"{what} (behind {self.place_text()}); start again, then it is read anew; if it stays so, give up the old "
            f"place and read {which} whole: rowflow snapshot {command} --start-over"
        )

    def _whole_log_pos(self, log_pos: int, event_type: int) -> int:
        """The 32 bits that events carry wrap in files over 4 GiB; an event that seems to go back has wrapped."""
        begin = self._last_log_pos & -_POSITIONS_MAX
        wrapped = begin + log_pos < self._last_log_pos and event_type not in (
            events.FORMAT_DESCRIPTION,
            events.HEARTBEAT,
        )
        return begin + log_pos + (_POSITIONS_MAX if wrapped else 0)

    def _event(
        self, buffer: bytes, body: int, end: int, event_type: int, ts_ms: int, server_id: int, pos: int, log_pos: int
    ) -> bool:
        """Handles one event; True where a source transaction has ended with it."""
        if event_type == events.TABLE_MAP:
            self._table_map(buffer, body, end, ts_ms, server_id, pos)
            return False
        if events.WRITE_ROWS <= event_type <= events.DELETE_ROWS:
            self._rows(buffer, body, end, event_type, ts_ms, server_id, pos, 0)
            return False
        if event_type == events.GTID:
            self._begin(self._gtid_parser.parse(buffer, body, end), pos)
            return False
        if event_type == events.QUERY:
            return self._query(buffer, body, end, ts_ms, server_id, pos, log_pos)
        if event_type == events.XID:
            return self._end(log_pos)
        return self._seldom(buffer, body, end, event_type, ts_ms, server_id, pos, log_pos)

    def _seldom(
        self, buffer: bytes, body: int, end: int, event_type: int, ts_ms: int, server_id: int, pos: int, log_pos: int
    ) -> bool:
        """The types of events that don't come with every transaction."""
        if event_type == events.ANONYMOUS_GTID:
            self._begin(None, pos)
            self._commit_ms = commit_timestamp_us(buffer, body, end) // 1000
        elif event_type == events.GTID_TAGGED:
            self._begin(parse_tagged(buffer, body, end), pos)
        elif event_type == events.TRANSACTION_PAYLOAD:
            return self._payload(buffer, body, end, pos, log_pos)
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
            self._refuse(event_type, int.from_bytes(buffer[body - 2 : body], "little"))
        return False

    def _payload(self, buffer: bytes, body: int, end: int, pos: int, log_pos: int) -> bool:
        """A compressed transaction: its events are handled one by one; pos is the payload's, rows are counted through."""
        rows, ended = 0, False
        for inner, event_type, time_s, server_id in payload_events(buffer, body, end):
            arguments = (inner, events.HEADER_BYTES, len(inner), event_type, time_s * 1000, server_id, pos)
            if events.WRITE_ROWS <= event_type <= events.DELETE_ROWS:
                rows += self._rows(*arguments, rows)
            else:
                ended = self._event(*arguments, log_pos) or ended
        return ended

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
            raise EventUnreadable("a transaction begins inside another one")
        if self._skip and self._skip_gtid and gtid is not None and str(gtid) != self._skip_gtid:
            raise SourceStopped(
                f"the source goes on with transaction {gtid}, but {self._skip_gtid} is published in part: it isn't the "
                "server that was read; rowflow snapshot --all --start-over"
            )
        self._start_place = Place(self._event_file, pos)
        self._gtid = gtid
        if gtid is None:
            # A transaction without one: from here on no set says where we are.
            self._with_gtids = False
        else:
            self._commit_ms = gtid.commit_us // 1000

    def _end(self, log_pos: int) -> bool:
        if self._images < self._skip and self._skip:
            self._images += self._aside.count()
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
        self._whole_batches = len(self._batches)
        self.whole_rows += self._rows_pending
        self.whole_bytes += self._bytes_pending
        self._forget_transaction()
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
        splitter = self._splitter
        whole = end + events.CHECKSUM_BYTES if splitter.checksums else end
        _, splitter.checksums = events.format_description(buffer, body, whole)
        self._move(self._event_file, log_pos)

    # ---- statements ----

    def _query(self, buffer: bytes, body: int, end: int, ts_ms: int, server_id: int, pos: int, log_pos: int) -> bool:
        if events.is_begin(buffer, body, end):
            self.in_transaction = True
            return False
        database, text, collation = events.query_body(buffer, body, end)
        statement = parse_statement(self._as_utf8(text, collation), database)
        kind = statement.kind
        if kind is Kind.BEGIN:
            self.in_transaction = True
        elif kind is Kind.COMMIT:
            return self._end(log_pos)
        elif kind is Kind.ROLLBACK:
            self._roll_back(0)
            return self._end(log_pos)
        elif kind is Kind.SAVEPOINT:
            self._savepoints[statement.savepoint] = len(self._batches) - self._whole_batches
        elif kind is Kind.ROLLBACK_TO:
            self._roll_back(self._savepoints.get(statement.savepoint, -1))
        elif kind is Kind.XA:
            return self._xa(statement.savepoint, log_pos)
        else:
            self._batches += self._tables.statement(statement, self.origin(ts_ms, server_id, pos))
            if not self.in_transaction:
                return self._end(log_pos)
        return False

    def _as_utf8(self, text: bytes, collation: int) -> bytes:
        """A statement's text, which stands in the character set that its session sent it in."""
        known = self._collations.get(collation)
        if known is None or known.charset in UTF8_CHARSETS or known.charset not in CHARSETS:
            return text
        try:
            return decoder(known.charset)(text).encode()
        except UnicodeError:
            return text

    def _roll_back(self, kept: int) -> None:
        """Takes back what the transaction gathered behind its first ``kept`` batches: rows of engines that undo theirs."""
        if self._parts or self._skip or kept < 0:
            raise SourceStopped(
                f"the transaction at {self.place_text()} is rolled back, but its first rows are published already; "
                "the tables that it wrote to have to be read anew: rowflow snapshot --all --start-over"
            )
        kept += self._whole_batches
        self._batches[kept:] = [
            batch
            for batch in self._batches[kept:]
            if batch.table is None or not self._tables.transactional(batch.table)
        ]

    def _xa(self, verb: str, log_pos: int) -> bool:
        if verb in ("START", "BEGIN"):
            self.in_transaction = True
            return False
        if verb == "END":
            return False
        return self._end(log_pos)

    def _xa_prepare(self, buffer: bytes, body: int, log_pos: int) -> bool:
        one_phase = buffer[body] != 0
        if not one_phase and any(mapped.followed is not None for mapped in self._mapped.values()):
            # Of a table that waits for its first read, too: the SELECT doesn't see the rows, and XA COMMIT doesn't bring them.
            raise SourceStopped(
                f"an XA transaction that wrote to a captured table is prepared at {self.place_text()}: two-phase XA "
                "can't be followed yet, for it may still be rolled back; use one-phase commits, then "
                "rowflow snapshot --all --start-over"
            )
        return self._end(log_pos)

    # ---- rows ----

    def _table_map(self, buffer: bytes, body: int, end: int, ts_ms: int, server_id: int, pos: int) -> None:
        mapped = self._mapped_tables.of(buffer[body + 8 : end])
        self._mapped[buffer[body : body + 6]] = mapped
        followed = mapped.followed
        if followed is None or not followed.publishing:
            # Not even its columns are looked at: past an event that can't be followed leads a start over.
            return
        if followed.fingerprint != mapped.fingerprint or mapped.schema is None:
            self._version(mapped, followed, self.origin(ts_ms, server_id, pos))

    def _version(self, mapped: MappedTable, followed: Followed, origin: Origin) -> None:
        """A version that was not met before, or isn't the one that the table had last."""
        try:
            schema = self._mapped_tables.complete(mapped)
        except TableUnfollowable as error:
            self._batches += self._tables.unfollowable(mapped.name, str(error), origin)
            return
        except SourceStopped as error:
            raise SourceStopped(f"{error} (at {self.place_text()})") from error
        if followed.fingerprint != mapped.fingerprint:
            self._batches += self._tables.changed(mapped.name, schema, origin)

    def _rows(
        self, buffer: bytes, body: int, end: int, event_type: int, ts_ms: int, server_id: int, pos: int, first_row: int
    ) -> int:
        """Decodes a ROWS event or puts it aside for counting; the number of its rows (0 where it isn't decoded)."""
        mapped = self._mapped.get(buffer[body : body + 6])
        if mapped is None:
            raise EventUnreadable("rows of an unknown table: their TABLE_MAP event is missing")
        followed = mapped.followed
        if followed is None or not followed.publishing:
            self._put_aside(mapped.body, buffer, body, end, event_type)
            return 0
        self._bytes_pending += end - body
        known = mapped.headers.get(event_type)
        if known is not None and buffer.startswith(known, body + events.ROWS_FLAGS_END):
            images = body + events.ROWS_FLAGS_END + len(known)
        else:
            images = self._images_start(mapped, buffer, body, event_type)
        mid = self._source.mid(mapped.head, self._commit_ms or ts_ms, server_id, self._gtid, self._event_file, pos)
        try:
            rows, messages = mapped.decode[event_type](buffer, images, end, mid, self._tail, first_row)
        except SourceStopped as error:
            raise SourceStopped(f"{error} (at {self.place_text()})") from error
        if self._images < self._skip:
            messages = self._after_skipped(messages, rows, first_row)
        self._images += rows
        self._rows_pending += rows
        if messages:
            self._batches.append(Batch(followed.topic, messages, mapped.name))
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

    def _after_skipped(self, messages: list[Any], rows: int, first_row: int) -> list[Any]:
        """What of an event's messages lies behind the rows that were published before a restart (R4)."""
        self._images += self._aside.count()
        skipped = min(rows, self._skip - self._images)
        return [message for message in messages if message[0] >= first_row + skipped] if skipped > 0 else messages

    def _put_aside(self, body_of_map: bytes, buffer: bytes, body: int, end: int, event_type: int) -> None:
        """Rows that aren't published count too, but only where the transaction goes out in parts."""
        self._aside.add(body_of_map, buffer, body, end, event_type)
        if self._aside.many or self._images < self._skip:
            self._images += self._aside.count()

    def _limit_part(self) -> None:
        if self._rows_pending >= self._part_rows or (self._bytes_pending >= self._part_bytes and self._batches):
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
