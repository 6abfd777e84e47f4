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
from typing import Any, Literal

import orjson

from cdc_reader.charsets import Decoder
from cdc_reader.errors import SourceStopped
from cdc_reader.plan_source import PlanWriter
from schemas.events import UNDECODABLE_HEADER
from schemas.tables import Column, TableSchema

Headers = list[tuple[str, bytes]]
Message = tuple[int, bytes, bytes | None, Headers | None]
"""A message for Kafka: the row's number inside its event, key, value (None: a tombstone), headers."""

OnUndecodable = Literal["stop", "dead-letter"]
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


class Plan:
    """Decodes the rows of one version of a table.

    Each of the three methods takes ``buffer`` and where the row images in it begin and end (behind the columns-present
    bitmaps; without the checksum), ``mid`` and ``tail``, which are what stands in a change event between the image and
    the row's number, and behind ``op``, and the number of the first row.  It gives the number of rows and the messages,
    and raises SourceStopped.
    """

    def __init__(self, schema: TableSchema, on_undecodable: OnUndecodable = "stop") -> None:
        self.schema = schema
        self._on_undecodable = on_undecodable
        self._lenient: dict[str, _Decode] = {}
        code = PlanWriter(schema).code()
        self.source = code.source
        names = dict(code.names)
        exec(compile(code.source, f"<decode plan of {schema.name}>", "exec"), names)  # noqa: S102 - written by ourselves
        self._inserts: _Decode = names["inserts"]  # type: ignore[assignment] # defined by exec
        self._updates: _Decode = names["updates"]  # type: ignore[assignment] # defined by exec
        self._deletes: _Decode = names["deletes"]  # type: ignore[assignment] # defined by exec

    def inserts(
        self, buffer: bytes, offset: int, end: int, mid: bytes, tail: bytes, first_row: int = 0
    ) -> tuple[int, list[Message]]:
        """The rows of a WRITE_ROWS event, as ``c``."""
        return self._rows(self._inserts, buffer, offset, end, mid, tail, first_row)

    def updates(
        self, buffer: bytes, offset: int, end: int, mid: bytes, tail: bytes, first_row: int = 0
    ) -> tuple[int, list[Message]]:
        """The rows of an UPDATE_ROWS event, as ``u``; with another key, ``d``, a tombstone and ``c``."""
        return self._rows(self._updates, buffer, offset, end, mid, tail, first_row)

    def deletes(
        self, buffer: bytes, offset: int, end: int, mid: bytes, tail: bytes, first_row: int = 0
    ) -> tuple[int, list[Message]]:
        """The rows of a DELETE_ROWS event, as ``d`` and a tombstone."""
        return self._rows(self._deletes, buffer, offset, end, mid, tail, first_row)

    def _rows(
        self, decode: _Decode, buffer: bytes, offset: int, end: int, mid: bytes, tail: bytes, first_row: int
    ) -> tuple[int, list[Message]]:
        try:
            reached, behind, messages = decode(buffer, offset, end, mid, tail, first_row)
        except UnicodeDecodeError:
            lenient = self._lenient_form(decode)
            return self._rows(lenient, buffer, offset, end, mid, tail, first_row)
        except (struct.error, IndexError) as error:
            raise self._misfit() from error
        if reached != end:
            raise self._misfit()
        return behind - first_row, messages

    def _misfit(self) -> SourceStopped:
        return SourceStopped(
            f"the rows of {self.schema.name} don't fit the columns that the binlog gives for it; if its file is whole "
            f"(mysqlbinlog --verify-binlog-checksum), read the table anew: rowflow snapshot {self.schema.name} --start-over"
        )

    def _lenient_form(self, decode: _Decode) -> _Decode:
        """The same function with decoders that note instead of raising; compiled when it is first needed."""
        name = {self._inserts: "inserts", self._updates: "updates", self._deletes: "deletes"}.get(decode)
        if name is None:
            raise SourceStopped(f"a JSON value or a name in a row of {self.schema.name} isn't valid UTF-8")
        if not self._lenient:
            noted = UndecodableTexts(self.schema, self._on_undecodable)
            code = PlanWriter(self.schema, noted.lenient).code()
            names: dict[str, Any] = {**code.names, "noted_headers": noted.headers}
            exec(compile(code.source, f"<lenient decode plan of {self.schema.name}>", "exec"), names)  # noqa: S102
            self._lenient = {function: names[function] for function in ("inserts", "updates", "deletes")}
        return self._lenient[name]


def compile_plan(schema: TableSchema, *, on_undecodable: OnUndecodable = "stop") -> Plan:
    """The plan for a table's version; raises SourceStopped for column types that it doesn't know."""
    return Plan(schema, on_undecodable)
