"""Making and changing mirrors on the sink's server.

Comes in: what a barrier asks for, on a session that holds the topic's lock and has no transaction open.  Goes out: DDL.

Everything here may be done again: what is there already is left as it is, what is gone already isn't missed (B1).  Only
tables whose comment says that we made them are ever dropped.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from schemas.tables import TableName, TableSchema
from sink.changes import difference
from sink.column_types import SinkDialect
from sink.ddl import (
    MIRROR_COMMENT,
    ComputedColumn,
    SecondaryIndex,
    add_clauses,
    add_columns,
    add_index,
    change_computed_column,
    create_mirror,
    quoted,
)
from sink.errors import LockConflict, SinkStopped, StatementFailed
from sink.sql import Session

log = logging.getLogger("rowflow.sink")

# Table exists, column exists, index exists, nothing to drop: somebody who died did it before us.
_DONE_BEFORE = frozenset({1050, 1060, 1061, 1091})


class MirrorColumn(NamedTuple):
    """A column of a mirror as the server has it."""

    name: str
    column_type: str
    must_be_given: bool
    """Whether an INSERT without it fails: NOT NULL, no default, not generated."""


def make_anew(
    session: Session,
    schema: TableSchema,
    mirror: str,
    dialect: SinkDialect,
    computed: Sequence[ComputedColumn],
    indexes: Sequence[SecondaryIndex],
) -> None:
    """Drop the mirror, if there is one, and make it empty, with the plain indexes that the server takes (B3)."""
    statement = create_mirror(schema, mirror, dialect, computed)
    if _is_ours(session, mirror) is False:
        raise SinkStopped(
            f"the sink has a table {mirror} that Rowflow didn't make; the mirror of {schema.name} would take its place."
            f"  Rename it: RENAME TABLE {quoted(mirror)} TO {quoted(mirror + '_old')};  or set [sink] table_name"
        )
    session.execute(f"DROP TABLE IF EXISTS {quoted(mirror)}")
    _run(session, statement, schema.name)
    add_indexes(session, schema, mirror, dialect, indexes)


def add_indexes(
    session: Session, schema: TableSchema, mirror: str, dialect: SinkDialect, indexes: Sequence[SecondaryIndex]
) -> None:
    """Add the plain indexes that the mirror lacks and the server takes (B3)."""
    for index in indexes:
        try:
            session.execute(add_index(schema, mirror, dialect, index))
        except StatementFailed as error:
            if error.code not in _DONE_BEFORE:
                log.warning("table=%s index=%s: the mirror goes without it: %s", schema.name, index.name, error)


def fits(
    session: Session, schema: TableSchema, mirror: str, dialect: SinkDialect, computed: Sequence[ComputedColumn]
) -> bool:
    """Whether there is a mirror, made by us, that takes this schema's rows as one made anew would.

    The server itself says how a new one would show.  Columns that it has besides, of functions that are gone, are no harm.
    """
    if not _is_ours(session, mirror):
        return False
    fit_computed(session, schema, mirror, dialect, computed)
    with _probe(session) as probe:
        statement = create_mirror(schema, probe, dialect, computed)
        _run(session, statement.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1), schema.name)
        wanted, wanted_key = _shown(session, probe), _primary_key(session, probe)
    present = _shown(session, mirror)
    others = [column for column in columns(session, mirror) if column.name.lower() not in wanted]
    return (
        all(present.get(name) == shown for name, shown in wanted.items())
        and _primary_key(session, mirror) == wanted_key
        and not any(column.must_be_given for column in others)
    )


def has_rows(session: Session, mirror: str) -> bool:
    """Whether there is any."""
    return bool(session.fetch(f"SELECT 1 FROM {quoted(mirror)} LIMIT 1"))


def _primary_key(session: Session, table: str) -> list[tuple[str, object]]:
    """Names in small letters, and how many characters of each count; None: all."""
    rows = session.fetch(f"SHOW INDEX FROM {quoted(table)} WHERE Key_name = 'PRIMARY'")
    return [(_text(column).lower(), sub_part) for _, _, _, _, column, _, _, sub_part, *_ in rows]


def follow(
    session: Session,
    old: TableSchema,
    new: TableSchema,
    mirror: str,
    dialect: SinkDialect,
    computed: Sequence[ComputedColumn],
) -> None:
    """Add the new version's new columns.  Any other difference is a loud stop: its rows would be guessed."""
    change = difference(old, new)
    if change.other:
        raise SinkStopped(
            f"the mirror of {new.name} can't follow from schema {old.fingerprint} to {new.fingerprint}:"
            f" {'; '.join(change.other)}.  Read the table whole: rowflow snapshot {new.name}"
        )
    clashing = [column.name for column in computed if column.name in change.added]
    if clashing:
        raise SinkStopped(
            f"{new.name} has new columns {', '.join(clashing)}, which its mirror has as computed columns."
            f"  Rename their functions in functions.py, then: rowflow snapshot {new.name}"
        )
    present = {column.name.lower() for column in columns(session, mirror)}
    missing = [name for name in change.added if name.lower() not in present]
    _refuse_others(session, new, mirror, dialect, [name for name in change.added if name not in missing])
    if missing:
        _run(session, add_columns(new, mirror, dialect, missing), new.name)


def probe_name(session: Session) -> str:
    """A name for a table that lives for a moment; no other session has it."""
    return f"_rowflow_probe_{session.fetch('SELECT CONNECTION_ID()')[0][0]}"


@contextmanager
def _probe(session: Session) -> Iterator[str]:
    """The name of a temporary table, to be made inside; it is gone afterwards."""
    probe = probe_name(session)
    try:
        yield probe
    finally:
        session.execute(f"DROP TEMPORARY TABLE IF EXISTS {quoted(probe)}")


def _refuse_others(
    session: Session, schema: TableSchema, mirror: str, dialect: SinkDialect, names: Sequence[str]
) -> None:
    """Raise SinkStopped where columns that are there already aren't those that would be added.

    They may be left over from a function, or added by hand.  The server itself says how what is wanted would show.
    """
    if not names:
        return
    with _probe(session) as probe:
        session.execute(f"CREATE TEMPORARY TABLE {quoted(probe)} (rowflow_first INT)")
        session.execute(f"ALTER TABLE {quoted(probe)} {add_clauses(schema, dialect, names)}")
        wanted = _shown(session, probe)
    present = _shown(session, mirror)
    other = [name for name in names if present[name.lower()] != wanted[name.lower()]]
    if other:
        drops = ", ".join(f"DROP COLUMN {quoted(name)}" for name in other)
        raise SinkStopped(
            f"{schema.name} has new columns {', '.join(other)}, and its mirror {mirror} has others of these names, which"
            f" Rowflow didn't make for them.  On the sink: ALTER TABLE {quoted(mirror)} {drops};"
            f"  then: rowflow snapshot {schema.name}"
        )


def _shown(session: Session, table: str) -> dict[str, tuple[object, ...]]:
    """Type, collation, whether it may be NULL, and whether it is generated, by the name in small letters."""
    rows = session.fetch(f"SHOW FULL COLUMNS FROM {quoted(table)}")
    return {
        _text(name).lower(): (_text(kind), _text(collation), _text(null), "GENERATED" in _text(extra).split())
        for name, kind, collation, null, _, _, extra, *_ in rows
    }


def empty(session: Session, table: TableName, mirror: str) -> None:
    """Take all rows out."""
    _run(session, f"TRUNCATE TABLE {quoted(mirror)}", table)


def fit_computed(
    session: Session, schema: TableSchema, mirror: str, dialect: SinkDialect, computed: Sequence[ComputedColumn]
) -> None:
    """Give a mirror the computed columns that it lacks, and their present types; their old rows are NULL there.

    Columns of functions that are gone stay.
    """
    present = {column.name: column for column in columns(session, mirror)}
    missing = [column for column in computed if column.name not in present]
    if missing:
        _run(session, add_columns(schema, mirror, dialect, (), missing), schema.name)
    for column in computed:
        if column.name in present and not _is_of(column.sql_type, present[column.name].column_type):
            log.warning("table=%s column=%s: of another type now; NULL until written", schema.name, column.name)
            _run(session, change_computed_column(mirror, column), schema.name)


def columns(session: Session, mirror: str) -> tuple[MirrorColumn, ...]:
    """The columns that a mirror has, in order; none where there is no such table."""
    rows = session.fetch(
        "SELECT column_name, column_type, is_nullable = 'NO' AND column_default IS NULL"
        " AND extra NOT LIKE '%%auto_increment%%' AND COALESCE(generation_expression, '') = ''"
        " FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
        " ORDER BY ordinal_position",
        (mirror,),
    )
    return tuple(MirrorColumn(str(name), _text(kind), bool(needed)) for name, kind, needed in rows)


def _is_ours(session: Session, mirror: str) -> bool | None:
    """Whether a table or view is a mirror that we made, by its comment; None where there is none of that name."""
    rows = session.fetch(
        "SELECT table_comment FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s",
        (mirror,),
    )
    return _text(rows[0][0]).startswith(MIRROR_COMMENT) if rows else None


def _is_of(wanted: str, present: str) -> bool:
    """Whether a column declared as ``wanted`` shows as ``present`` (bigint may show as bigint(20), JSON as LONGTEXT)."""
    words = wanted.split(" ", maxsplit=1)[0]
    shown = {present, present.split("(", maxsplit=1)[0]}
    return words in shown or (words, present) == ("json", "longtext")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _run(session: Session, statement: str, table: TableName) -> None:
    """Run DDL; what was done before is no failure, what the server refuses is a loud stop that names the table."""
    try:
        session.execute(statement)
    except StatementFailed as error:
        if error.code not in _DONE_BEFORE:
            raise SinkStopped(
                f"the mirror of {table} can't be made or changed: {error}\nThe statement was: {statement}\nMend what it"
                f' names, or leave the table out: [source] tables = ["!{table}"]'
            ) from error
    except LockConflict as error:
        raise LockConflict(
            f"the mirror of {table} is in use by another session: {error}; the change waits for it", error.code
        ) from error
