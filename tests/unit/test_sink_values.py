"""Values of events on their way into SQL and into functions."""

import base64
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from schemas.tables import Column
from sink.values import RowForm, UnreadableError, parameter_conversion, python_conversion


def parameter(kind: str, value: Any) -> object:
    return RowForm((Column("c", kind),), parameter_conversion).values({"c": value})[0]


def python(kind: str, value: Any) -> object:
    return RowForm((Column("c", kind),), python_conversion).values({"c": value})[0]


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bigint", 18446744073709551615, 18446744073709551615),
        ("decimal", "46.80", "46.80"),
        ("varchar", "it's", "it's"),
        ("varbinary", base64.b64encode(b"\0'\\").decode(), b"\0'\\"),
        ("blob", "", b""),
        ("point", base64.b64encode(b"\1\2").decode(), b"\1\2"),
        ("timestamp", "2026-11-22T13:13:30.996694Z", "2026-11-22T13:13:30.996694"),
        ("timestamp", "0000-00-00T00:00:00Z", "0000-00-00T00:00:00"),
        ("datetime", "2026-11-22T13:13:30", "2026-11-22T13:13:30"),
        ("float", 3.4028235e38, 3.4028234663852886e38),
        ("float", 1, 1.0),
        ("float", None, None),
    ],
)
def test_parameters(kind: str, value: Any, expected: object) -> None:
    assert parameter(kind, value) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [("varbinary", "not base64!"), ("timestamp", "2026-11-22T13:13:30"), ("blob", 7), ("float", "x"), ("float", 1e300)],
)
def test_a_value_without_its_types_form_is_refused_without_being_shown(kind: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match=r"^column c ") as refusal:
        parameter(kind, value)
    assert str(value) not in refusal.value.reason


def test_missing_columns_are_named() -> None:
    form = RowForm((Column("a", "int"), Column("b", "int")), parameter_conversion)
    with pytest.raises(UnreadableError, match=r"lacks columns: b$"):
        form.values({"a": 1})


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("decimal", "46.80", Decimal("46.80")),
        ("date", "2026-11-22", date(2026, 11, 22)),
        ("date", "2015-00-21", "2015-00-21"),
        ("datetime", "2026-11-22T13:13:30.996694", datetime(2026, 11, 22, 13, 13, 30, 996694)),  # noqa: DTZ001 - has none
        ("datetime", "0000-00-00T00:00:00", "0000-00-00T00:00:00"),
        ("timestamp", "2026-11-22T13:13:30Z", datetime(2026, 11, 22, 13, 13, 30, tzinfo=UTC)),
        ("time", "-838:59:59.000001", -timedelta(hours=838, minutes=59, seconds=59, microseconds=1)),
        ("time", "10:00:00.5", timedelta(hours=10, microseconds=500_000)),
        ("json", '{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("blob", "AAE=", b"\0\1"),
        ("enum", "EUR", "EUR"),
        ("bit", 5, 5),
        ("json", None, None),
    ],
)
def test_python_values(kind: str, value: Any, expected: object) -> None:
    assert python(kind, value) == expected
