"""``rowflow read``: change events as lines of JSON, without Kafka.

Comes in: a source, patterns, and where to begin.  Goes out: one line per event, in the binlog's order, each source
transaction as a whole when it has ended.  Tombstones are left out: a line has no key.  It writes nothing anywhere and takes a
random server id, so it may run beside the reader.  A connection that is lost is made again from the last whole transaction.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from cdc_reader.batches import Batch, Origin
from cdc_reader.config import SourceConfig
from cdc_reader.connection import DumpConnection, random_server_id
from cdc_reader.errors import SourceAway, SourceRefused, SourceStopped
from cdc_reader.followed import FollowedTable
from cdc_reader.gtids import GtidSet
from cdc_reader.packets import EventSplitter
from cdc_reader.plans import compile_plan
from cdc_reader.positions import Place, Position, parse_place
from cdc_reader.preflight import SourceFacts, asks_by_gtids, check_position, check_source, check_tables, source_facts
from cdc_reader.sql import SourceSession, binlog_status
from cdc_reader.statements import Kind, Statement
from cdc_reader.stream import Stream
from schemas.errors import SettingError
from schemas.patterns import TablePatterns
from schemas.tables import TableName, TableSchema

log = logging.getLogger(__name__)

_PART_ROWS = 10_000
_PART_BYTES = 8 * 1024 * 1024
_RECEIVE_S = 0.1
_RETRY_S = 0.5

Write = Callable[[bytes], object]


class _AllCaptured:
    """Every table that the patterns match is printed, whatever its schema becomes."""

    def __init__(self, patterns: TablePatterns) -> None:
        self._patterns = patterns
        self._tables: dict[TableName, FollowedTable] = {}

    def find(self, name: TableName) -> FollowedTable | None:
        """The table, publishing from the first time on."""
        if name not in self._tables and self._patterns.matches(name):
            self._tables[name] = FollowedTable(name, str(name), publishing=True)
        return self._tables.get(name)

    def changed(self, name: TableName, schema: TableSchema, origin: Origin) -> list[Batch]:
        """Columns come from each TABLE_MAP: nothing to publish."""
        self._tables[name].fingerprint = schema.fingerprint
        return []

    def unfollowable(self, name: TableName, why: str, origin: Origin) -> list[Batch]:
        """The table isn't printed any more."""
        self._tables[name].publishing = False
        log.error("%s isn't printed from %s:%d on: %s", name, origin.file, origin.pos, why)
        return []

    def statement(self, statement: Statement, origin: Origin) -> list[Batch]:
        """DML that is logged as a statement stops here too."""
        named = [name for name in statement.tables if self._patterns.matches(name)]
        if statement.kind is Kind.DML and named:
            raise SourceStopped(
                f"a change of {named[0]} is logged as a statement at {origin.file}:{origin.pos}: some session has "
                "binlog_format other than ROW; SET GLOBAL binlog_format=ROW, end that session, and read from behind it"
            )
        return []

    def transactional(self, name: TableName) -> bool:
        """What is rolled back isn't printed."""
        return True


class _Start(NamedTuple):
    """What ``--from`` says: a place, a set of GTIDs, or neither of them for now."""

    place: Place | None = None
    gtids: str = ""


def _parse_start(text: str | None) -> _Start:
    """FILE:POS or a GTID set; raises SettingError where ``text`` is none of them."""
    if text is None:
        return _Start()
    try:
        return _Start(parse_place(text))
    except ValueError:
        pass
    try:
        gtids = str(GtidSet(text))
    except ValueError:
        gtids = ""
    if not gtids:
        raise SettingError(f"--from takes FILE:POS, like binlog.000002:157, or a GTID set; not {text!r}")
    return _Start(None, gtids)


def _start_position(start: _Start, session: SourceSession, facts: SourceFacts) -> Position:
    """The position that is begun at; raises SettingError where the source can't be asked for it."""
    place = start.place if start.place or start.gtids else binlog_status(session).place
    position = Position(*(place or ("", 0)), start.gtids, facts.server_uuid)
    if start.gtids and not asks_by_gtids(facts, position):
        raise SettingError("--from a GTID set needs gtid_mode=ON and GTIDs without tags; say --from FILE:POS")
    return position


def run(config: SourceConfig, start: str | None, write: Write, stopping: threading.Event) -> None:
    """Prints until ``stopping`` is set.  ``write`` takes whole lines.  Raises RefusedError, StoppedError, SettingError."""
    config = replace(config, server_id=random_server_id())
    begin = _parse_start(start)
    position: Position | None = None
    deadline = time.monotonic() + config.reach_timeout_s
    while not stopping.is_set():
        reading: _Reading | None = None
        try:
            with SourceSession(config.address) as session:
                facts = source_facts(session)
                check_source(session, facts, config)
                if position is None:
                    check_tables(session, facts, config)
                    position = _start_position(begin, session, facts)
                first = session.texts("SHOW BINARY LOGS")[0][0]
                check_position(session, facts, position, f"its binlog begins at --from {first}:4")
            reading = _Reading(config, position, facts, write)
            reading.run(stopping)
        except SourceAway as error:
            if position is None and time.monotonic() > deadline:
                raise SourceRefused(f"{error}; start it, or mend [source] url") from error
            position = reading.position if reading is not None else position
            log.warning("%s; trying again", error)
            stopping.wait(_RETRY_S)


class _Reading:
    """One connection's reading; ``position`` is what a new one begins with."""

    def __init__(self, config: SourceConfig, position: Position, facts: SourceFacts, write: Write) -> None:
        self._write = write
        self._in_parts = False
        self._connection = DumpConnection(config, position, with_gtids=asks_by_gtids(facts, position))
        self._stream = Stream(
            _AllCaptured(config.patterns),
            position,
            "rowflow",
            facts.collations,
            partial(compile_plan, on_undecodable=config.on_undecodable),
            EventSplitter(self._connection.next_sequence, checksums=self._connection.checksums),
            with_gtids=bool(position.gtids),
            part_rows=_PART_ROWS,
            part_bytes=_PART_BYTES,
            publish_part=self._print_part,
        )

    @property
    def position(self) -> Position:
        """Behind the last printed line."""
        return self._stream.part_position() if self._in_parts else self._stream.position()

    def run(self, stopping: threading.Event) -> None:
        """Prints until ``stopping`` is set; raises SourceAway."""
        try:
            while not stopping.is_set():
                chunk = self._connection.receive(_RECEIVE_S)
                if chunk is not None:
                    self._print_chunk(chunk)
        finally:
            self._connection.close()

    def _print_chunk(self, chunk: bytes) -> None:
        for _ in self._stream.feed(chunk, int(time.time() * 1000)):
            self._in_parts = False
            self._print(self._stream.take())

    def _print_part(self) -> None:
        self._in_parts = True
        self._print(self._stream.take_part())

    def _print(self, batches: list[Batch]) -> None:
        values = [message[2] for batch in batches for message in batch.messages if message[2] is not None]
        if values:
            self._write(b"\n".join(values) + b"\n")
