"""A set of servers with the bookshop in them: one MySQL, being source and sink in different schemas, and one Kafka.

In: a directory. Out: `services.env` (addresses for the shell and for tests), `rowflow.toml` (the same for rowflow) and
`bin/` (Kafka's and MySQL's command line tools). Starting twice finds what runs. A set belongs to one directory, so each
clone has its own.
"""

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from servers.bookshop import SINK_USER, SOURCE_USER, create_books, create_sink, create_source_user
from servers.downloads import exclusive
from servers.errors import ServerError
from servers.kafka import KafkaServer
from servers.kafka_files import find_kafka
from servers.kept import keep, new_password, write_private
from servers.mysql import MysqlServer
from servers.tools import write_kafka_tools, write_mysql_client

SERVER_VARIABLES = ("ROWFLOW_SOURCE__URL", "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS", "ROWFLOW_SINK__URL")

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


def given_servers(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the servers named in the environment, None if none is; an error if some are and others not."""
    given = {name: environment[name] for name in SERVER_VARIABLES if environment.get(name)}
    missing = [name for name in SERVER_VARIABLES if name not in given]
    if given and missing:
        names = f"{' and '.join(given)} set, but not {' and '.join(missing)}"
        raise ServerError(f"{names}: set all three, or none of them and servers are made")
    return given or None


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
            lines = [f"{name}={value}\n" for name, value in environment.items()]
            write_private(self.directory / "services.env", "".join(lines))
            write_settings(self.directory / "rowflow.toml", environment)
            write_kafka_tools(self.directory / "bin", find_kafka())
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
        return {
            "ROWFLOW_SOURCE__URL": self.mysql.url(SOURCE_USER, self._password(SOURCE_USER)),
            "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
            "ROWFLOW_SINK__URL": self.mysql.url(SINK_USER, self._password(SINK_USER), "results"),
            "SOURCE_ROOT_URL": self.mysql.root_url,
            "SINK_ROOT_URL": self.mysql.root_url,
        }

    def _password(self, user: str) -> str:
        return keep(self.directory / f"{user}-password", new_password)


def write_settings(file: Path, environment: Mapping[str, str]) -> None:
    """Write a rowflow.toml for the servers that SERVER_VARIABLES in the environment name."""
    source_url, bootstrap_servers, sink_url = (environment[name] for name in SERVER_VARIABLES)
    write_private(file, _SETTINGS.format(source_url=source_url, bootstrap_servers=bootstrap_servers, sink_url=sink_url))


def _at_once(*tasks: Callable[[], None]) -> None:
    """Run tasks side by side, wait for all, and raise what the first of them to fail raised."""
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(task) for task in tasks]
    for task in running:
        task.result()
