"""Asking for jobs, and following them to their receipts.

Comes in: tables.  Goes out: requests in ``<prefix>.__jobs``, one job per table; what the reader writes of them there.

Guarantees: where the old place is given up by name, the sink's progress is moved before the request is sent, so that no
worker goes on from the old place into the new topic.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime

from rowflow.errors import JobFailedError, NoReaderError
from rowflow.feed import Feed
from rowflow.pipeline import Pipeline
from schemas.errors import SettingError
from schemas.jobs import JobOrder, JobOrderKind, JobRequest, JobStatus
from schemas.patterns import near_names
from schemas.tables import TableName
from schemas.topics import jobs_topic, table_topic
from sink import overview, progress
from sink.config import SinkConfig
from sink.progress import LogRange, TopicFacts
from sink.tables import MirrorStatus


def requests_for(
    tables: Sequence[TableName],
    *,
    job_id: str | None,
    now_ms: int,
    start_over: bool,
    everything: bool,
    where: str = "",
    shards: int = 0,
) -> list[JobRequest]:
    """One request per table.  ``job_id`` names the job; of several jobs, each has its table's name behind it."""
    stem = job_id or f"snapshot-{datetime.fromtimestamp(now_ms / 1000, UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    return [
        JobRequest(
            db=name.db,
            table=name.table,
            id=stem if len(tables) == 1 else f"{stem}-{name}",
            origin="command line",
            requested_ms=now_ms,
            fresh=not where,
            start_over=start_over,
            everything=everything,
            where=where,
            shards=shards,
        )
        for name in tables
    ]


def send_orders(pipeline: Pipeline, jobs: Sequence[str], kind: JobOrderKind, now_ms: int) -> None:
    """Tell the reader, which may run now or later, what is to become of jobs."""
    orders = [JobOrder(job_id, kind.value, now_ms) for job_id in jobs]
    pipeline.kafka.send(jobs_topic(pipeline.prefix), [(order.key(), order.to_json()) for order in orders])


def jobs_called(feed: Feed, text: str) -> list[str]:
    """The ids of the jobs that were asked for under a name: one, or one for each table.  Raises SettingError."""
    known = dict.fromkeys([*feed.requests, *feed.jobs])
    found = [text] if text in known else [job_id for job_id in known if job_id.startswith(f"{text}-")]
    if not found:
        near = near_names(text, list(known))
        raise SettingError(
            f"there is no job {text}" + (f"; did you mean {near[0]}?" if near else ": `rowflow jobs` lists them")
        )
    return found


def not_begun(feed: Feed) -> list[JobRequest]:
    """What was asked for and the reader hasn't begun with."""
    return [request for request in feed.requests.values() if request.id not in feed.jobs]


def refuse_without_reader(pipeline: Pipeline) -> None:
    """Raise NoReaderError where no reader has made the topic for requests yet."""
    topic = jobs_topic(pipeline.prefix)
    if topic not in pipeline.kafka.shapes([topic]):
        raise NoReaderError(
            f"there is no topic {topic}: no reader has run with this prefix yet. Start `rowflow up` first"
        )


def send_requests(pipeline: Pipeline, requests: Sequence[JobRequest]) -> None:
    """Hand the requests to the reader, which may run now or later."""
    pipeline.kafka.send(jobs_topic(pipeline.prefix), [(request.key(), request.to_json()) for request in requests])


def refuse_used_ids(pipeline: Pipeline, requests: Sequence[JobRequest]) -> None:
    """Raise SettingError where a job of that id was asked for before: it would not run again, and the sink would wait."""
    pipeline.feed.refresh()
    for request in requests:
        if request.id in pipeline.feed.jobs or request.id in pipeline.feed.requests:
            raise SettingError(f"a job {request.id} was asked for before and runs once: take another --id")


def give_up_old_places(pipeline: Pipeline, config: SinkConfig, requests: Sequence[JobRequest]) -> None:
    """Move the sink's progress of the requests' tables to the ends of their topics as they are now.

    Each table's request lies in the sink's outbox then, in case that this process doesn't live to send it.
    """
    topics = {request.name: table_topic(config.prefix, request.name) for request in requests}
    logs = pipeline.kafka.log_ends(topics.values())
    with pipeline.sink.lend() as session:
        progress.prepare_tables(session)
        for request in requests:
            topic = topics[request.name]
            of_topic = {partition: log for (of, partition), log in logs.items() if of == topic}
            facts = TopicFacts(
                topic=topic,
                topic_id=next((log.topic_id for log in of_topic.values()), ""),
                table=request.name,
                logs={partition: LogRange(log.begin, log.end) for partition, log in of_topic.items()},
            )
            progress.start_over(session, config, facts, request)


def take_failed_ones_places(pipeline: Pipeline, requests: Sequence[JobRequest]) -> None:
    """Let mirrors that wait for a job which failed before its begin barrier wait for these jobs."""
    pipeline.feed.refresh()
    failed = {
        job.id
        for job in pipeline.feed.jobs.values()
        if job.status in {JobStatus.FAILED, JobStatus.CANCELLED} and job.fresh and not job.begun
    }
    with pipeline.sink.lend() as session:
        states = {state.table: state for state in overview.tables(session)}
        for request in requests:
            state = states.get(request.name)
            if state is not None and state.status is MirrorStatus.AWAITING and state.awaited_job in failed:
                progress.await_instead(session, state.topic, state.awaited_job, request)


def unfinished(feed: Feed, requests: Sequence[JobRequest]) -> list[JobRequest]:
    """The requests whose jobs aren't done.  Raises JobFailedError for one that has failed or was cancelled."""
    left = []
    for request in requests:
        state = feed.jobs.get(request.id)
        if state is not None and state.status == JobStatus.FAILED:
            raise JobFailedError(f"job {request.id} of {request.name} failed: {state.reason}")
        if state is not None and state.status == JobStatus.CANCELLED:
            raise JobFailedError(f"job {request.id} of {request.name} was cancelled")
        if state is None or state.open:
            left.append(request)
    return left
