"""Jobs against a model of a source: seeded histories of shards, writes, schema changes and crashes, all interleaved.

The model's source writes a change to its log before its SELECTs see it, as MySQL does (exactness.md J1).  Its stream and its
connections are moved by the history alone; jobs are asked for, paused, resumed and cancelled in it.  At its end a mirror that
was spoilt at the begin of each whole-table job must hold the source's rows, and no row may have been read older than an event
of its key before it, nor twice in a job.  Then the same histories with a rule taken out: some fail.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

import orjson
import pytest

from cdc_reader.batches import Batch, Origin
from cdc_reader.followed import FollowedTables, note_published
from cdc_reader.jobs import JobRunner, Moment
from cdc_reader.key_ranges import Key, KeyRange
from cdc_reader.positions import Place, Position
from cdc_reader.running_job import JobLimits
from cdc_reader.shard_plans import Row, compile_shard_plan
from cdc_reader.shard_reader import LookResult, LookTask, ScanTask, ShardReader, ShardResult, ShardTask, Task
from cdc_reader.statements import Kind, Statement
from schemas.jobs import (
    JobOrder,
    JobOrderKind,
    JobRequest,
    JobState,
    JobStatus,
    TableState,
    TableStatus,
    parse_job_record,
)
from schemas.patterns import TablePatterns
from schemas.tables import Column, KeyPart, TableName, TableSchema

HISTORIES = 1_000
STEPS = 60
KEYS = 24
CANCELLED = 0.02
LAG_MAX = 12
"""With a stream that falls behind for ever every window has a barrier in it."""
SHARD_ROWS, CONNECTIONS = 4, 3
BOOKS = TableName("shop", "books")
FILE, UUID = "binlog.000001", "uuid"
_COLUMNS = (Column("id", "int", nullable=False), Column("version", "int"), Column("extra", "int"))
SCHEMAS = tuple(TableSchema(BOOKS, _COLUMNS[:count], (KeyPart("id"),)) for count in (2, 3))
PLANS = {schema: compile_shard_plan(schema) for schema in SCHEMAS}


class Change(NamedTuple):
    """An entry of the source's log: a row's new version (None: deleted), or of the whole table."""

    key: int
    version: int | None
    kind: str = "row"


@dataclass
class Source:
    """The table: its log, and how far of it SELECT sees."""

    log: list[Change] = field(default_factory=list)
    seen: int = 0

    def rows(self) -> dict[int, int]:
        """What a SELECT finds."""
        found: dict[int, int] = {}
        for change in self.log[: self.seen]:
            if change.kind == "truncate":
                found.clear()
            elif change.kind == "row" and change.version is not None:
                found[change.key] = change.version
            elif change.kind == "row":
                found.pop(change.key, None)
        return found

    def schema(self, upto: int) -> TableSchema:
        """The table's, at that place of the log."""
        return SCHEMAS[any(change.kind == "column" for change in self.log[:upto])]


class Connection:
    """One connection: holds a task until the history lets it run."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.result: LookResult | ShardResult | None = None

    def start(self, task: Task) -> None:
        assert self.task is None
        self.task = task

    def poll(self) -> LookResult | ShardResult | None:
        result, self.result = self.result, None
        if result is not None:
            self.task = None
        return result

    def give_up(self) -> None:
        """What is read comes all the same: it was too late to end it."""


def place(entries: int) -> Place:
    return Place(FILE, 100 + entries)


class History:
    """One history; ``waits`` is J2's second step, ``notes`` its first."""

    def __init__(self, seed: int, *, waits: bool = True, notes: bool = True) -> None:
        self._random = random.Random(seed)
        self._waits, self._notes = waits, notes
        self.source = Source()
        self.source.log = [Change(key, 0) for key in range(0, KEYS, 2)]
        self.source.seen = len(self.source.log)
        self._versions = 0
        self.topic: list[tuple[str, int, int | None]] = []
        self._records: dict[bytes, bytes] = {}
        self._committed = (len(self.source.log), 0, dict(self._records))
        self.overlapping = 0
        self._begin(len(self.source.log))

    def _begin(self, entries: int) -> None:
        """A reader starts at that place of the log, with what is committed."""
        self.streamed = entries
        self.tables = FollowedTables(TablePatterns.from_settings(["shop.*"]), "p", 1, lambda _: True, lower_case=False)
        found = [parse_job_record(key, value) for key, value in self._records.items()]
        schemas = {(BOOKS, schema.fingerprint): schema for schema in SCHEMAS}
        self.tables.load([record for record in found if isinstance(record, TableState)], schemas)
        self.connections = [Connection() for _ in range(CONNECTIONS)]
        self.runner = JobRunner(
            self.tables,
            cast(list[ShardReader], self.connections),
            "p",
            lambda names: dict.fromkeys(names, "id"),
            JobLimits(SHARD_ROWS, 10**9),
        )
        self.runner.queue.load(
            [record for record in found if isinstance(record, JobRequest)],
            [record for record in found if isinstance(record, JobState)],
        )
        for record in found:
            if isinstance(record, JobOrder):
                self.runner.queue.orders.append(record)
        self.runner.queue.add_first_reads([BOOKS], 1)

    # ---- what can happen ----

    def write(self) -> None:
        if len(self.source.log) - self.streamed > LAG_MAX:
            return
        self._versions += 1
        key = self._random.randrange(KEYS)
        deleted = key in self._latest() and self._random.random() < 0.3
        self.source.log.append(Change(key, None if deleted else self._versions))

    def _latest(self) -> dict[int, int]:
        return Source(self.source.log, len(self.source.log)).rows()

    def show(self) -> None:
        """SELECTs see one more entry of the log."""
        self.source.seen = min(len(self.source.log), self.source.seen + 1)

    def truncate(self) -> None:
        self._ddl(Change(0, None, "truncate"))

    def add_column(self) -> None:
        if self.source.schema(len(self.source.log)) is SCHEMAS[0]:
            self._ddl(Change(0, None, "column"))

    def _ddl(self, change: Change) -> None:
        """Its metadata lock waits for all before it, and holds SELECTs up: it is seen at once."""
        self.source.log.append(change)
        self.source.seen = len(self.source.log)

    def ask(self) -> None:
        """Somebody wants the table to be read once more."""
        table = self.tables.table(BOOKS)
        if table is None or not table.publishing:
            return
        fresh = self._random.random() < 0.5
        request = JobRequest("shop", "books", f"asked-{len(self.source.log)}", "command line", 1, fresh=fresh)
        self._records[request.key()] = request.to_json()
        self.runner.queue.add(request)

    def order(self) -> None:
        """Somebody pauses or resumes some job that isn't finished."""
        known = list(self.runner.queue._requests)
        if known:
            kind = self._random.choices((JobOrderKind.PAUSE, JobOrderKind.RESUME), (1, 2))[0]
            self._order(JobOrder(self._random.choice(known), kind.value, 1))

    def cancel(self) -> None:
        """Somebody cancels some job that isn't finished."""
        known = list(self.runner.queue._requests)
        if known and self._followed():
            self._order(JobOrder(self._random.choice(known), JobOrderKind.CANCEL.value, 1))

    def _followed(self) -> bool:
        """Whether the first read is done: it may not be cancelled, for the table's rows wouldn't come."""
        table = self.tables.table(BOOKS)
        return table is not None and table.state is not None and table.state.status == TableStatus.FOLLOWED

    def _order(self, order: JobOrder) -> None:
        self._records[order.key()] = order.to_json()
        self.runner.queue.orders.append(order)

    def stream(self) -> None:
        """The stream publishes one entry of the log."""
        if self.streamed == len(self.source.log):
            return
        change = self.source.log[self.streamed]
        self.streamed += 1
        origin = self._origin()
        table = self.tables.table(BOOKS)
        assert table is not None
        if change.kind == "truncate":
            self._publish(self.tables.statement(Statement(Kind.TRUNCATE, (BOOKS,)), origin))
        elif change.kind == "row" and table.publishing:
            batches = self.tables.changed(BOOKS, self.source.schema(self.streamed), origin)
            value = orjson.dumps({"op": "u", "id": change.key, "version": change.version})
            self._publish([*batches, Batch("p.shop.books", [(0, b'{"id":%d}' % change.key, value, None)], BOOKS)])

    def select(self) -> None:
        """One connection runs its statement, where it may."""
        connection = self._random.choice(self.connections)
        task, high = connection.task, place(len(self.source.log))
        if connection.result is not None or task is None:
            return
        schema = self.source.schema(self.source.seen)
        if isinstance(task, LookTask):
            connection.result = LookResult(task, high, UUID, schema)
        elif isinstance(task, ShardTask) and (not self._waits or place(self.source.seen).pos >= task.window.pos):
            rows = self.source.rows()
            inside = [key for key in sorted(rows) if _is_in(key, task.keys)]
            read, left = inside[: task.rows_max], inside[task.rows_max :]
            cuts: tuple[Key, ...] = ((b"%d" % left[len(left) // 2],),) if task.split and len(left) > 1 else ()
            values: list[Row] = [(b"%d" % key, b"%d" % rows[key], b"0")[: len(schema.columns)] for key in read]
            connection.result = ShardResult(task, high, UUID, PLANS[schema], values, cuts=cuts, rows_seen=len(values))
        assert not isinstance(task, ScanTask)

    def step(self) -> None:
        """The reader lets the jobs take a step, and commits."""
        moment = Moment(Position(*place(self.streamed), "", UUID), self._origin())
        self._publish(self.runner.step(moment))
        table = self.tables.table(BOOKS)
        assert table is not None
        self.overlapping += len(table.windows) > 1
        self._committed = (self.streamed, len(self.topic), dict(self._records))

    def crash(self) -> None:
        """All that isn't committed is gone."""
        entries, events, records = self._committed
        del self.topic[events:]
        self._records = dict(records)
        self._begin(entries)

    def _origin(self) -> Origin:
        return Origin(1, 1, "", FILE, place(self.streamed).pos, 2)

    def _publish(self, batches: Sequence[Batch]) -> None:
        if self._notes:
            note_published(self.tables, batches)
        # Rows are published with their job's state (J4), which alone says whose they are.
        job = ""
        for batch in batches:
            for _, key, value, _ in batch.messages:
                if batch.topic == "p.__jobs" and value is not None:
                    self._records[key] = value
                    record = parse_job_record(key, value)
                    job = record.id if isinstance(record, JobState) else job
        for batch in batches:
            for message in batch.messages:
                if batch.topic == "p.shop.books" and message[2] is not None:
                    self._event(orjson.loads(message[2]), job)

    def _event(self, event: dict[str, Any], job: str) -> None:
        if event["op"] == "u":
            self.topic.append(("u", event["id"], event["version"]))
        elif event["op"] == "r":
            self.topic.append((f"r {job}", event["after"]["id"], event["after"]["version"]))
        else:
            barrier = event["barrier"]
            self.topic.append((f"{barrier['kind']} {barrier['job']}", -1, None))

    # ---- the whole of it ----

    def run(self, *, until_dropped: bool = False) -> list[str]:
        """The history, then all of it to its end; what is wrong then.

        ``until_dropped``: it goes on until a row was written inside an open window, in whose shard it was read too.
        """
        ways: list[Callable[[], None]] = [self.write, self.show, self.stream, self.select, self.step]
        seldom = [self.truncate, self.add_column, self.crash, self.ask, self.order, self.cancel]
        steps = 0
        while steps < STEPS or (until_dropped and not self.dropped):
            steps += 1
            self._random.choice(ways if self._random.random() < 0.95 else seldom)()
        for name in list(self.runner.queue.states):
            self._order(JobOrder(name, JobOrderKind.RESUME.value, 1))
        for _ in range(100 * KEYS):
            if self.runner.idle and self.streamed == len(self.source.log):
                break
            self.show()
            self.stream()
            self.select()
            self.step()
            if self._random.random() < CANCELLED:
                # Here most jobs run, behind the first read.
                self.cancel()
        else:
            return ["the jobs don't come to an end"]
        return self._wrong()

    @property
    def dropped(self) -> int:
        """How many rows of shards were not published, for a newer state was in the topic."""
        return sum(state.rows_dropped for state in self.runner.queue.states.values())

    def _wrong(self) -> list[str]:
        newest: dict[int, int] = {}
        wrong: list[str] = []
        states = self.runner.queue.states.values()
        mirror = Mirror({state.id for state in states if state.fresh and state.status == JobStatus.DONE}, self._random)
        read = Counter((op, key) for op, key, _ in self.topic if op.startswith("r "))
        wrong += [f"row {key} was published {count} times: {op}" for (op, key), count in read.items() if count > 1]
        for op, key, version in self.topic:
            if op.startswith("r ") and version is not None and version < newest.get(key, -1):
                wrong.append(f"row {key} was read in version {version}, behind {newest[key]}")
            if version is not None:
                newest[key] = max(version, newest.get(key, -1))
            mirror.take(op, key, version)
        if mirror.rows != self._latest():
            wrong.append(f"the mirror holds {mirror.rows}, the source {self._latest()}")
        return wrong


class Mirror:
    """What the sink makes of the topic; when a whole-table job begins that is done at last, some of its rows are spoilt."""

    def __init__(self, ending: set[str], choose: random.Random) -> None:
        self.rows: dict[int, int] = {}
        self._ending, self._random = ending, choose
        self._noted: set[int] | None = None

    def take(self, op: str, key: int, version: int | None) -> None:
        kind, _, job = op.partition(" ")
        if kind == "begin":
            self._noted = set()
            if job in self._ending:
                self._spoil()
        elif kind == "end" and self._noted is not None:
            self.rows = {key: self.rows[key] for key in self.rows if key in self._noted}
            self._noted = None
        elif kind == "cancel":
            self._noted = None
        elif kind == "truncate":
            self.rows.clear()
        elif kind in {"r", "u"}:
            self._write(key, version)

    def _write(self, key: int, version: int | None) -> None:
        if self._noted is not None:
            self._noted.add(key)
        if version is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = version

    def _spoil(self) -> None:
        self.rows[-1 - self._random.randrange(KEYS)] = 0
        for key in self._random.sample(sorted(self.rows), len(self.rows) // 3):
            self.rows[key] = -1
        for key in self._random.sample(sorted(self.rows), len(self.rows) // 3):
            del self.rows[key]


def _is_in(key: int, keys: KeyRange) -> bool:
    behind = keys.after is None or key > int(keys.after[0])
    return behind and (keys.until is None or key <= int(keys.until[0]))


def failures(**rules: bool) -> int:
    """How many histories go wrong with a rule taken out."""
    return sum(bool(History(seed, **rules).run()) for seed in range(300))


def play(seeds: range) -> None:
    """Histories with all rules; each has a write inside an open window."""
    overlapping = 0
    for seed in seeds:
        history = History(seed)
        assert history.run(until_dropped=True) == [], f"seed {seed}"
        assert history.dropped, f"seed {seed}"
        overlapping += history.overlapping
    assert overlapping > len(seeds)


def test_rule_j2_j3_j4_no_history_loses_or_doubles_a_row() -> None:
    play(range(HISTORIES))


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_rule_j2_j3_j4_nor_does_any_of_thirty_thousand() -> None:
    play(range(HISTORIES, 31 * HISTORIES))


def test_rule_j1_j2_without_waiting_until_the_window_is_visible_updates_are_lost() -> None:
    assert failures(waits=False) > 0


def test_rule_j2_without_noting_keys_rows_are_read_too_old() -> None:
    assert failures(notes=False) > 0


def test_rule_j2_published_before_the_stream_has_passed_the_shard_rows_are_too_new_for_what_follows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(JobRunner, "_reached", lambda *_: True)
    assert failures() > 0


def test_rule_j3_with_barriers_inside_windows_passed_over_rows_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    done = JobRunner._shard_done

    def without_barriers(self: JobRunner, task: Any, result: Any, moment: Any) -> list[Batch]:
        table = self._tables.table(BOOKS)
        assert table is not None
        return done(self, replace(task, barriers=table.barriers), result, moment)

    monkeypatch.setattr(JobRunner, "_shard_done", without_barriers)
    assert failures() > 0


def test_rule_j4_with_a_range_that_is_not_cut_off_in_the_same_commit_rows_come_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(KeyRange, "to_dict", lambda _: {"after": None, "until": None})
    assert failures() > 0
