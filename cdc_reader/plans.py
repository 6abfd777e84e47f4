"""Decode plans: Python source generated and compiled once for each version of a table.

Comes in: a table's schema; then the row images of ROWS events, as bytes in a buffer.  Goes out: ready messages, with the
record key and the change event as JSON.  For a change event's parts see schemas/change_event_value.schema.json.

Why generated: a generic decoder spends most of its time on finding out, per column and row, what is known per table.
The source has one line after the other for the columns in order, no loop, no dispatch; columns of fixed size that lie side
by side, and the length in front of the next text, are read by one ``struct`` call.  ``Plan.source`` is it, to be read.

Guarantees: an event's images fill it exactly, or it is a loud stop; texts are decoded by their columns' character sets, and
one that can't be is a loud stop too, or, with ``on_undecodable="dead-letter"``, null with its bytes in a header.  The check
costs nothing while all texts are right: the rows of an event are decoded again, leniently, when one isn't.
Not here: which columns an image holds; the caller has seen that all are present.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol

import orjson

from cdc_reader.charsets import Decoder
from cdc_reader.errors import EventUnreadable, SourceStopped, TableUnfollowable
from cdc_reader.plan_source import PlanWriter
from cdc_reader.sql import quoted_table
from schemas.events import UNDECODABLE_HEADER
from schemas.tables import Column, TableSchema

Headers = list[tuple[str, bytes]]
Message = tuple[int, bytes, bytes | None, Headers | None]
"""A message for Kafka: the row's number inside its event, key, value (None: a tombstone), headers."""

OnUndecodable = Literal["stop", "dead-letter"]
_FUNCTIONS = ("inserts", "updates", "deletes")
_Decode = Callable[[bytes, int, int, bytes, bytes, int], tuple[int, int, list[Message]]]


class UndecodableTexts:
    """Notes the texts of a row that can't be decoded; makes decoders that don't raise."""

    def __init__(self, schema: TableSchema, on_undecodable: OnUndecodable) -> None:
        self._schema = schema
        self._stop = on_undecodable == "stop"
        self._found: dict[str, str] = {}

    def lenient(self, column: Column, decode: Decoder) -> Callable[[bytes], str | None]:
        """A decoder of that column that gives None for what it can't decode; it raises where that must not be.

        A key must not: rows with different keys would get one.
        """
        name = column.name
        must_stop = self._stop or name in self._schema.key_columns

        def decode_or_note(text: bytes) -> str | None:
            try:
                return decode(text)
            except UnicodeDecodeError:
                if must_stop:
                    raise SourceStopped(self._message(column)) from None
                self._found[name] = text.hex()
                return None

        return decode_or_note

    def _message(self, column: Column) -> str:
        where = f"column {column.name} of {self._schema.name}"
        if self._stop:
            return (
                f"a text in {where} isn't valid in its character set {column.charset}: set on_undecodable = "
                '"dead-letter" in [source] to file such rows and go on; or mend the row on the source, then '
                f"rowflow snapshot {self._schema.name} --start-over"
            )
        return (
            f"a text in {where} isn't valid in its character set {column.charset}, and it is a part of the primary key, "
            f"without which the row can't be told from others: mend it on the source, then rowflow snapshot "
            f"{self._schema.name} --start-over"
        )

    def headers(self) -> Headers | None:
        """The header about the texts of the row at hand, which is then forgotten; None where all were right."""
        if not self._found:
            return None
        content = orjson.dumps(self._found)
        self._found = {}
        return [(UNDECODABLE_HEADER, content)]


def check_key(schema: TableSchema) -> None:
    """Raises TableUnfollowable for a table without a primary key."""
    if not schema.primary_key:
        raise TableUnfollowable(
            f"{schema.name} has no primary key, without which its rows can't be told apart: "
            f"ALTER TABLE {quoted_table(schema.name)} ADD PRIMARY KEY (...)"
        )


class DecodeRows(Protocol):
    """Makes messages of the row images of one event."""

    def __call__(
        self, buffer: bytes, offset: int, end: int, mid: bytes, tail: bytes, first_row: int = 0, /
    ) -> tuple[int, list[Message]]:
        """The number of rows, and their messages; raises EventUnreadable and SourceStopped."""


class Plan:
    """Decodes the rows of one version of a table.

    ``inserts`` takes the rows of a WRITE_ROWS event, as ``c``; ``updates`` those of an UPDATE_ROWS event, as ``u``, or, with
    another key, ``d``, a tombstone and ``c``; ``deletes`` those of a DELETE_ROWS event, as ``d`` and a tombstone.
    Each takes ``buffer`` and where the row images in it begin and end (behind the columns-present bitmaps; without the
    checksum), ``mid`` and ``tail``, which are what stands in a change event between the image and the row's number, and
    behind ``op``, and the number of the first row.
    """

    def __init__(self, schema: TableSchema, on_undecodable: OnUndecodable = "stop") -> None:
        """Raises TableUnfollowable for column types that aren't known, and without a primary key."""
        check_key(schema)
        self.schema = schema
        self._on_undecodable = on_undecodable
        self._lenient: dict[str, _Decode] = {}
        code = PlanWriter(schema).code()
        self.source = code.source
        names: dict[str, Any] = dict(code.names)
        exec(compile(code.source, f"<decode plan of {schema.name}>", "exec"), names)  # noqa: S102 - written by ourselves
        self._functions: dict[_Decode, str] = {names[function]: function for function in _FUNCTIONS}
        self.inserts: DecodeRows = partial(self._rows, names["inserts"])
        self.updates: DecodeRows = partial(self._rows, names["updates"])
        self.deletes: DecodeRows = partial(self._rows, names["deletes"])

    def _rows(
        self, decode: _Decode, buffer: bytes, offset: int, end: int, mid: bytes, tail: bytes, first_row: int = 0, /
    ) -> tuple[int, list[Message]]:
        try:
            reached, behind, messages = decode(buffer, offset, end, mid, tail, first_row)
        except UnicodeDecodeError:
            lenient = self._lenient_form(decode)
            return self._rows(lenient, buffer, offset, end, mid, tail, first_row)
        except EventUnreadable as error:
            raise EventUnreadable(f"a row of {self.schema.name} can't be read: {error}", self.schema.name) from error
        except (struct.error, IndexError) as error:
            raise self._misfit() from error
        if reached != end:
            raise self._misfit()
        return behind - first_row, messages

    def _misfit(self) -> EventUnreadable:
        name = self.schema.name
        return EventUnreadable(f"the rows of {name} don't fit the columns that the binlog gives for it", name)

    def _lenient_form(self, decode: _Decode) -> _Decode:
        """The same function with decoders that note instead of raising; compiled when it is first needed."""
        name = self._functions.get(decode)
        if name is None:
            table = self.schema.name
            raise EventUnreadable(f"a JSON value in a row of {table} isn't valid UTF-8", table)
        if not self._lenient:
            noted = UndecodableTexts(self.schema, self._on_undecodable)
            code = PlanWriter(self.schema, noted.lenient).code()
            names: dict[str, Any] = {**code.names, "noted_headers": noted.headers}
            exec(compile(code.source, f"<lenient decode plan of {self.schema.name}>", "exec"), names)  # noqa: S102
            self._lenient = {function: names[function] for function in _FUNCTIONS}
        return self._lenient[name]


def compile_plan(schema: TableSchema, *, on_undecodable: OnUndecodable = "stop") -> Plan:
    """The plan for a table's version; raises TableUnfollowable for column types that it doesn't know."""
    return Plan(schema, on_undecodable)
