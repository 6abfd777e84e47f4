"""A stand for tests of check/: a table and its mirror, the mirror filled by the server itself.

Source and mirror lie on one server, so that INSERT ... SELECT copies values that no client has touched.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from MySQLdb.connections import Connection

from cdc_reader.information_schema import read_schema
from cdc_reader.sql import SourceSession
from check import compare
from check.config import CheckConfig
from check.report import CheckReport, TableReport
from schemas.addresses import MysqlAddress
from schemas.patterns import TablePatterns
from schemas.tables import TableName
from sink import computed, ddl, dead_letters, preflight, progress
from sink.config import SinkConfig
from sink.sql import SessionPool
from tests.helpers import execute

ANY_VALUE = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO"


def address_of(url: str, database: str = "") -> MysqlAddress:
    """A ``mysql://`` address in the rooms' own form."""
    parts = urlsplit(url)
    return MysqlAddress(
        parts.hostname or "127.0.0.1",
        parts.port or 3306,
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        database,
    )


def do_nothing() -> None:
    """The sink holds all: nobody writes."""


class CheckStand:
    """A captured database, and a sink."""

    def __init__(
        self, root_url: str, sink_url: str, root: Connection, db: str, sink_schema: str, functions: Path | None = None
    ) -> None:
        self.root = root
        self.db = db
        self.sink_schema = sink_schema
        self.config = CheckConfig(
            address_of(root_url),
            TablePatterns.from_settings([f"{db}.*"]),
            SinkConfig(address_of(sink_url, sink_schema), "bookshop"),
            functions,
            page_rows=200,
        )
        self.execute(f"SET sql_mode = '{ANY_VALUE}'")
        self.execute(f"USE {db}")

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run a statement as root; {s} stands for the source's database, {m} for the mirrors'."""
        return execute(self.root, statement.replace("{s}", self.db).replace("{m}", self.sink_schema))

    def make_mirror(self, table: str = "t") -> None:
        """Make the mirror as a worker does, and copy the rows."""
        name = TableName(self.db, table)
        with SourceSession(self.config.source) as session:
            schema = read_schema(session, name)
        pool = SessionPool(self.config.sink.address)
        functions = computed.load(self.config.functions).columns(name) if self.config.functions else ()
        with pool.lend() as session:
            session.execute(ddl.create_mirror(schema, table, preflight.read_dialect(session), functions))
        pool.close()
        columns = ", ".join(f"`{column.name}`" for column in schema.columns)
        self.execute(f"INSERT INTO {{m}}.{table} ({columns}) SELECT {columns} FROM {{s}}.{table}")

    def suspects_max(self, count: int) -> None:
        """Keep so many keys for a second look."""
        self.config = replace(self.config, suspects_max=count)

    def prepare_bookkeeping(self) -> None:
        """Make the tables that a worker makes."""
        pool = SessionPool(self.config.sink.address)
        with pool.lend() as session:
            progress.prepare_tables(session)
            dead_letters.prepare_table(session)
        pool.close()

    def check(self, catch_up: Callable[[], None] = do_nothing) -> TableReport:
        """Compare the only table."""
        (found,) = self.check_all(catch_up).tables
        return found

    def check_all(self, catch_up: Callable[[], None] = do_nothing) -> CheckReport:
        """Compare all tables."""
        return compare.run(self.config, None, catch_up)


def found_in(report: TableReport) -> dict[str, str]:
    """The differing keys, each with what is wrong, in words."""
    return {found.key: str(found).removeprefix(f"{found.key} ") for found in report.differences.listed}
