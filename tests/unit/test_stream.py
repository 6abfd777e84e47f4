"""The stream on events made by hand: what is taken when, what stops it loudly, and what every stop says."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from unittest.mock import Mock

import orjson
import pytest

from cdc_reader.batches import Batch
from cdc_reader.errors import SourceStopped
from cdc_reader.followed import FollowedTables
from cdc_reader.packets import EventSplitter
from cdc_reader.plans import Plan, compile_plan
from cdc_reader.positions import Position
from cdc_reader.reader import _Session
from cdc_reader.stream import Stream
from cdc_reader.table_map import Collation
from schemas.jobs import TableState, TableStatus, parse_job_record
from schemas.patterns import TablePatterns
from schemas.tables import Column, KeyPart, TableName, TableSchema

UUID = bytes(range(16))
SOURCE = "00010203-0405-0607-0809-0a0b0c0d0e0f"
FILE = "binlog.000007"
COLLATIONS = {255: Collation("utf8mb4_0900_ai_ci", "utf8mb4", 4), 8: Collation("latin1_swedish_ci", "latin1", 1)}
FOLLOWED = ("a", "b", "bücher")
QUERY, XID, TABLE_MAP, INCIDENT, ROWS, GTID, ANONYMOUS, XA_PREPARE, PAYLOAD = 2, 16, 19, 26, 30, 33, 34, 38, 40
TINY, INT, UNKNOWN = 1, 3, 200


def query(text: bytes, collation: int = 255) -> bytes:
    """A QUERY event's body: flags, SQL mode and catalog stand before the character set."""
    status = b"\0" + b"f" * 4 + b"\1" + b"m" * 8 + b"\6\3std" + b"\4" + struct.pack("<HHH", collation, 255, 255)
    return struct.pack("<IIBHH", 1, 0, 4, 0, len(status)) + status + b"shop\0" + text


def gtid(number: int) -> bytes:
    return (
        b"\1"
        + UUID
        + struct.pack("<Q", number)
        + b"\2"
        + bytes(16)
        + (1_700_000_000_000_000).to_bytes(7, "little")
        + b"\5"
    )


def table_map(table: str, types: bytes = bytes([INT]), table_id: str = "") -> bytes:
    """Columns c0, c1, ... of types without metadata, the first of which is the key; the name is the table's id too."""
    name = table.encode()
    names = b"".join(b"\2c%d" % index for index in range(len(types)))
    optional = b"\1\1\0" + bytes([4, len(names)]) + names + b"\x08\1\0"
    nulls = bytes((len(types) + 7) // 8)
    head = f"{table_id or table:6.6}".encode()[:6] + b"\0\0" + b"\4shop\0" + bytes([len(name)]) + name + b"\0"
    return head + bytes([len(types)]) + types + b"\0" + nulls + optional


def rows(table: str, *ids: int, columns: int = 1) -> bytes:
    """An event of WRITE_ROWS of the table with that id."""
    images = b"".join(b"\0" + struct.pack("<i", number) + bytes(columns - 1) for number in ids)
    return f"{table:6.6}".encode()[:6] + b"\0\0\2\0" + bytes([columns, (1 << columns) - 1]) + images


Events = Sequence[tuple[int, bytes]]


def begin(number: int, table: str, types: bytes = bytes([INT]), table_id: str = "") -> Events:
    """What stands before a transaction's first rows."""
    return (GTID, gtid(number)), (QUERY, query(b"BEGIN")), (TABLE_MAP, table_map(table, types, table_id))


class Stand:
    """A stream that is fed events; what it gives is published at once."""

    def __init__(
        self,
        position: Position | None = None,
        *,
        with_gtids: bool = True,
        part_rows: int = 10**6,
        chunk_bytes: int = 10**6,
    ) -> None:
        self._chunk_bytes = chunk_bytes
        self.tables = FollowedTables(
            TablePatterns.from_settings(["shop.*", "!shop.left_out"]), "p", 1, lambda _: True, lower_case=False
        )
        self._states = []
        schemas = {}
        for table in FOLLOWED:
            schema = TableSchema(TableName("shop", table), (Column("c0", "int", nullable=False),), (KeyPart("c0"),))
            schemas[schema.name, schema.fingerprint] = schema
            self._states.append(TableState("shop", table, TableStatus.FOLLOWED.value, schema.fingerprint, "id"))
        self.tables.load(self._states, schemas)
        self.published: list[Batch] = []
        self.compiled: list[TableName] = []
        self.parts: list[Position] = []
        self.stream = Stream(
            self.tables,
            position or Position(FILE, 100, "", "uuid"),
            "p",
            COLLATIONS,
            self._compile,
            EventSplitter(0, checksums=False),
            with_gtids=with_gtids,
            part_rows=part_rows,
            part_bytes=10**9,
            publish_part=self._part,
        )
        self._pos, self._sequence = 100, 0

    def _compile(self, schema: TableSchema) -> Plan:
        self.compiled.append(schema.name)
        return compile_plan(schema)

    def _part(self) -> None:
        self.published += self.stream.take_part()
        self.parts.append(self.stream.part_position())

    def feed(self, *bodies: tuple[int, bytes], flags: int = 0) -> None:
        """Events of these types with these bodies, in one chunk."""
        chunk = b""
        for event_type, body in bodies:
            size = 19 + len(body)
            self._pos += size
            payload = b"\0" + struct.pack("<IBIIIH", 1_700_000_000, event_type, 1, size, self._pos, flags) + body
            chunk += len(payload).to_bytes(3, "little") + bytes([self._sequence & 255]) + payload
            self._sequence += 1
        for start in range(0, len(chunk), self._chunk_bytes):
            for _ in self.stream.feed(chunk[start : start + self._chunk_bytes], now_ms=5):
                self.published += self.stream.take()

    def transaction(self, number: int, table: str, *ids: int, end: tuple[int, bytes] = (XID, bytes(8))) -> None:
        self.feed(
            *begin(number, table),
            (ROWS, rows(table, *ids)),
            end,
        )

    def stop(self, *bodies: tuple[int, bytes]) -> str:
        """The message of the loud stop at these events."""
        with pytest.raises(SourceStopped) as stopped:
            self.feed(*bodies)
        return str(stopped.value)

    @property
    def ids(self) -> list[int]:
        """Of the rows that are published."""
        values = [message[2] for batch in self.published if batch.table for message in batch.messages]
        return [orjson.loads(value or b"")["after"]["c0"] for value in values]

    def states(self) -> dict[str, TableState]:
        """The tables' states that are published."""
        found = [message for batch in self.published if batch.topic == "p.__jobs" for message in batch.messages]
        parsed = [parse_job_record(key, value or b"") for _, key, value, _ in found]
        return {state.table: state for state in parsed if isinstance(state, TableState)}


def test_only_whole_transactions_are_given() -> None:
    stand = Stand()
    stand.transaction(1, "a", 1, 2)
    stand.feed(*begin(2, "a"), (ROWS, rows("a", 3)))
    assert stand.ids == [1, 2]
    assert stand.stream.take() == []
    assert stand.stream.position().gtids == f"{SOURCE}:1"
    stand.feed((ROWS, rows("a", 4)), (XID, bytes(8)))
    assert stand.ids == [1, 2, 3, 4]
    assert stand.stream.position().gtids == f"{SOURCE}:1-2"
    assert stand.stream.position().pos == stand._pos


@pytest.mark.parametrize("size", [1, 7, 100, 1000])
def test_it_does_not_matter_where_the_chunks_are_cut(size: int) -> None:
    whole, cut = Stand(), Stand(chunk_bytes=size)
    for stand in (whole, cut):
        for number in range(1, 200):
            stand.transaction(number, "ab"[number % 2], number, number + 1000)
    assert cut.ids == whole.ids
    assert len(whole.ids) == 398
    assert cut.stream.position() == whole.stream.position()


def test_rule_r9_a_table_has_one_plan_under_any_id_and_an_id_is_forgotten_with_its_transaction() -> None:
    stand = Stand()
    for number, table_id in enumerate(("x", "y", "z"), 1):
        stand.feed(*begin(number, "a", table_id=table_id), (ROWS, rows(table_id, number)), (XID, bytes(8)))
    # The id of one table is given to another one.
    stand.feed(*begin(4, "b", table_id="x"), (ROWS, rows("x", 4)), (XID, bytes(8)))
    assert stand.ids == [1, 2, 3, 4]
    assert [str(batch.table) for batch in stand.published] == ["shop.a", "shop.a", "shop.a", "shop.b"]
    assert stand.compiled == [TableName("shop", "a"), TableName("shop", "b")]
    assert "TABLE_MAP event is missing" in stand.stop((GTID, gtid(5)), (QUERY, query(b"BEGIN")), (ROWS, rows("x", 5)))


def test_rule_r9_another_version_of_a_table_is_another_plan() -> None:
    stand = Stand()
    stand.transaction(1, "a", 1)
    two = (TABLE_MAP, table_map("a", bytes([INT, TINY])))
    stand.feed((GTID, gtid(2)), (QUERY, query(b"BEGIN")), two, (ROWS, rows("a", 2, columns=2)), (XID, bytes(8)))
    stand.transaction(3, "b", 3)
    assert stand.ids == [1, 2, 3]
    assert stand.compiled == [TableName("shop", "a"), TableName("shop", "a"), TableName("shop", "b")]


def test_what_is_rolled_back_behind_a_savepoint_is_not_given_and_what_was_before_is() -> None:
    stand = Stand()
    stand.feed(
        *begin(9, "a"),
        (ROWS, rows("a", 0)),
        (XID, bytes(8)),
        *begin(1, "a"),
    )
    stand.feed(
        (ROWS, rows("a", 1)),
        (QUERY, query(b"SAVEPOINT s")),
        (ROWS, rows("a", 2)),
        (QUERY, query(b"ROLLBACK TO s")),
        (ROWS, rows("a", 3)),
        (XID, bytes(8)),
    )
    stand.transaction(2, "a", 4, end=(QUERY, query(b"ROLLBACK")))
    assert stand.ids == [0, 1, 3]


def test_rule_r4_a_rollback_of_what_is_published_in_part_is_a_loud_stop() -> None:
    stand = Stand(part_rows=2)
    stand.feed(*begin(1, "a"), (ROWS, rows("a", 1, 2)))
    assert [(part.pos, part.rows_to_skip) for part in stand.parts] == [(100, 2)]
    message = stand.stop((QUERY, query(b"ROLLBACK")))
    assert "its first rows are published already" in message
    assert message.endswith("rowflow snapshot --all --start-over")


def test_rule_j2_no_job_takes_a_step_before_a_transaction_that_is_published_in_part() -> None:
    """A window opened there would not note the keys of the part, which are passed over."""
    stand = Stand(Position(FILE, 100, f"{SOURCE}:1", "uuid", rows_to_skip=2, skip_gtid=f"{SOURCE}:2"))

    jobs = Mock(idle=False, step=Mock(return_value=[]))
    session = _Session.__new__(_Session)
    session._stream, session._jobs, session._server_id = stand.stream, jobs, 1
    session._step_jobs()
    jobs.step.assert_not_called()
    stand.transaction(2, "a", 1, 2, 3)
    assert stand.ids == [3]
    session._step_jobs()
    jobs.step.assert_called_once()


def test_fault_s12_an_unknown_event_stops_unless_the_server_says_that_it_can_be_left_out() -> None:
    stand = Stand()
    stand.feed((99, b"something new"), flags=0x80)
    message = stand.stop((99, b"something new"))
    assert "type 99" in message
    assert f"{FILE}:{stand._pos}" in message
    assert message.endswith("rowflow snapshot --all --start-over")


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([(INCIDENT, b"\1\0\0")], "incident"),
        ([(GTID, gtid(1)), (QUERY, query(b"BEGIN")), (GTID, gtid(2))], "begins inside another one"),
        ([(ROWS, rows("a", 1))], "their TABLE_MAP event is missing"),
        ([(PAYLOAD, b"\2\1\x07\0")], "compression 7"),
        ([(PAYLOAD, b"\2\1\0\0" + b"not zstd")], "can't be unpacked"),
        ([(PAYLOAD, b"\2\3\xfc\xff\0\0" + bytes(13) + b"\x63\0\0\0" + bytes(6))], "cut off"),
        ([(GTID, b"\1short")], "parts don't fit each other"),
        ([(TABLE_MAP, b"a     \0\0\xff")], "TABLE_MAP event can't be read"),
    ],
    ids=["incident", "nested", "no_map", "compression", "not_zstd", "cut_payload", "cut_gtid", "cut_map"],
)
def test_every_stop_says_where_and_how_to_go_on(events: Events, words: str) -> None:
    message = Stand().stop(*events)
    assert words in message
    assert f"{FILE}:" in message
    assert message.endswith("rowflow snapshot --all --start-over")


def test_rows_that_do_not_fit_their_table_stop_with_that_tables_command() -> None:
    message = Stand().stop(*begin(1, "a"), (ROWS, rows("a", 1)[:-1]))
    assert message.endswith("rowflow snapshot shop.a --start-over")


def test_a_table_with_an_unknown_column_type_stands_still_alone() -> None:
    stand = Stand()
    stand.transaction(1, "a", 1)
    two = bytes([INT, UNKNOWN])
    stand.feed(
        *begin(2, "a", two),
        (ROWS, rows("a", 2, columns=2)),
        (TABLE_MAP, table_map("b")),
        (ROWS, rows("b", 3)),
        (XID, bytes(8)),
    )
    stand.transaction(3, "b", 4)
    assert stand.ids == [1, 3, 4]
    state = stand.states()["a"]
    assert state.status == TableStatus.STANDS_STILL
    assert "column 2 of shop.a has the type 200" in state.reason
    assert state.reason.endswith("rowflow snapshot shop.a")


def test_a_transaction_without_a_gtid_ends_positions_by_gtids() -> None:
    """They would say too little: who asked by them would get that transaction once more."""
    stand = Stand()
    stand.transaction(1, "a", 1)
    assert stand.stream.position().gtids
    stand.feed(
        (ANONYMOUS, gtid(0)),
        (QUERY, query(b"BEGIN")),
        (TABLE_MAP, table_map("a")),
        (ROWS, rows("a", 2)),
        (XID, bytes(8)),
    )
    stand.transaction(2, "a", 3)
    assert stand.stream.position().gtids == ""
    assert stand.ids == [1, 2, 3]


def test_a_set_that_lacks_what_lies_before_is_not_begun_with() -> None:
    stand = Stand(with_gtids=False)
    stand.transaction(500, "a", 1)
    assert stand.stream.position().gtids == ""


@pytest.mark.parametrize("table", ["a", "not_read_yet"])
def test_fault_xa_a_prepared_transaction_of_a_captured_table_stops(table: str) -> None:
    """Of one that waits for its first read, too: the SELECT doesn't see its rows, and the commit doesn't bring them."""
    prepare = b"\0" + struct.pack("<III", 1, 1, 0) + b"x"
    start = [(GTID, gtid(1)), (QUERY, query(b"XA START X'78',X'',1"))]
    message = Stand().stop(*start, (TABLE_MAP, table_map(table)), (ROWS, rows(table, 1)), (XA_PREPARE, prepare))
    assert "XA" in message
    other = Stand()
    other.feed(*start, (TABLE_MAP, table_map("left_out")), (ROWS, rows("left_out", 1)), (XA_PREPARE, prepare))
    other.feed((GTID, gtid(2)), (QUERY, query(b"XA COMMIT X'78',X'',1")))
    assert other.stream.place.pos == other._pos


@pytest.mark.parametrize(("charset", "collation"), [("utf-8", 255), ("latin-1", 8)])
def test_a_statement_is_read_in_the_character_set_of_its_session(charset: str, collation: int) -> None:
    stand = Stand()
    stand.feed((GTID, gtid(1)), (QUERY, query("TRUNCATE TABLE bücher".encode(charset), collation)))
    (barrier,) = [orjson.loads(batch.messages[0][2] or b"") for batch in stand.published]
    assert barrier["op"] == "t"
    assert barrier["source"]["table"] == "bücher"
