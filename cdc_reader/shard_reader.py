"""Reads shards and looks at tables, in a thread with a connection of its own, while the stream goes on.

Comes in: tasks.  Goes out: their results, each with *high*, the source's place after the SELECT.  It waits for a shard's
window to be visible before the SELECT (exactness.md J2, step 2): by GTIDs; without them by performance_schema.log_status
(needs BACKUP_ADMIN), and without that grant by FOR SHARE, which waits for the transactions in question by itself.
Rows and schema are read in one transaction, whose metadata lock keeps DDL out (J3).  Nothing is written to the source.

A source that is away is waited for: the task is done anew, in the same window.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from cdc_reader.config import OnUndecodable
from cdc_reader.errors import SourceAway, SourceRefused, TableUnfollowable
from cdc_reader.information_schema import read_indexes, read_schema
from cdc_reader.key_ranges import Key, KeyRange
from cdc_reader.positions import Place, Position
from cdc_reader.shard_plans import ShardPlan, compile_shard_plan
from cdc_reader.splits import middle_key, rows_about, small_parts
from cdc_reader.sql import (
    NO_SUCH_TABLE,
    QueryFailed,
    Row,
    SourceSession,
    binlog_status,
    end_statement,
    quoted_table,
)
from cdc_reader.table_map import Collation
from schemas.addresses import MysqlAddress
from schemas.errors import SettingError
from schemas.patterns import TablePatterns
from schemas.tables import TableName, TableSchema

log = logging.getLogger(__name__)

_RETRY_S = 0.5
_VISIBLE_POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class LookTask:
    """Read a table's schema."""

    name: TableName


@dataclass(frozen=True, slots=True)
class ScanTask:
    """List the captured tables that there are."""


@dataclass(frozen=True, slots=True)
class ShardTask:
    """Read the first rows of a range; ``window`` is the stream's own position when the window was opened.

    ``split``: other connections have nothing to do, so find out where what is left of the range can be cut in two.
    ``where``: only rows for which this SQL expression holds.
    """

    name: TableName
    schema: TableSchema
    window: Position
    keys: KeyRange
    rows_max: int
    split: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class LookResult:
    """``schema`` is None where there is no such table, or where it can't be followed: ``unfollowable`` says why then.

    ``indexes``: see barriers of kind begin.
    """

    task: LookTask
    high: Place
    server_uuid: str
    schema: TableSchema | None
    unfollowable: str = ""
    indexes: list[dict[str, object]] = field(default_factory=list)
    rows_estimate: int = 0


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The captured tables, at some place; no more than a hint that they are there."""

    task: ScanTask
    names: list[TableName]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """``rows`` as the plan's SELECT gives them: the first of the range, or, with a condition, of its part up to the first cut.

    ``cuts``: keys, in order, at which what may be left of the range is cut into parts.
    ``plan`` is None where there is no such table any more, or where it can't be read: ``unfollowable`` says why then.
    """

    task: ShardTask
    high: Place
    server_uuid: str
    plan: ShardPlan | None
    rows: list[Row]
    unfollowable: str = ""
    refused: str = ""
    """Why the task's condition isn't run, or can't be evaluated; the table is as it should be."""
    cuts: tuple[Key, ...] = ()
    rows_seen: int = 0
    """How many rows of the table lie in the shard, about; with a condition it has fewer."""
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NotRead:
    """The shard wasn't read: it was given up, or the source has too much to do just now."""

    task: ShardTask
    source_is_busy: bool


Task = LookTask | ScanTask | ShardTask
Result = LookResult | ScanResult | ShardResult | NotRead


class ShardReader:
    """The thread; at most one task is under way."""

    def __init__(
        self,
        address: MysqlAddress,
        patterns: TablePatterns,
        collations: Mapping[int, Collation],
        on_undecodable: OnUndecodable = "stop",
        threads_running_max: int = 0,
    ) -> None:
        """``threads_running_max``: no shard is begun while the source runs more statements than that; 0: always."""
        self._address = address
        self._threads_running_max = threads_running_max
        self._patterns = patterns
        self._collations = collations
        self._on_undecodable = on_undecodable
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Result | Exception] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._given_up = threading.Event()
        self._session: SourceSession | None = None
        self._plans: dict[str, ShardPlan] = {}
        self._conditions: dict[str, str] = {}
        """Those that were looked at, and why each is refused; empty: it isn't."""
        self._for_share: bool | None = None
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="shard-reader", daemon=True)
        self._thread.start()

    def start(self, task: Task) -> None:
        """Begins a task; the one before must be done."""
        assert not self.busy
        self.busy = True
        self._given_up.clear()
        self._tasks.put(task)

    def poll(self) -> Result | None:
        """The finished task's result, or None; raises what the task raised (SourceRefused, QueryFailed)."""
        try:
            result = self._results.get_nowait()
        except queue.Empty:
            return None
        self.busy = False
        if isinstance(result, Exception):
            raise result
        return result

    def give_up(self) -> None:
        """Ends the task under way, soon: its statement is ended on the server, and its result says that it wasn't read."""
        self._given_up.set()
        session = self._session
        if self.busy and session is not None:
            number = session.connection_id
            threading.Thread(target=end_statement, args=(self._address, number), name="give-up", daemon=True).start()

    def close(self) -> None:
        """Ends the thread, and a SELECT under way."""
        self._stopped.set()
        self.give_up()
        self._tasks.put(None)
        self._thread.join(2.0)

    # ---- in the thread ----

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            result = self._done(task)
            if result is None:
                break
            self._results.put(result)
        self._close_session()

    def _done(self, task: Task) -> Result | Exception | None:
        while not self._stopped.is_set():
            try:
                if self._session is None:
                    self._session = SourceSession(self._address, read_timeout_s=None)
                return self._perform(self._session, task)
            except SourceAway as error:
                self._close_session()
                if self._given_up.is_set() and isinstance(task, ShardTask):
                    return NotRead(task, source_is_busy=False)
                log.warning("reading a table waits: %s", error)
                self._stopped.wait(_RETRY_S)
            except (SourceRefused, QueryFailed) as error:
                self._close_session()
                return error
            except Exception as error:  # noqa: BLE001 - handed over to the reader's thread, which raises it
                return error
        return None

    def _close_session(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _perform(self, session: SourceSession, task: Task) -> Result:
        if isinstance(task, ScanTask):
            return ScanResult(task, captured_tables(session, self._patterns))
        server_uuid = session.texts("SELECT @@global.server_uuid")[0][0]
        if isinstance(task, LookTask):
            return self._look(session, task, server_uuid)
        return self._shard(session, task, server_uuid)

    def _look(self, session: SourceSession, task: LookTask, server_uuid: str) -> LookResult:
        name = task.name
        schema: TableSchema | None = None
        indexes: list[dict[str, object]] = []
        rows_estimate = 0
        session.rows("START TRANSACTION READ ONLY")
        try:
            session.rows(f"SELECT 1 FROM {quoted_table(name)} LIMIT 0")
            schema = read_schema(session, name)
            self._plan(schema)
            indexes = read_indexes(session, name)
            estimate = session.texts(
                "SELECT TABLE_ROWS FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_NAME = %s", name
            )
            rows_estimate = int(estimate[0][0] or 0) if estimate else 0
        except TableUnfollowable as error:
            return LookResult(task, binlog_status(session).place, server_uuid, None, str(error))
        except QueryFailed as error:
            if error.code not in NO_SUCH_TABLE:
                raise
            schema = None
        finally:
            session.rows("COMMIT")
        return LookResult(task, binlog_status(session).place, server_uuid, schema, "", indexes, rows_estimate)

    def _shard(self, session: SourceSession, task: ShardTask, server_uuid: str) -> ShardResult | NotRead:
        if self._threads_running_max and _threads_running(session) > self._threads_running_max:
            return NotRead(task, source_is_busy=True)
        if refused := self._refused(task.where):
            return ShardResult(task, binlog_status(session).place, server_uuid, None, [], refused=refused)
        locking = not self._wait_visible(session, task.window)
        cuts: tuple[Key, ...] = ()
        started_s = time.monotonic()
        session.rows("START TRANSACTION" if locking else "START TRANSACTION READ ONLY")
        try:
            session.rows(f"SELECT 1 FROM {quoted_table(task.name)} LIMIT 0")
            schema = read_schema(session, task.name)
            plan = self._plan(schema)
            if task.where:
                cuts = small_parts(session, plan, task.keys, task.rows_max)
            keys = KeyRange(task.keys.after, cuts[0]) if cuts else task.keys
            statement = plan.select_sql(keys, task.rows_max, task.where)
            rows = session.rows(statement + (" FOR SHARE" if locking else ""))
        except TableUnfollowable as error:
            return ShardResult(task, binlog_status(session).place, server_uuid, None, [], str(error))
        except QueryFailed as error:
            if error.code not in NO_SUCH_TABLE and not task.where:
                raise
            refused = "" if error.code in NO_SUCH_TABLE else f"the source refuses its condition: {error}"
            return ShardResult(task, binlog_status(session).place, server_uuid, None, [], refused=refused)
        finally:
            session.rows("COMMIT")
        took_s = time.monotonic() - started_s
        high = binlog_status(session).place
        rows_seen = len(rows)
        if not task.where:
            cuts = self._split(session, task, plan, rows)
        elif rows_seen < task.rows_max:
            rows_seen = max(rows_seen, rows_about(session, plan, keys))
        return ShardResult(task, high, server_uuid, plan, rows, cuts=cuts, rows_seen=rows_seen, took_s=took_s)

    def _split(self, session: SourceSession, task: ShardTask, plan: ShardPlan, rows: list[Row]) -> tuple[Key, ...]:
        if not task.split or len(rows) < task.rows_max:
            return ()
        try:
            left = KeyRange(plan.last_key(rows[-1]), task.keys.until)
            middle = middle_key(session, plan, left, rows_min=2 * task.rows_max)
        except QueryFailed as error:
            # The table was changed meanwhile, say; the rows are read as they should be.
            log.info("%s is read without a split: %s", task.name, error)
            return ()
        return () if middle is None else (middle,)

    def _refused(self, where: str) -> str:
        """Why a condition isn't run; empty: it may be.  Who has put it into ``__jobs`` may not have looked at it."""
        if where and where not in self._conditions:
            self._conditions[where] = _why_refused(where)
        return self._conditions.get(where, "")

    def _plan(self, schema: TableSchema) -> ShardPlan:
        key = f"{schema.name} {schema.fingerprint}"
        if key not in self._plans:
            self._plans[key] = compile_shard_plan(schema, on_undecodable=self._on_undecodable)
        return self._plans[key]

    def _wait_visible(self, session: SourceSession, window: Position) -> bool:
        """Waits until SELECT sees all up to ``window``; False where only a locking SELECT can tell (J2, step 2)."""
        if self._for_share and not window.gtids:
            return False
        while not self._stopped.is_set():
            if window.gtids:
                visible = session.texts("SELECT GTID_SUBSET(%s, @@global.gtid_executed)", (window.gtids,))[0][0] == "1"
            else:
                place = self._visible_place(session)
                if place is None:
                    return False
                visible = place.order >= window.place.order
            if visible:
                return True
            self._stopped.wait(_VISIBLE_POLL_S)
        return True

    def _visible_place(self, session: SourceSession) -> Place | None:
        try:
            found = session.rows("SELECT LOCAL FROM performance_schema.log_status")
        except (SourceRefused, QueryFailed):
            self._for_share = True
            log.info("without BACKUP_ADMIN shards are read with FOR SHARE, which locks the rows while they are read")
            return None
        status = orjson.loads(found[0][0] or b"{}")
        return Place(status["binary_log_file"], status["binary_log_position"])


def _why_refused(where: str) -> str:
    # Imported here: the library takes long to load, and most jobs have no condition.
    from cdc_reader.condition import check_condition  # noqa: PLC0415

    try:
        check_condition(where)
    except SettingError as error:
        return str(error).partition("\n")[0]
    return ""


def _threads_running(session: SourceSession) -> int:
    """How many statements the source runs just now, our own question among them."""
    return int(session.texts("SHOW GLOBAL STATUS LIKE 'Threads_running'")[0][1])


def captured_tables(session: SourceSession, patterns: TablePatterns) -> list[TableName]:
    """The base tables that the patterns match, in the order of their names."""
    return [name for name in all_tables(session) if patterns.matches(name)]


def all_tables(session: SourceSession) -> list[TableName]:
    """All base tables that the user sees."""
    rows = session.texts(
        "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE' "
        "AND TABLE_SCHEMA NOT IN ('mysql', 'information_schema', 'performance_schema', 'sys') ORDER BY 1, 2"
    )
    return [TableName(*row) for row in rows]
