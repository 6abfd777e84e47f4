"""Epochs and chains of slices, without any server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_app.places import ChainBrokenError, Link, Places, TopicPartition

HERE = TopicPartition("shop.books", 0)
ASSIGNMENT = object()


def sought(offset: int) -> tuple[Places, int]:
    places = Places()
    epoch = places.raise_epoch(HERE)
    places.begin(HERE, epoch, offset, ASSIGNMENT)
    return places, epoch


def test_rule_w1_a_slice_begins_where_the_last_one_ended_not_at_its_first_record() -> None:
    places, epoch = sought(10)
    assert places.hand_over(HERE, ASSIGNMENT, 10, 15) == Link(epoch, 10)
    assert places.hand_over(HERE, ASSIGNMENT, 16, 20) == Link(epoch, 15)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 3)), max_size=30))
def test_rule_w1_slices_join_from_the_offset_sought_to(fetches: list[tuple[int, int, int]]) -> None:
    places, _ = sought(100)
    position, end = 100, 100
    for markers_before, records, markers_after in fetches:
        first = position + markers_before if records else None
        position += markers_before + records + markers_after
        link = places.hand_over(HERE, ASSIGNMENT, first, position)
        if link is None:
            assert position == end
        else:
            assert link.start == end
            end = position
    assert end == position


def test_rule_w1_nothing_is_handed_over_where_nothing_moved() -> None:
    places, _ = sought(10)
    assert places.hand_over(HERE, ASSIGNMENT, None, 10) is None


def test_rule_w3_what_lies_before_the_chain_is_no_slice() -> None:
    places, _ = sought(10)
    with pytest.raises(ChainBrokenError):
        places.hand_over(HERE, ASSIGNMENT, 7, 12)
    with pytest.raises(ChainBrokenError):
        places.hand_over(HERE, ASSIGNMENT, None, 9)


def test_rule_w3_slices_of_an_older_epoch_are_worth_nothing() -> None:
    places, epoch = sought(10)
    link = places.hand_over(HERE, ASSIGNMENT, 10, 15)
    assert link is not None
    assert places.is_current(HERE, link.epoch)
    newer = places.raise_epoch(HERE)
    assert not places.is_current(HERE, link.epoch)
    assert places.hand_over(HERE, ASSIGNMENT, 15, 20) is None
    places.begin(HERE, epoch, 10, ASSIGNMENT)
    assert not places.is_sought(HERE)
    places.begin(HERE, newer, 40, ASSIGNMENT)
    assert places.hand_over(HERE, ASSIGNMENT, 41, 45) == Link(newer, 40)


def test_rule_w3_records_of_another_assignment_are_no_slice() -> None:
    places, _ = sought(10)
    assert places.hand_over(HERE, object(), 10, 15) is None


def test_rule_w4_nothing_is_handed_over_before_the_seek() -> None:
    places = Places()
    places.raise_epoch(HERE)
    assert places.hand_over(HERE, ASSIGNMENT, 0, 5) is None
