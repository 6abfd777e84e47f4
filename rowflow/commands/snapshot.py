"""`rowflow snapshot`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Self

import click
import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rowflow.configs import sink_config
from rowflow.feed import Feed
from rowflow.jobs import (
    give_up_old_places,
    refuse_used_ids,
    refuse_without_reader,
    requests_for,
    send_requests,
    take_failed_ones_places,
    unfinished,
)
from rowflow.options import settings_command
from rowflow.pipeline import Pipeline, pipeline_of
from rowflow.receipts import receipt
from rowflow.settings import Settings
from rowflow.source import chosen_tables
from rowflow.status import JobLine, job_line
from rowflow.status_view import rows_done
from rowflow.waiting import Deadline, wait_for_logs, wait_while
from schemas.errors import SettingError
from schemas.jobs import JobRequest
from schemas.tables import TableName

LINE_EVERY_S = 10.0
JSON_EVERY_S = 1.0
JOB_ID_LENGTH_MAX = 100
"""With a table's name behind it, it is a part of a barrier's id, for which the sink has 320 characters."""


@settings_command("snapshot", "source", "kafka", "sink", example="rowflow snapshot --all --wait")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option("--all", "everything", is_flag=True, help="All captured tables.")
@click.option("--start-over", is_flag=True, help="Give up the old place: what can't be gone on from is passed over.")
@click.option("--where", metavar="EXPRESSION", help="Only rows for which this SQL expression holds.")
@click.option(
    "--shards",
    type=click.IntRange(min=1),
    metavar="N",
    help="Cut each table into about N shards, by the server's estimate of its rows; else they are as large as is good.",
)
@click.option("--yes", is_flag=True, help="Don't ask before starting over.")
@click.option("--id", "job_id", metavar="ID", help="The job's name; asked twice under one name, it runs once.")
@click.option("--wait", "with_wait", is_flag=True, help="Return when the sink holds the rows; prints the receipt.")
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON: progress, and at the end the receipts.")
def snapshot(
    settings: Settings,
    tables: tuple[str, ...],
    *,
    everything: bool,
    start_over: bool,
    where: str | None,
    shards: int | None,
    yes: bool,
    job_id: str | None,
    with_wait: bool,
    as_json: bool,
) -> int:
    """Read captured tables again, whole or in part, while streaming goes on.

    TABLE is database.table, where * and ? stand for any characters. When a whole table was read, its mirror is equal to
    it, whatever it was before. `rowflow jobs` shows the jobs, and pauses, resumes and cancels them.
    """
    if bool(tables) == everything:
        raise SettingError("name tables, like `rowflow snapshot shop.books`, or give --all")
    if where is not None:
        if start_over:
            raise SettingError("--start-over reads whole tables: leave out --where")
        _check_condition(where)
    with pipeline_of(settings) as pipeline:
        captured = pipeline.source.captured_tables()
        chosen = captured if everything else chosen_tables(tables, captured)
        if not chosen:
            raise SettingError("[source] tables captures no table that there is")
        refuse_without_reader(pipeline)
        if job_id is not None and len(job_id) > JOB_ID_LENGTH_MAX:
            raise SettingError(f"--id may have {JOB_ID_LENGTH_MAX} characters at most")
        for name in chosen if where is not None else ():
            pipeline.source.check_condition(name, where or "")
        if start_over and not yes:
            _ask(chosen, everything=everything)
        requests = requests_for(
            chosen,
            job_id=job_id,
            now_ms=time.time_ns() // 1_000_000,
            start_over=start_over,
            everything=everything and start_over,
            where=where or "",
            shards=shards or 0,
        )
        if start_over:
            refuse_used_ids(pipeline, requests)
            give_up_old_places(pipeline, sink_config(settings), requests)
        elif where is None:
            take_failed_ones_places(pipeline, requests)
        send_requests(pipeline, requests)
        for request in requests:
            if as_json:
                click.echo(orjson.dumps({"asked": request.id, "table": str(request.name)}))
            else:
                click.echo(f"asked for {request.name} (job {request.id})")
        return _wait(pipeline, requests, as_json=as_json) if with_wait else 0


def _check_condition(where: str) -> None:
    """Raise SettingError where it isn't one expression.  Imported here: the library takes longer to load than all else."""
    from cdc_reader.condition import check_condition  # noqa: PLC0415

    check_condition(where)


def _ask(tables: Sequence[TableName], *, everything: bool) -> None:
    """Ask before the old place is given up; raises click.Abort where the answer isn't yes."""
    names = ", ".join(map(str, tables))
    position = "The reader's position goes to the source's present end. " if everything else ""
    click.confirm(
        f"{position}What the sink hasn't stored of the topics of {names} is passed over, and the tables are read whole."
        " Start over?",
        abort=True,
    )


def _wait(pipeline: Pipeline, requests: Sequence[JobRequest], *, as_json: bool) -> int:
    """Follow the jobs to their ends, then the rows into the sink; prints the receipts; gives the exit code."""
    feed, forever = pipeline.feed, Deadline.within(None)
    try:
        with _Bars(Console(), requests, as_json=as_json) as bars:

            def missing() -> str | None:
                feed.refresh()
                left = unfinished(feed, requests)
                bars.show(feed)
                return f"job {left[0].id} isn't done" if left else None

            wait_while(missing, forever)
        wait_for_logs(pipeline, [request.name for request in requests], forever)
    except KeyboardInterrupt:
        click.echo("\nthe jobs go on without this command: `rowflow jobs` shows them", err=True)
        return 1
    for request in requests:
        found = receipt(pipeline, feed.jobs[request.id])
        click.echo(orjson.dumps({"receipt": asdict(found)}) if as_json else found.line())
    return 0


class _Bars:
    """A bar per job on a terminal; elsewhere a line per job every ten seconds, as JSON every second."""

    def __init__(self, console: Console, requests: Sequence[JobRequest], *, as_json: bool) -> None:
        self._as_json = as_json
        self._terminal = console.is_terminal and not as_json
        self._said_s = time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
        )
        self._bars = {
            request.id: self._progress.add_task(str(request.name), total=None, rate="waits for the reader")
            for request in requests
        }

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, feed: Feed) -> None:
        """Show how far the jobs are."""
        lines = [job_line(feed.jobs[job_id]) for job_id in self._bars if job_id in feed.jobs]
        for line in lines:
            self._progress.update(
                self._bars[line.id],
                completed=line.rows_read if line.finished_at else line.rows_seen,
                total=_total(line),
                rate=f"{line.shards:,} shards, {line.rows_per_s or 0:,.0f} rows/s",
            )
        every_s = JSON_EVERY_S if self._as_json else LINE_EVERY_S
        if not self._terminal and time.monotonic() - self._said_s >= every_s:
            self._said_s = time.monotonic()
            for line in lines:
                if self._as_json:
                    click.echo(orjson.dumps({"progress": asdict(line)}))
                else:
                    click.echo(_progress_line(line))


def _total(line: JobLine) -> int | None:
    """How many rows lie before a job, about, or how many it has read; None where nobody knows."""
    if line.finished_at:
        return line.rows_read
    return max(line.rows_estimate, line.rows_seen) if line.rows_estimate else None


def _progress_line(line: JobLine) -> str:
    eta = f", {line.eta_s:,.0f} s left" if line.eta_s is not None else ""
    rate = f"{line.shards:,} shards, {line.rows_per_s or 0:,.0f} rows/s"
    return f"{line.table}: {line.status}, rows: {rows_done(line)}, {rate}{eta}"
