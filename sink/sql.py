"""Sessions with the sink: the one module of this room that knows the client library.

Comes in: statements with parameters.  Goes out: rows and counts; failures as the kinds of errors.py.

Guarantees: every session has the settings of exactness.md W9; no statement that commits implicitly runs while a
transaction is open (W8); a warning that means a value was changed is a failure (W12 and faults.md K5); a session that
failed or idled is never lent again (W9, W10).  One session is for one thread at a time; the pool is for all.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import MySQLdb
from MySQLdb.constants import CR, ER

from schemas.addresses import MysqlAddress
from sink.errors import LockConflict, SinkError, SinkRefused, StatementFailed, Unreachable, ValueRefused

Row = tuple[Any, ...]

CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 60
LONG_READ_TIMEOUT_S = 86_400
IDLE_MAX_S = 15.0
"""A session that lay idle for longer is closed instead of lent: the server would end it at ``wait_timeout``."""

SQL_MODE = "STRICT_ALL_TABLES,STRICT_TRANS_TABLES,ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO,NO_ENGINE_SUBSTITUTION"
_SETTINGS = (
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    f"SET SESSION sql_mode='{SQL_MODE}', time_zone='+00:00'",
    "SET SESSION innodb_lock_wait_timeout=10, lock_wait_timeout=10, wait_timeout=30",
)

# Statements that leave an open transaction open: https://dev.mysql.com/doc/refman/9.7/en/implicit-commit.html
_KEEPS_TRANSACTION = re.compile(
    rb"\s*(?:\(\s*)*(?:SELECT|WITH|INSERT|UPDATE|DELETE|REPLACE|VALUES|TABLE|DO|SHOW|EXPLAIN|LOAD\s+DATA|SAVEPOINT"
    rb"|ROLLBACK\s+TO|RELEASE\s+SAVEPOINT|SET\s+@(?!@)|CREATE\s+TEMPORARY\s+TABLE|DROP\s+TEMPORARY\s+TABLE)\b",
    re.IGNORECASE,
)
_WRITES = re.compile(rb"\s*(?:INSERT|UPDATE|DELETE|REPLACE|LOAD\s+DATA)\b", re.IGNORECASE)
_LOADS = re.compile(rb"\s*LOAD\s+DATA\b", re.IGNORECASE)

# Server is away, is going away, is full, is read-only, or has no room for us now.
_UNREACHABLE = frozenset(
    {1021, 1028, 1030, 1037, 1040, 1041, 1047, 1053, 1077, 1079, 1080, 1114, 1129, 1135, 1152, 1158, 1159, 1160, 1161}
    | {1180, 1184, 1203, 1226, 1290, 1792, 1836, 1927, 3032, 3100, 3101, 3168, 3169, 4031}
)
# Lock wait, deadlock, interrupted, changed definition, timed out, changed since the last read (MariaDB).
_CONFLICT = frozenset({1020, 1205, 1213, 1317, 1412, 1615, 1969, 3024, 3058, 3572})
_REFUSED = frozenset({1044, 1045, 1049, 1130, 1142, 1143, 1227, 1251, 1524, 1698, 1862, 3118, 3159})
_VALUE = frozenset(
    {1048, 1062, 1118, 1153, 1264, 1265, 1292, 1300, 1364, 1365, 1366, 1367, 1406, 1411, 1416, 1425, 1426, 1436, 1438}
    | {1439, 1441, 1525, 1690, 1977, 3037, 3055, 3064, 3140, 3141, 3143, 3144, 3145, 3146, 3147, 3148, 3149, 3150, 3156}
    | {3157, 3158, 3516, 3548, 3616, 3617, 3618, 3643, 3819, 3903, 4025, 4038, 6138, 6139}
)
# Their texts name users, hosts, schemas, tables and columns only, never a value of a row.
_SPEAKS_PLAINLY = _REFUSED | {1040, 1053, 1050, 1051, 1054, 1060, 1061, 1091, 1103, 1146, 1205, 1213, 1290, 1836}
_SYMBOLS: dict[int, str] = {
    value: name for module in (CR, ER) for name, value in vars(module).items() if isinstance(value, int)
}


@dataclass(frozen=True, slots=True)
class Server:
    """What is known of the server behind a session."""

    version: str
    mariadb: bool
    max_packet_bytes: int
    """``max_allowed_packet``: no statement may be longer."""


def translated(error: MySQLdb.Error, where: MysqlAddress) -> Exception:
    """The kind of failure that an error of the client library is."""
    code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    client_side = not code or CR.ERROR_FIRST <= code < 3000
    text = str(error.args[-1]) if error.args and (client_side or code in _SPEAKS_PLAINLY) else _SYMBOLS.get(code, "")
    message = f"sink {where}: error {code}" + (f" ({text})" if text else "")
    if code in _REFUSED:
        return SinkRefused(f"{message}; {_remedy(code, where)}")
    if code in _CONFLICT:
        return LockConflict(message, code)
    if code in _VALUE:
        return ValueRefused(message, code)
    if client_side or code in _UNREACHABLE:
        return Unreachable(message, code)
    return StatementFailed(message, code)


def _remedy(code: int, where: MysqlAddress) -> str:
    """The statement or setting that mends a refused access."""
    if code in {1044, 1142, 1143, 1227}:
        grants = "SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, CREATE TEMPORARY TABLES"
        return f"GRANT {grants} ON `{where.database}`.* TO '{where.user}'@'%';"
    if code == 1049:
        return f"CREATE DATABASE `{where.database}`;"
    return "mend user and password in [sink] url (ROWFLOW_SINK__URL)"


class Session:
    """One connection to the sink.  Made by the pool."""

    def __init__(self, address: MysqlAddress, read_timeout_s: int = READ_TIMEOUT_S) -> None:
        self._address = address
        self.in_transaction = False
        self.broken = False
        """Whether it may not be used again: its connection or its transaction's state is unknown."""
        options: dict[str, Any] = {}
        if address.ssl_ca is not None:
            options = {"ssl": {"ca": address.ssl_ca}, "ssl_mode": "VERIFY_IDENTITY"}
        try:
            self._connection = MySQLdb.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                password=address.password,
                database=address.database,
                charset="utf8mb4",
                autocommit=True,
                multi_statements=False,
                binary_prefix=True,
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                write_timeout=read_timeout_s,
                **options,
            )
        except MySQLdb.Error as error:
            raise translated(error, address) from error
        # The stub says str; what it returns is bytes.
        self._text_literal = cast(Callable[[str], bytes], self._connection.string_literal)
        for setting in _SETTINGS:
            self.execute(setting)
        version, packet_bytes = self.fetch("SELECT VERSION(), @@max_allowed_packet")[0]
        self.server = Server(version, "mariadb" in version.lower(), packet_bytes)

    @property
    def database(self) -> str:
        """The schema of the results."""
        return self._address.database

    def begin(self) -> None:
        """Open a transaction."""
        self.execute("START TRANSACTION")
        self.in_transaction = True

    def commit(self) -> None:
        """Commit.  After Unreachable its outcome is unknown (W11): do the slice again, with its compare-and-set."""
        self._query(b"COMMIT")
        self.in_transaction = False

    def rollback(self) -> None:
        """Roll back what is open; a session where even that fails is broken, and the server rolls back by itself."""
        if self.in_transaction and not self.broken:
            try:
                self._query(b"ROLLBACK")
            except SinkError:
                self.broken = True
        self.in_transaction = False

    def execute(self, statement: str | bytes, parameters: Sequence[object] = ()) -> int:
        """Run a statement; returns the number of rows that it changed.

        ``%s`` stands for a parameter, ``%%`` for a percent sign; without parameters the text is sent as it is.
        """
        query = self._rendered(statement, parameters)
        self._refuse_implicit_commit(query)
        self._query(query)
        changed = int(self._connection.affected_rows())
        if _WRITES.match(query) and self._connection.warning_count():
            self._refuse_loss(every_warning=bool(_LOADS.match(query)))
        return changed

    def fetch(self, statement: str | bytes, parameters: Sequence[object] = ()) -> tuple[Row, ...]:
        """Run a SELECT; returns all its rows.  Texts come as str, binaries as bytes, zero dates as None."""
        query = self._rendered(statement, parameters)
        self._refuse_implicit_commit(query)
        return self._query(query)

    def literal(self, value: object) -> bytes:
        """A value as SQL text: str quoted and escaped, bytes with ``_binary``, None as NULL, numbers plain."""
        if type(value) is str:
            # The same escaping in C; the library's general way costs most of a slice's preparation.
            return self._text_literal(value)
        literal: bytes = self._connection.literal(value)
        return literal

    def close(self) -> None:
        """Close the connection; the server rolls back what was open."""
        self.broken = True
        if self._connection.open:
            self._connection.close()

    def _rendered(self, statement: str | bytes, parameters: Sequence[object]) -> bytes:
        text = statement.encode() if isinstance(statement, str) else statement
        return text % tuple(map(self.literal, parameters)) if parameters else text

    def _refuse_implicit_commit(self, query: bytes) -> None:
        if self.in_transaction and not _KEEPS_TRANSACTION.match(query):
            words = b" ".join(query.split(None, 3)[:3]).decode("utf-8", "replace")
            raise StatementFailed(f"sink {self._address}: {words} would commit the open transaction (exactness.md W8)")

    def _query(self, query: bytes) -> tuple[Row, ...]:
        if self.broken:
            raise Unreachable(f"sink {self._address}: this session was lost")
        try:
            self._connection.query(query)
            result = self._connection.store_result()
            return result.fetch_row(0) if result is not None else ()
        except MySQLdb.Error as error:
            failure = translated(error, self._address)
            self.broken = isinstance(failure, Unreachable)
            # The library's own error is not chained: its text may hold values.
            raise failure from None

    def _refuse_loss(self, *, every_warning: bool) -> None:
        for _level, code, _text in self._query(b"SHOW WARNINGS"):
            if every_warning or code in _VALUE:
                raise ValueRefused(f"sink {self._address}: warning {code} ({_SYMBOLS.get(code, '')})", code)


class SessionPool:
    """Sessions that are borrowed for one slice each, never bound to a partition (W10)."""

    def __init__(self, address: MysqlAddress) -> None:
        self._address = address
        self._idle: list[tuple[float, Session]] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self) -> Iterator[Session]:
        """A session for a slice, outside any transaction; what it leaves open is rolled back."""
        session = self._take() or Session(self._address)
        try:
            yield session
        finally:
            session.rollback()
            self._give_back(session)

    @contextmanager
    def lend_long(self) -> Iterator[Session]:
        """A session for statements that may take hours (DDL, GET_LOCK around it); closed afterwards."""
        session = Session(self._address, LONG_READ_TIMEOUT_S)
        try:
            yield session
        finally:
            session.close()

    def close(self) -> None:
        """Close what is idle; what is lent closes when it comes back."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, session in idle:
            session.close()

    def _take(self) -> Session | None:
        stale: list[Session] = []
        try:
            with self._lock:
                while self._idle:
                    since, session = self._idle.pop()
                    if time.monotonic() - since < IDLE_MAX_S:
                        return session
                    stale.append(session)
            return None
        finally:
            for session in stale:
                session.close()

    def _give_back(self, session: Session) -> None:
        if session.broken:
            session.close()
            return
        with self._lock:
            self._idle.append((time.monotonic(), session))
