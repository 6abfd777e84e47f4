"""A MySQL server of our own, with the settings that Rowflow needs.

In: a directory, and options of mysqld to set otherwise. Out: a server on 127.0.0.1 with a root password. Port and
password are made once and stay the same from start to start, so a client reconnects where it was.
"""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import MySQLdb
from MySQLdb import connections

from servers.commands import succeeds
from servers.errors import OWN_SERVERS_HINT, ServerError
from servers.kept import keep, new_password, write_private
from servers.mysql_files import MysqlFiles, find_mysql
from servers.ports import free_port, is_free
from servers.processes import ServerProcess
from servers.templates import copied, kept

DEFAULT_OPTIONS: Mapping[str, str] = {
    "bind_address": "127.0.0.1",
    "mysqlx": "OFF",
    "server_id": "1",
    "log_bin": "binlog",
    "secure_file_priv": "NULL",
    "binlog_row_image": "FULL",
    "binlog_row_metadata": "FULL",
    "gtid_mode": "ON",
    "enforce_gtid_consistency": "ON",
    "local_infile": "ON",
    "innodb_buffer_pool_size": "512M",
    "innodb_redo_log_capacity": "512M",
    "log_error_verbosity": "2",
}

Connection: TypeAlias = connections.Connection
MysqlError: TypeAlias = MySQLdb.Error
"""What a connection raises; both for modules that don't know the library."""

_MADE_WITH = frozenset({"lower_case_table_names", "innodb_page_size", "innodb_data_file_path"})
"""Options that count when the data directory is made, and never again."""


class MysqlServer:
    """One mysqld. `directory` holds all of it: my.cnf, data, log, pid file, port and password."""

    def __init__(self, directory: Path, options: Mapping[str, str] | None = None) -> None:
        """Take `options` (system variables) over DEFAULT_OPTIONS; they count from the next start on."""
        self.directory = directory.resolve()
        self.options = {**DEFAULT_OPTIONS, **(options or {})}
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = ServerProcess(self.directory, "mysqld")
        self._data = self.directory / "data"
        self._settings_file = self.directory / "my.cnf"
        self._password_file = self.directory / "initialize.sql"

    @property
    def pid(self) -> int | None:
        """The process id, or None when it does not run."""
        return self._process.pid

    @property
    def port(self) -> int:
        """The port on 127.0.0.1; chosen at the first start."""
        return int(keep(self.directory / "port", lambda: str(free_port())))

    @property
    def root_password(self) -> str:
        """The password of root@localhost; made at the first start."""
        return keep(self.directory / "root-password", new_password)

    @property
    def root_url(self) -> str:
        """The address for root, as in `mysql://root:PASSWORD@127.0.0.1:PORT`."""
        return self.url("root", self.root_password)

    def url(self, user: str, password: str, schema: str = "") -> str:
        """Return the address for a user whose password needs no quoting, with a default schema if one is given."""
        return f"mysql://{user}:{password}@127.0.0.1:{self.port}{schema and '/'}{schema}"

    def connect(self, schema: str = "") -> Connection:
        """Connect as root, autocommit on; the caller closes."""
        return connect_to(self.root_url, schema)

    def client_command(self) -> list[str] | None:
        """Return the command that opens MySQL's own client as root; None where there is no client."""
        client = find_mysql().client
        if client is None:
            return None
        options_file = self.directory / "client.cnf"
        login = f"user=root\npassword={self.root_password}\n"
        write_private(options_file, f"[client]\nhost=127.0.0.1\nport={self.port}\n{login}")
        return [*client, f"--defaults-file={options_file}", "--default-character-set=utf8mb4"]

    def start(self) -> None:
        """Start the server, with new data the first time; return when it answers. Nothing to do if it runs."""
        if self.pid is not None:
            return
        files = find_mysql()
        if not is_free(self.port):
            (self.directory / "port").unlink()
        self._write_settings(files)
        if not self._data.exists():
            self._initialize(files)
        # What a crash left. Its pid is taken for a running server's if it is a zombie or another process by now.
        (self._data / "mysqld.sock.lock").unlink(missing_ok=True)
        # Read before the server listens: there is no moment in which root has no password.
        first = [f"--init-file={self._password_file}"] if self._password_file.exists() else []
        self._process.start([*files.server, f"--defaults-file={self._settings_file}", *first])
        self._process.wait_ready(self._answers, timeout_s=120)
        self._password_file.unlink(missing_ok=True)

    def stop(self, timeout_s: float = 30) -> None:
        """Shut the server down in order."""
        self._process.stop(timeout_s)

    def kill(self) -> None:
        """End the server as a crash would."""
        self._process.kill()

    def suspend(self) -> None:
        """Stop the process without ending it: it is there and does not answer."""
        self._process.suspend()

    def resume(self) -> None:
        """Let a suspended server go on."""
        self._process.resume()

    def restart(self, options: Mapping[str, str] | None = None) -> None:
        """Stop and start, on the same port; `options` are added to those it had."""
        self.stop()
        self.options.update(options or {})
        self.start()

    def _write_settings(self, files: MysqlFiles) -> None:
        places = {"port": str(self.port), "datadir": str(self._data), "socket": "mysqld.sock"}
        settings = {"user": _user_name(), **places, **self.options}
        lines = ["[mysqld]", *(f"{name}={value}" for name, value in settings.items())]
        lines += [option.removeprefix("--") for option in files.options]
        self._settings_file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _initialize(self, files: MysqlFiles) -> None:
        """Put the data directory there, a copy of one that was made before; `_password_file` gives root a password."""
        own = {name: value for name, value in self.options.items() if name in _MADE_WITH}
        written = "".join(f"-{name}={value}" for name, value in sorted(own.items()))
        template = kept(f"mysql-{files.version}-data{written}", lambda place: self._make_data(files, own, place))
        write_private(self._password_file, f"ALTER USER root@localhost IDENTIFIED BY '{self.root_password}';\n")
        copied(template, self._data)

    def _make_data(self, files: MysqlFiles, own: Mapping[str, str], place: Path) -> None:
        settings = {"user": _user_name(), "datadir": str(place), "innodb_redo_log_capacity": "8M", **own}
        options = [*files.options, *(f"--{name}={value}" for name, value in settings.items())]
        log_file = self._process.log_file
        if not succeeds([*files.server, "--no-defaults", *options, "--initialize-insecure"], log_file):
            raise ServerError(f"mysqld {files.version} can't make its data, see {log_file}. {OWN_SERVERS_HINT}")
        # Each server makes its own identity at its first start.
        (place / "auto.cnf").unlink(missing_ok=True)

    def _answers(self) -> bool:
        try:
            self.connect().close()
        except MySQLdb.OperationalError:
            return False
        return True


def connect_to(url: str, schema: str = "", *, autocommit: bool = True) -> Connection:
    """Connect to a server by its address, with times in UTC; the caller closes."""
    parts = urlsplit(url)
    return MySQLdb.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=schema,
        charset="utf8mb4",
        autocommit=autocommit,
        init_command="SET time_zone = '+00:00'",
        connect_timeout=10,
    )


def _user_name() -> str:
    """Return who we are. mysqld wants to be told that it may be root; another user can't enter a private home."""
    return pwd.getpwuid(os.geteuid()).pw_name
