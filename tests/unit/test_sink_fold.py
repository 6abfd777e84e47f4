"""Folding records to the last change of each key."""

import orjson
import pytest

from schemas.events import BARRIER_KEY, UNDECODABLE_HEADER, BarrierKind
from sink.fold import find_barrier, fold, undecodable_columns
from tests.sink_stand import BOOKS, Partition, book


def log() -> Partition:
    return Partition(BOOKS)


def test_last_change_of_a_key_counts() -> None:
    records = log().create(book(1)).create(book(2)).update(book(1), book(1, stock=9)).delete(book(2)).records
    folded = fold(records, BOOKS.fingerprint)
    assert [(change.row["id"], change.row["stock"], change.gone) for change in folded.changes] == [
        (1, 9, False),
        (2, 3, True),
    ]
    assert not folded.failures
    assert not folded.foreign


def test_rule_r10_keys_are_compared_as_bytes() -> None:
    partition = log()
    for key in (b'{"id":"a"}', b'{"id":"A"}', b'{"id":"a "}'):
        partition.event("c", None, book(1))
        partition.records[-1] = partition.records[-1]._replace(key=key)
    assert len(fold(partition.records, BOOKS.fingerprint).changes) == 3


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a change event"),
        (b'{"op":"c","source":{"schema":"x"}}', "not a change event"),
        (b'{"op":"c","source":{"schema":"x"},"after":[1]}', "not a change event"),
        (b'{"op":"c","source":{"schema":7},"after":{}}', "not a change event"),
        (b'{"op":"m","source":{"schema":"x"},"after":{}}', "not a change: its op"),
        (b'{"op":["c"],"source":{"schema":"x"},"after":{}}', "not a change"),
    ],
)
def test_records_that_cant_be_read_are_told_apart(value: bytes, reason: str) -> None:
    records = log().raw(b"k", value).create(book(1)).records
    folded = fold(records, BOOKS.fingerprint)
    assert [failure.record.offset for failure in folded.failures] == [0]
    assert folded.failures[0].reason.startswith(reason)
    assert len(folded.changes) == 1


def test_change_without_a_key_is_a_failure() -> None:
    partition = log().create(book(1))
    partition.records[0] = partition.records[0]._replace(key=None)
    assert len(fold(partition.records, BOOKS.fingerprint).failures) == 1


def test_other_fingerprints_are_reported_with_their_first_offset() -> None:
    records = log().create(book(1)).create(book(2)).records
    assert fold(records, "another").foreign == {BOOKS.fingerprint: 0}


def test_first_barrier_is_found_with_all_that_it_holds() -> None:
    indexes = [{"name": "by_title", "columns": [{"name": "title", "prefix_chars": 10}]}]
    records = log().create(book(1)).barrier(BarrierKind.BEGIN, "b7", job="j", indexes=indexes).records
    found = find_barrier(records)
    assert found is not None
    place, record = found
    assert (place, record.barrier.id, record.barrier.kind, record.barrier.job) == (1, "b7", BarrierKind.BEGIN, "j")
    assert orjson.loads(record.field)["indexes"] == indexes
    assert find_barrier(records[:1]) is None


@pytest.mark.parametrize("value", [b"{", b"{}", b'{"barrier":{"id":"x"}}', b'{"barrier":7}'])
def test_barrier_that_cant_be_read_is_never_passed_over(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a barrier"):
        find_barrier(log().raw(BARRIER_KEY, value).records)


def test_undecodable_columns() -> None:
    header = (UNDECODABLE_HEADER, b'{"title":"81"}')
    assert undecodable_columns(log().event("c", None, book(1), headers=[header]).records[0]) == ("title",)
    assert undecodable_columns(log().create(book(1)).records[0]) == ()
