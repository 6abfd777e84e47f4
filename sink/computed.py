"""Computed columns: the functions of ``functions.py``.

Comes in: a path, and the patterns of captured tables.  Goes out: per table its functions, each with the column that
it fills, and a fingerprint of the file.

The file is run once, under the name ``rowflow_functions``, with its own directory importable.  A function counts when
``rowflow.computed`` has marked it; this room doesn't import that one, it looks for the mark.  The fingerprint is that
of the file's code: comments and layout don't change it, and what the file imports isn't part of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from types import ModuleType, NoneType, UnionType
from typing import Any, NamedTuple, Union

import orjson

from schemas.errors import SettingError
from schemas.patterns import TablePatterns, near_names
from schemas.tables import TableName, TableSchema
from sink.ddl import ComputedColumn
from sink.values import RowForm, UnreadableError, python_conversion

_MARK = "__rowflow_tables__"
_MODULE_NAME = "rowflow_functions"

_BIGINT_END = 1 << 63
_DECIMAL_PLACES = Decimal(1).scaleb(-30)
_DECIMAL_CONTEXT = Context(prec=65)


class FunctionsError(SettingError):
    """``functions.py`` can't be used as it is."""


class _Kind(NamedTuple):
    """What an annotation means: the column's type, and what becomes of a returned value; it may raise."""

    sql_type: str
    to_parameter: Callable[[Any], object]


def _exactly(wanted: type) -> Callable[[Any], object]:
    """Take values of one type as they are."""

    def check(value: Any) -> object:
        if type(value) is not wanted:
            raise TypeError(f"returned {type(value).__name__}, annotated {wanted.__name__}")
        return value

    return check


def _decimal(value: Any) -> object:
    """Rounded to the column's 30 decimal places here, half away from zero, so that MySQL needn't."""
    if type(value) is int:
        value = Decimal(value)
    _exactly(Decimal)(value)
    if not value.is_finite():
        raise ValueError("MySQL has no infinity and no NaN")
    return value.quantize(_DECIMAL_PLACES, ROUND_HALF_UP, _DECIMAL_CONTEXT)


def _text(value: Any) -> object:
    """Half of a character that takes two in UTF-16, as JSON's escapes may leave it behind, is no text to MySQL."""
    _exactly(str)(value)
    value.encode()
    return value


def _datetime(value: Any) -> object:
    """UTC, where the value has a zone; else as it is."""
    _exactly(datetime)(value)
    moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
    return moment.isoformat()


def _date(value: Any) -> object:
    _exactly(date)(value)
    return value.isoformat()


def _bool(value: Any) -> object:
    return int(_exactly(bool)(value) is True)


def _json(value: Any) -> object:
    _exactly(dict)(value)
    return orjson.dumps(value).decode()


def _int(value: Any) -> object:
    """Python writes out no int of more than 4300 digits; what a bigint doesn't hold is refused here already."""
    number = int(value) if type(value) is bool else value
    _exactly(int)(number)
    if not -_BIGINT_END <= number < _BIGINT_END:
        raise ValueError("MySQL's bigint doesn't hold the number")
    return number


def _float(value: Any) -> object:
    number = float(value) if type(value) is int else _exactly(float)(value)
    if number != number or number in {float("inf"), float("-inf")}:  # noqa: PLR0124 - not a number is unequal to itself
        raise ValueError("MySQL has no infinity and no NaN")
    return number


_KINDS: dict[Any, _Kind] = {
    int: _Kind("bigint", _int),
    Decimal: _Kind("decimal(65,30)", _decimal),
    str: _Kind("longtext CHARACTER SET utf8mb4", _text),
    datetime: _Kind("datetime(6)", _datetime),
    date: _Kind("date", _date),
    bool: _Kind("tinyint(1)", _bool),
    float: _Kind("double", _float),
    dict: _Kind("json", _json),
}


@dataclass(frozen=True, slots=True)
class ComputedFunction:
    """A function, and the column of its name that it fills."""

    column: ComputedColumn
    _function: Callable[[dict[str, Any]], Any]
    _kind: _Kind

    def parameter(self, row: dict[str, Any]) -> object:
        """The column's value for a row, as an SQL parameter; raises whatever the function does."""
        value = self._function(row)
        return None if value is None else self._kind.to_parameter(value)


@dataclass(frozen=True, slots=True)
class ComputedFunctions:
    """All functions of a file; without a file there are none, and the fingerprint is empty."""

    fingerprint: str = ""
    by_table: Mapping[TableName, Sequence[ComputedFunction]] = field(default_factory=dict)

    def columns(self, table: TableName) -> tuple[ComputedColumn, ...]:
        """The columns that a table's mirror has besides its own."""
        return tuple(function.column for function in self.by_table.get(table, ()))

    def fingerprint_for(self, table: TableName) -> str:
        """The file's fingerprint; empty for a table without functions."""
        return self.fingerprint if table in self.by_table else ""

    def refuse_clashes(self, schema: TableSchema) -> None:
        """Raise FunctionsError where a function is called like a column of its table."""
        names = {column.name.lower() for column in schema.columns}
        for column in self.columns(schema.name):
            if column.name.lower() in names:
                raise FunctionsError(
                    f"functions.py: {schema.name} has a column {column.name} already; give the function another name"
                )


class RowComputer:
    """Runs a table's functions over rows of one schema."""

    def __init__(self, schema: TableSchema, functions: Sequence[ComputedFunction]) -> None:
        self._form = RowForm(schema.columns, python_conversion)
        self._functions = functions

    def parameters(self, row: Mapping[str, Any]) -> list[object]:
        """The values of the computed columns; raises UnreadableError where a function raised, with its place."""
        names = self._form.names
        values = self._form.values(row)
        computed = []
        for function in self._functions:
            try:
                # Each function gets a dict of its own: it may change it.
                computed.append(function.parameter(dict(zip(names, values, strict=True))))
            except Exception as error:  # noqa: BLE001 - the functions are the user's, and may raise anything
                reason = f"function {function.column.name} raised {type(error).__name__}{_place(error)}"
                raise UnreadableError(reason, str(error)) from None
        return computed


def load(path: Path, patterns: TablePatterns | None = None) -> ComputedFunctions:
    """Run a file of functions.  Raises FunctionsError with file and line.

    ``patterns``: functions may only be for tables that they capture; None: for any.
    """
    tree = _parsed(path)
    _refuse_repeated(path, tree)
    marked = _marked_functions(_run(path), path)
    by_table: dict[TableName, list[ComputedFunction]] = {}
    for function, names in marked:
        place = f"{path}:{function.__code__.co_firstlineno}: {function.__name__}"
        kind = _KINDS[_annotated(function, place)]
        column = ComputedColumn(function.__name__, kind.sql_type)
        for name in names:
            table = _table(name, patterns, place)
            by_table.setdefault(table, []).append(ComputedFunction(column, function, kind))
    return ComputedFunctions(_fingerprint(tree), by_table)


def fingerprint_of(path: Path) -> str:
    """The fingerprint of a file's code, which isn't run.  Raises FunctionsError where it can't be parsed."""
    return _fingerprint(_parsed(path))


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise FunctionsError(f"{path}: can't be read: {error}") from error
    except (SyntaxError, ValueError) as error:
        raise FunctionsError(f"{path}:{getattr(error, 'lineno', 0) or 1}: {error}") from error


def _run(path: Path) -> ModuleType:
    """Execute the file as a module."""
    spec = importlib.util.spec_from_file_location(_MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise FunctionsError(f"{path}: not a Python file: its name must end with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[_MODULE_NAME] = module
    directory = str(path.resolve().parent)
    if directory not in sys.path:
        sys.path.append(directory)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise FunctionsError(f"{path}:{_line_in(path, error)}: {_described(error)}") from error
    return module


def _line_in(path: Path, error: BaseException) -> int:
    """The last line of the file that the error went through; 1 where it went through none."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 1


def _described(error: BaseException) -> str:
    """An error in one line, and where it was raised."""
    return f"{type(error).__name__}: {error}{_place(error)}"


def _place(error: BaseException) -> str:
    """File and line that raised an error."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _marked_functions(module: ModuleType, path: Path) -> list[tuple[Any, tuple[str, ...]]]:
    """The functions with a mark, in the order of the file."""
    found = [(value, getattr(value, _MARK)) for value in vars(module).values() if hasattr(value, _MARK)]
    for value, _ in found:
        if not hasattr(value, "__code__"):
            raise FunctionsError(f"{path}: {value!r} is marked with @computed and is no plain function")
    return found


def _refuse_repeated(path: Path, tree: ast.Module) -> None:
    """A second function of a name would silently take the place of the first."""
    lines: dict[str, int] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if isinstance(node, ast.AsyncFunctionDef) and node.decorator_list:
                raise FunctionsError(f"{path}:{node.lineno}: {node.name}: computed functions can't be async")
            if node.name in lines:
                raise FunctionsError(
                    f"{path}:{node.lineno}: {node.name} is defined in line {lines[node.name]} already; to use one"
                    " function for several tables, mark it several times"
                )
            lines[node.name] = node.lineno


def _annotated(function: Callable[..., Any], place: str) -> Any:
    """The type that a function returns, None apart."""
    try:
        annotation = typing.get_type_hints(function).get("return")
    except Exception as error:
        raise FunctionsError(f"{place}: its annotations can't be read: {_described(error)}") from error
    if typing.get_origin(annotation) in {Union, UnionType}:
        parts = [part for part in typing.get_args(annotation) if part is not NoneType]
        annotation = parts[0] if len(parts) == 1 else annotation
    annotation = typing.get_origin(annotation) or annotation
    if annotation not in _KINDS:
        known = ", ".join(kind.__name__ for kind in _KINDS)
        raise FunctionsError(f"{place}: annotate what it returns, as in -> int; the column's type is one of {known}")
    return annotation


def _table(name: str, patterns: TablePatterns | None, place: str) -> TableName:
    """The captured table that a mark names."""
    db, _, table = name.partition(".")
    if not db or not table:
        raise FunctionsError(f'{place}: @computed takes "database.table", not {name!r}')
    found = TableName(db, table)
    if patterns is not None and not patterns.matches(found):
        near = near_names(name, (pattern.text for pattern in patterns.patterns if not pattern.leaves_out))
        hint = f"is {' or '.join(near)} meant?" if near else "name one that is, or add it to [source] tables"
        raise FunctionsError(f"{place}: table {name} isn't captured; {hint}")
    return found


def _fingerprint(tree: ast.Module) -> str:
    """16 hex digits of SHA-256 over the code, without layout and comments."""
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]
