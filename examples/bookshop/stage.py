"""The servers that the demo plays on.

In: the environment.  Out: addresses, plain connections, a `rowflow.toml`.  Refuses servers that hold a bookshop already:
the demo writes into `shop.books`, and wants the results for itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from examples.bookshop.errors import DemoError
from examples.bookshop.topic import names_of_topics
from servers.bookshop import create_books
from servers.kept import write_private
from servers.mysql import Connection, connect_to
from servers.services import ROOT_VARIABLES, SERVER_VARIABLES

PREFIX = "bookshop"
TABLE = "shop.books"
TOPIC = f"{PREFIX}.{TABLE}"
PARTITIONS = 4
WORKERS = 2
GIVEN_BOOKS = 3
"""How many books `make services` puts into a new shop."""

_SETTINGS = """\
[source]
url = "{source_url}"
tables = ["shop.*"]
server_id = 5401

[kafka]
bootstrap_servers = "{bootstrap_servers}"
prefix = "{prefix}"
partitions = {partitions}

[sink]
url = "{sink_url}"

[stream]
workers = {workers}
functions = "{functions}"
"""

Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Stage:
    """Where everything is; ``directory`` is for the demo's own files."""

    directory: Path
    source_url: str
    bootstrap_servers: str
    sink_url: str
    source_root_url: str
    sink_root_url: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], directory: Path) -> Stage:
        """Read the addresses; DemoError naming what is missing."""
        missing = [name for name in (*SERVER_VARIABLES, *ROOT_VARIABLES) if not environment.get(name)]
        if missing:
            raise DemoError(
                f"{', '.join(missing)} not set. `make demo` starts servers of its own; for yours, set all three of"
                f" {', '.join(SERVER_VARIABLES)}, and {' and '.join(ROOT_VARIABLES)} to users who may write and make triggers"
            )
        source_url, bootstrap_servers, sink_url, *root_urls = (
            environment[n] for n in (*SERVER_VARIABLES, *ROOT_VARIABLES)
        )
        return cls(directory, source_url, bootstrap_servers, sink_url, *root_urls)

    @property
    def sink_schema(self) -> str:
        """The name of the schema of the results."""
        return urlsplit(self.sink_url).path.lstrip("/")

    @property
    def config(self) -> Path:
        """The settings that the demo's `rowflow` runs with, for whoever looks on."""
        return self.directory / "rowflow.toml"

    def source(self) -> Connection:
        """A connection that may write into the shop."""
        return connect_to(self.source_root_url, autocommit=False)

    def sink(self) -> Connection:
        """A connection to the results; it may make triggers."""
        return connect_to(self.sink_root_url, self.sink_schema, autocommit=False)

    def prepare(self) -> None:
        """Make the shop if there is none, and the settings; DemoError if somebody works here already."""
        with closing(self.source()) as source:
            create_books(source)
            source.commit()
            books = rows(source, f"SELECT COUNT(*) FROM {TABLE}")[0][0]
        with closing(self.sink()) as sink:
            used = rows(sink, "SHOW TABLES LIKE '\\_rowflow\\_progress'")
        topics = names_of_topics(self.bootstrap_servers)
        if books != GIVEN_BOOKS or used or any(name.startswith(f"{PREFIX}.") for name in topics):
            raise DemoError(
                f"these servers have been used: {TABLE} has {books} rows (a new one: {GIVEN_BOOKS}), the results or topics"
                f" {PREFIX}.* are there. Drop database shop, the tables of {self.sink_schema} and these topics, then again"
            )
        functions = Path(__file__).with_name("functions.py")
        settings = _SETTINGS.format(
            source_url=self.source_url,
            bootstrap_servers=self.bootstrap_servers,
            prefix=PREFIX,
            partitions=PARTITIONS,
            sink_url=self.sink_url,
            workers=WORKERS,
            functions=os.path.relpath(functions, self.directory),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        write_private(self.config, settings)


def rows(connection: Connection, statement: str, parameters: Sequence[object] | None = None) -> list[Row]:
    """Run one statement in a transaction of its own; gives its rows, none where it has no result."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        found = list(cursor.fetchall()) if cursor.description else []
    connection.commit()
    return found
