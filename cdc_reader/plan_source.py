"""Writes the Python source of a decode plan.

Comes in: a table's schema.  Goes out: the source of three functions, ``inserts``, ``updates`` and ``deletes``, and the
objects that they name.  Only names of columns, as literals, come from outside; they are quoted by ``repr`` and JSON.

The code keeps two things: the variable ``offset``, and how far behind it (known while writing) the next column lies.
Columns of fixed size gather until one of variable size, or one that may be NULL, ends their run; then one
``unpack_from`` reads them all.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import orjson

from cdc_reader.charsets import Decoder, decoder
from cdc_reader.column_forms import (
    GLOBALS,
    NUMBER_TYPES,
    AnyDecoder,
    FixedForm,
    Form,
    Order,
    VariableForm,
    form_of,
    length_form,
)
from schemas.events import NEW_KEY_HEADER, OLD_KEY_HEADER
from schemas.keys import base64_prefix
from schemas.tables import Column, KeyPart, TableSchema

_SETTLED_TYPES = frozenset({"date", "datetime", "time", "float", "double"})
LenientDecoder = Callable[[Column, Decoder], AnyDecoder]


class _Waiting(NamedTuple):
    """A value of the run that hasn't been read yet: the name it gets, its form, how far behind ``offset`` it lies."""

    name: str
    form: FixedForm
    at: int


@dataclass(frozen=True, slots=True)
class PlanCode:
    """The source and what it names; ``exec(compile(source, ...), names)`` defines the three functions."""

    source: str
    names: dict[str, object]


class _Slot(NamedTuple):
    """A column in the plan: its variable, its form, its bit in the null bitmap (-1: never NULL)."""

    variable: str
    form: Form
    null_bit: int
    settled: bool
    """Whether it seldom changes together with numbers; see :class:`_ImageWriter`."""


class _ImageWriter:
    """Writes the lines that decode one row image into local variables, each named after its column.

    An UPDATE's image after is written with ``again``: texts, JSON, dates and the like that lie side by side mostly are
    what they were, and one comparison of bytes tells; their variables still hold the values of the image before.
    """

    def __init__(self, slots: Sequence[_Slot], bind: Callable[[str, object], str]) -> None:
        self._slots = slots
        self._nullable = any(slot.null_bit >= 0 for slot in slots)
        self._bind = bind
        self._lines: list[str] = []
        self._indent = ""
        self._run: list[_Waiting] = []
        self._order: Order = ""
        self._at = 0

    def lines(self, *, keep: bool = False, again: bool = False) -> list[str]:
        """The lines; ``buffer`` and ``offset`` in, the variables and ``offset`` behind the image out."""
        bitmap_bytes = (len(self._slots) + 7) // 8
        if self._nullable:
            self._null_bitmap(bitmap_bytes)
        else:
            self._at = bitmap_bytes
        for number, slots in enumerate(_parts(self._slots)):
            if (keep or again) and any(isinstance(slot.form, VariableForm) for slot in slots):
                self._settle()
                self._part_again(number, slots) if again else self._part_to_keep(number, slots)
            else:
                self._part(slots)
        self._settle()
        if keep and self._nullable:
            self._line("kept_nulls = nulls")
        return self._lines

    def _part(self, slots: Sequence[_Slot]) -> None:
        for slot in slots:
            if slot.null_bit >= 0:
                self._maybe_null(slot)
            else:
                self._value(slot.variable, slot.form)

    def _part_to_keep(self, number: int, slots: Sequence[_Slot]) -> None:
        self._line("part_start = offset")
        self._part(slots)
        self._settle()
        self._line(f"kept_{number} = buffer[part_start:offset]")

    def _part_again(self, number: int, slots: Sequence[_Slot]) -> None:
        same_nulls = "nulls == kept_nulls and " if self._nullable else ""
        self._line(f"if {same_nulls}buffer.startswith(kept_{number}, offset):")
        self._line(f"    offset += len(kept_{number})")
        self._line("else:")
        self._indent += "    "
        self._part(slots)
        self._settle()
        self._indent = self._indent[4:]

    def _null_bitmap(self, size: int) -> None:
        codes = {1: "B", 2: "H", 4: "I", 8: "Q"}.get(size)
        if codes:
            self._wait("nulls", FixedForm(codes, "<" if codes != "B" else ""))
        else:
            form = FixedForm(f"{size}s", "", lambda numbers, _: f'int.from_bytes({numbers[0]}, "little")')
            self._wait("nulls", form)

    def _maybe_null(self, slot: _Slot) -> None:
        self._settle()
        self._line(f"if nulls & {1 << slot.null_bit:#x}:")
        self._line(f"    {slot.variable} = None")
        self._line("else:")
        self._indent += "    "
        self._value(slot.variable, slot.form)
        self._settle()
        self._indent = self._indent[4:]

    def _value(self, name: str, form: Form) -> None:
        if isinstance(form, FixedForm):
            self._wait(name, form)
            return
        self._wait("size", length_form(form.length_bytes))
        self._read_run()
        self._line(f"start = offset + {self._at}")
        self._line("offset = start + size")
        self._at = 0
        self._line(f"{name} = {form.expression('buffer[start:offset]')}")

    def _wait(self, name: str, form: FixedForm) -> None:
        if self._order and form.order and form.order != self._order:
            self._read_run()
        self._order = self._order or form.order
        self._run.append(_Waiting(name, form, self._at))
        self._at += form.size

    def _read_run(self) -> None:
        """Writes the reading of all that waits, then what is made of it."""
        if not self._run:
            return
        targets: list[str] = []
        made: list[str] = []
        for index, (name, form, at) in enumerate(self._run):
            numbers = [name] if form.numbers == 1 else [f"part{index}_{part}" for part in range(form.numbers)]
            targets += numbers
            value = form.expression(numbers, f"buffer[{self._place(at)}:{self._place(at + form.size)}]")
            if value != name:
                made.append(f"{name} = {value}")
        codes = "".join(form.codes for _, form, _ in self._run)
        place = self._place(self._run[0].at)
        if codes == "B":
            self._line(f"{targets[0]} = buffer[{place}]")
        else:
            read = self._bind("read", struct.Struct(f"{self._order or '<'}{codes}").unpack_from)
            self._line(f"{', '.join(targets)}{',' if len(targets) == 1 else ''} = {read}(buffer, {place})")
        for line in made:
            self._line(line)
        self._run.clear()
        self._order = ""

    def _settle(self) -> None:
        """Reads what waits and moves ``offset`` behind it."""
        self._read_run()
        if self._at:
            self._line(f"offset += {self._at}")
            self._at = 0

    def _place(self, at: int) -> str:
        return f"offset + {at}" if at else "offset"

    def _line(self, text: str) -> None:
        self._lines.append(self._indent + text)


def _parts(slots: Sequence[_Slot]) -> list[list[_Slot]]:
    """Runs of columns that are settled, and of those that aren't, in their order."""
    return [list(run) for _, run in groupby(slots, lambda slot: slot.settled)]


class PlanWriter:
    """Writes the three functions for one schema."""

    def __init__(self, schema: TableSchema, lenient: LenientDecoder | None = None) -> None:
        """``lenient`` makes, of a text column and its decoder, a decoder that notes what it can't decode instead.

        The functions then put ``noted_headers()`` beside each message; the caller gives them that name.
        """
        self._schema = schema
        self._names: dict[str, object] = dict(GLOBALS)
        self._headers = "noted_headers()" if lenient else "None"
        self._variables: dict[str, str] = {}
        self._slots: list[_Slot] = []
        for index, column in enumerate(schema.columns):
            decode = lenient(column, decoder(column.charset)) if lenient and is_text(column) else None
            form = form_of(schema.name, column, self._bind, decode)
            variable = f"c{index}_{re.sub('[^a-z0-9]+', '_', column.name.lower())}".rstrip("_")
            self._variables[column.name] = variable
            settled = isinstance(form, VariableForm) or column.type in _SETTLED_TYPES
            self._slots.append(_Slot(variable, form, index if column.nullable else -1, settled))

    def code(self) -> PlanCode:
        """The plan's source, and what it names."""
        title = f"# Decodes row images of {str(self._schema.name)!r}, schema {self._schema.fingerprint}."
        functions = [
            self._function("inserts", ['close = b\'},"op":"c"\' + tail'], self._insert()),
            self._function("updates", [f'close_{op} = b\'}},"op":"{op}"\' + tail' for op in "ucd"], self._update()),
            self._function("deletes", ['close = b\'},"op":"d"\' + tail'], self._delete()),
        ]
        return PlanCode("\n\n\n".join((title, *functions)) + "\n", self._names)

    def _bind(self, stem: str, target: object) -> str:
        name = f"{stem}_{len(self._names)}"
        self._names[name] = target
        return name

    @staticmethod
    def _function(name: str, prepare: list[str], one_row: list[str]) -> str:
        return "\n".join(
            (
                f"def {name}(buffer, offset, end, mid, tail, row):",
                *(f"    {line}" for line in prepare),
                "    messages = []",
                "    add = messages.append",
                "    while offset < end:",
                *(f"        {line}" for line in one_row),
                "        row += 1",
                "    return offset, row, messages",
            )
        )

    def _image(self, *, keep: bool = False, again: bool = False) -> list[str]:
        return _ImageWriter(self._slots, self._bind).lines(keep=keep, again=again)

    def _row(self) -> str:
        items = ", ".join(f"{name!r}: {variable}" for name, variable in self._variables.items())
        return f"dumps({{{items}}})"

    def _key(self) -> str:
        """The record key; whole numbers go into a template, which is faster."""
        columns = self._schema.by_name
        parts = [(name, self._variables[name]) for name in self._schema.key_columns]
        if all(columns[name].type in NUMBER_TYPES for name, _ in parts):
            template = ",".join(f"{orjson.dumps(name).decode().replace('%', '%%')}:%d" for name, _ in parts)
            return f"{f'{{{template}}}'.encode()!r} % ({', '.join(variable for _, variable in parts)},)"
        items = ", ".join(f"{part.column!r}: {self._key_value(part)}" for part in self._schema.primary_key)
        return f"dumps({{{items}}})"

    def _key_value(self, part: KeyPart) -> str:
        """A part's value; where it is a prefix, what lies behind it changes without changing the key."""
        variable = self._variables[part.column]
        if not part.prefix_chars:
            return variable
        if self._schema.by_name[part.column].charset:
            return f"{variable}[:{part.prefix_chars}]"
        self._names["base64_prefix"] = base64_prefix
        return f"base64_prefix({variable}, {part.prefix_chars})"

    def _message(self, key: str, before: str, after: str, close: str, headers: str) -> str:
        """Adds a message; ``before`` and ``after`` are expressions for JSON, empty for null."""
        pieces = ["b'{\"before\":'", before, "b',\"after\":'", after] if before and after else []
        if not pieces:
            pieces = (
                ["b'{\"before\":'", before, "b',\"after\":null'"] if before else ['b\'{"before":null,"after":\'', after]
            )
        value = f"join(({', '.join(pieces)}, mid, b'%d' % row, {close}))"
        return f"add((row, {key}, {value}, {headers}))"

    def _insert(self) -> list[str]:
        return [*self._image(), self._message(self._key(), "", self._row(), "close", self._headers)]

    def _delete(self) -> list[str]:
        return [
            *self._image(),
            f"key = {self._key()}",
            self._message("key", self._row(), "", "close", self._headers),
            "add((row, key, None, None))",
        ]

    def _update(self) -> list[str]:
        """Another key is another record: ``d`` and a tombstone on the old one, ``c`` on the new one (R10: as bytes).

        Where texts are noted, both images are read whole, and each message has the headers of its own image.
        """
        noted = self._headers != "None"
        old_headers, headers = ("old_headers", "headers") if noted else ("None", "None")
        return [
            *self._image(keep=not noted),
            f"old_key = {self._key()}",
            f"before = {self._row()}",
            *([f"old_headers = {self._headers}"] if noted else []),
            *self._image(again=not noted),
            f"key = {self._key()}",
            f"after = {self._row()}",
            *([f"headers = {self._headers}"] if noted else []),
            "if key == old_key:",
            "    " + self._message("key", "before", "after", "close_u", headers),
            "else:",
            "    " + self._message("old_key", "before", "", "close_d", _with(NEW_KEY_HEADER, "key", old_headers)),
            "    add((row, old_key, None, None))",
            "    " + self._message("key", "", "after", "close_c", _with(OLD_KEY_HEADER, "old_key", headers)),
        ]


def _with(name: str, value: str, headers: str) -> str:
    """The expression for a header and those that ``headers`` gives."""
    more = "" if headers == "None" else f", *({headers} or ())"
    return f"[({name!r}, {value}){more}]"


def is_text(column: Column) -> bool:
    """Whether the column's values are decoded by its character set, row by row."""
    return bool(column.charset) and not column.members
