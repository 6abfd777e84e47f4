"""The keys that a whole-table job has come across: what isn't among them at its end isn't on the source.

Comes in: between a job's two barriers, the keys of all that is written to a mirror, streamed or read, in the slices' own
transactions.  Goes out: at the end, the mirror without its other rows.

Guarantees: a right row is never missing meanwhile; no order of keys is needed that two servers would share.  A table of
keys that is gone counts as one whose work is done: rows are only deleted by what it holds.  All of it may be done again (B1).
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from schemas.tables import TableSchema
from sink.column_types import SinkDialect, quoted_text
from sink.ddl import key_columns, primary_key, quoted
from sink.sql import Session
from sink.statements import STATEMENT_BYTES_MAX, Batch, RenderedRow, parts
from sink.values import RowForm, parameter_conversion

log = logging.getLogger("rowflow.sink")

_PREFIX = "_rowflow_seen_"
_JOB_CHARS_MAX = 40
_DELETED_ROWS_MAX = 20_000
"""In one statement, so that none is a transaction without bounds."""


def seen_table(job: str) -> str:
    """The name of a job's table of keys: of its id what a name can hold, and what tells it from others."""
    readable = re.sub(r"[^a-z0-9]+", "_", job.lower())[-_JOB_CHARS_MAX:].strip("_")
    return f"{_PREFIX}{readable}_{hashlib.sha256(job.encode()).hexdigest()[:8]}"


class SeenForm:
    """How keys of one mirror are noted."""

    def __init__(self, schema: TableSchema, job: str) -> None:
        self._key = schema.primary_key
        self._form = RowForm([schema.by_name[part.column] for part in self._key], parameter_conversion)
        names = [quoted(part.column) for part in self._key]
        self._head = f"INSERT INTO {quoted(seen_table(job))} ({', '.join(names)}) VALUES ".encode()
        self._tail = f" ON DUPLICATE KEY UPDATE {names[0]} = {names[0]}".encode()

    def parameters(self, row: Mapping[str, Any]) -> list[Any]:
        """The key's values in key order, as SQL parameters; raises UnreadableError."""
        return [
            value[: part.prefix_chars] if part.prefix_chars and isinstance(value, str | bytes) else value
            for part, value in zip(self._key, self._form.values(row), strict=True)
        ]

    def batches(self, rows: Iterable[RenderedRow]) -> Iterator[Batch]:
        """Statements over keys that were rendered as rows."""
        for part in parts(rows, STATEMENT_BYTES_MAX, None):
            yield Batch(self._head, b",", self._tail, part)


def begin(session: Session, topic: str, job: str, schema: TableSchema, dialect: SinkDialect) -> None:
    """Make the job's table, and take away what an earlier job of the topic has left behind."""
    forget_others(session, topic, job)
    definitions = [*key_columns(schema, dialect), primary_key(schema)]
    session.execute(
        f"CREATE TABLE IF NOT EXISTS {quoted(seen_table(job))} ({', '.join(definitions)}) ENGINE=InnoDB"
        f" ROW_FORMAT=DYNAMIC DEFAULT CHARACTER SET utf8mb4 COMMENT={quoted_text(_comment(topic))}"
    )


def forget_others(session: Session, topic: str, job: str) -> None:
    """Drop the tables of a topic's other jobs."""
    for (name,) in session.fetch(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name LIKE %s"
        " AND table_comment = %s AND table_name <> %s",
        (_PREFIX.replace("_", "\\_") + "%", _comment(topic), seen_table(job)),
    ):
        session.execute(f"DROP TABLE IF EXISTS {quoted(str(name))}")


def end(session: Session, job: str, schema: TableSchema, mirror: str) -> None:
    """Delete the mirror's rows whose keys were not noted, then the job's table."""
    seen = seen_table(job)
    if _is_there(session, seen):
        deleted = 0
        while True:
            count = session.execute(
                f"DELETE FROM {quoted(mirror)} WHERE NOT EXISTS (SELECT 1 FROM {quoted(seen)} AS rowflow_seen"
                f" WHERE {_same_key(schema, mirror)}) LIMIT {_DELETED_ROWS_MAX}"
            )
            deleted += count
            if count < _DELETED_ROWS_MAX:
                break
        log.info("job=%s mirror=%s: %d rows weren't on the source and are gone", job, mirror, deleted)
    drop(session, job)


def drop(session: Session, job: str) -> None:
    """Drop the job's table."""
    session.execute(f"DROP TABLE IF EXISTS {quoted(seen_table(job))}")


def _is_there(session: Session, table: str) -> bool:
    return bool(
        session.fetch(
            "SELECT 1 FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name = %s", (table,)
        )
    )


def _same_key(schema: TableSchema, mirror: str) -> str:
    conditions = []
    for part in schema.primary_key:
        name, whole = quoted(part.column), f"{quoted(mirror)}.{quoted(part.column)}"
        found = f"LEFT({whole}, {part.prefix_chars})" if part.prefix_chars else whole
        conditions.append(f"rowflow_seen.{name} = {found}")
    return " AND ".join(conditions)


def _comment(topic: str) -> str:
    return f"rowflow: keys of {topic}"
