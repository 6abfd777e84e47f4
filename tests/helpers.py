"""What tests of all rooms share: the servers they run against, waiting for a condition, plain SQL, names nobody else
has.
"""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from confluent_kafka.admin import AdminClient
from MySQLdb.connections import Connection

from servers.mysql import connect_to

_POLL_S = 0.02

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServiceAddresses:
    """Where this run's servers are. The root addresses are for arranging and inspecting; Rowflow gets the others."""

    source_url: str
    bootstrap_servers: str
    sink_url: str
    source_root_url: str
    sink_root_url: str


_VARIABLES = {
    "source_url": "ROWFLOW_SOURCE__URL",
    "bootstrap_servers": "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS",
    "sink_url": "ROWFLOW_SINK__URL",
    "source_root_url": "SOURCE_ROOT_URL",
    "sink_root_url": "SINK_ROOT_URL",
}


def service_addresses(environment: Mapping[str, str] = os.environ) -> ServiceAddresses:
    """Read the addresses from an environment; LookupError with a sentence if they are not there."""
    missing = [variable for variable in _VARIABLES.values() if not environment.get(variable)]
    if missing:
        raise LookupError(
            f"No servers to test against ({', '.join(missing)} not set): run `make test PYTEST_ARGS='tests/...'`, "
            "or `make services` and then `set -a; . .local/services.env; set +a`"
        )
    return ServiceAddresses(**{field: environment[variable] for field, variable in _VARIABLES.items()})


def wait_until(condition: Callable[[], T], timeout_s: float, what: str) -> T:
    """Return the first true value of `condition()`; AssertionError saying what was waited for if none is in time."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:g} s for {what}; the last look gave {value!r}")
        time.sleep(_POLL_S)


def unique_name(stem: str) -> str:
    """Return a name that no other test has: `STEM_` and eight hex digits; for schemas, tables and topic prefixes."""
    return f"{stem}_{secrets.token_hex(4)}"


def connect(url: str, schema: str = "") -> Connection:
    """Open a plain client's connection (autocommit, utf8mb4, time zone UTC) to a `mysql://` address."""
    return connect_to(url, schema or urlsplit(url).path.lstrip("/"))


@contextmanager
def connected(url: str, schema: str = "") -> Iterator[Connection]:
    """As `connect`, and closes."""
    connection = connect(url, schema)
    try:
        yield connection
    finally:
        connection.close()


def execute(connection: Connection, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Run one statement and return its rows (none for one that has no result)."""
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return list(cursor.fetchall()) if cursor.description else []


def drop_database(url: str, name: str) -> None:
    """Drop a schema on the server at a root address, if it is there."""
    with connected(url) as connection:
        execute(connection, f"DROP DATABASE IF EXISTS `{name}`")


def topics_of(bootstrap_servers: str, prefix: str) -> list[str]:
    """Return the names of a prefix's topics, in order."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    return sorted(name for name in admin.list_topics(timeout=10).topics if name.startswith(f"{prefix}."))


def delete_topics(bootstrap_servers: str, prefix: str) -> None:
    """Delete a prefix's topics and return when that is done."""
    names = topics_of(bootstrap_servers, prefix)
    if names:
        admin = AdminClient({"bootstrap.servers": bootstrap_servers})
        for deleted in admin.delete_topics(names, operation_timeout=30).values():
            deleted.result()


def suspend(pid: int) -> None:
    """SIGSTOP; returns when every thread stands.  On a busy machine one may go on for a while after the signal."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: set(thread_states(pid)) == {"T"}, 10, f"the threads of process {pid} to stand")


def thread_states(pid: int) -> list[str]:
    """proc(5): the letters of the states of a process's threads."""
    stats = [file.read_text(encoding="ascii", errors="replace") for file in Path(f"/proc/{pid}/task").glob("*/stat")]
    return [stat.rpartition(")")[2].split()[0] for stat in stats]
