"""A set of servers with the bookshop in them: one MySQL, being source and sink in different schemas, and one Kafka.

In: a directory. Out: `services.env` (addresses for the shell and for tests), `rowflow.toml` (the same for rowflow) and
`bin/` (Kafka's and MySQL's command line tools). Starting twice finds what runs. A set belongs to one directory, so each
clone has its own.
"""

import shlex
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from servers.bookshop import SINK_SCHEMA, SINK_USER, SOURCE_USER, create_books, create_sink, create_source_user
from servers.downloads import exclusive
from servers.errors import ServerError
from servers.kafka import KafkaServer
from servers.kafka_files import find_kafka
from servers.kept import keep, new_password, write_private
from servers.mysql import MysqlServer
from servers.tools import write_kafka_tools, write_mysql_client

SERVER_VARIABLES = ("ROWFLOW_SOURCE__URL", "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS", "ROWFLOW_SINK__URL")
ROOT_VARIABLES = ("SOURCE_ROOT_URL", "SINK_ROOT_URL")
"""Users who may make databases, users and triggers: for what Rowflow itself never does."""

_SETTINGS = """\
[source]
url = "{source_url}"
tables = ["shop.*"]
server_id = 5401

[kafka]
bootstrap_servers = "{bootstrap_servers}"
prefix = "bookshop"
partitions = 4

[sink]
url = "{sink_url}"

[stream]
workers = 2
"""


class Services:
    """MySQL and Kafka below one directory."""

    def __init__(self, directory: Path, *, mysql_options: Mapping[str, str] | None = None) -> None:
        """Take options of mysqld to set otherwise; nothing is started yet."""
        self.directory = directory.resolve()
        self.mysql = MysqlServer(self.directory / "mysql", mysql_options)
        self.kafka = KafkaServer(self.directory / "kafka")

    def start(self) -> dict[str, str]:
        """Start what does not run, make the bookshop and the files; return the environment that leads to them."""
        with exclusive(self.directory / "services.lock"):
            try:
                _at_once(self.mysql.start, self.kafka.start)
            except ServerError:
                _at_once(self.kafka.stop, self.mysql.stop)  # all or nothing: none stays behind unseen
                raise
            with closing(self.mysql.connect()) as connection:
                create_books(connection)
                create_source_user(connection, self._password(SOURCE_USER))
                create_sink(connection, self._password(SINK_USER))
            environment = self.environment()
            write_files(self.directory, environment)
            write_mysql_client(self.directory / "bin", self.mysql)
        return environment

    def stop(self) -> None:
        """End both servers in order; their data stays."""
        with exclusive(self.directory / "services.lock"):
            _at_once(self.kafka.stop, self.mysql.stop)

    def remove(self) -> None:
        """Remove the data and settings of servers that are stopped."""
        for server in (self.mysql, self.kafka):
            if server.pid is not None:
                raise ServerError(f"{server.directory} can't be removed: pid {server.pid} runs there")
            shutil.rmtree(server.directory)
            server.directory.mkdir()

    def environment(self) -> dict[str, str]:
        """Return the variables that lead to these servers, as `services.env` has them."""
        source_url = self.mysql.url(SOURCE_USER, self._password(SOURCE_USER))
        sink_url = self.mysql.url(SINK_USER, self._password(SINK_USER), SINK_SCHEMA)
        addresses = (source_url, self.kafka.bootstrap_servers, sink_url)
        return {
            **dict(zip(SERVER_VARIABLES, addresses, strict=True)),
            **dict.fromkeys(ROOT_VARIABLES, self.mysql.root_url),
        }

    def _password(self, user: str) -> str:
        return keep(self.directory / f"{user}-password", new_password)


def write_files(directory: Path, environment: Mapping[str, str]) -> None:
    """Write what leads to the servers that SERVER_VARIABLES name: services.env, rowflow.toml and Kafka's tools."""
    lines = [f"{name}={shlex.quote(value)}\n" for name, value in environment.items()]
    write_private(directory / "services.env", "".join(lines))
    source_url, bootstrap_servers, sink_url = (environment[name] for name in SERVER_VARIABLES)
    settings = _SETTINGS.format(source_url=source_url, bootstrap_servers=bootstrap_servers, sink_url=sink_url)
    write_private(directory / "rowflow.toml", settings)
    write_kafka_tools(directory / "bin", find_kafka())


def _at_once(*tasks: Callable[[], None]) -> None:
    """Run tasks side by side, wait for all, and raise what the first of them to fail raised."""
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(task) for task in tasks]
    for task in running:
        task.result()
