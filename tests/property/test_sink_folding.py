"""Folding and writing at once equals doing one change after the other."""

from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from schemas.tables import Column, KeyPart, TableName, TableSchema
from sink.fold import Failure, earlier, fold
from sink.slices import Record
from tests.sink_stand import Partition

PAIRS = TableSchema(
    TableName("shop", "pairs"),
    (
        Column("a", "int"),
        Column("b", "varchar", length=40, charset="utf8mb4", collation="utf8mb4_bin"),
        Column("v", "int"),
    ),
    (KeyPart("a"), KeyPart("b")),
)
KEYS = st.tuples(st.integers(0, 2), st.sampled_from(["x", "X", "x "]))
STEPS = st.lists(st.tuples(KEYS, st.integers(0, 99), st.booleans()), max_size=60)


@given(STEPS, st.lists(st.integers(1, 10), max_size=10))
def test_slices_of_any_size_give_what_single_changes_give(
    steps: list[tuple[tuple[int, str], int, bool]], sizes: list[int]
) -> None:
    expected: dict[tuple[int, str], dict[str, Any]] = {}
    log = Partition(PAIRS)
    for key, value, gone in steps:
        row = {"a": key[0], "b": key[1], "v": value}
        if gone and key in expected:
            log.delete(expected.pop(key))
        elif key in expected:
            log.update(expected[key], row)
            expected[key] = row
        elif not gone:
            log.create(row)
            expected[key] = row

    found: dict[tuple[int, str], Any] = {}
    start = 0
    for size in [*sizes, len(log.records)]:
        folded = fold(log.records[start : start + size], PAIRS.fingerprint)
        keys = [change.record.key for change in folded.changes]
        assert len(set(keys)) == len(keys)
        for change in folded.changes:
            key = change.row["a"], change.row["b"]
            if change.gone:
                found.pop(key, None)
            else:
                found[key] = change.row
        start += size
    assert found == expected


@given(STEPS, st.lists(st.integers(1, 10), max_size=10))
def test_where_slices_are_cut_changes_nothing_beside_rows_that_fail(
    steps: list[tuple[tuple[int, str], int, bool]], sizes: list[int]
) -> None:
    log = Partition(PAIRS)
    for key, value, gone in steps:
        row = {"a": key[0], "b": key[1], "v": value}
        if gone:
            log.delete(row)
        else:
            log.create(row)
    whole: dict[object, Any] = {}
    write_what_can_be(log.records, whole)
    cut: dict[object, Any] = {}
    start = 0
    for size in [*sizes, len(log.records)]:
        write_what_can_be(log.records[start : start + size], cut)
        start += size
    single: dict[object, Any] = {}
    for record in log.records:
        write_what_can_be([record], single)
    assert whole == cut == single


def write_what_can_be(records: Sequence[Record], rows: dict[object, Any]) -> None:
    """As a slice is written: of rows with a ``v`` that three divides none can be."""
    left = records
    failed: set[int] = set()
    while left:
        refused = []
        for record, row, gone in fold(left, PAIRS.fingerprint).changes:
            if gone:
                rows.pop(record.key, None)
            elif row["v"] % 3 == 0:
                refused.append(Failure(record, "three divides it"))
                failed.add(record.offset)
            else:
                rows[record.key] = row
        left = earlier(left, refused, failed)
