"""From a captured table's schema to its comparison.

Comes in: the schema as the source has it, what is known of the mirror, the table's functions, and what runs SELECTs on
either side.  Goes out: a :class:`TableComparison`.  Pure.

Columns that only the mirror has are passed over: the source dropped them, or their functions are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from check.comparison import TableComparison
from check.computed import ComputedCheck, is_double, stored_sql
from check.forms import FLOATING, KeyForm, key_form, ordering, value_sql
from check.plans import Row, SidePlan
from check.sides import Run, TableSide
from schemas.tables import Column, TableName, TableSchema
from sink.computed import ComputedFunction
from sink.ddl import quoted


@dataclass(frozen=True, slots=True)
class Mirror:
    """What is known of a mirror; ``mariadb``: of the server that has it."""

    name: str
    columns: Collection[str]
    mariadb: bool


def comparison_of(
    schema: TableSchema, mirror: Mirror, functions: Sequence[ComputedFunction], source: Run, sink: Run
) -> TableComparison:
    """Put together all that is needed to compare a table; its mirror has all of the schema's columns."""
    whole_keys = [part.column for part in schema.primary_key if not part.prefix_chars]
    values = [column for column in schema.columns if column.name not in whole_keys]
    expressions = [value_sql(column, json_as_text=mirror.mariadb, whole=bool(functions)) for column in values]
    types = [schema.by_name[part.column].type for part in schema.primary_key] + [column.type for column in values]
    stored = [
        stored_sql(function.column) if function.column.name in mirror.columns else "NULL" for function in functions
    ]
    floating = tuple(place for place, kind in enumerate(types) if kind in FLOATING)
    doubles = tuple(place for place, function in enumerate(functions, len(types)) if is_double(function.column))
    source_plan = SidePlan(_source_name(schema.name), _key_forms(schema, _as_is), tuple(expressions), floating)
    sink_plan = SidePlan(
        quoted(mirror.name), _key_forms(schema, _in_mirror), (*expressions, *stored), (*floating, *doubles)
    )
    key_floating = tuple(place for place in floating if place < len(schema.primary_key))
    return TableComparison(
        schema,
        TableSide(source_plan, source),
        TableSide(sink_plan, sink),
        TableSide(replace(source_plan, values=(), floating=key_floating), source),
        TableSide(replace(sink_plan, values=(), floating=key_floating), sink),
        tuple(column.name for column in values),
        ComputedCheck(schema, functions, _places(schema, whole_keys, values)) if functions else None,
        _order(schema),
    )


def _source_name(name: TableName) -> str:
    return f"{quoted(name.db)}.{quoted(name.table)}"


def _key_forms(schema: TableSchema, text_of: Callable[[Column], tuple[str, str]]) -> tuple[KeyForm, ...]:
    forms = []
    for part in schema.primary_key:
        column = schema.by_name[part.column]
        charset, collation = text_of(column)
        forms.append(key_form(column, part, charset=charset, collation=collation))
    return tuple(forms)


def _as_is(column: Column) -> tuple[str, str]:
    """Character set and collation of a key's column at the source."""
    return column.charset, column.collation


def _in_mirror(column: Column) -> tuple[str, str]:
    """The same in the mirror: texts of keys are utf8mb4; members are found by such literals, whatever they are in."""
    return ("utf8mb4" if column.charset else ""), ""


def _places(schema: TableSchema, whole_keys: Sequence[str], values: Sequence[Column]) -> list[int]:
    """Where in a row each column of the schema stands."""
    places = {name: place for place, name in enumerate(schema.key_columns) if name in whole_keys}
    places.update((column.name, place) for place, column in enumerate(values, len(schema.primary_key)))
    return [places[column.name] for column in schema.columns]


def _order(schema: TableSchema) -> Callable[[Row], tuple[int | bytes, ...]] | None:
    """What sorts rows by their keys as both servers do; None where they may do it differently."""
    makers = [ordering(schema.by_name[part.column], part) for part in schema.primary_key]
    sure = [make for make in makers if make is not None]
    if len(sure) < len(makers):
        return None
    return lambda row: tuple([make(value) for make, value in zip(sure, row, strict=False)])
