"""`rowflow jobs`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import click
import orjson
from rich.console import Console

from rowflow.errors import NotInTimeError
from rowflow.jobs import jobs_called, not_begun, refuse_without_reader, send_orders
from rowflow.options import settings_command
from rowflow.pipeline import Pipeline, pipeline_of
from rowflow.settings import Settings
from rowflow.status import asked_line, job_lines
from rowflow.status_view import jobs_table
from rowflow.waiting import Deadline, wait_while
from schemas.errors import SettingError
from schemas.jobs import JobOrderKind, JobStatus

_TAKEN_S = 5.0
"""A reader that runs takes an order within a second."""
_OBEYING = {
    JobOrderKind.PAUSE: {JobStatus.PAUSED},
    JobOrderKind.RESUME: {JobStatus.WAITING, JobStatus.READING},
    JobOrderKind.CANCEL: set[JobStatus](),
}
"""What an open job is that has done as it was told; one that was cancelled isn't open."""


@settings_command("jobs", "source", "kafka", "sink", example="rowflow jobs")
@click.argument("order", required=False, type=click.Choice([kind.value for kind in JobOrderKind]))
@click.argument("names", nargs=-1, metavar="[ID]...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per job.")
def jobs(settings: Settings, order: str | None, names: tuple[str, ...], *, as_json: bool) -> int:
    """List the jobs that read tables, or pause, resume or cancel some: `rowflow jobs pause ID`.

    A job that was asked for of several tables goes by its common name too. What is paused stays so, also when the reader
    is started again.
    """
    if order is not None and not names:
        raise SettingError(f"name a job, like `rowflow jobs {order} ID`; `rowflow jobs` lists them")
    with pipeline_of(settings) as pipeline:
        refuse_without_reader(pipeline)
        pipeline.feed.refresh()
        if order is None:
            _show(pipeline, as_json=as_json)
            return 0
        chosen = list(dict.fromkeys(job_id for name in names for job_id in jobs_called(pipeline.feed, name)))
        return _order(pipeline, chosen, JobOrderKind(order))


def _show(pipeline: Pipeline, *, as_json: bool) -> None:
    lines = [*map(asked_line, not_begun(pipeline.feed)), *job_lines(pipeline.feed.jobs.values())]
    if as_json:
        for line in lines:
            click.echo(orjson.dumps(asdict(line)))
    elif lines:
        Console(highlight=False, soft_wrap=True).print(jobs_table(lines))
    else:
        click.echo("no job was asked for yet: `rowflow snapshot TABLE` does")


def _order(pipeline: Pipeline, chosen: Sequence[str], kind: JobOrderKind) -> int:
    """Tell the reader, and wait a moment until it has done so; gives the exit code."""
    feed = pipeline.feed
    over = [job_id for job_id in chosen if job_id in feed.jobs and not feed.jobs[job_id].open]
    told = [job_id for job_id in chosen if job_id not in over]
    for job_id in over:
        click.echo(f"job {job_id} is {feed.jobs[job_id].status} already")
    if not told:
        return 0
    send_orders(pipeline, told, kind, time.time_ns() // 1_000_000)

    def missing() -> str | None:
        feed.refresh()
        states = [feed.jobs.get(job_id) for job_id in told]
        waiting = [state for state in states if state is None or (state.open and state.status not in _OBEYING[kind])]
        return "the reader hasn't taken it" if waiting else None

    try:
        wait_while(missing, Deadline.within(_TAKEN_S))
    except NotInTimeError:
        click.echo(f"asked to {kind.value} {', '.join(told)}: the reader does when it runs again")
        return 0
    for job_id in told:
        click.echo(f"job {job_id} is {feed.jobs[job_id].status}")
    return 0
