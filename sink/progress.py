"""Progress: the next offset of every partition, kept where the results are.

Comes in: a session, and what Kafka says of a topic (its id, where its logs begin and end).  Goes out: rows of
``_rowflow_progress`` and of the tables beside it, all made here.

Guarantees: an offset moves only by :func:`advance`, a compare-and-set inside the slice's own transaction (exactness.md
W1), by the first insertion (W6), and by :func:`start_over`.  A topic of another id under the same name is a loud stop
(W7).  Nothing here begins or ends a transaction but :func:`prepare_tables`, :func:`ensure` and :func:`start_over`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from schemas.jobs import JobRequest
from schemas.tables import TableName
from sink.config import SinkConfig
from sink.errors import LockConflict, SinkRefused, SinkStopped
from sink.locks import topic_lock
from sink.sql import Session

LOCK_WAIT_S = 20

# InnoDB whatever the server's default is: in an engine without transactions an offset would stay when its rows don't.
# The ids of jobs and barriers hold names of tables, in any characters.
_TABLES = {
    "_rowflow_sink": """
        one TINYINT NOT NULL PRIMARY KEY,
        id CHAR(8) CHARACTER SET ascii COLLATE ascii_bin NOT NULL""",
    "_rowflow_progress": """
        topic VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        partition_id INT NOT NULL,
        next_offset BIGINT NOT NULL,
        topic_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        records BIGINT NOT NULL DEFAULT 0 COMMENT 'handled so far, tombstones included',
        changed_at DATETIME(3) NOT NULL COMMENT 'UTC',
        PRIMARY KEY (topic, partition_id)""",
    "_rowflow_tables": """
        topic VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,
        db VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        table_name VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        mirror VARCHAR(64) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        status VARCHAR(16) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'new, awaiting or made',
        awaited_job VARCHAR(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
        fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
        functions_fingerprint VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',
        noting_job VARCHAR(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT ''""",
    "_rowflow_requests": """
        id VARCHAR(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL PRIMARY KEY,
        topic VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        record LONGBLOB NOT NULL COMMENT 'a job request, on its way to Kafka',
        sent TINYINT NOT NULL DEFAULT 0""",
    "_rowflow_barriers": """
        topic VARCHAR(249) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
        barrier_id VARCHAR(320) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
        partition_id INT NOT NULL,
        barrier BLOB NOT NULL COMMENT 'the field barrier of the event, JSON',
        entered_at DATETIME(3) NOT NULL COMMENT 'UTC',
        done TINYINT NOT NULL DEFAULT 0,
        PRIMARY KEY (topic, barrier_id, partition_id)""",
}
"""By their names, what is in their brackets."""
BOOKKEEPING = tuple(_TABLES)
"""The tables that are made here."""


class LogRange(NamedTuple):
    """A partition's log in Kafka: the offset of its first record and the one behind its last."""

    begin: int
    end: int


class Progress(NamedTuple):
    """Where a partition stands; ``open_barrier``: the id of the barrier that it waits at, or None."""

    next_offset: int
    topic_id: str
    open_barrier: str | None


class PendingRequest(NamedTuple):
    """A job request that is to be sent to ``<prefix>.__jobs``: the record's key and value."""

    id: str
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What Kafka says of a captured table's topic; ``logs``: by partition, all of them."""

    topic: str
    topic_id: str
    table: TableName
    logs: Mapping[int, LogRange]


def prepare_tables(session: Session) -> str:
    """Make the bookkeeping tables where they are missing; returns the sink's id, made once."""
    for name, columns in _TABLES.items():
        session.execute(f"CREATE TABLE IF NOT EXISTS {name} ({columns}) ENGINE=InnoDB")
    session.execute(
        "INSERT INTO _rowflow_sink (one, id) VALUES (1, %s) ON DUPLICATE KEY UPDATE one = 1", (secrets.token_hex(4),)
    )
    return sink_id(session)


def sink_id(session: Session) -> str:
    """The id that tells this sink from all others: the consumer group is ``rowflow-<prefix>-<id>``."""
    return str(session.fetch("SELECT id FROM _rowflow_sink WHERE one = 1")[0][0])


def consumer_group(prefix: str, sink: str) -> str:
    """The name of the group whose committed offsets show this sink's progress to Kafka's tools."""
    return f"rowflow-{prefix}-{sink}"


def advance(session: Session, topic: str, partition: int, start: int, end: int, *, records: int) -> bool:
    """Move a partition from ``start`` to ``end``, if it stands there; the first statement of a slice's transaction.

    False: it doesn't stand there (a replay, or another worker has it); the caller rolls back, drops the slice and seeks.
    """
    if end <= start:
        raise ValueError(f"{topic} [{partition}]: no progress from {start} to {end}")
    return (
        session.execute(
            "UPDATE _rowflow_progress SET next_offset = %s, records = records + %s, changed_at = UTC_TIMESTAMP(3)"
            " WHERE topic = %s AND partition_id = %s AND next_offset = %s",
            (end, records, topic, partition, start),
        )
        == 1
    )


def read(session: Session, topic: str, partition: int) -> Progress | None:
    """Where a partition stands; None: it has no row yet."""
    rows = session.fetch(
        "SELECT next_offset, topic_id, (SELECT MAX(barrier_id) FROM _rowflow_barriers b"
        " WHERE b.topic = p.topic AND b.partition_id = p.partition_id AND b.done = 0)"
        " FROM _rowflow_progress p WHERE topic = %s AND partition_id = %s",
        (topic, partition),
    )
    return Progress(*rows[0]) if rows else None


def ensure(session: Session, config: SinkConfig, facts: TopicFacts, now_ms: int) -> Mapping[int, int]:
    """Insert the rows of a topic's partitions where there are none (W6), else hold them against Kafka's facts.

    Returns, by partition, the offsets that lie behind their logs' ends.  That alone is no fault: other workers may have
    gone on since the ends were asked for.  To be held, by :func:`hold_against_ends`, against ends asked for from now on.

    Where every log begins at 0, so does the progress.  Else it begins at the logs' ends, and a request for a whole-table
    job goes into the outbox in the same transaction; what lies before that job's first barrier is passed over.
    """
    with _locked(session, facts.topic), _transaction(session):
        known = {
            partition: Progress(next_offset, topic_id, None)
            for partition, next_offset, topic_id in session.fetch(
                "SELECT partition_id, next_offset, topic_id FROM _rowflow_progress WHERE topic = %s", (facts.topic,)
            )
        }
        if known:
            _hold_against(facts, known)
            return {
                partition: row.next_offset
                for partition, row in known.items()
                if row.next_offset > facts.logs[partition].end
            }
        _refuse_shared_mirror(session, config, facts)
        awaited = ""
        if any(log.begin > 0 for log in facts.logs.values()):
            awaited = _request_job(session, facts, now_ms)
        offsets = {partition: log.end if awaited else 0 for partition, log in facts.logs.items()}
        _place(session, config, facts, offsets, awaited)
        return {}


def hold_against_ends(facts: TopicFacts, offsets: Mapping[int, int]) -> None:
    """Raise if a log ends before an offset, by partition, that the sink held before ``facts`` were asked for."""
    for partition, offset in sorted(offsets.items()):
        log = facts.logs.get(partition, LogRange(0, 0))
        if offset > log.end:
            raise BehindTheLogEnd(str(outside_the_log(facts.topic, partition, offset, log, facts.table)))


def start_over(session: Session, config: SinkConfig, facts: TopicFacts, request: JobRequest) -> None:
    """Give up the old place by name: progress at the logs' ends, the topic's present id, waiting for the job.

    Its request goes into the outbox in the same transaction: whoever dies now, a worker sends it.
    """
    with _locked(session, facts.topic), _transaction(session):
        _refuse_shared_mirror(session, config, facts)
        session.execute("DELETE FROM _rowflow_progress WHERE topic = %s", (facts.topic,))
        session.execute("DELETE FROM _rowflow_barriers WHERE topic = %s AND done = 0", (facts.topic,))
        _place(session, config, facts, {partition: log.end for partition, log in facts.logs.items()}, request.id)
        _put_into_outbox(session, facts.topic, request)


def await_instead(session: Session, topic: str, failed_job: str, request: JobRequest) -> bool:
    """Wait for another job than the one that failed before its begin barrier; False: that one isn't waited for.

    With the barrier published it must not be called: partitions may stand at it and wait for the others.
    """
    with _locked(session, topic), _transaction(session):
        waits = session.execute(
            "UPDATE _rowflow_tables SET awaited_job = %s WHERE topic = %s AND status = 'awaiting' AND awaited_job = %s",
            (request.id, topic, failed_job),
        )
        if waits:
            _put_into_outbox(session, topic, request)
        return bool(waits)


def pending_requests(session: Session) -> list[PendingRequest]:
    """The outbox: requests that were not sent yet and that nobody else is sending; locked to the transaction's end."""
    rows = session.fetch("SELECT id, record FROM _rowflow_requests WHERE sent = 0 ORDER BY id FOR UPDATE SKIP LOCKED")
    return [PendingRequest(job_id, JobRequest.from_json(record).key(), record) for job_id, record in rows]


def mark_sent(session: Session, request: PendingRequest) -> None:
    """Take a request out of the outbox, once Kafka has it; sent twice, it still runs once."""
    session.execute("UPDATE _rowflow_requests SET sent = 1 WHERE id = %s", (request.id,))


def _place(
    session: Session, config: SinkConfig, facts: TopicFacts, offsets: Mapping[int, int], awaited_job: str
) -> None:
    """Write progress rows and the table's row."""
    for partition, offset in sorted(offsets.items()):
        session.execute(
            "INSERT INTO _rowflow_progress (topic, partition_id, next_offset, topic_id, changed_at)"
            " VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(3))",
            (facts.topic, partition, offset, facts.topic_id),
        )
    session.execute("DELETE FROM _rowflow_tables WHERE topic = %s", (facts.topic,))
    session.execute(
        "INSERT INTO _rowflow_tables (topic, db, table_name, mirror, status, awaited_job) VALUES (%s, %s, %s, %s, %s, %s)",
        (
            facts.topic,
            facts.table.db,
            facts.table.table,
            config.mirror_name(facts.table),
            "awaiting" if awaited_job else "new",
            awaited_job,
        ),
    )


def _request_job(session: Session, facts: TopicFacts, now_ms: int) -> str:
    """Put a request for a whole-table job into the outbox; returns its id, which names the sink and the topic."""
    job_id = f"sink-{sink_id(session)}-{facts.topic}"
    asked_before = session.fetch("SELECT COUNT(*) FROM _rowflow_requests WHERE topic = %s", (facts.topic,))[0][0]
    if asked_before:
        job_id += f"-{asked_before + 1}"
    request = JobRequest(
        db=facts.table.db, table=facts.table.table, id=job_id, origin="sink", requested_ms=now_ms, fresh=True
    )
    _put_into_outbox(session, facts.topic, request)
    return job_id


def _put_into_outbox(session: Session, topic: str, request: JobRequest) -> None:
    session.execute(
        "INSERT INTO _rowflow_requests (id, topic, record) VALUES (%s, %s, %s)",
        (request.id, topic, request.to_json()),
    )


def _hold_against(facts: TopicFacts, known: Mapping[int, Progress]) -> None:
    """Stop where the rows don't belong to the topic that Kafka has now (W6, W7, and a changed partition count)."""
    way_on = f"rowflow snapshot {facts.table} --start-over"
    for partition, row in sorted(known.items()):
        if row.topic_id != facts.topic_id:
            raise foreign_topic(facts, row.topic_id)
        log = facts.logs.get(partition)
        if log is not None and row.next_offset < log.begin:
            raise outside_the_log(facts.topic, partition, row.next_offset, log, facts.table)
    if set(known) != set(facts.logs):
        raise SinkRefused(
            f"topic {facts.topic} has {len(facts.logs)} partitions, the sink knows {len(known)}: keys would move to"
            f" other partitions.  Delete the topic, let Rowflow make it again, then: {way_on}"
        )


class BehindTheLogEnd(SinkStopped):
    """The progress is behind the log's end.  A broker that has just become the leader may say too small an end."""


def foreign_topic(facts: TopicFacts, known_topic_id: str) -> SinkStopped:
    """The loud stop of a topic that isn't the one that the progress belongs to (W7)."""
    return SinkStopped(
        f"topic {facts.topic} was deleted and made again: its id is {facts.topic_id}, the sink's progress belongs to"
        f" {known_topic_id}; what lay between is unknown.  Give the old place up: rowflow snapshot {facts.table} --start-over"
    )


def outside_the_log(topic: str, partition: int, offset: int, log: LogRange, table: TableName) -> SinkStopped:
    """The loud stop of an offset that the log doesn't hold (W2)."""
    return SinkStopped(
        f"topic {topic} [{partition}]: the next offset is {offset}, but the log holds {log.begin} to {log.end};"
        f" what lies between is lost to the sink.  Read the table whole: rowflow snapshot {table} --start-over"
    )


def _refuse_shared_mirror(session: Session, config: SinkConfig, facts: TopicFacts) -> None:
    """Two captured tables never share a mirror; letter case doesn't tell them apart on every server."""
    mirror = config.mirror_name(facts.table)
    if mirror.lower().startswith("_rowflow_"):
        raise SinkRefused(f"the mirror of {facts.table} would be named {mirror}: such names are Rowflow's own")
    for db, table in session.fetch(
        "SELECT db, table_name FROM _rowflow_tables WHERE LOWER(mirror) = LOWER(%s) AND topic <> %s",
        (mirror, facts.topic),
    ):
        raise SinkRefused(
            f'{db}.{table} and {facts.table} would share the mirror {mirror}: set [sink] table_name = "{{db}}_{{table}}"'
        )


@contextmanager
def _locked(session: Session, topic: str) -> Iterator[None]:
    """Hold the lock of this sink and topic, on this very connection; raises LockConflict where it isn't given."""
    with topic_lock(session, topic, LOCK_WAIT_S) as given:
        if not given:
            raise LockConflict(f"the lock on topic {topic} in the sink was not given within {LOCK_WAIT_S} s")
        yield


@contextmanager
def _transaction(session: Session) -> Iterator[None]:
    session.begin()
    try:
        yield
        session.commit()
    finally:
        session.rollback()
