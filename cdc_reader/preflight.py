"""What the source must be like before anything is written: settings, grants, tables.

Comes in: a session on the source.  Goes out: the facts that the reader needs, or SourceRefused with the statement that mends
what was found.  Sessions may override some of the settings later: every event is guarded too.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass

from cdc_reader.config import SourceConfig
from cdc_reader.errors import SourceRefused, SourceStopped
from cdc_reader.gtids import GtidSet
from cdc_reader.information_schema import COLLATIONS_SQL
from cdc_reader.positions import Position
from cdc_reader.shard_reader import all_tables
from cdc_reader.sql import QueryFailed, SourceSession, binlog_status, quoted, replicates, variables
from cdc_reader.table_map import Collation
from schemas.tables import TableName

log = logging.getLogger(__name__)

_MEND = {
    "binlog_format": ("ROW", "SET GLOBAL binlog_format = 'ROW'"),
    "binlog_row_image": ("FULL", "SET GLOBAL binlog_row_image = 'FULL'"),
    "binlog_row_metadata": ("FULL", "SET GLOBAL binlog_row_metadata = 'FULL'"),
    "binlog_row_value_options": ("", "SET GLOBAL binlog_row_value_options = ''"),
}
_GRANT = re.compile(r"GRANT (?P<what>.*) ON (?:TABLE )?(?P<db>\*|`(?:[^`]|``)*`)\.")
_CASCADES_LOGGED_SINCE = (9, 6)
_MYSQL_SINCE = (8, 0)
_VISIBLE_WAIT_S = 5
_START_OVER = "give up the old place and read the tables anew: rowflow snapshot --all --start-over"


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What the reader needs to know of the server; ``account`` is ours as the server names it."""

    server_uuid: str
    server_id: int
    version: str
    gtid_mode: bool
    lower_case: bool
    collations: dict[int, Collation]
    tables: list[TableName]
    account: str


def source_facts(session: SourceSession) -> SourceFacts:
    """What the server says of itself; no check yet."""
    version = session.texts("SELECT VERSION()")[0][0]
    if "mariadb" in version.lower():
        raise SourceRefused(f"the source is MariaDB {version}: this version of Rowflow reads MySQL 8.0 and later only")
    numbers = _version_numbers(version)
    if numbers < _MYSQL_SINCE:
        raise SourceRefused(f"the source is MySQL {version}: Rowflow reads MySQL 8.0 and later")
    found = variables(session, ["server_uuid", "server_id", "gtid_mode", "lower_case_table_names"])
    collations = {int(row[0]): Collation(row[1], row[2], int(row[3])) for row in session.texts(COLLATIONS_SQL)}
    user, _, host = session.texts("SELECT CURRENT_USER()")[0][0].rpartition("@")
    return SourceFacts(
        found["server_uuid"],
        int(found["server_id"]),
        version,
        found.get("gtid_mode", "OFF") == "ON",
        found.get("lower_case_table_names", "0") != "0",
        collations,
        all_tables(session),
        f"'{user}'@'{host}'",
    )


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.partition("-")[0].split(".")[:2])


def check_source(session: SourceSession, facts: SourceFacts, config: SourceConfig) -> None:
    """Raises SourceRefused for the first thing that doesn't fit."""
    _check_settings(session)
    _check_grants(session, facts, config)


def check_tables(session: SourceSession, facts: SourceFacts, config: SourceConfig) -> None:
    """At a start: raises SourceRefused for the first captured table that can't be followed.

    Not later: what a table becomes while the reader runs is that table's state.
    """
    captured = [name for name in facts.tables if config.patterns.matches(name)]
    _check_filters(session, captured)
    _check_keys(session, captured)
    if _version_numbers(facts.version) < _CASCADES_LOGGED_SINCE:
        _check_cascades(session, captured)
    for unmatched in config.patterns.unmatched(facts.tables):
        near = f"; near it: {', '.join(unmatched.near)}" if unmatched.near else ""
        log.warning("no table matches %s yet%s; waiting for one", unmatched.pattern, near)


def _check_settings(session: SourceSession) -> None:
    found = variables(session, ["log_bin", *_MEND, "sync_binlog", "innodb_flush_log_at_trx_commit"])
    if found.get("log_bin", "OFF") != "ON":
        raise SourceRefused("the source has no binlog: add log_bin = binlog to [mysqld] in my.cnf and restart it")
    for name, (wanted, statement) in _MEND.items():
        value = found.get(name, wanted)
        if value.upper() != wanted:
            raise SourceRefused(
                f"the source has {name} = {value or chr(39) * 2}, which makes events that can't be followed; as its "
                f"administrator: {statement}; and in my.cnf: {name} = {wanted}"
            )
    if found.get("sync_binlog") != "1" or found.get("innodb_flush_log_at_trx_commit") != "1":
        log.warning(
            "sync_binlog or innodb_flush_log_at_trx_commit isn't 1: after a crash the source may lack what we have"
        )


def _check_grants(session: SourceSession, facts: SourceFacts, config: SourceConfig) -> None:
    binlog_status(session)
    grants = [row[0] for row in session.texts("SHOW GRANTS")]
    with_roles = any(grant.startswith("GRANT `") for grant in grants)
    everything = any("ALL PRIVILEGES ON *.*" in grant for grant in grants)
    if not (everything or with_roles or any("REPLICATION SLAVE" in grant for grant in grants)):
        raise SourceRefused(
            "the source's user may not read the binlog; as its administrator: "
            f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {facts.account}"
        )
    for pattern in config.patterns.patterns:
        if pattern.leaves_out or any(pattern.covers(name) for name in facts.tables):
            continue
        any_select = everything or with_roles or any(_selects(grant, pattern.db) for grant in grants)
        _check_select(session, facts, pattern.db, pattern.table, any_select=any_select)


def _selects(grant: str, db: str) -> bool:
    """Whether a line of SHOW GRANTS lets SELECT something of a database; ``db`` may hold * and ?: of any."""
    found = _GRANT.match(grant)
    if found is None or not ("SELECT" in found["what"] or "ALL PRIVILEGES" in found["what"]):
        return False
    if found["db"] == "*" or "*" in db or "?" in db:
        return True
    like = re.sub(r"\\(.)|(.)", _like_part, found["db"].strip("`").replace("``", "`"))
    return re.fullmatch(like, db, re.IGNORECASE) is not None


def _like_part(part: re.Match[str]) -> str:
    """A character of a database's name in a grant as a regular expression: % and _ are wildcards there."""
    return re.escape(part[1]) if part[1] else {"%": ".*", "_": "."}.get(part[2], re.escape(part[2]))


def _check_select(session: SourceSession, facts: SourceFacts, db: str, table: str, *, any_select: bool) -> None:
    """A pattern that covers no table that we see: may we not see it?"""
    if "*" in db or "?" in db:
        wanted = "*.*"
    elif "*" in table or "?" in table:
        wanted = f"{quoted(db)}.*"
    else:
        wanted = f"{quoted(db)}.{quoted(table)}"
        try:
            session.rows(f"SELECT 1 FROM {wanted} LIMIT 0")
        except SourceRefused:
            any_select = False
        except QueryFailed:
            return
    if not any_select:
        raise SourceRefused(
            f"the source's user may not read {db}.{table}; as its administrator: GRANT SELECT ON {wanted} TO {facts.account}"
        )


def _check_filters(session: SourceSession, captured: list[TableName]) -> None:
    """What the server leaves out of its binlog never comes."""
    status = binlog_status(session)
    for name in captured:
        if (status.only_databases and name.db not in status.only_databases) or name.db in status.ignored_databases:
            raise SourceRefused(
                f"the source leaves {name.db} out of its binlog, so changes of {name} never come: take binlog_do_db and "
                f'binlog_ignore_db out of its my.cnf and restart it, or leave the table out with "!{name}" in [source] tables'
            )
    logs_replicated = variables(session, ["log_replica_updates", "log_slave_updates"]).values()
    if "OFF" in logs_replicated and replicates(session):
        raise SourceRefused(
            "the source is a replica that doesn't log what it replicates, so those changes never come: add "
            "log_replica_updates = ON to [mysqld] in my.cnf and restart it"
        )


def _check_keys(session: SourceSession, captured: list[TableName]) -> None:
    keyed = {
        TableName(*row)
        for row in session.texts(
            "SELECT DISTINCT TABLE_SCHEMA, TABLE_NAME FROM information_schema.STATISTICS WHERE INDEX_NAME = 'PRIMARY'"
        )
    }
    for name in captured:
        if name not in keyed:
            raise SourceRefused(
                f"{name} has no primary key, so its rows can't be told apart: ALTER TABLE {quoted(name.db)}."
                f'{quoted(name.table)} ADD PRIMARY KEY (...), or leave it out with "!{name}" in [source] tables'
            )


def _check_cascades(session: SourceSession, captured: list[TableName]) -> None:
    """Rows that a foreign key changes are not in the binlog before 9.6."""
    rows = session.texts(
        "SELECT CONSTRAINT_SCHEMA, TABLE_NAME, CONSTRAINT_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS "
        "WHERE DELETE_RULE IN ('CASCADE', 'SET NULL') OR UPDATE_RULE IN ('CASCADE', 'SET NULL')"
    )
    for db, table, constraint in rows:
        if TableName(db, table) in captured:
            raise SourceRefused(
                f"{db}.{table} has foreign key {constraint} with CASCADE or SET NULL: this server doesn't log what it "
                f"does to {table}; ALTER TABLE {quoted(db)}.{quoted(table)} DROP FOREIGN KEY {quoted(constraint)} and add it "
                "without, use MySQL 9.6 or later, or leave the table out"
            )


def check_position(session: SourceSession, facts: SourceFacts, position: Position, way_on: str = _START_OVER) -> None:
    """Whether the source can go on from ``position``; raises SourceRefused, SourceStopped, which end with ``way_on``.

    Where it can be asked by GTIDs any server that has them will do; else only the one that was read.
    """
    if asks_by_gtids(facts, position):
        _check_gtids(session, facts, position, way_on)
    else:
        _check_file(session, facts, position, way_on)


def asks_by_gtids(facts: SourceFacts, position: Position) -> bool:
    """Whether the dump is asked for by GTID set; tagged ones can't be put into the library's request."""
    return bool(position.gtids) and facts.gtid_mode and not GtidSet(position.gtids).tagged


def _check_gtids(session: SourceSession, facts: SourceFacts, position: Position, way_on: str) -> None:
    missing, purged_ok, known = session.texts(
        "SELECT GTID_SUBTRACT(@@global.gtid_purged, %s), GTID_SUBSET(@@global.gtid_purged, %s), "
        "GTID_SUBSET(%s, @@global.gtid_executed)",
        (position.gtids,) * 3,
    )[0]
    if purged_ok != "1":
        raise SourceRefused(f"the source has purged transactions that were not read yet: {missing}; {way_on}")
    if known == "1" or (position.server_uuid == facts.server_uuid and _becomes_visible(session, position)):
        return
    lacking = f"the source lacks transactions that were read already (last position {position})"
    if position.server_uuid != facts.server_uuid:
        raise SourceStopped(
            f"{lacking}: it is another server than the one that was read ({position.server_uuid}); {way_on}"
        )
    raise SourceRefused(f"{lacking}: it was restored or has lost transactions in a crash; {way_on}")


def _becomes_visible(session: SourceSession, position: Position) -> bool:
    """The dump sends transactions before they count as executed (J1): by how much, a replica's answer may tell."""
    waited = session.texts(f"SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, {_VISIBLE_WAIT_S})", (position.gtids,))
    return waited[0][0] == "0"


def _check_file(session: SourceSession, facts: SourceFacts, position: Position, way_on: str) -> None:
    if position.server_uuid != facts.server_uuid:
        raise SourceStopped(
            f"the source is now server {facts.server_uuid}; the position {position} holds for {position.server_uuid} "
            f"alone, for it can't be asked for by GTIDs; {way_on}"
        )
    files = {row[0]: int(row[1]) for row in session.texts("SHOW BINARY LOGS")}
    if position.file not in files:
        first = next(iter(files), "none")
        raise SourceRefused(
            f"the source has purged {position.file} (its first file is {first}), read up to {position}; {way_on}"
        )
    if position.pos > files[position.file]:
        raise SourceRefused(
            f"the source's {position.file} ends at {files[position.file]}, before the last position {position}: "
            f"it has lost transactions; {way_on}"
        )
