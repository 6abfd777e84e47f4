"""Jobs step by step: windows, noted keys, what makes a window void, and how far a job is (J2 to J4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import md5
from typing import Any, cast

import orjson
import pytest

from cdc_reader import jobs
from cdc_reader.batches import Batch, Origin
from cdc_reader.followed import FollowedTables, note_published
from cdc_reader.jobs import JobRunner, Moment
from cdc_reader.key_ranges import KeyRange
from cdc_reader.positions import Place, Position
from cdc_reader.running_job import JobLimits
from cdc_reader.shard_plans import compile_shard_plan
from cdc_reader.shard_reader import LookResult, LookTask, NotRead, Result, ShardReader, ShardResult, ShardTask, Task
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

BOOKS = TableName("shop", "books")
ID = Column("id", "int", nullable=False)
TITLE = Column("title", "varchar", 40, charset="utf8mb4", collation="utf8mb4_bin")
SCHEMA = TableSchema(BOOKS, (ID, TITLE), (KeyPart("id"),))
WITH_PRICE = TableSchema(BOOKS, (ID, TITLE, Column("price", "int")), (KeyPart("id"),))
OTHER = TableSchema(BOOKS, (ID,), (KeyPart("id"),))
ROWS_MAX, PARTITIONS = 3, 2
LIMITS = JobLimits(ROWS_MAX, 10**9)
UUID, OTHER_UUID = "one", "other"
FILE = "binlog.000001"
Row = tuple[bytes | None, ...]


class ReaderByHand:
    """In the place of the thread that reads shards: holds the task, and gives the answer that the test puts there."""

    def __init__(self) -> None:
        self.task: Task | None = None
        self.result: Result | None = None
        self.given_up = False

    @property
    def busy(self) -> bool:
        return self.task is not None

    def start(self, task: Task) -> None:
        assert self.task is None, "two tasks at a time"
        self.task = task

    def poll(self) -> Result | None:
        result, self.result = self.result, None
        if result is not None:
            self.task = None
        return result

    def give_up(self) -> None:
        self.given_up = True


@dataclass
class Stand:
    """A runner, the tables, and the place where the stream is."""

    pos: int = 100
    uuid: str = UUID
    connections: int = 1
    now_ms: int = 2
    source_ms: int = 0
    limits: JobLimits = LIMITS
    readers: list[ReaderByHand] = field(default_factory=list)
    published: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.readers = [ReaderByHand() for _ in range(self.connections)]
        patterns = TablePatterns.from_settings(["shop.*"])
        self.tables = FollowedTables(patterns, "p", PARTITIONS, lambda _: True, lower_case=False)
        self.runner = JobRunner(
            self.tables,
            cast(list[ShardReader], self.readers),
            "p",
            lambda names: dict.fromkeys(names, "id"),
            self.limits,
        )

    @property
    def origin(self) -> Origin:
        return Origin(1, 1, "", FILE, self.pos, self.now_ms)

    def step(self, pos: int | None = None) -> list[Batch]:
        self.pos = pos or self.pos
        batches = self.runner.step(Moment(Position(FILE, self.pos, "", self.uuid), self.origin, self.source_ms))
        note_published(self.tables, batches)
        self.published += batches
        return batches

    def looked(self, schema: TableSchema | None, high: int, unfollowable: str = "") -> None:
        assert isinstance(self.reader.task, LookTask)
        self.reader.result = LookResult(self.reader.task, Place(FILE, high), self.uuid, schema, unfollowable)

    @property
    def reader(self) -> ReaderByHand:
        """The first connection."""
        return self.readers[0]

    @property
    def shard(self) -> ShardTask:
        assert isinstance(self.reader.task, ShardTask)
        return self.reader.task

    def read(self, ids: Sequence[int], high: int, schema: TableSchema | None = SCHEMA, uuid: str = UUID) -> None:
        rows = [_row(number, schema or SCHEMA) for number in ids]
        plan = compile_shard_plan(schema) if schema is not None else None
        self.reader.result = ShardResult(self.shard, Place(FILE, high), uuid, plan, rows, rows_seen=len(rows))

    def stream(self, *ids: int) -> None:
        """The stream publishes changes of these keys."""
        note_published(
            self.tables, [Batch("p.shop.books", [(0, b'{"id":%d}' % number, b"", None) for number in ids], BOOKS)]
        )

    def begin(self) -> Stand:
        """A first read whose begin barrier is published and whose first window is open."""
        self.runner.queue.add_first_reads([BOOKS], 1)
        self.step()
        self.looked(SCHEMA, self.pos)
        self.step()
        self.step()
        return self


def _row(number: int, schema: TableSchema) -> Row:
    return (b"%d" % number, b"title", b"5")[: len(schema.columns)]


def events(batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """The ``r`` events."""
    rows = [batch for batch in batches if batch.topic == "p.shop.books" and batch.partition < 0]
    return [orjson.loads(message[2] or b"{}") for batch in rows for message in batch.messages]


def reads(batches: Sequence[Batch]) -> list[int]:
    """The ids of the ``r`` events."""
    return [event["after"]["id"] for event in events(batches)]


def barriers(batches: Sequence[Batch]) -> list[str]:
    found = [batch.messages[0][2] for batch in batches if batch.topic == "p.shop.books" and batch.partition >= 0]
    return [orjson.loads(value or b"{}")["barrier"]["kind"] for value in found]


def records(batches: Sequence[Batch], kind: type[Any]) -> list[Any]:
    found = [
        parse_job_record(message[1], message[2] or b"{}")
        for batch in batches
        if batch.topic == "p.__jobs"
        for message in batch.messages
    ]
    return [record for record in found if isinstance(record, kind)]


def test_a_first_read_begins_with_schema_barriers_and_state_together() -> None:
    stand = Stand()
    stand.runner.queue.add_first_reads([BOOKS], 1)
    assert stand.step() == []
    stand.looked(SCHEMA, high=150)
    assert stand.step(149) == [], "the look's place isn't reached"
    batches = stand.step(150)
    assert batches[0].topic == "p.__schemas"
    assert barriers(batches) == ["begin"] * PARTITIONS
    assert [state.status for state in records(batches, TableState)] == [TableStatus.FIRST_READ]
    assert [state.status for state in records(batches, JobState)] == [JobStatus.READING]
    stand.step(160)
    assert stand.shard.window.pos == 160, "the window is opened at the stream's own position"
    assert stand.shard.keys.after is None


def test_rule_j2_rows_whose_keys_were_published_in_the_window_are_dropped() -> None:
    stand = Stand().begin()
    stand.read([1, 2, 3], high=300)
    stand.stream(2)
    assert stand.step(299) == [], "high isn't reached"
    stand.stream(3, 7)
    batches = stand.step(300)
    assert reads(batches) == [1]
    (state,) = records(batches, JobState)
    assert (state.rows_read, state.rows_dropped, state.rows_published) == (3, 2, 1)
    assert state.high == f"{FILE}:300"


def test_rule_j2_each_window_notes_keys_for_itself() -> None:
    stand = Stand()
    stand.stream(1)
    stand.begin()
    stand.read([1, 2, 3], high=200)
    stand.stream(5)
    assert reads(stand.step(200)) == [1, 2, 3], "what was published before the window is older than its rows"
    stand.step(210)
    stand.read([4, 5], high=220)
    batches = stand.step(220)
    assert reads(batches) == [4, 5]
    assert [state.status for state in records(batches, TableState)] == [TableStatus.FOLLOWED]
    assert [state.status for state in records(batches, JobState)] == [JobStatus.DONE]
    assert stand.runner.idle


def test_rule_j3_a_window_with_a_barrier_in_it_is_read_again() -> None:
    stand = Stand().begin()
    stand.read([1, 2, 3], high=200)
    stand.tables.statement(Statement(Kind.TRUNCATE, (BOOKS,)), stand.origin)
    assert reads(stand.step(200)) == []
    assert stand.shard.keys.after is None
    assert stand.shard.window.pos == 200
    stand.read([], high=205)
    assert records(stand.step(205), JobState)[0].rows_published == 0


def test_rule_j3_a_window_with_another_server_in_it_is_read_again() -> None:
    stand = Stand().begin()
    stand.read([1, 2, 3], high=10**9, uuid=OTHER_UUID)
    assert reads(stand.step(200)) == [], "places of two servers can't be compared"
    stand.read([1, 2, 3], high=200)
    assert reads(stand.step(200)) == [1, 2, 3]


def test_rule_j3_new_columns_get_their_barrier_before_the_rows() -> None:
    stand = Stand().begin()
    stand.read([1, 2], high=200, schema=WITH_PRICE)
    batches = stand.step(200)
    assert barriers(batches) == ["schema"] * PARTITIONS + ["end"] * PARTITIONS
    assert reads(batches) == [1, 2]
    assert [batch.partition for batch in batches if batch.topic == "p.shop.books"] == [0, 1, -1, 0, 1]
    assert {event["source"]["schema"] for event in events(batches)} == {WITH_PRICE.fingerprint}


def test_rule_j3_rows_of_an_old_schema_are_not_published_behind_its_change() -> None:
    stand = Stand().begin()
    stand.read([1, 2], high=200)
    stand.tables.changed(BOOKS, WITH_PRICE, stand.origin)
    assert reads(stand.step(200)) == []
    assert stand.shard.schema == WITH_PRICE


def test_a_table_whose_shape_changes_otherwise_stands_still_and_the_job_fails() -> None:
    stand = Stand().begin()
    stand.read([1, 2], high=200, schema=OTHER)
    batches = stand.step(200)
    assert reads(batches) == []
    assert records(batches, TableState)[-1].status == TableStatus.STANDS_STILL
    assert records(batches, JobState)[-1].status == JobStatus.FAILED
    assert stand.runner.idle


def test_a_table_that_is_gone_waits_for_its_first_read_and_one_that_cant_be_followed_stands_still() -> None:
    for why in ("", "shop.books has no primary key: ALTER TABLE `shop`.`books` ADD PRIMARY KEY (...)"):
        stand = Stand()
        stand.runner.queue.add_first_reads([BOOKS], 1)
        stand.step()
        stand.looked(None, 100, why)
        batches = stand.step()
        assert (why or "no table shop.books") in records(batches, JobState)[-1].reason
        assert [state.status for state in records(batches, TableState)] == [TableStatus.STANDS_STILL] * bool(why)
        assert barriers(batches) == []
        assert stand.runner.idle


@pytest.mark.parametrize("begun", [True, False], ids=["in a shard", "in a look"])
def test_a_type_that_is_not_known_leaves_the_table_standing_still(begun: bool) -> None:  # noqa: FBT001
    stand = Stand().begin()
    stand.read([1], high=200)
    stand.step(200)
    if begun:
        stand.runner.queue.add(JobRequest("shop", "books", "again", "schema change", 5, fresh=False))
        stand.step()
        stand.looked(SCHEMA, 200)
        stand.step()
        stand.step()
        stand.reader.result = ShardResult(stand.shard, Place(FILE, 200), UUID, None, [], "column x has the type y")
    else:
        stand.tables.statement(Statement(Kind.OTHER, (BOOKS,)), stand.origin)
        stand.step()
        stand.looked(None, 200, "column x has the type y")
    (state,) = records(stand.step(300), TableState)
    assert state.status == TableStatus.STANDS_STILL
    assert state.reason.startswith("column x has the type y")
    assert state.reason.endswith("rowflow snapshot shop.books")


def test_a_look_that_rows_have_overtaken_is_taken_again() -> None:
    """It was older than they are: the table would be taken for one that has lost a column."""
    stand = Stand().begin()
    stand.read([1], high=200)
    stand.step(200)
    stand.tables.statement(Statement(Kind.OTHER, (BOOKS,)), stand.origin)
    stand.step()
    stand.looked(SCHEMA, 200)
    stand.tables.changed(BOOKS, WITH_PRICE, stand.origin)
    assert records(stand.step(300), TableState) == []
    stand.step()
    stand.looked(WITH_PRICE, 300)
    stand.step(400)
    found = stand.tables.table(BOOKS)
    assert found is not None
    assert (found.publishing, found.fingerprint) == (True, WITH_PRICE.fingerprint)


@pytest.mark.parametrize(("kind", "read_again"), [(Kind.RESHAPED, True), (Kind.OTHER, False)])
def test_a_statement_that_may_have_changed_rows_asks_for_a_job_though_the_shape_is_the_same(
    kind: Kind,
    read_again: bool,  # noqa: FBT001
) -> None:
    stand = Stand().begin()
    stand.read([1], high=200)
    stand.step(200)
    stand.tables.statement(Statement(kind, (BOOKS,)), stand.origin)
    stand.step()
    # A barrier has overtaken this look: it is taken again, and what it was for isn't forgotten.
    stand.looked(SCHEMA, 200)
    stand.tables.statement(Statement(Kind.TRUNCATE, (BOOKS,)), stand.origin)
    stand.step(300)
    stand.step()
    stand.looked(SCHEMA, 300)
    asked = records(stand.step(400), JobRequest)
    assert [(request.origin, request.fresh) for request in asked] == [("schema change", True)] * read_again
    if read_again:
        stand.step()
        stand.looked(SCHEMA, 400)
        assert barriers(stand.step()) == ["begin"] * PARTITIONS


def test_rule_j2_a_window_of_a_stream_that_lags_keeps_only_the_keys_of_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs, "_NOTED_MAX", 10)
    stand = Stand().begin()
    stand.read([1, 2, 3], high=10**6)
    table = stand.tables.table(BOOKS)
    assert table is not None
    for begin in range(0, 100, 10):
        stand.stream(2, *range(begin + 10, begin + 30))
        stand.step()
        assert table.windows[0] == {b'{"id":2}'}
    stand.stream(3, 40)
    assert reads(stand.step(10**6)) == [1]


@pytest.mark.parametrize("asked", [True, False], ids=["asked for", "by itself"])
def test_rule_j4_how_far_the_rows_go_is_said_with_them_and_a_crash_goes_on_from_there(asked: bool) -> None:  # noqa: FBT001
    stand = Stand().begin()
    stand.read([1, 2, 3], high=200)
    batches = stand.step(200)
    (state,) = records(batches, JobState)
    assert reads(batches) == [1, 2, 3]
    assert state.ranges == [{"after": [b"3".hex()], "until": None}]

    # A first read is asked for by nobody: after the crash there is only its state.
    requests = [JobRequest("shop", "books", state.id, "first read", 1)] if asked else []
    restarted = Stand(pos=400)
    table_state = records(stand.published, TableState)[-1]
    restarted.tables.load([table_state], {(BOOKS, SCHEMA.fingerprint): SCHEMA})
    restarted.runner.queue.load(requests, [state])
    restarted.runner.queue.add_first_reads([BOOKS], 2)
    restarted.step()
    assert restarted.shard.keys.after == (b"3",)
    assert restarted.shard.window.pos == 400, "the rest is read in a new window"
    restarted.read([4], high=410)
    batches = restarted.step(410)
    assert reads(batches) == [4]
    assert barriers(restarted.published) == ["end"] * PARTITIONS
    (done,) = records(batches, JobState)
    assert (done.rows_read, done.status) == (4, JobStatus.DONE)

    again = Stand()
    again.tables.load([table_state], {(BOOKS, SCHEMA.fingerprint): SCHEMA})
    again.runner.queue.load(requests, [done])
    assert again.runner.idle, "a job that is done isn't run again"


def test_rule_r8_rows_of_later_jobs_are_counted_on() -> None:
    stand = Stand().begin()
    stand.read([1, 2], high=200)
    stand.step(200)
    stand.runner.queue.add(JobRequest("shop", "books", "again", "command line", 5))
    stand.runner.queue.add(JobRequest("shop", "books", "again", "command line", 6))
    stand.step()
    stand.looked(SCHEMA, 200)
    assert barriers(stand.step()) == ["begin"] * PARTITIONS
    stand.step()
    stand.read([1, 2], high=200)
    batches = stand.step(200)
    assert [event["source"]["row"] for event in events(batches)] == [2, 3]
    assert stand.runner.idle


def test_shards_fit_the_size_of_the_rows() -> None:
    stand = Stand(limits=JobLimits(1_000, 60_000))
    stand.begin()
    sizes = []
    for begin in (1_000, 1_016, 1_200):
        sizes.append(stand.shard.rows_max)
        stand.read(range(begin, begin + stand.shard.rows_max), high=200)
        stand.step(200)
        stand.step(201)
    assert sizes[0] == 16, "nothing is known of the rows yet"
    assert all(50 <= size < 400 for size in sizes[1:])


def ask(stand: Stand, order: JobOrderKind, job_id: str = "asked") -> list[Batch]:
    stand.runner.queue.orders.append(JobOrder(job_id, order.value, 1))
    return stand.step()


def asked_again(**fields: Any) -> Stand:
    """A table that is followed, of which a second job is being read: its first window is open."""
    stand = Stand().begin()
    stand.read([1], high=200)
    stand.step(200)
    stand.runner.queue.add(JobRequest("shop", "books", "asked", "command line", 5, **fields))
    stand.step()
    stand.looked(SCHEMA, 200)
    stand.step()
    stand.step()
    assert isinstance(stand.reader.task, ShardTask)
    return stand


def test_a_job_that_is_paused_goes_on_behind_its_rows_when_it_is_resumed_also_after_a_crash() -> None:
    stand = asked_again()
    stand.read([1, 2, 3], high=210)
    (reading,) = records(stand.step(210), JobState)
    stand.step()
    (paused,) = records(ask(stand, JobOrderKind.PAUSE), JobState)
    assert (paused.status, paused.ranges) == (JobStatus.PAUSED, reading.ranges)
    assert stand.reader.given_up
    assert ask(stand, JobOrderKind.PAUSE) == [], "it is paused already"
    stand.reader.result = NotRead(stand.shard, source_is_busy=False)
    assert stand.step(220) == []
    assert stand.runner.idle

    again = Stand(pos=300)
    again.tables.load([records(stand.published, TableState)[-1]], {(BOOKS, SCHEMA.fingerprint): SCHEMA})
    again.runner.queue.load([], [paused])
    again.runner.queue.orders.append(JobOrder("asked", JobOrderKind.PAUSE, 1))
    assert again.step() == []
    assert again.runner.idle, "it stays paused"
    assert [state.status for state in records(ask(again, JobOrderKind.RESUME), JobState)] == [JobStatus.WAITING]
    again.step()
    assert again.shard.keys.after == (b"3",)
    again.read([4], high=310)
    batches = again.step(310)
    assert reads(batches) == [4]
    assert barriers(again.published) == ["end"] * PARTITIONS, "it began before"


def test_while_a_job_is_paused_the_next_one_runs() -> None:
    stand = asked_again()
    ask(stand, JobOrderKind.PAUSE)
    stand.reader.result = NotRead(stand.shard, source_is_busy=False)
    stand.runner.queue.add(JobRequest("shop", "books", "next", "command line", 5, fresh=False))
    stand.step()
    stand.looked(SCHEMA, 200)
    stand.step()
    stand.step()
    stand.read([1], high=220)
    (state,) = records(stand.step(220), JobState)
    assert (state.id, state.status) == ("next", JobStatus.DONE)
    assert barriers(stand.published) == ["begin", "begin", "end", "end", "begin", "begin"], "it isn't a whole-table job"


def test_a_tables_second_whole_job_waits_for_the_end_of_the_first_though_that_is_paused() -> None:
    stand = asked_again()
    ask(stand, JobOrderKind.PAUSE)
    stand.reader.result = NotRead(stand.shard, source_is_busy=False)
    stand.runner.queue.add(JobRequest("shop", "books", "next", "command line", 5))
    assert stand.step() == []
    assert stand.reader.task is None
    ask(stand, JobOrderKind.CANCEL)
    stand.step()
    assert isinstance(stand.reader.task, LookTask)


def test_what_was_being_read_when_a_job_was_paused_is_read_anew_when_it_is_resumed() -> None:
    stand = asked_again()
    ask(stand, JobOrderKind.PAUSE)
    ask(stand, JobOrderKind.RESUME)
    stand.read([1, 2], high=210)
    assert stand.step(210) == []
    assert stand.shard.keys.after is None
    assert len(stand.tables.all()[0].windows) == 1, "the old window is closed"


@pytest.mark.parametrize(("fresh", "barrier"), [(True, ["cancel"] * PARTITIONS), (False, [])])
def test_a_job_that_is_cancelled_ends_at_once_and_its_rows_come_no_more(fresh: bool, barrier: list[str]) -> None:  # noqa: FBT001
    stand = asked_again(fresh=fresh)
    batches = ask(stand, JobOrderKind.CANCEL)
    assert [state.status for state in records(batches, JobState)] == [JobStatus.CANCELLED]
    assert barriers(batches) == barrier
    assert stand.reader.given_up
    stand.read([1, 2, 3], high=210)
    assert stand.step(210) == []
    assert stand.runner.idle
    assert ask(stand, JobOrderKind.RESUME) == [], "it is over"
    stand.runner.queue.add(JobRequest("shop", "books", "asked", "command line", 5))
    assert stand.runner.idle, "asked twice under one name it isn't run again"


def test_a_job_can_be_cancelled_before_it_is_begun_and_while_its_table_is_looked_at() -> None:
    stand = Stand()
    stand.runner.queue.add_first_reads([BOOKS], 1)
    stand.step()
    name = next(iter(stand.runner.queue._requests))
    assert [state.status for state in records(ask(stand, JobOrderKind.CANCEL, name), JobState)] == ["cancelled"]
    stand.looked(SCHEMA, 100)
    assert stand.step() == []
    stand.runner.queue.add_first_reads([BOOKS], 2)
    assert stand.runner.idle, "nor does it come again by itself"


def test_an_order_for_a_job_that_nobody_knows_changes_nothing() -> None:
    assert ask(Stand(), JobOrderKind.PAUSE, "nobody's") == []


def test_with_so_many_rows_a_second_the_next_shard_waits() -> None:
    stand = Stand(limits=JobLimits(100, 10**9, rows_per_s=10)).begin()
    assert stand.shard.rows_max == 10, "a shard has no more than comes in a second"
    stand.read(range(10), high=200)
    stand.step(200)
    stand.now_ms += 999
    stand.step(201)
    assert stand.reader.task is None
    stand.now_ms += 1
    stand.step(202)
    assert stand.shard.keys.after == (b"9",)


def test_while_the_source_is_busy_no_shard_is_begun_for_a_second() -> None:
    stand = Stand().begin()
    stand.reader.result = NotRead(stand.shard, source_is_busy=True)
    stand.step(200)
    assert stand.reader.task is None
    assert stand.tables.all()[0].windows == [], "its window is closed"
    stand.now_ms += 1_000
    stand.step(201)
    assert stand.shard.window.pos == 201


def test_a_shard_that_took_long_is_followed_by_a_smaller_one() -> None:
    stand = Stand(limits=JobLimits(1_000, 10**9)).begin()
    task = stand.shard
    stand.read(range(task.rows_max), high=200)
    assert isinstance(stand.reader.result, ShardResult)
    stand.reader.result = replace(stand.reader.result, took_s=1.5)
    stand.step(200)
    stand.step(201)
    assert stand.shard.rows_max == task.rows_max // 2


def test_a_part_of_a_table_is_read_in_the_pieces_that_its_keys_are_cut_into() -> None:
    stand = asked_again(fresh=False, where="id > 5")
    assert stand.shard.where == "id > 5"
    stand.read([7], high=210)
    assert isinstance(stand.reader.result, ShardResult)
    stand.reader.result = replace(stand.reader.result, cuts=((b"50",), (b"100",)), rows_seen=50)
    (state,) = records(stand.step(210), JobState)
    assert (state.rows_read, state.rows_seen) == (1, 50)
    assert [KeyRange.from_dict(keys) for keys in state.ranges] == [
        KeyRange((b"50",), (b"100",)),
        KeyRange((b"100",), None),
    ]
    assert barriers(stand.published) == ["begin"] * PARTITIONS + ["end"] * PARTITIONS, "only the first read's"


def test_a_condition_that_the_source_refuses_ends_its_job_and_leaves_the_table_followed() -> None:
    stand = asked_again(fresh=False, where="nosuch > 5")
    stand.reader.result = ShardResult(stand.shard, Place(FILE, 200), UUID, None, [], refused="unknown column")
    batches = stand.step()
    assert [state.status for state in records(batches, JobState)] == [JobStatus.FAILED]
    assert records(batches, TableState) == []
    assert stand.runner.idle


def test_into_so_many_shards_as_are_asked_for_the_table_is_cut() -> None:
    stand = Stand(limits=JobLimits(1_000, 10**9)).begin()
    stand.read([], high=200)
    stand.step(200)
    stand.runner.queue.add(JobRequest("shop", "books", "asked", "command line", 5, shards=20))
    stand.step()
    assert isinstance(stand.reader.task, LookTask)
    stand.reader.result = LookResult(stand.reader.task, Place(FILE, 200), UUID, SCHEMA, rows_estimate=100)
    stand.step()
    stand.step()
    assert stand.shard.rows_max == 5


def test_a_part_that_was_paused_before_it_began_is_cut_as_it_was_asked_for_also_after_a_restart() -> None:
    stand = Stand().begin()
    stand.read([], high=200)
    stand.step(200)
    request = JobRequest("shop", "books", "asked", "command line", 5, fresh=False, where="id > 5", shards=20)
    stand.runner.queue.add(request)
    (paused,) = records(ask(stand, JobOrderKind.PAUSE), JobState)

    again = Stand(pos=300, limits=JobLimits(1_000, 10**9))
    again.tables.load([records(stand.published, TableState)[-1]], {(BOOKS, SCHEMA.fingerprint): SCHEMA})
    again.runner.queue.load([request], [paused])
    ask(again, JobOrderKind.RESUME)
    again.step()
    assert isinstance(again.reader.task, LookTask)
    again.reader.result = LookResult(again.reader.task, Place(FILE, 300), UUID, SCHEMA, rows_estimate=100)
    again.step()
    again.step()
    assert (again.shard.rows_max, again.shard.where) == (5, "id > 5")


def test_the_receipt_tells_what_was_read_and_how_late_the_stream_was() -> None:
    stand = Stand().begin()
    stand.read([1, 2, 3], high=200)
    for pos, source_ms, now_ms in ((150, 100, 103), (155, 100, 1_000), (160, 1_000, 1_040), (200, 1_100, 1_107)):
        stand.pos, stand.source_ms, stand.now_ms = pos, source_ms, now_ms
        batches = stand.step()
    (state,) = records(batches, JobState)
    assert (state.lag_ms(0.5), state.lag_ms(0.99), state.lag_max_ms) == (10, 40, 40), "no transaction was 900 late"
    images = [b'{"id":%d,"title":"title"}' % number for number in (1, 2, 3)]
    digests = [md5(image, usedforsecurity=False).digest() for image in images]
    halves = [sum(int.from_bytes(digest[half]) for digest in digests) % 2**64 for half in (slice(8), slice(8, None))]
    assert state.checksum == f"{halves[0]:016x}{halves[1]:016x}"
