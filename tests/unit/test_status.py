"""What `status` and `wait` make of what they see."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from cdc_reader.positions import Place, Position
from rowflow.errors import JobFailedError, StandsStillError, UnknownTableError
from rowflow.jobs import requests_for
from rowflow.kafka import LogEnds
from rowflow.receipts import receipt_of
from rowflow.source import BinlogEnd, chosen_tables
from rowflow.status import (
    SeenEnd,
    Status,
    barrier_lines,
    function_notices,
    job_line,
    job_lines,
    partition_lines,
    progress_problems,
    rates_between,
    reader_status,
)
from rowflow.status_view import rows_done, summary
from rowflow.waiting import (
    beyond_log,
    refuse_standing_still,
    unfinished_job,
    unread_place,
    unread_table,
    unstored_log,
)
from schemas.events import Barrier, BarrierKind
from schemas.jobs import JobRequest, JobState, JobStatus, TableState, TableStatus
from schemas.tables import TableName
from sink.computed import ComputedFunctions
from sink.overview import PartitionProgress, WaitingBarrier
from sink.tables import MirrorStatus
from sink.tables import TableState as MirrorState

BOOKS = TableName("shop", "books")
ORDERS = TableName("shop", "orders")
TOPIC = "bookshop.shop.books"
WHEN = datetime(2026, 11, 22, 13, 13, 30, 996000)  # noqa: DTZ001 - as the sink's column holds it, in UTC


def position(file: str, pos: int) -> Position:
    return Position(file, pos, "", "uuid", ts_ms=1_000_000)


def end(file: str, pos: int, server_uuid: str = "uuid") -> BinlogEnd:
    return BinlogEnd(Place(file, pos), server_uuid)


def table(name: TableName, status: TableStatus, reason: str = "") -> TableState:
    return TableState(name.db, name.table, status.value, "f", "id", reason)


def job(status: JobStatus, **values: Any) -> JobState:
    return JobState("shop", "books", "j", "command line", fresh=True, status=status.value, started_ms=1_000, **values)


@pytest.mark.parametrize(
    ("at", "place", "covered"),
    [
        (("binlog.000002", 500), ("binlog.000002", 500), True),
        (("binlog.000002", 499), ("binlog.000002", 500), False),
        (("binlog.000002", 500), ("binlog.000002", 60), True),
        (("binlog.000003", 4), ("binlog.000002", 500), True),
        (("binlog.000001", 9_999), ("binlog.000002", 500), False),
        # After 999999 comes 1000000, which sorts before it as a text.
        (("binlog.1000000", 4), ("binlog.999999", 500), True),
    ],
)
def test_rule_c1_places_are_compared_by_file_number(
    at: tuple[str, int], place: tuple[str, int], *, covered: bool
) -> None:
    assert (unread_place(position(*at), end(*place)) is None) is covered


def test_rule_c1_places_of_two_servers_are_not_compared() -> None:
    """After a failover the new server's file numbers may be lower: the old position is no sign that all was read."""
    failed_over = end("binlog.000002", 500, server_uuid="another")
    assert "another" in str(unread_place(position("binlog.000250", 4), failed_over))
    claim = Position("", 0, "", "")
    assert "no reader has committed a position yet" in str(unread_place(claim, end("binlog.000001", 4)))
    assert reader_status(position("binlog.000250", 4), failed_over, now_ms=1_002_500).lag_s is None


def test_rule_c1_jobs_that_were_asked_for_are_waited_for() -> None:
    asked = JobRequest("shop", "books", "j", "schema change", 1, fresh=False)
    assert "job j of shop.books" in str(unfinished_job([asked], {}, [BOOKS]))
    reading = job(JobStatus.READING)
    assert "job j of shop.books" in str(unfinished_job([reading], {"j": reading}, [BOOKS]))
    assert unfinished_job([asked], {"j": job(JobStatus.DONE)}, [BOOKS]) is None
    assert unfinished_job([asked], {"j": job(JobStatus.FAILED)}, [BOOKS]) is None
    assert unfinished_job([asked], {}, [ORDERS]) is None


def test_rule_c1_a_statement_that_was_not_looked_at_yet_is_waited_for() -> None:
    states = {BOOKS: replace(table(BOOKS, TableStatus.FOLLOWED), look="rows")}
    assert "looked" in str(unread_table(states, [BOOKS]))


def test_rule_w7_progress_of_a_topic_that_is_another_now_is_not_enough() -> None:
    ends = {(TOPIC, 0): LogEnds(0, 10, "new")}
    assert "made again" in str(unstored_log(ends, {(TOPIC, 0): PartitionProgress(1_000, 8, WHEN, "old")}))


def test_what_a_worker_would_stop_over_is_a_problem() -> None:
    tables = {TOPIC: BOOKS}
    ends = {(TOPIC, 0): LogEnds(5, 10, "id"), (TOPIC, 1): LogEnds(0, 3, "id")}

    def problems(*offsets: int, topic_id: str = "id") -> list[str]:
        rows = {(TOPIC, number): PartitionProgress(at, 1, WHEN, topic_id) for number, at in enumerate(offsets)}
        return progress_problems(tables, ends, rows)

    assert problems(5, 3) == problems(10, 0) == problems() == []
    for wrong in (problems(4, 3), problems(11, 3), problems(5, 3, topic_id="old"), progress_problems(tables, {}, {})):
        assert len(wrong) == 1
        assert "rowflow snapshot shop.books --start-over" in wrong[0]


def test_rule_c1_every_captured_tables_first_read_is_waited_for() -> None:
    states = {BOOKS: table(BOOKS, TableStatus.FOLLOWED), ORDERS: table(ORDERS, TableStatus.FIRST_READ)}
    assert "first read of shop.orders" in str(unread_table(states, [BOOKS, ORDERS]))
    assert unread_table(states, [BOOKS]) is None
    assert "shop.orders" in str(unread_table({BOOKS: states[BOOKS]}, [BOOKS, ORDERS]))


def test_rule_c1_a_table_that_stands_still_is_named_at_once() -> None:
    states = {BOOKS: table(BOOKS, TableStatus.STANDS_STILL, "a column of an unknown type; rowflow snapshot shop.books")}
    with pytest.raises(StandsStillError, match=r"shop\.books stands still: a column") as caught:
        refuse_standing_still(states, [BOOKS])
    assert caught.value.exit_code == 1
    refuse_standing_still(states, [ORDERS])


def test_rule_c1_each_partitions_progress_has_to_pass_the_logs_end() -> None:
    ends = {(TOPIC, 0): LogEnds(0, 10), (TOPIC, 1): LogEnds(0, 0)}
    there = PartitionProgress(10, 8, WHEN)
    assert unstored_log(ends, {(TOPIC, 0): there, (TOPIC, 1): PartitionProgress(0, 0, WHEN)}) is None
    assert f"{TOPIC} [1]" in str(unstored_log(ends, {(TOPIC, 0): there}))
    behind = unstored_log(ends, {(TOPIC, 0): PartitionProgress(9, 8, WHEN), (TOPIC, 1): there})
    assert "9" in str(behind)
    assert "10" in str(behind)


def test_rule_c1_progress_beyond_the_log_says_nothing_of_what_is_stored() -> None:
    ends = {(TOPIC, 0): LogEnds(0, 10, "id")}
    assert beyond_log(ends, {(TOPIC, 0): PartitionProgress(10, 8, WHEN, "id"), (TOPIC, 1): row_at(11)}) is None
    assert f"{TOPIC} [0] is 11, but the log ends at 10" in str(beyond_log(ends, {(TOPIC, 0): row_at(11)}))


def row_at(next_offset: int) -> PartitionProgress:
    return PartitionProgress(next_offset, 8, WHEN, "id")


def test_the_readers_lag_is_0_at_the_binlogs_end() -> None:
    at_end = reader_status(position("binlog.000001", 7), end("binlog.000001", 7), now_ms=9_999_999)
    assert (at_end.lag_s, at_end.committed_at) == (0.0, "1970-01-01T00:16:40.000Z")
    assert reader_status(position("binlog.000001", 7), None, now_ms=1_002_500).lag_s is None


def test_the_readers_lag_counts_from_the_sources_last_commit_that_it_has() -> None:
    ahead = end("binlog.000001", 8)
    busy = replace(position("binlog.000001", 7), source_ms=990_000)
    assert reader_status(busy, ahead, now_ms=1_000_500).lag_s == 10.5, "it commits, and is behind all the same"
    assert reader_status(position("binlog.000001", 7), ahead, now_ms=1_002_500).lag_s == 2.5


def test_an_idle_source_is_no_lag() -> None:
    """What has come after a long silence was not there a second ago."""
    idle = replace(position("binlog.000001", 7), source_ms=10_000)
    a_second_ago = SeenEnd(end("binlog.000001", 7), 1_001_500)
    assert reader_status(idle, end("binlog.000001", 8), 1_002_500, a_second_ago).lag_s == 1.0
    not_covered = SeenEnd(end("binlog.000001", 8), 1_001_500)
    assert reader_status(idle, end("binlog.000001", 8), 1_002_500, not_covered).lag_s == 992.5


def test_a_job_has_a_rate_and_an_eta_while_it_reads() -> None:
    line = job_line(job(JobStatus.READING, rows_read=500, rows_seen=500, rows_estimate=2_000, updated_ms=6_000))
    assert (line.rows_per_s, line.eta_s) == (100.0, 15.0)
    part = replace(line, rows_read=50, where="price > 100")
    assert (rows_done(line), rows_done(part)) == ("500 of ~2,000", "50 in 25% of the table")
    few = job(JobStatus.READING, rows_read=0, rows_seen=500, rows_estimate=2_000, updated_ms=6_000, where="price > 100")
    assert (job_line(few).rows_per_s, job_line(few).eta_s) == (None, 15.0), "no row fulfils its condition so far"
    done = job_line(
        job(JobStatus.DONE, rows_read=500, rows_seen=500, rows_estimate=2_000, updated_ms=6_000, finished_ms=11_000)
    )
    assert (done.rows_per_s, done.eta_s, done.finished_at) == (50.0, None, "1970-01-01T00:00:11.000Z")
    assert job_line(job(JobStatus.WAITING)).rows_per_s is None


def test_open_jobs_come_first_and_old_ones_are_left_out() -> None:
    finished = [
        JobState("shop", "books", f"old-{n}", "first read", fresh=True, status="done", started_ms=n) for n in range(9)
    ]
    shown = job_lines([*finished, job(JobStatus.READING)])
    assert [line.id for line in shown] == ["j", "old-8", "old-7", "old-6", "old-5", "old-4"]


def test_a_partition_that_the_sink_knows_nothing_of_lags_by_its_whole_log() -> None:
    ends = {(TOPIC, 0): LogEnds(5, 25), (TOPIC, 1): LogEnds(0, 7)}
    lines = partition_lines(ends, {(TOPIC, 1): PartitionProgress(7, 3, WHEN)}, {(TOPIC, 1): 2.0})
    assert [(line.next_offset, line.lag, line.rows_per_s) for line in lines] == [(None, 20, None), (7, 0, 2.0)]


def test_rates_are_between_two_looks() -> None:
    earlier = {(TOPIC, 0): PartitionProgress(1, 100, WHEN), (TOPIC, 1): PartitionProgress(1, 100, WHEN)}
    later = {(TOPIC, 0): PartitionProgress(9, 150, WHEN), (TOPIC, 1): PartitionProgress(0, 0, WHEN)}
    assert rates_between(earlier, later, 2.0) == {(TOPIC, 0): 25.0}


def test_a_barrier_names_who_waits_and_who_is_waited_for() -> None:
    barrier = Barrier("b1", BarrierKind.SCHEMA, "new", "old")
    ends = {(TOPIC, partition): LogEnds(0, 9) for partition in range(3)} | {("other", 0): LogEnds(0, 9)}
    (line,) = barrier_lines([WaitingBarrier(TOPIC, barrier, (1,), WHEN)], ends)
    assert (line.waiting_partitions, line.missing_partitions) == ([1], [0, 2])
    assert line.since == "2026-11-22T13:13:30.996Z"


def test_changed_functions_are_told_with_the_command_that_renews_the_rows() -> None:
    made = MirrorState(TOPIC, BOOKS, "books", MirrorStatus.MADE, "", "f", "old")
    current = ComputedFunctions("new", {BOOKS: ()})
    (notice,) = function_notices([made], current)
    assert "rowflow snapshot shop.books" in notice
    assert function_notices([made._replace(functions_fingerprint="new")], current) == []
    assert function_notices([made._replace(status=MirrorStatus.AWAITING)], current) == []


def test_one_line_says_where_everything_stands() -> None:
    status = Status("bookshop", lag=1_200, rows_per_s=340.0, problems=["the sink is away"])
    assert summary(status) == "no reader yet; sink 340 rows/s, 1,200 behind; 1 wrong: the sink is away"


def test_each_table_gets_a_job_of_its_own() -> None:
    def ask(tables: list[TableName]) -> list[str]:
        made = requests_for(tables, job_id="mine", now_ms=0, start_over=False, everything=False)
        assert [request.name for request in made] == tables
        return [request.id for request in made]

    assert ask([BOOKS]) == ["mine"]
    assert ask([BOOKS, ORDERS]) == ["mine-shop.books", "mine-shop.orders"]


def test_the_receipt_has_rows_shards_places_and_time() -> None:
    done = JobState(
        "shop", "books", "j", "command line", fresh=True, status="done", started_ms=1_000, shards=3, rows_read=2_000,
        rows_dropped=15, rows_published=1_985, low="binlog.000002:4", high="binlog.000002:900", finished_ms=3_500,
    )  # fmt: skip
    receipt = receipt_of(done, "books", 5)
    assert (receipt.rows_written, receipt.rows_per_s) == (1_980, 800.0)
    for part in (
        "2,000 rows read", "15 dropped", "1,985 published", "1,980 written to books, 5 dead letters", "3 shards",
        "binlog.000002:4", ":900", "2.5 s", "800 rows/s",
    ):  # fmt: skip
        assert part in receipt.line()


def test_tables_on_the_command_line_may_be_patterns() -> None:
    assert chosen_tables(("shop.*", "shop.books"), [BOOKS, ORDERS]) == [BOOKS, ORDERS]
    with pytest.raises(UnknownTableError, match=r"did you mean shop\.orders"):
        chosen_tables(("shop.order",), [BOOKS, ORDERS])


def test_failures_of_jobs_and_waits_end_with_1() -> None:
    assert JobFailedError("").exit_code == StandsStillError("").exit_code == 1
    assert UnknownTableError("").exit_code == 2
