"""Decode plans on hand-made row images: loud stops, undecodable texts, and the shape of what comes out."""

from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from aiokafka.partitioner import murmur2 as aiokafka_murmur2

from cdc_reader.batches import Origin, barrier_batches, event_tail, source_head, source_mid
from cdc_reader.errors import EventUnreadable, SourceStopped
from cdc_reader.plans import compile_plan
from cdc_reader.values import decimal_text, shortest_float
from schemas.events import Barrier, BarrierKind
from schemas.keys import murmur2
from schemas.tables import Column, KeyPart, TableName, TableSchema

_NAME = TableName("shop", "books")
_ID = Column("id", "int", nullable=False)
_TITLE = Column("title", "varchar", 40, charset="utf8mb4", collation="utf8mb4_bin")
_SCHEMA = TableSchema(_NAME, (_ID, _TITLE), (KeyPart("id"),))
_ORIGIN = Origin(5, 1, "", "binlog.000001", 4, 6)
_HEAD = source_head("bookshop", _NAME, _SCHEMA.fingerprint)
_MID, _TAIL = source_mid(_HEAD, _ORIGIN), event_tail(6)
_GOOD = b"\0" + b"\7\0\0\0" + b"\4Moby"
_BAD = b"\0" + b"\7\0\0\0" + b"\2\xff\xfe"


def schema_file(part: str) -> dict[str, Any]:
    schema: dict[str, Any] = orjson.loads(
        (Path(__file__).parents[2] / "schemas" / f"change_event_{part}.schema.json").read_bytes()
    )
    return schema


def test_events_and_barriers_fit_the_json_schemas() -> None:
    plan = compile_plan(_SCHEMA)
    messages = [
        *plan.inserts(_GOOD, 0, len(_GOOD), _MID, _TAIL)[1],
        *plan.updates(_GOOD * 2, 0, 2 * len(_GOOD), _MID, _TAIL)[1],
        *plan.deletes(_GOOD, 0, len(_GOOD), _MID, _TAIL)[1],
    ]
    barrier = Barrier("1", BarrierKind.TRUNCATE, _SCHEMA.fingerprint)
    messages += [message for batch in barrier_batches("t", 1, _HEAD, _ORIGIN, barrier) for message in batch.messages]
    for _, key, value, _ in messages:
        jsonschema.validate(orjson.loads(key), schema_file("key"))
        if value is not None:
            jsonschema.validate(orjson.loads(value), schema_file("value"))
    assert [orjson.loads(value)["op"] for _, _, value, _ in messages if value] == ["c", "u", "d", "t"]


@pytest.mark.parametrize("end", [len(_GOOD) - 1, len(_GOOD) + 1])
def test_images_that_do_not_fill_the_event_stop_loudly(end: int) -> None:
    with pytest.raises(EventUnreadable, match=r"shop\.books"):
        compile_plan(_SCHEMA).inserts(_GOOD, 0, end, _MID, _TAIL)


def test_fault_d13_undecodable_text_stops_and_names_the_column_only() -> None:
    with pytest.raises(SourceStopped, match=r"column title of shop\.books") as stopped:
        compile_plan(_SCHEMA).inserts(_BAD, 0, len(_BAD), _MID, _TAIL)
    assert "fffe" not in str(stopped.value)


def test_fault_d13_dead_letter_makes_null_and_a_header_for_that_row_only() -> None:
    plan = compile_plan(_SCHEMA, on_undecodable="dead-letter")
    rows, messages = plan.inserts(_GOOD + _BAD, 0, len(_GOOD + _BAD), _MID, _TAIL, 3)
    assert rows == 2
    assert [message[0] for message in messages] == [3, 4]
    assert messages[0][3] is None
    assert messages[1][3] == [("rowflow.undecodable", b'{"title":"fffe"}')]
    assert orjson.loads(messages[1][2] or b"")["after"] == {"id": 7, "title": None}


@pytest.mark.parametrize("same_key", [True, False])
@pytest.mark.parametrize("before", [_GOOD, _BAD])
@pytest.mark.parametrize("after", [_GOOD, _BAD])
def test_fault_d13_an_updates_messages_have_the_headers_of_their_own_image(
    before: bytes,
    after: bytes,
    same_key: bool,  # noqa: FBT001
) -> None:
    plan = compile_plan(_SCHEMA, on_undecodable="dead-letter")
    if not same_key:
        after = after.replace(b"\7\0\0\0", b"\x08\0\0\0")
    # A bad row goes before, so that all of them are decoded leniently.
    _, messages = plan.updates(_BAD * 2 + before + after, 0, len(_BAD * 2 + before + after), _MID, _TAIL)
    noted = [("rowflow.undecodable" in dict(message[3] or ()), message[2]) for message in messages[1:]]
    of_images = [image.endswith(_BAD[-2:]) for image in (before, after)]
    if same_key:
        assert [header for header, _ in noted] == of_images[1:]
    else:
        assert [header for header, value in noted if value is not None] == of_images
    value = messages[-1][2]
    assert value is not None
    assert orjson.loads(value)["after"]["title"] == (None if of_images[1] else "Moby")


def test_undecodable_key_stops_even_with_dead_letters() -> None:
    schema = TableSchema(_NAME, (_ID, _TITLE), (KeyPart("title"),))
    with pytest.raises(SourceStopped, match="primary key"):
        compile_plan(schema, on_undecodable="dead-letter").inserts(_BAD, 0, len(_BAD), _MID, _TAIL)


@pytest.mark.parametrize("length", range(12))
def test_murmur2_is_that_of_aiokafka(length: int) -> None:
    data = bytes(range(200, 200 + length))
    assert murmur2(data) == aiokafka_murmur2(data) & 0xFFFFFFFF


def test_decimal_and_float_forms() -> None:
    assert decimal_text(bytes.fromhex("8000002e50"), 10, 2) == "46.80"
    assert decimal_text(bytes.fromhex("7fffffd1af"), 10, 2) == "-46.80"
    assert shortest_float(0.10000000149011612) == 0.1
    assert shortest_float(2.0**-149) == 1e-45
