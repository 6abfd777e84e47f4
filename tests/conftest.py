"""Fixtures for all tests. A test that asks for none of them needs no server."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import hypothesis
import pytest
from MySQLdb.connections import Connection

from servers.bookshop import SINK_GRANTS
from servers.kafka import KafkaServer
from servers.mysql import MysqlServer
from tests.helpers import (
    ServiceAddresses,
    connected,
    delete_topics,
    drop_database,
    execute,
    service_addresses,
    unique_name,
)

_SMALL_MYSQL = {"innodb_buffer_pool_size": "64M", "innodb_redo_log_capacity": "64M"}

# How long an example takes says nothing on a machine that runs two servers as well.
hypothesis.settings.register_profile("beside-servers", deadline=None)
hypothesis.settings.load_profile("beside-servers")


@pytest.fixture(scope="session")
def services() -> ServiceAddresses:
    """The servers of this run; the sink user may work in schemas named `results_...` too, for each test has its own."""
    try:
        addresses = service_addresses()
    except LookupError as error:
        pytest.fail(str(error), pytrace=False)
    user = urlsplit(addresses.sink_url).username
    with connected(addresses.sink_root_url) as root:
        execute(root, rf"GRANT {SINK_GRANTS} ON `results\_%%`.* TO %s", (user,))
    return addresses


@pytest.fixture
def source_root(services: ServiceAddresses) -> Iterator[Connection]:
    """A plain connection to the source as root."""
    with connected(services.source_root_url) as connection:
        yield connection


@pytest.fixture
def sink_root(services: ServiceAddresses) -> Iterator[Connection]:
    """A plain connection to the sink as root."""
    with connected(services.sink_root_url) as connection:
        yield connection


@pytest.fixture
def database(services: ServiceAddresses, source_root: Connection) -> Iterator[str]:
    """The name of an empty source database of this test's own; dropped afterwards."""
    name = unique_name("shop")
    execute(source_root, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield name
    drop_database(services.source_root_url, name)


@pytest.fixture
def sink_schema(services: ServiceAddresses, sink_root: Connection) -> Iterator[str]:
    """The name of an empty sink schema of this test's own, where the sink user has its grants; dropped afterwards."""
    name = unique_name("results")
    execute(sink_root, f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    yield name
    drop_database(services.sink_root_url, name)


@pytest.fixture
def prefix(services: ServiceAddresses) -> Iterator[str]:
    """A prefix for topics that nobody else has; its topics are deleted afterwards."""
    name = unique_name("bookshop")
    yield name
    delete_topics(services.bootstrap_servers, name)


@pytest.fixture
def own_mysql(tmp_path: Path) -> Iterator[Callable[..., MysqlServer]]:
    """Start MySQL servers of this test's own, to be killed or set otherwise: `own_mysql(gtid_mode="OFF", ...)`."""
    started: list[MysqlServer] = []

    def start(**options: str) -> MysqlServer:
        server = MysqlServer(tmp_path / f"mysql-{len(started)}", {**_SMALL_MYSQL, **options})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Callable[..., KafkaServer]]:
    """Start brokers of this test's own, to be killed or set otherwise: `own_kafka({"num.partitions": "2"})`."""
    started: list[KafkaServer] = []

    def start(options: Mapping[str, str] | None = None) -> KafkaServer:
        server = KafkaServer(tmp_path / f"kafka-{len(started)}", options)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()
