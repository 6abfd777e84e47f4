"""All SQL on the source; the one module of this room that imports MySQLdb.

Comes in: statements.  Goes out: rows of raw bytes, exactly as the server sends them (``character_set_results`` is NULL:
texts in their columns' own character sets).  Nothing is ever written to the source.  Errors are mapped: unreachable or
lost is SourceAway, a missing grant or wrong password SourceRefused with the statement that mends it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self

import MySQLdb
from MySQLdb.constants import CLIENT
from MySQLdb.converters import conversions

from cdc_reader.errors import SourceAway, SourceRefused
from cdc_reader.positions import Place
from schemas.addresses import MysqlAddress
from schemas.tables import TableName

Row = tuple[bytes | None, ...]

_ENCODERS = {type_: encoder for type_, encoder in conversions.items() if not isinstance(type_, int)}
_SESSION = (
    "SET character_set_results = NULL, time_zone = '+00:00', sql_mode = 'ALLOW_INVALID_DATES', "
    "lock_wait_timeout = 30, innodb_lock_wait_timeout = 30, max_execution_time = 0"
)
_WRONG_LOGIN = {1045, 1698, 1044}
_MISSING_GRANT = {1142, 1227, 1143, 1370}
_MISSING_GLOBAL_GRANT = 1227
_AWAY = {
    1040,
    1053,
    1158,
    1159,
    1160,
    1161,
    1203,
    1205,
    1213,
    1317,
    2002,
    2003,
    2004,
    2005,
    2006,
    2013,
    2026,
    2027,
    2055,
    4031,
}
NO_SUCH_TABLE = {1146, 1049}
_READ_TIMEOUT_S = 60.0
"""Of what the reader itself asks, which is answered in moments: a dead connection must not hold it up for ever."""
_SYNTAX_ERROR = 1064


class QueryFailed(Exception):
    """A statement that the server refuses for another reason; ``code`` is the server's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} (error {code})")
        self.code = code


class SourceSession:
    """One connection to the source, in autocommit unless a transaction is started."""

    def __init__(
        self, address: MysqlAddress, timeout_s: float = 10.0, read_timeout_s: float | None = _READ_TIMEOUT_S
    ) -> None:
        """Raises SourceAway or SourceRefused.

        ``read_timeout_s``: an answer that doesn't come in time is SourceAway; None where it may take as long as it takes.
        """
        self._address = address
        try:
            self._connection = MySQLdb.connect(
                host=address.host,
                port=address.port,
                user=address.user,
                passwd=address.password,
                charset="utf8mb4",
                use_unicode=False,
                conv=_ENCODERS,
                connect_timeout=int(timeout_s),
                autocommit=True,
                multi_statements=False,
                client_flag=CLIENT.FOUND_ROWS,
                **({"read_timeout": int(read_timeout_s)} if read_timeout_s is not None else {}),
                **({"ssl_mode": "VERIFY_IDENTITY", "ssl": {"ca": address.ssl_ca}} if address.ssl_ca else {}),
            )
        except MySQLdb.Error as error:
            mapped = self._mapped(error)
            if isinstance(mapped, QueryFailed):
                mapped = SourceRefused(f"the source {address} refuses the connection: {mapped}; see [source] url")
            raise mapped from error
        self.connection_id = self._connection.thread_id()
        """The server's number of this connection; the client refuses to tell it while a statement runs."""
        self.rows(_SESSION)

    def _mapped(self, error: MySQLdb.Error) -> Exception:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        address = self._address
        if code in _WRONG_LOGIN:
            return SourceRefused(
                f"the source {address} refuses the login: {text} (error {code}); check the password in [source] url, or: "
                f"ALTER USER '{address.user}'@'%' IDENTIFIED BY '...'"
            )
        if code in _MISSING_GRANT:
            what = "REPLICATION SLAVE, REPLICATION CLIENT" if code == _MISSING_GLOBAL_GRANT else "SELECT"
            return SourceRefused(
                f"a grant is missing on the source: {text} (error {code}); as its administrator: "
                f"GRANT {what} ON *.* TO {self._account()}"
            )
        if code in _AWAY or isinstance(error, MySQLdb.InterfaceError) or code == 0:
            return SourceAway(f"the source {address} can't be reached: {text} (error {code})")
        return QueryFailed(code, text)

    def _account(self) -> str:
        """Our account as the server names it; its host is seldom the one that we come from."""
        try:
            cursor = self._connection.cursor()
            cursor.execute("SELECT CURRENT_USER()")
            user, _, host = cursor.fetchall()[0][0].decode().rpartition("@")
        except MySQLdb.Error:
            user, host = self._address.user, "%"
        return f"'{user}'@'{host}'"

    def rows(self, statement: str | bytes, arguments: Sequence[object] = ()) -> list[Row]:
        """Runs one statement; its rows, raw.  Raises SourceAway, SourceRefused or QueryFailed."""
        try:
            cursor = self._connection.cursor()
            cursor.execute(statement, tuple(arguments) or None)
            return list(cursor.fetchall()) if cursor.description else []
        except MySQLdb.Error as error:
            raise self._mapped(error) from error

    def texts(self, statement: str, arguments: Sequence[object] = ()) -> list[tuple[str, ...]]:
        """As :meth:`rows`, NULL as the empty text and all as UTF-8; for names and numbers."""
        return [
            tuple((value or b"").decode("utf-8", "replace") for value in row) for row in self.rows(statement, arguments)
        ]

    def close(self) -> None:
        """Ends the connection; never raises for one that is lost."""
        try:
            self._connection.close()
        except MySQLdb.Error:
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def end_statement(address: MysqlAddress, connection_id: int) -> None:
    """Ends the statement that another connection of ours runs; it fails as if its server had gone.  For any thread."""
    with suppress(SourceAway, SourceRefused, QueryFailed), SourceSession(address, read_timeout_s=10.0) as session:
        session.rows(f"KILL QUERY {connection_id}")


class BinlogStatus(NamedTuple):
    """What SHOW BINARY LOG STATUS says; the place may be ahead of what SELECT sees (exactness.md J1)."""

    place: Place
    gtids: str
    only_databases: tuple[str, ...] = ()
    ignored_databases: tuple[str, ...] = ()
    """Whose changes the server leaves out (binlog_do_db, binlog_ignore_db)."""


def binlog_status(session: SourceSession) -> BinlogStatus:
    """The end of the source's binlog; SHOW MASTER STATUS on servers before 8.2.  Raises SourceRefused without a binlog."""
    try:
        rows = session.texts("SHOW BINARY LOG STATUS")
    except QueryFailed as error:
        if error.code != _SYNTAX_ERROR:
            raise
        rows = session.texts("SHOW MASTER STATUS")
    if not rows:
        raise SourceRefused("the source has no binlog: set log_bin in my.cnf and restart it")
    file, pos, only, ignored, gtids = (*rows[0], "")[:5]
    databases = [tuple(name for name in text.split(",") if name) for text in (only, ignored)]
    return BinlogStatus(Place(file, int(pos)), gtids.replace("\n", ""), *databases)


def replicates(session: SourceSession) -> bool:
    """Whether the server is another one's replica; SHOW SLAVE STATUS on servers before 8.0.22."""
    try:
        return bool(session.rows("SHOW REPLICA STATUS"))
    except QueryFailed as error:
        if error.code != _SYNTAX_ERROR:
            raise
        return bool(session.rows("SHOW SLAVE STATUS"))


def variables(session: SourceSession, names: Sequence[str]) -> dict[str, str]:
    """Global variables by name; those that the server doesn't have are absent."""
    marks = ", ".join(["%s"] * len(names))
    found = session.texts(f"SHOW GLOBAL VARIABLES WHERE Variable_name IN ({marks})", names)
    return {row[0].lower(): row[1] for row in found}


def quoted_table(name: TableName) -> str:
    """A table with its database, in backticks."""
    return f"{quoted(name.db)}.{quoted(name.table)}"


def quoted(name: str) -> str:
    """An identifier in backticks (MySQL manual, "Schema Object Names")."""
    return "`" + name.replace("`", "``") + "`"
