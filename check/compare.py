"""Compares captured tables with their mirrors.

Comes in: a :class:`CheckConfig`, tables, a way to wait until the sink holds what the source has committed, and whoever
wants to see how far it is.  Goes out: a :class:`CheckReport`.

Guarantees: every key that either side had throughout is compared, in every column, in a form that is exact (forms.py).
It is right while writes go on: only what stays different after the sink has caught up is a difference.  Reads only, and
outside of transactions: no lock is held, nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cdc_reader.errors import SourceStopped
from cdc_reader.information_schema import read_schema
from cdc_reader.shard_reader import captured_tables
from cdc_reader.sql import SourceSession
from check.comparison import TableComparison, Verdict
from check.config import CheckConfig
from check.errors import TableChangedError
from check.plans import Key
from check.recheck import recheck
from check.report import CheckReport, FoundKey, FoundKeys, Kind, TableReport
from check.sides import Run, run_on_sink, run_on_source
from check.tables import Mirror, comparison_of
from check.walk import walk
from schemas.tables import TableName, TableSchema
from schemas.topics import table_topic
from sink import computed, mirror_tables
from sink.computed import ComputedFunctions
from sink.errors import StatementFailed
from sink.sql import SessionPool
from sink.tables import MirrorStatus, TableState, all_states

_NO_SUCH_TABLE = 1146
_PAGE_ROWS_MIN = 100


class Progress(NamedTuple):
    """How far the comparison of a table is: rows and keys that were read, of both sides, and how many there may be."""

    table: TableName
    read: int
    estimate: int
    suspects: int
    """Keys that wait for a second look, or are getting it."""


@dataclass(frozen=True, slots=True)
class _Tools:
    """What all tables are compared with."""

    config: CheckConfig
    source: SourceSession
    sink: SessionPool
    run_on_source: Run
    run_on_sink: Run
    functions: ComputedFunctions
    states: dict[TableName, TableState]
    catch_up: Callable[[], None]
    report: Callable[[Progress], None]


def run(
    config: CheckConfig,
    tables: Sequence[TableName] | None,
    catch_up: Callable[[], None],
    report: Callable[[Progress], None] = lambda _: None,
) -> CheckReport:
    """Compare tables; None: all captured ones.

    ``catch_up`` returns when the sink holds all that the source had committed when it was called, or raises.  Raises
    FunctionsError, and what the rooms' sessions raise when a server is away or refuses.
    """
    functions = computed.load(config.functions, config.patterns) if config.functions else ComputedFunctions()
    sink = SessionPool(config.sink.address)
    with SourceSession(config.source) as source:
        # Else a literal like '2015-02-30' finds no row that holds it.
        source.rows("SET sql_mode = 'ALLOW_INVALID_DATES'")
        tools = _Tools(
            config,
            source,
            sink,
            run_on_source(source),
            run_on_sink(sink),
            functions,
            _states(sink),
            catch_up,
            report,
        )
        try:
            chosen = captured_tables(source, config.patterns) if tables is None else tables
            return CheckReport([_check(tools, table) for table in chosen])
        finally:
            sink.close()


def _check(tools: _Tools, table: TableName) -> TableReport:
    found = TableReport(table, tools.config.keys_listed_max)
    try:
        comparison = _prepared(tools, table)
        _compare(tools, comparison, found)
    except TableChangedError as error:
        found.not_compared = str(error)
    return found


def _prepared(tools: _Tools, table: TableName) -> TableComparison:
    """Raises TableChangedError where there is nothing to compare with."""
    state = tools.states.get(table)
    if state is not None and state.status is not MirrorStatus.MADE:
        raise TableChangedError("its mirror isn't made yet")
    schema, mirror = _shapes(tools, table)
    if not set(schema.by_name).issubset(mirror.columns):
        # New columns come through a barrier.
        tools.catch_up()
        schema, mirror = _shapes(tools, table)
    missing = [name for name in schema.by_name if name not in mirror.columns]
    if not mirror.columns:
        raise TableChangedError(f"the sink has no table {mirror.name}; to make it: rowflow snapshot {table}")
    if missing:
        raise TableChangedError(
            f"its mirror {mirror.name} lacks columns: {', '.join(missing)}; to make it anew: rowflow snapshot {table}"
        )
    functions = tools.functions.by_table.get(table, ())
    tools.functions.refuse_clashes(schema)
    return comparison_of(schema, mirror, functions, tools.run_on_source, tools.run_on_sink)


def _shapes(tools: _Tools, table: TableName) -> tuple[TableSchema, Mirror]:
    try:
        schema = read_schema(tools.source, table)
    except SourceStopped as error:
        raise TableChangedError(str(error)) from None
    name = tools.config.sink.mirror_name(table)
    with tools.sink.lend() as session:
        columns = [column.name for column in mirror_tables.columns(session, name)]
        return schema, Mirror(name, columns, session.server.mariadb)


def _compare(tools: _Tools, comparison: TableComparison, found: TableReport) -> None:
    rows_estimate, page_rows = _sizes(tools, comparison.schema.name)
    read = 0
    suspects: list[Key] = []

    def tell() -> None:
        tools.report(Progress(found.table, read, max(2 * rows_estimate, read), len(suspects)))

    tell()
    for seen in walk(comparison, page_rows):
        read += seen.read
        suspects += seen.suspects
        _count(comparison, found, seen.equal)
        tell()
        if len(suspects) >= tools.config.suspects_max:
            _settle(tools, comparison, found, suspects)
            suspects.clear()
    if suspects:
        _settle(tools, comparison, found, suspects)
        suspects.clear()
    rows_estimate = 0
    tell()


def _settle(tools: _Tools, comparison: TableComparison, found: TableReport, suspects: Iterable[Key]) -> None:
    """Look at suspects again, and file them."""
    outcome = recheck(comparison, list(dict.fromkeys(suspects)), tools.catch_up)
    _count(comparison, found, outcome.equal + len(outcome.wrong))
    if outcome.wrong:
        dead = _dead_keys(tools, found.table)
        for key, verdict in outcome.wrong.items():
            kafka_key = comparison.kafka_key(key)
            sort = _sort(tools, found, verdict, dead=kafka_key in dead)
            sort.add(FoundKey(kafka_key.decode(), verdict.kind, (*verdict.columns, *verdict.computed)))
    for key in outcome.changing:
        found.changing.add(FoundKey(comparison.kafka_key(key).decode(), Kind.CHANGING))


def _count(comparison: TableComparison, found: TableReport, rows: int) -> None:
    found.rows += rows
    found.values += rows * comparison.values_per_row


def _sort(tools: _Tools, found: TableReport, verdict: Verdict, *, dead: bool) -> FoundKeys:
    """Where a wrong key belongs."""
    if dead:
        return found.with_dead_letters
    state = tools.states.get(found.table)
    changed = state is not None and state.functions_fingerprint != tools.functions.fingerprint_for(found.table)
    return found.outdated if changed and verdict.computed and not verdict.columns else found.differences


def _sizes(tools: _Tools, table: TableName) -> tuple[int, int]:
    """How many rows the table has, roughly, and how many make a page."""
    rows = tools.source.texts(
        "SELECT TABLE_ROWS, AVG_ROW_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s",
        table,
    )
    rows_estimate, row_bytes = (int(value or 0) for value in rows[0]) if rows else (0, 0)
    fitting = tools.config.page_bytes // max(row_bytes, 1)
    return rows_estimate, max(min(tools.config.page_rows, fitting), _PAGE_ROWS_MIN)


def _states(sink: SessionPool) -> dict[TableName, TableState]:
    """What the sink knows of its mirrors; nothing where no worker has ever run."""
    try:
        with sink.lend() as session:
            return {state.table: state for state in all_states(session)}
    except StatementFailed as error:
        if error.code == _NO_SUCH_TABLE:
            return {}
        raise


def _dead_keys(tools: _Tools, table: TableName) -> set[bytes]:
    """The keys of a table of which letters are open."""
    topic = table_topic(tools.config.sink.prefix, table)
    try:
        with tools.sink.lend() as session:
            rows = session.fetch(
                "SELECT DISTINCT `key` FROM _rowflow_dead_letters WHERE topic = %s AND status = 'open'", (topic,)
            )
    except StatementFailed as error:
        if error.code == _NO_SUCH_TABLE:
            return set()
        raise
    return {key for (key,) in rows}
