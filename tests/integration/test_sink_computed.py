"""Computed columns on a real sink, over the life of functions.py."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from schemas.events import BarrierKind
from sink.computed import ComputedFunctions, load
from stream_app.errors import RestartNeeded
from tests.sink_stand import MakeStand, Rows, book

HEAD = "from datetime import datetime\nfrom decimal import Decimal\nfrom rowflow import computed\n"
VALUE = '@computed("shop.books")\ndef value(row: dict) -> Decimal:\n    return row["price"] * row["stock"]\n'
LENGTH = '@computed("shop.books")\ndef length(row: dict) -> int:\n    return len(row["title"])\n'
ALL = """
@computed("shop.books")
def an_int(row: dict) -> int:
    return 2**63 - 1

@computed("shop.books")
def a_text(row: dict) -> str:
    return row["title"] + " 'é😀"

@computed("shop.books")
def a_moment(row: dict) -> datetime:
    return datetime(2026, 11, 22, 13, 13, 30, 996694)

@computed("shop.books")
def a_truth(row: dict) -> bool:
    return row["stock"] > 0

@computed("shop.books")
def a_dict(row: dict) -> dict:
    return {"genre": row["tags"]["genre"], "n": [1, None]}

@computed("shop.books")
def nothing(row: dict) -> int | None:
    return None
"""


@pytest.fixture
def functions(tmp_path: Path) -> Callable[[str], ComputedFunctions]:
    def write(source: str) -> ComputedFunctions:
        path = tmp_path / "functions.py"
        path.write_text(HEAD + source, encoding="utf-8")
        return load(path)

    return write


Functions = Callable[[str], ComputedFunctions]


def test_columns_of_all_annotations(make_stand: MakeStand, functions: Functions, rows: Rows) -> None:
    stand = make_stand(functions=functions(ALL))
    stand.begin()
    stand.logs[0].create(book(1))
    stand.handle()
    assert rows("SELECT an_int, a_text, CAST(a_moment AS CHAR), a_truth, a_dict, nothing FROM {}.books") == [
        (2**63 - 1, "Book 1 'é😀", "2026-11-22 13:13:30.996694", 1, '{"n": [1, null], "genre": "poetry"}', None)
    ]


def test_function_that_raises_files_its_row_and_the_rest_goes_on(
    make_stand: MakeStand, functions: Functions, rows: Rows
) -> None:
    stand = make_stand(functions=functions(VALUE))
    stand.begin()
    stand.logs[0].create(book(1)).create(book(2, price=None)).create(book(3, stock=0)).update(book(3), book(3, stock=2))
    stand.handle()
    assert rows("SELECT id, value FROM {}.books ORDER BY id") == [(1, Decimal("140.40")), (3, Decimal("93.60"))]
    ((key, reason),) = rows("SELECT `key`, reason FROM {}._rowflow_dead_letters")
    assert key == b'{"id":2}'
    assert str(reason).startswith("function value raised TypeError (functions.py:6): ")


@pytest.mark.parametrize("cuts", range(4))
def test_where_a_slice_is_cut_changes_nothing_beside_a_row_that_raises(
    make_stand: MakeStand, functions: Functions, rows: Rows, cuts: int
) -> None:
    """Each key's last change raises: what came before it counts, be it in the same slice or in one before."""
    stand = make_stand(functions=functions(VALUE))
    stand.begin()
    stand.logs[0].create(book(1)).create(book(2)).create(book(3))
    stand.handle()
    log = stand.logs[0]
    steps: tuple[Callable[[], object], ...] = (
        lambda: log.update(book(2), book(2, stock=7)).delete(book(1)),
        lambda: log.create(book(1, price=None)).update(book(3), book(3, stock=5)).update(book(3), book(3, price=None)),
        lambda: log.update(book(3), book(3, price=None, stock=1)).update(book(2), book(2, price=None)),
    )
    stand.handle_in_parts(steps, cuts)
    assert rows("SELECT id, stock FROM {}.books ORDER BY id") == [(2, 7), (3, 5)]
    letters = rows(
        "SELECT CONVERT(`key` USING utf8mb4), COUNT(*) FROM {}._rowflow_dead_letters GROUP BY `key` ORDER BY 1"
    )
    assert letters == [('{"id":1}', 1), ('{"id":2}', 1), ('{"id":3}', 2)]


def test_new_function_adds_its_column_and_a_whole_reading_renews(
    make_stand: MakeStand, functions: Functions, rows: Rows
) -> None:
    first = functions(VALUE)
    stand = make_stand(functions=first)
    stand.begin()
    stand.logs[0].create(book(1)).create(book(2))
    stand.handle()
    second = functions(LENGTH)
    stand.target = stand.start(second)
    stand.logs[0].update(book(2), book(2, title="Ten"))
    stand.handle()
    assert rows("SELECT id, value, length FROM {}.books ORDER BY id") == [
        (1, Decimal("140.40"), None),
        (2, Decimal("140.40"), 3),
    ]
    assert rows("SELECT functions_fingerprint FROM {}._rowflow_tables") == [(first.fingerprint,)]
    stand.logs[0].barrier(BarrierKind.BEGIN, "b2").event("r", None, book(1)).event("r", None, book(2, title="Ten"))
    stand.handle()
    assert stand.finish("b2")
    stand.handle()
    assert rows("SELECT functions_fingerprint FROM {}._rowflow_tables") == [(second.fingerprint,)]
    assert rows("SELECT id, length FROM {}.books ORDER BY id") == [(1, 6), (2, 3)]


def test_nothing_is_computed_and_no_mirror_made_by_functions_that_the_file_no_longer_has(
    make_stand: MakeStand, functions: Functions, rows: Rows
) -> None:
    first = functions(VALUE)
    stand = make_stand(functions=first)
    stand.begin()
    changed = RestartNeeded("changed")

    def look() -> None:
        raise changed

    stand.logs[0].barrier(BarrierKind.BEGIN, "b2")
    up_to_date, stand.target = stand.target, stand.start(first, look)
    with pytest.raises(RestartNeeded):
        stand.handle()
    assert stand.next_offset() == 1
    stand.target = up_to_date
    stand.handle()
    # The one who comes to the barrier's work may be another.
    stand.target = stand.start(first, look)
    with pytest.raises(RestartNeeded):
        stand.finish("b2")
    assert rows("SELECT done FROM {}._rowflow_barriers WHERE barrier_id = 'b2'") == [(0,)]
    stand.target = up_to_date
    assert stand.finish("b2")


def test_function_with_another_annotation_gives_its_column_another_type(
    make_stand: MakeStand, functions: Functions, rows: Rows
) -> None:
    stand = make_stand(functions=functions(LENGTH))
    stand.begin()
    stand.logs[0].create(book(1))
    stand.handle()
    stand.target = stand.start(functions(LENGTH.replace("-> int", "-> str").replace("len(", "repr(")))
    stand.logs[0].create(book(2))
    stand.handle()
    assert rows("SELECT id, length FROM {}.books ORDER BY id") == [(1, None), (2, "'Book 2'")]
