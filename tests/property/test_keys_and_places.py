"""Keys, partitions, topic names and places: what must hold for any input."""

import base64
import json
import struct

from aiokafka.partitioner import murmur2 as aiokafka_murmur2
from hypothesis import given
from hypothesis import strategies as st

from cdc_reader.plans import compile_plan
from cdc_reader.positions import Place, Position, parse_place
from schemas.keys import key_bytes, murmur2, partition_of
from schemas.tables import Column, KeyPart, TableName, TableSchema
from schemas.topics import TOPIC_NAME_LENGTH_MAX, table_topic

NUMBERS = st.integers(1, 9_999_999)
PLACES = st.builds(lambda number, pos: Place(f"binlog.{number:06d}", pos), NUMBERS, st.integers(4, 1 << 32))
NAMES = st.builds(TableName, st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))


@given(st.binary(max_size=200), st.integers(1, 50))
def test_partition_is_that_of_aiokafka(key: bytes, partitions: int) -> None:
    assert murmur2(key) == aiokafka_murmur2(key) & 0xFFFFFFFF
    assert partition_of(key, partitions) == (aiokafka_murmur2(key) & 0x7FFFFFFF) % partitions


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(-(2**63), 2**64 - 1), st.text()), min_size=1))
def test_different_keys_have_different_bytes(values: dict[str, int | str]) -> None:
    column = next(iter(values))
    other = {**values, column: f"{values[column]}x"}
    assert key_bytes(values, values) == key_bytes(dict(values), list(values))
    assert key_bytes(values, values) != key_bytes(other, values)


@given(NAMES, NAMES)
def test_two_tables_never_share_a_topic(one: TableName, two: TableName) -> None:
    topics = [table_topic("prefix", name) for name in (one, two)]
    assert (topics[0] == topics[1]) == (one == two)
    for topic in topics:
        assert len(topic) <= TOPIC_NAME_LENGTH_MAX
        assert set(topic) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
        assert topic.startswith("prefix.")


@given(PLACES, PLACES)
def test_fault_s11_places_are_ordered_by_file_number_then_offset(one: Place, two: Place) -> None:
    numbers = [(int(place.file.split(".")[1]), place.pos) for place in (one, two)]
    assert (one.order < two.order) == (numbers[0] < numbers[1])
    assert parse_place(str(one)) == one
    assert Position.from_json(Position(one.file, one.pos, "", "uuid").to_json()).place == one


TINY, INT_U, BIG = st.integers(-128, 127), st.integers(0, 2**32 - 1), st.integers(-(2**63), 2**63 - 1)
DIGITS = st.integers(-(10**9 - 1), 10**9 - 1)
ROWS = st.tuples(
    INT_U, st.none() | TINY, st.none() | st.text(max_size=60), st.none() | BIG, st.none() | DIGITS,
    st.none() | st.tuples(st.integers(0, 9999), st.integers(0, 12), st.integers(0, 31)), st.none() | st.binary(max_size=300),
)  # fmt: skip
COLUMNS = (
    Column("id", "int", unsigned=True, nullable=False),
    Column("tiny", "tinyint"),
    Column("title", "varchar", 240, charset="utf8mb4", collation="utf8mb4_bin"),
    Column("big", "bigint"),
    Column("price", "decimal", 9, 3),
    Column("day", "date"),
    Column("data", "varbinary", 300),
)
SCHEMA = TableSchema(TableName("shop", "books"), COLUMNS, (KeyPart("id"),))


def image(row: tuple[object, ...]) -> bytes:
    """A row image by MySQL's manual, "Rows_event": a bitmap of NULLs, then the values."""
    number, tiny, title, big, price, day, data = row
    nulls = sum(1 << index for index, value in enumerate(row) if value is None)
    parts = [bytes([nulls]), struct.pack("<I", number)]
    if isinstance(tiny, int):
        parts.append(struct.pack("<b", tiny))
    if isinstance(title, str):
        text = title.encode()
        parts.append(bytes([len(text)]) + text)
    if isinstance(big, int):
        parts.append(struct.pack("<q", big))
    if isinstance(price, int):
        parts.append(_decimal(price))
    if isinstance(day, tuple):
        parts.append((day[0] << 9 | day[1] << 5 | day[2]).to_bytes(3, "little"))
    if isinstance(data, bytes):
        parts.append(struct.pack("<H", len(data)) + data)
    return b"".join(parts)


def _decimal(thousandths: int) -> bytes:
    """DECIMAL(9,3): six digits in three bytes, three in two, the first bit turned; all bits of a negative one turned."""
    whole, fraction = divmod(abs(thousandths), 1000)
    stored = bytearray(whole.to_bytes(3, "big") + fraction.to_bytes(2, "big"))
    if thousandths < 0:
        stored = bytearray(byte ^ 0xFF for byte in stored)
    stored[0] ^= 0x80
    return bytes(stored)


def expected(row: tuple[object, ...]) -> dict[str, object]:
    number, tiny, title, big, price, day, data = row
    sign = "-" if isinstance(price, int) and price < 0 else ""
    return {
        "id": number, "tiny": tiny, "title": title, "big": big,
        "price": f"{sign}{abs(price) // 1000}.{abs(price) % 1000:03d}" if isinstance(price, int) else None,
        "day": "{:04d}-{:02d}-{:02d}".format(*day) if isinstance(day, tuple) else None,
        "data": base64.b64encode(data).decode() if isinstance(data, bytes) else None,
    }  # fmt: skip


@given(st.lists(st.tuples(ROWS, ROWS), min_size=1, max_size=8))
def test_row_images_are_decoded_to_what_was_encoded(pairs: list[tuple[tuple[object, ...], tuple[object, ...]]]) -> None:
    plan = compile_plan(SCHEMA)
    buffer = b"\xff\xff" + b"".join(image(row) for pair in pairs for row in pair) + b"\xff"
    mid, tail = b',"source":{"row":', b"}"
    rows, messages = plan.inserts(buffer, 2, len(buffer) - 1, mid, tail)
    assert rows == 2 * len(pairs)
    values = [json.loads(value or b"") for _, _, value, _ in messages]
    assert [value["after"] for value in values] == [expected(row) for pair in pairs for row in pair]

    rows, messages = plan.updates(buffer, 2, len(buffer) - 1, mid, tail)
    assert rows == len(pairs)
    found = [json.loads(value) for _, _, value, _ in messages if value is not None]
    wanted: list[tuple[object, object]] = []
    for before, after in ((expected(old), expected(new)) for old, new in pairs):
        wanted += [(before, after)] if before["id"] == after["id"] else [(before, None), (None, after)]
    assert [(value["before"], value["after"]) for value in found] == wanted
