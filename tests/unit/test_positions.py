"""Places in binlogs and the position record."""

import pytest

from cdc_reader.positions import Place, Position, parse_place


def test_fault_s11_files_are_compared_by_number() -> None:
    assert Place("binlog.1000000", 4).order > Place("binlog.999999", 9_999_999).order
    assert Place("binlog.000002", 4).order > Place("binlog.000001", 5).order
    assert Place("binlog.000001", 10).order > Place("binlog.000001", 9).order
    assert Place("", 0).order < Place("binlog.000001", 4).order


def test_a_position_is_read_back_and_later_fields_are_passed_over() -> None:
    position = Position("binlog.000001", 157, "u:1-5", "uuid", 17, "u:6", 99, "instance", "a b")
    text = position.to_json()
    assert Position.from_json(text) == position
    assert Position.from_json(text[:-1] + b',"new":1}') == position


@pytest.mark.parametrize("text", ["binlog:4", "binlog.000001", "binlog.000001:", ":4", "binlog.000001:x", ""])
def test_what_is_no_place_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a place"):
        parse_place(text)
