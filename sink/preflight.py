"""Whether the sink will do, looked at before anything else is written.

Comes in: a session with the sink, what is known of its mirrors, and who the source is.  Goes out: what the server
understands, or a refusal (exit 3) with the statement or setting that mends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from schemas.patterns import TablePatterns
from schemas.tables import TableName, TableSchema
from sink import dead_letters, progress
from sink.column_types import SinkDialect
from sink.computed import ComputedFunctions
from sink.config import SinkConfig
from sink.ddl import add_columns, quoted
from sink.errors import LockConflict, SinkRefused
from sink.locks import topic_lock
from sink.mirror_tables import MirrorColumn, columns, fit_computed, probe_name
from sink.mirrors import MirrorTarget
from sink.sql import Session, SessionPool
from sink.tables import MirrorStatus, SchemaSource, TableState, all_states

_VERSION_MIN = {False: (8, 0, 17), True: (10, 3, 0)}
"""By whether it is MariaDB.  MySQL has utf8mb4_0900_bin since 8.0.17 (release notes)."""
_LOCK_WAIT_S = 20


class ServerIdentity(NamedTuple):
    """What tells one server from another; ``uuid`` is empty on MariaDB, which has none."""

    uuid: str
    hostname: str
    port: int
    server_id: int

    def is_same(self, other: ServerIdentity) -> bool:
        """Whether both are one server."""
        if self.uuid and other.uuid:
            return self.uuid == other.uuid
        return self[1:] == other[1:]


def make_target(
    *,
    config: SinkConfig,
    pool: SessionPool,
    schemas: SchemaSource,
    functions: ComputedFunctions,
    look_at_functions: Callable[[], None],
) -> MirrorTarget:
    """Look at the sink, make its mirrors' computed columns fit the functions, and give what slices are written to.

    To be called at a worker's start, when the rows of ``_rowflow_tables`` are there.  Raises SinkRefused,
    FunctionsError; LockConflict while another worker is at it.
    """
    with pool.lend_long() as session:
        dialect = read_dialect(session)
        dead_letters.prepare_table(session)
        for state in all_states(session):
            refuse_renamed(config, state)
            if state.status is MirrorStatus.MADE:
                schema = schemas.get(state.table.db, state.table.table, state.fingerprint)
                functions.refuse_clashes(schema)
                with topic_lock(session, state.topic, _LOCK_WAIT_S) as given:
                    if not given:
                        raise LockConflict(
                            f"another worker is changing the mirror of {state.table}, since {_LOCK_WAIT_S} s"
                        )
                    fit_computed(session, schema, state.mirror, dialect, functions.columns(state.table))
                refuse_changed(session, schema, state.mirror, dialect, functions)
    return MirrorTarget(
        config=config,
        pool=pool,
        schemas=schemas,
        dialect=dialect,
        functions=functions,
        look_at_functions=look_at_functions,
    )


def read_dialect(session: Session) -> SinkDialect:
    """What the server understands.  Raises SinkRefused where it is too old."""
    server = session.server
    version = version_numbers(server.version)
    name = "MariaDB" if server.mariadb else "MySQL"
    wanted = _VERSION_MIN[server.mariadb]
    rows = session.fetch("SELECT collation_name, character_set_name FROM information_schema.collations")
    dialect = SinkDialect(server.mariadb, version, {str(collation): str(charset) for collation, charset in rows})
    if version < wanted or dialect.key_collation not in dialect.collations:
        raise SinkRefused(
            f"the sink is {name} {server.version}; keys need its collation {dialect.key_collation}, which comes with"
            f" {name} {'.'.join(map(str, wanted))}: update the server or name another one in [sink] url"
        )
    return dialect


def version_numbers(version: str) -> tuple[int, ...]:
    """``10.11.6-MariaDB-log`` as (10, 11, 6)."""
    found = re.search(r"\d+(?:\.\d+)*", version.removeprefix("5.5.5-"))
    return tuple(map(int, found[0].split("."))) if found else ()


def try_grants(session: Session) -> None:
    """Do once what will be done later, on a table of its own; a missing grant raises SinkRefused with the GRANT.

    The table is gone afterwards.
    """
    probe = quoted(probe_name(session))
    session.execute(f"CREATE TABLE {probe} (a INT PRIMARY KEY)")
    try:
        session.execute(f"ALTER TABLE {probe} ADD COLUMN b INT NULL")
        # ALTER TABLE ... ADD INDEX would do without INDEX.
        session.execute(f"CREATE INDEX b ON {probe} (b)")
        session.execute(f"INSERT INTO {probe} (a) VALUES (1)")
        session.execute(f"UPDATE {probe} SET b = 2")
        session.execute(f"DELETE FROM {probe} WHERE a = 1")
        session.fetch(f"SELECT COUNT(*) FROM {probe}")
        session.execute(f"CREATE TEMPORARY TABLE {probe} (a INT)")
        session.execute(f"DROP TEMPORARY TABLE {probe}")
    finally:
        session.execute(f"DROP TABLE {probe}")


def identity_of(session: Session) -> ServerIdentity:
    """Who the sink is."""
    uuid = "''" if session.server.mariadb else "@@server_uuid"
    return ServerIdentity(*session.fetch(f"SELECT {uuid}, @@hostname, @@port, @@server_id")[0])


def refuse_loop(
    *,
    config: SinkConfig,
    sink: ServerIdentity,
    source: ServerIdentity,
    patterns: TablePatterns,
    captured: Iterable[TableName],
) -> None:
    """Raise SinkRefused where what is written to the sink would be captured again, without end."""
    if not source.is_same(sink):
        return
    database = config.address.database
    written = [*progress.BOOKKEEPING, dead_letters.TABLE, *(config.mirror_name(table) for table in captured)]
    for name in written:
        table = TableName(database, name)
        if patterns.matches(table):
            raise SinkRefused(
                f"the sink's schema {database} lies on the source and its table {table} would be captured, without end."
                f'  Leave it out: [source] tables = [..., "!{database}.*"]; or name another schema in [sink] url'
            )


def refuse_renamed(config: SinkConfig, state: TableState) -> None:
    """Raise SinkRefused where the settings name a mirror otherwise than it was made."""
    wanted = config.mirror_name(state.table)
    if state.mirror != wanted:
        raise SinkRefused(
            f"the mirror of {state.table} is {state.mirror}; by [sink] table_name = {config.table_name!r} it would be"
            f" {wanted}.  Set table_name back, or make the mirror anew: rowflow snapshot {state.table} --start-over"
        )


def refuse_changed(
    session: Session, schema: TableSchema, mirror: str, dialect: SinkDialect, functions: ComputedFunctions
) -> None:
    """Raise SinkRefused where somebody changed a mirror so that rows would not fit any more, or not stay apart."""
    present = columns(session, mirror)
    if not present:
        raise SinkRefused(
            f"the mirror of {schema.name}, {mirror}, is gone, though its partitions' progress says that it was made."
            f"  Make it anew: rowflow snapshot {schema.name} --start-over"
        )
    _refuse_columns(schema, mirror, dialect, functions, present)
    unique = session.fetch(
        "SELECT constraint_name, constraint_type FROM information_schema.table_constraints"
        " WHERE table_schema = DATABASE() AND table_name = %s AND constraint_type IN ('UNIQUE', 'FOREIGN KEY')",
        (mirror,),
    )
    for name, kind in unique:
        what = "INDEX" if kind == "UNIQUE" else "FOREIGN KEY"
        raise SinkRefused(
            f"the mirror {mirror} has a constraint {name} ({kind}); rows of different partitions come in any order and"
            f" would break it.  ALTER TABLE {quoted(mirror)} DROP {what} {quoted(str(name))};"
        )


def _refuse_columns(
    schema: TableSchema,
    mirror: str,
    dialect: SinkDialect,
    functions: ComputedFunctions,
    present: Iterable[MirrorColumn],
) -> None:
    ours = {*schema.by_name, *(column.name for column in functions.columns(schema.name))}
    extra = [column for column in present if column.name not in ours and column.must_be_given]
    if extra:
        nullable = ", ".join(f"MODIFY COLUMN {quoted(column.name)} {column.column_type} NULL" for column in extra)
        raise SinkRefused(
            f"the mirror {mirror} has columns that its table hasn't and that need a value in each row:"
            f" {', '.join(column.name for column in extra)}.  ALTER TABLE {quoted(mirror)} {nullable};"
        )
    names = {column.name for column in present}
    missing = [name for name in schema.by_name if name not in names]
    if missing:
        raise SinkRefused(
            f"the mirror {mirror} lacks columns of {schema.name}: {', '.join(missing)}."
            f"  {add_columns(schema, mirror, dialect, missing)};  then: rowflow snapshot {schema.name}"
        )
