"""What must be so, told by MySQL itself: tables rebuilt from events, tables as SELECT returns them, and both compared.

Comes in: events as a plain consumer reads them, plain connections.  Goes out: findings as texts; an empty list where all
holds.  Nothing here uses the product: the expected side is made from what the server prints (CAST ... AS CHAR, HEX), by
the table of types in the design.
"""

from __future__ import annotations

import base64
import json
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from MySQLdb.connections import Connection

from tests.helpers import execute
from tests.topics import Event

Row = dict[str, Any]
Key = tuple[tuple[str, Any], ...]
FINDINGS_MAX = 8
_SCHEMAS = Path(__file__).resolve().parents[1] / "schemas"
_INTEGERS = {"tinyint", "smallint", "mediumint", "int", "bigint", "year", "bit"}
_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum", "set"}
_SPATIAL = {
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geomcollection",
}
_BINARIES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob", "vector"} | _SPATIAL


class ColumnType(NamedTuple):
    """A column as information_schema has it."""

    name: str
    type: str
    in_key: bool


# ---- what SELECT returns ----


def column_types(connection: Connection, db: str, table: str) -> list[ColumnType]:
    """The columns of a table in their order."""
    rows = execute(
        connection,
        "SELECT column_name, data_type, column_key = 'PRI' FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        (db, table),
    )
    return [ColumnType(name, data_type.lower(), bool(in_key)) for name, data_type, in_key in rows]


def key_columns(connection: Connection, db: str, table: str) -> list[str]:
    """The primary key's columns in key order."""
    rows = execute(
        connection,
        "SELECT column_name FROM information_schema.statistics WHERE table_schema = %s AND table_name = %s"
        " AND index_name = 'PRIMARY' ORDER BY seq_in_index",
        (db, table),
    )
    return [row[0] for row in rows]


def _printed(column: ColumnType) -> str:
    """The expression by which the server prints a column without loss, as hex of utf8mb4 or of the bytes."""
    name = f"`{column.name}`"
    if column.type == "bit":
        return f"HEX(CAST({name} + 0 AS CHAR))"
    if column.type == "float":
        return f"HEX(CAST({name} * 1e0 AS CHAR))"
    if column.type in _TEXTS:
        return f"HEX(CONVERT({name} USING utf8mb4))"
    if column.type in _BINARIES:
        return f"HEX({name})"
    return f"HEX(CAST({name} AS CHAR))"


def _to_json(column: ColumnType) -> Callable[[bytes], Any]:
    """From what the server prints to the event's value."""
    if column.type in _INTEGERS:
        return int
    if column.type in ("float", "double"):
        return float
    if column.type in _BINARIES:
        return lambda printed: base64.b64encode(printed).decode()
    if column.type == "datetime":
        return lambda printed: printed.decode().replace(" ", "T")
    if column.type == "timestamp":
        return lambda printed: printed.decode().replace(" ", "T") + "Z"
    return lambda printed: printed.decode()


def select_rows(connection: Connection, db: str, table: str) -> dict[Key, Row]:
    """A table as the events should have it, by key."""
    columns = column_types(connection, db, table)
    keys = key_columns(connection, db, table)
    convert = [_to_json(column) for column in columns]
    rows = execute(connection, f"SELECT {', '.join(map(_printed, columns))} FROM `{db}`.`{table}`")
    found: dict[Key, Row] = {}
    for row in rows:
        values = {
            column.name: None if text is None else make(bytes.fromhex(text))
            for column, make, text in zip(columns, convert, row, strict=True)
        }
        found[tuple((name, values[name]) for name in keys)] = values
    return found


# ---- what the events say ----


class _Unknown:
    """The state of a key of which nothing is known yet."""


UNKNOWN = _Unknown()


def rebuild(events: Iterable[Event]) -> dict[Key, Row]:
    """Fold one topic's events to rows by key, as any consumer would: each partition by itself, barriers included."""
    partitions: dict[int, dict[Key, Row]] = defaultdict(dict)
    for event in events:
        rows = partitions[event.partition]
        value = event.value
        if value is None:
            rows.pop(_key(event), None)
        elif event.op in ("m", "t"):
            if event.op == "t" or value["barrier"]["kind"] == "begin":
                rows.clear()
        elif event.op == "d":
            rows.pop(_key(event), None)
        else:
            rows[_key(event)] = value["after"]
    merged: dict[Key, Row] = {}
    for rows in partitions.values():
        assert not merged.keys() & rows.keys(), "one key lies in two partitions"
        merged |= rows
    return merged


def _key(event: Event) -> Key:
    return tuple(event.key.items())


def broken_histories(events: Sequence[Event], *, complete: bool) -> list[str]:
    """Each key's events follow on each other: what an event found (``before``) is what the one before left (``after``).

    Events of a topic in the order of their partitions.  ``complete``: the topic has the table from when it was empty, so a
    key of which nothing is known is absent.  Finds missing, doubled and misplaced events, however few.
    """
    findings: list[str] = []
    state: dict[int, dict[Key, Any]] = defaultdict(dict)
    place: dict[Key, tuple[int, int, int]] = {}
    whole: dict[int, bool] = defaultdict(lambda: complete)
    for event in events:
        known, value = state[event.partition], event.value
        if value is None:
            continue
        if event.op in ("m", "t"):
            if event.op == "t" or value["barrier"]["kind"] in ("begin", "schema"):
                known.clear()
                whole[event.partition] = event.op == "t" or (complete and value["barrier"]["kind"] == "begin")
            continue
        key = _key(event)
        now = known.get(key, None if whole[event.partition] else UNKNOWN)
        where = f"{event.topic} [{event.partition}] offset {event.offset} op {event.op} of {event.place}"
        if event.op == "r":
            if now not in (None, UNKNOWN) and same_row(now, value["after"]) is not None:
                findings.append(f"{where}: a read row differs from what was known in {same_row(now, value['after'])}")
        else:
            if place.get(key, (0, 0, 0)) > event.place:
                findings.append(f"{where} comes behind {place[key]} of the same key")
            place[key] = event.place
            if now is not UNKNOWN:
                differing = same_row(now, value["before"])
                if differing is not None:
                    findings.append(f"{where}: before isn't what was left: {differing}")
        known[key] = value["after"]
    return findings


def doubled(events: Iterable[Event]) -> list[str]:
    """Rule R8: events that are named alike by (topic, file, pos, row, op)."""
    names = Counter(
        (event.topic, event.value["source"]["file"], *event.place[1:], event.op)
        for event in events
        if event.value is not None and event.op not in ("m", "t")
    )
    return [f"{name} is there {count} times" for name, count in names.items() if count > 1]


def unlike_schema_files(events: Iterable[Event]) -> list[str]:
    """Keys and values that aren't what schemas/*.schema.json says."""
    fits_key, fits_value = (
        Draft202012Validator(json.loads((_SCHEMAS / f"change_event_{part}.schema.json").read_bytes()))
        for part in ("key", "value")
    )
    findings = []
    for event in events:
        errors = [*fits_key.iter_errors(event.key)]
        errors += fits_value.iter_errors(event.value) if event.value is not None else []
        findings += [f"offset {event.offset} of [{event.partition}]: {error.message}" for error in errors]
    return findings


def without_tombstone(events: Sequence[Event]) -> list[str]:
    """Each delete is followed by its tombstone, in its partition, before anything else of that key."""
    findings: list[str] = []
    owed: dict[tuple[int, Key], int] = {}
    for event in events:
        if event.op in ("m", "t"):
            continue
        place = (event.partition, _key(event))
        if event.value is None:
            if owed.pop(place, None) is None:
                findings.append(
                    f"{event.topic} [{event.partition}] offset {event.offset}: a tombstone without a delete"
                )
        elif place in owed:
            findings.append(f"{event.topic} [{event.partition}] offset {owed[place]}: a delete without its tombstone")
        if event.op == "d":
            owed[place] = event.offset
    findings += [f"partition {partition} offset {offset}: no tombstone" for (partition, _), offset in owed.items()]
    return findings


def key_changes(events: Iterable[Event]) -> tuple[int, list[str]]:
    """How many keys were changed, by the headers; each is a delete that names the new key and a create that names the old.

    Both are of one row of one event (rule R8).
    """
    opened: dict[tuple[str, tuple[int, int, int], bytes, bytes], Event] = {}
    count, findings = 0, []
    for event in sorted(events, key=lambda event: event.op != "d"):
        old, new = event.headers.get("__debezium.oldkey"), event.headers.get("__debezium.newkey")
        where = f"{event.topic} [{event.partition}] offset {event.offset} op {event.op}"
        if (old is not None and event.op != "c") or (new is not None and event.op != "d"):
            findings.append(f"{where}: a header that belongs to another op")
        elif new is not None:
            count += 1
            opened[event.topic, event.place, event.key_bytes, new] = event
        elif old is not None and opened.pop((event.topic, event.place, old, event.key_bytes), None) is None:
            findings.append(f"{where}: no delete of {event.place} names this key as the new one")
    findings += [
        f"{event.topic} offset {event.offset}: no create names this key as the old one" for event in opened.values()
    ]
    return count, findings


def same_row(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> str | None:
    """None where two rows are equal, else the names of what differs; never values, but for reading in a test's report."""
    if left is None or right is None:
        return None if left is right else ("absent before" if left is None else "present before")
    if left.keys() != right.keys():
        return f"columns {sorted(left.keys() ^ right.keys())}"
    names = [name for name in left if not _equal(left[name], right[name])]
    return None if not names else ", ".join(f"{name} ({left[name]!r} / {right[name]!r})"[:120] for name in names)


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, float) or isinstance(right, float):
        return (
            left is not None and right is not None and not isinstance(left, str) and _as_float(left) == _as_float(right)
        )
    return type(left) is type(right) and left == right


def _as_float(value: float) -> bytes:
    return struct.pack("<d", float(value))


def differences(expected: Mapping[Key, Row], found: Mapping[Key, Row], singles: Iterable[str] = ()) -> list[str]:
    """What differs between two tables by key; columns in ``singles`` are FLOAT and are compared in that width."""
    findings = [f"missing: {key}" for key in expected.keys() - found.keys()]
    findings += [f"too many: {key}" for key in found.keys() - expected.keys()]
    for key in expected.keys() & found.keys():
        differing = same_row(_narrowed(expected[key], singles), _narrowed(found[key], singles))
        if differing is not None:
            findings.append(f"{key}: {differing}")
    return findings


def _narrowed(row: Row, singles: Iterable[str]) -> Row:
    narrowed = {
        name: struct.unpack("<f", struct.pack("<f", row[name]))[0] for name in singles if row.get(name) is not None
    }
    return row | narrowed


def topic_differences(connection: Connection, db: str, table: str, events: Sequence[Event]) -> list[str]:
    """What a table rebuilt from its topic's events has otherwise than SELECT."""
    singles = [column.name for column in column_types(connection, db, table) if column.type == "float"]
    findings = differences(select_rows(connection, db, table), rebuild(events), singles)
    keys = key_columns(connection, db, table)
    for event in events:
        if event.op in ("m", "t"):
            continue
        compact = json.dumps(event.key, separators=(",", ":"), ensure_ascii=False).encode()
        if list(event.key) != keys or (event.key_bytes != compact and b"\\u" not in event.key_bytes):
            findings.append(f"the key {event.key_bytes!r} isn't the key columns in order, compact")
    return findings


# ---- the sink against the source ----


def sink_differences(
    source: Connection, source_db: str, sink: Connection, sink_schema: str, tables: Iterable[str]
) -> list[str]:
    """What the mirrors have otherwise than their tables: every row, every column, as hex of what each server prints."""
    findings: list[str] = []
    for table in tables:
        columns = column_types(source, source_db, table)
        expected = Counter(_hex_rows(source, source_db, table, columns))
        found = Counter(_hex_rows(sink, sink_schema, table, columns))
        findings += [f"{table}: the sink lacks {row}"[:300] for row in expected - found]
        findings += [f"{table}: the sink has {row}"[:300] for row in found - expected]
    return findings


def _hex_rows(connection: Connection, db: str, table: str, columns: Sequence[ColumnType]) -> list[tuple[Any, ...]]:
    printed = [
        f"HEX(CAST(CAST(CAST(`{column.name}` AS CHAR) AS JSON) AS CHAR))" if column.type == "json" else _printed(column)
        for column in columns
    ]
    return execute(connection, f"SELECT {', '.join(printed)} FROM `{db}`.`{table}`")


def report(findings: Sequence[str]) -> None:
    """Fail with the first findings."""
    assert not findings, f"{len(findings)} findings:\n" + "\n".join(findings[:FINDINGS_MAX])


# ---- the moves of the progress ----


def watch_progress(sink: Connection) -> None:
    """From now on write down every row and every move of the progress, in their own transactions, in a table ``moves``."""
    execute(
        sink,
        "CREATE TABLE moves (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, topic VARCHAR(249) NOT NULL, partition_id INT"
        " NOT NULL, inserted TINYINT NOT NULL, begins BIGINT NOT NULL, ends BIGINT NOT NULL, connection_id BIGINT NOT NULL)",
    )
    for name, event, inserted, begins in (
        ("progress_begins", "INSERT", 1, "NEW"),
        ("progress_moves", "UPDATE", 0, "OLD"),
    ):
        execute(
            sink,
            f"CREATE TRIGGER {name} AFTER {event} ON _rowflow_progress FOR EACH ROW INSERT INTO moves"
            " (topic, partition_id, inserted, begins, ends, connection_id)"
            f" VALUES (NEW.topic, NEW.partition_id, {inserted}, {begins}.next_offset, NEW.next_offset, CONNECTION_ID())",
        )


def broken_moves(sink: Connection, log_ends: Mapping[tuple[str, int], int], *, from_zero: bool = True) -> list[str]:
    """The moves must join to each log's end without gap or overlap, none of them empty (exactness.md W1).

    ``from_zero``: they were watched from the start, so that each partition's row was inserted once, at 0, before it moved.
    """
    stood: dict[tuple[str, int], int] = {}
    findings: list[str] = []
    rows = execute(sink, "SELECT topic, partition_id, inserted, begins, ends FROM moves ORDER BY id")
    for topic, partition, inserted, begins, ends in rows:
        before = stood.get((topic, partition))
        if inserted:
            joins = from_zero and before is None and ends == 0
        else:
            joins = begins == (before if from_zero or before is not None else begins) and ends > begins
        if not joins:
            what = "was inserted at" if inserted else f"moved from {begins} to"
            findings.append(f"{topic} [{partition}]: {what} {ends}, and it stood at {before}")
        stood[topic, partition] = ends
    findings += [
        f"{topic} [{partition}]: ends at {stood.get((topic, partition), 0)}, the log at {end}"
        for (topic, partition), end in log_ends.items()
        if stood.get((topic, partition), 0) != end
    ]
    return findings
