"""Fixtures for tests of the sink on a stand: slices made by hand, written by the worker's own way (tests/sink_stand.py)."""

from collections.abc import Iterator

import pytest
from MySQLdb.connections import Connection

from tests.helpers import ServiceAddresses, execute
from tests.sink_stand import MakeStand, Rows, SinkStand


@pytest.fixture
def make_stand(services: ServiceAddresses, sink_schema: str) -> Iterator[MakeStand]:
    """Makes stands in this test's sink schema, with SinkStand's own options."""
    made: list[SinkStand] = []

    def make(**options: object) -> SinkStand:
        made.append(SinkStand(services.sink_url, sink_schema, **options))  # type: ignore[arg-type]  # options pass through
        return made[-1]

    yield make
    for stand in made:
        stand.close()


@pytest.fixture
def rows(sink_root: Connection, sink_schema: str) -> Rows:
    """What a plain client reads; the schema's name stands for ``{}``."""
    return lambda sql: execute(sink_root, sql.replace("{}", sink_schema))
