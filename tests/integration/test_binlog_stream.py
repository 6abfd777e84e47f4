"""The stream over a real binlog: it moves to the source's end past everything, counts rows, and stops loudly."""

from collections.abc import Callable, Iterator
from urllib.parse import unquote, urlsplit

import pytest
from MySQLdb.connections import Connection

from cdc_reader.batches import Batch, Origin
from cdc_reader.config import SourceConfig
from cdc_reader.connection import DumpConnection
from cdc_reader.errors import SourceStopped
from cdc_reader.packets import EventSplitter
from cdc_reader.plans import compile_plan
from cdc_reader.positions import Position
from cdc_reader.sql import SourceSession, binlog_status
from cdc_reader.statements import Statement
from cdc_reader.stream import Stream
from schemas.addresses import MysqlAddress
from schemas.patterns import TablePatterns
from schemas.tables import TableName, TableSchema
from servers.mysql import MysqlServer
from tests.helpers import connected, execute, wait_until


class NothingCaptured:
    """Tables of a reader that captures none."""

    def find(self, name: TableName) -> None:
        return None

    def changed(self, name: TableName, schema: TableSchema, origin: Origin) -> list[Batch]:
        raise AssertionError("nothing is captured")

    def statement(self, statement: Statement, origin: Origin) -> list[Batch]:
        return []

    def unfollowable(self, name: TableName, why: str, origin: Origin) -> list[Batch]:
        raise AssertionError("nothing is captured")

    def transactional(self, name: TableName) -> bool:
        return True


class CountingStream(Stream):
    """Notes the row images of each transaction at its end."""

    counted: list[int]

    def _end(self, log_pos: int) -> bool:
        if counted := self.part_position().rows_to_skip:
            self.counted.append(counted)
        return super()._end(log_pos)


def address_of(url: str) -> MysqlAddress:
    parts = urlsplit(url)
    return MysqlAddress(
        parts.hostname or "", parts.port or 3306, unquote(parts.username or ""), unquote(parts.password or "")
    )


class Followed:
    """A stream from the source's present end, fed by hand; ``counted`` has the row images of each transaction."""

    def __init__(self, url: str, *, with_gtids: bool) -> None:
        config = SourceConfig(address_of(url), TablePatterns.from_settings(["nothing.*"]), 77_001 + with_gtids)
        self._session = SourceSession(config.address)
        status = binlog_status(self._session)
        uuid = self._session.texts("SELECT @@global.server_uuid")[0][0]
        position = Position(status.place.file, status.place.pos, status.gtids if with_gtids else "", uuid)
        self._connection = DumpConnection(config, position, with_gtids=with_gtids and bool(status.gtids))
        self.stream = CountingStream(
            NothingCaptured(),
            position,
            "prefix",
            {},
            compile_plan,
            EventSplitter(self._connection.next_sequence, checksums=self._connection.checksums),
            with_gtids=with_gtids,
            part_rows=1,
            part_bytes=1,
            publish_part=lambda: None,
        )
        self.counted = self.stream.counted = []

    def to_end(self, damage: Callable[[bytes], bytes] = bytes) -> None:
        end = binlog_status(self._session).place
        wait_until(
            lambda: self._read(damage) and self.stream.place.order >= end.order,
            20,
            f"the stream at {end}, not {self.stream.place_text()}",
        )

    def _read(self, damage: Callable[[bytes], bytes]) -> bool:
        for _ in self.stream.feed(damage(self._connection.receive(0.1) or b""), now_ms=1):
            self.stream.take()
        return True

    def end_of_source(self) -> tuple[object, str]:
        status = binlog_status(self._session)
        return status.place, status.gtids

    def close(self) -> None:
        self._connection.close()
        self._session.close()


DATABASE = "shop"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MysqlServer]:
    """A server without anybody else's transactions."""
    server = MysqlServer(tmp_path_factory.mktemp("mysql"), {"innodb_buffer_pool_size": "64M"})
    server.start()
    yield server
    server.stop()


@pytest.fixture
def root(server: MysqlServer) -> Iterator[Connection]:
    """A root connection, with an empty database to work in."""
    with connected(server.root_url) as connection:
        execute(connection, f"DROP DATABASE IF EXISTS {DATABASE}")
        execute(connection, f"CREATE DATABASE {DATABASE}")
        yield connection


@pytest.fixture(params=[True, False], ids=["gtids", "file"])
def followed(request: pytest.FixtureRequest, server: MysqlServer, root: Connection) -> Iterator[Followed]:
    followed = Followed(server.root_url, with_gtids=request.param)
    yield followed
    followed.close()


def test_rule_r7_the_place_moves_past_everything_to_the_end(followed: Followed, root: Connection) -> None:
    for statement in (
        f"CREATE TABLE {DATABASE}.t (id INT PRIMARY KEY)",
        f"INSERT INTO {DATABASE}.t VALUES (1)",
        "FLUSH LOGS",
        f"DROP TABLE {DATABASE}.t",
        "FLUSH LOGS",
    ):
        execute(root, statement)
    followed.to_end()
    assert followed.stream.place == followed.end_of_source()[0]


def test_rule_r4_images_of_tables_that_are_not_captured_are_counted(server: MysqlServer, root: Connection) -> None:
    execute(
        root,
        f"CREATE TABLE {DATABASE}.t (id INT PRIMARY KEY, a TINYINT, b MEDIUMINT, c DECIMAL(20,7), d FLOAT, e DOUBLE, "
        "f BIT(17), g YEAR, h DATE, i TIME(3), j DATETIME(6), k TIMESTAMP(1) NULL, l CHAR(30), m VARCHAR(300), n BINARY(9), "
        "o VARBINARY(10), p TINYBLOB, q MEDIUMTEXT, r ENUM('x','y'), s SET('a','b'), t JSON, u GEOMETRY, v CHAR(200))",
    )
    row = (
        "1, -2, 12345.678, 1.5, 2.5, 3, 2001, '2026-11-22', '-10:00:00.123', '2026-11-22 10:00:00', '2026-01-01', 'char', "
        "'varchar', 'bin', 'varbin', 'blob', 'text', 'x', 'a,b', '{\"a\": 1}', ST_GeomFromText('POINT(1 2)'), 'long'"
    )
    followed = Followed(server.root_url, with_gtids=True)
    try:
        with root.cursor() as cursor:
            affected = [
                cursor.execute(f"INSERT INTO {DATABASE}.t VALUES (1, {row}), (2, {row})"),
                cursor.execute(f"INSERT INTO {DATABASE}.t (id) SELECT n + 2 FROM (WITH RECURSIVE s AS (SELECT 1 n UNION ALL "
                               "SELECT n + 1 FROM s WHERE n < 900) SELECT n FROM s) x"),
                cursor.execute(f"UPDATE {DATABASE}.t SET m = REPEAT('z', 300), a = NULL"),
                cursor.execute("SET SESSION binlog_row_image = MINIMAL"),
                cursor.execute(f"UPDATE {DATABASE}.t SET a = 5 WHERE id < 10"),
                cursor.execute(f"DELETE FROM {DATABASE}.t WHERE id < 500"),
            ]  # fmt: skip
        followed.to_end()
        assert followed.counted == [count for count in affected if count]
    finally:
        followed.close()


def test_fault_s18_a_damaged_event_stops_the_stream(server: MysqlServer, root: Connection) -> None:
    followed = Followed(server.root_url, with_gtids=True)
    try:
        execute(root, f"CREATE TABLE {DATABASE}.t (id INT PRIMARY KEY, v VARCHAR(100))")
        execute(root, f"INSERT INTO {DATABASE}.t VALUES (1, 'to be damaged')")
        with pytest.raises(SourceStopped, match="checksum"):
            followed.to_end(lambda buffer: buffer.replace(b"to be damaged", b"to be Damaged"))
    finally:
        followed.close()


def test_fault_s9_and_d11_tagged_and_compressed_transactions_are_followed(
    server: MysqlServer, root: Connection
) -> None:
    followed = Followed(server.root_url, with_gtids=True)
    try:
        for statement in (
            f"CREATE TABLE {DATABASE}.t (id INT PRIMARY KEY, v LONGTEXT)",
            "SET SESSION binlog_transaction_compression = ON",
            f"INSERT INTO {DATABASE}.t VALUES (1, REPEAT('x', 100000)), (2, ''), (3, NULL)",
            "SET SESSION binlog_transaction_compression = OFF, gtid_next = 'AUTOMATIC:blue_tag'",
            f"INSERT INTO {DATABASE}.t VALUES (4, 'tagged')",
            "SET SESSION gtid_next = 'AUTOMATIC'",
            f"UPDATE {DATABASE}.t SET v = REPEAT('k', 18000000) WHERE id < 3",
        ):
            execute(root, statement)
        followed.to_end()
        place, gtids = followed.end_of_source()
        assert followed.stream.place == place
        assert str(followed.stream.gtids) == gtids
        assert "blue_tag" in gtids
        assert followed.stream.gtids.tagged
    finally:
        followed.close()
