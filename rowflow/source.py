"""What commands ask the source.

Comes in: its address.  Goes out: the end of its binlog, the captured tables that it has, the shape of some.
"""

from __future__ import annotations

from typing import NamedTuple

from cdc_reader.information_schema import read_schema
from cdc_reader.positions import Place
from cdc_reader.sql import QueryFailed, SourceSession, binlog_status, quoted_table
from rowflow.errors import UnknownTableError
from rowflow.settings import SourceSettings
from schemas.errors import SettingError
from schemas.patterns import SYSTEM_DATABASES, TablePattern, TablePatterns
from schemas.tables import TableName, TableSchema

_LONG_KEYS_SQL = (
    "SELECT s.TABLE_SCHEMA, s.TABLE_NAME FROM information_schema.STATISTICS s JOIN information_schema.COLUMNS c"
    " ON c.TABLE_SCHEMA = s.TABLE_SCHEMA AND c.TABLE_NAME = s.TABLE_NAME AND c.COLUMN_NAME = s.COLUMN_NAME"
    " WHERE s.INDEX_NAME = 'PRIMARY' GROUP BY 1, 2"
    " HAVING SUM(COALESCE(s.SUB_PART, c.CHARACTER_MAXIMUM_LENGTH, 0)) > 500 ORDER BY 1, 2"
)
"""No key of fewer characters comes near to 3,072 bytes in the sink, four a character; its numbers and times are short."""


class BinlogEnd(NamedTuple):
    """The end of a server's binlog; places of different servers can't be compared."""

    place: Place
    server_uuid: str


class Source:
    """The source, asked anew each time: a connection lives for one question."""

    def __init__(self, settings: SourceSettings) -> None:
        """Raises SettingError."""
        self.address = settings.address
        self.patterns: TablePatterns = settings.patterns

    def end(self) -> BinlogEnd:
        """The end of the binlog; it may be ahead of what SELECT sees, which suits who waits for it."""
        with SourceSession(self.address) as session:
            place = binlog_status(session).place
            return BinlogEnd(place, session.texts("SELECT @@global.server_uuid")[0][0])

    def all_tables(self) -> list[TableName]:
        """The tables that the user may see, views and the server's own apart."""
        with SourceSession(self.address) as session:
            rows = session.texts(
                "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE'"
            )
        return sorted(TableName(db, table) for db, table in rows if db.lower() not in SYSTEM_DATABASES)

    def captured_tables(self) -> list[TableName]:
        """The tables that the patterns capture."""
        return [name for name in self.all_tables() if self.patterns.matches(name)]

    def check_condition(self, name: TableName, where: str) -> None:
        """Raise SettingError where the source can't evaluate an expression over a table's rows."""
        with SourceSession(self.address) as session:
            try:
                session.rows(f"SELECT 1 FROM {quoted_table(name)} WHERE ({where}) LIMIT 0")
            except QueryFailed as error:
                raise SettingError(f"the source refuses --where for {name}: {error}") from None

    def tables_with_long_keys(self) -> list[TableSchema]:
        """The captured tables whose key's texts and binaries hold so much that they may be too long for the sink."""
        with SourceSession(self.address) as session:
            rows = session.texts(_LONG_KEYS_SQL)
            return [read_schema(session, TableName(*row)) for row in rows if self.patterns.matches(TableName(*row))]


def chosen_tables(texts: tuple[str, ...], captured: list[TableName]) -> list[TableName]:
    """The captured tables that the command line names, by name or pattern.  Raises UnknownTableError."""
    chosen: dict[TableName, None] = {}
    for text in texts:
        pattern = TablePattern.parse(text)
        covered = [name for name in captured if pattern.covers(name)]
        if not covered:
            near = pattern.nearest(captured)
            raise UnknownTableError(
                f"no captured table is called {text}"
                + (f"; did you mean {' or '.join(near)}?" if near else "; [source] tables says what is captured")
            )
        chosen.update(dict.fromkeys(covered))
    return list(chosen)
