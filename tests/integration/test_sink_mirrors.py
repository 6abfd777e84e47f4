"""Mirrors on a real sink: what slices come to there.  What is expected is what a plain client reads."""

from collections.abc import Iterator
from decimal import Decimal

import pytest
from MySQLdb.connections import Connection

from stream_app.agents import Outcome
from tests.helpers import ServiceAddresses, execute
from tests.sink_stand import SinkStand, book


@pytest.fixture
def stand(services: ServiceAddresses, sink_schema: str) -> Iterator[SinkStand]:
    made = SinkStand(services.sink_url, sink_schema)
    yield made
    made.close()


def books(sink_root: Connection, sink_schema: str) -> list[tuple[object, ...]]:
    return execute(sink_root, f"SELECT id, title, price, stock, tags FROM {sink_schema}.books ORDER BY id")


def test_last_change_of_each_key_counts(stand: SinkStand, sink_root: Connection, sink_schema: str) -> None:
    stand.begin()
    log = stand.logs[0]
    log.create(book(1)).create(book(2)).create(book(3))
    log.update(book(1), book(1, stock=7)).delete(book(2)).delete(book(3)).create(
        book(3, title="O'Reilly\\ %s", price=None)
    )
    assert stand.handle() is Outcome.STORED
    assert books(sink_root, sink_schema) == [
        (1, "Book 1", Decimal("46.80"), 7, '{"genre": "poetry"}'),
        (3, "O'Reilly\\ %s", None, 3, '{"genre": "poetry"}'),
    ]
    log.update(book(3), book(3, tags=None)).delete(book(1))
    assert stand.handle() is Outcome.STORED
    assert books(sink_root, sink_schema) == [(3, "Book 3", Decimal("46.80"), 3, None)]
