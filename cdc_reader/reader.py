"""The reader: source to Kafka, always on.

Comes in: the configuration.  Goes out: events, positions, schemas and jobs in Kafka; it runs until it is told to stop (0), or
raises a refusal (3) or a loud stop (4).

One thread does it all, so that nothing needs a lock: bytes -> packets -> stream -> publisher, and between two source
transactions the jobs' steps.  What it holds in memory is as of the last committed Kafka transaction; after any failure it is
thrown away and read again from Kafka (``_Session``).  Rules R1, R3, R5 to R7.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from cdc_reader.batches import Origin
from cdc_reader.config import ReaderConfig
from cdc_reader.connection import CHUNK_BYTES, DumpConnection
from cdc_reader.errors import BrokerAway, BrokerFenced, BrokerStopped, SourceAway, SourceRefused
from cdc_reader.followed import FollowedTables, note_published
from cdc_reader.jobs import JobRunner, Moment
from cdc_reader.kafka import Log, Topics
from cdc_reader.packets import EventSplitter
from cdc_reader.plans import compile_plan
from cdc_reader.positions import Position
from cdc_reader.preflight import SourceFacts, asks_by_gtids, check_position, check_source, check_tables, source_facts
from cdc_reader.publisher import Publisher, check_fenced
from cdc_reader.running_job import JobLimits
from cdc_reader.shard_reader import ShardReader
from cdc_reader.sql import SourceSession, binlog_status
from cdc_reader.stream import Stream
from schemas.errors import StoppedError
from schemas.jobs import JobOrder, JobRecords, JobRequest, parse_job_record
from schemas.tables import TableName, TableSchema
from schemas.topics import jobs_topic, positions_topic, schemas_topic

log = logging.getLogger(__name__)

_IDLE_POSITION_S = 0.5
_REQUESTS_EVERY_S = 0.3
_STEP_EVERY_S = 0.005
_RECEIVE_IDLE_S = 0.1
_BACK_OFF_MIN_S = 0.1
_BACK_OFF_MAX_S = 5.0
_PART_TIME_S = 5.0
"""A Kafka transaction that is open for so long ends in the middle of a source transaction if need be (R3)."""
_BEHIND_MS = 500
_GATHER_S = 0.05
"""A reader that catches up commits this seldom: the server sends in bursts, and a commit for each would slow both."""
_MS = 1000


def now_ms() -> int:
    """Milliseconds since 1970, for lag only: nothing is ordered by it."""
    return int(time.time() * _MS)


def run(config: ReaderConfig) -> int:
    """Runs the reader until SIGTERM or SIGINT; 0.  Raises RefusedError (3) and StoppedError (4)."""
    reader = Reader(config)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: reader.stop())
    reader.run()
    return 0


class Reader:
    """Keeps sessions going; waits with back-off for a source or broker that is away."""

    def __init__(self, config: ReaderConfig) -> None:
        self._config = config
        self._instance = uuid.uuid4().hex
        self._stopping = threading.Event()
        self._publisher: Publisher | None = None
        self._fencings = 0

    def stop(self) -> None:
        """Ends at the next chance, with what is complete committed."""
        self._stopping.set()

    def run(self) -> None:
        """Raises RefusedError and StoppedError; returns after :meth:`stop`."""
        topics = Topics(self._config.kafka)
        self._reach_source()
        topics.reach(float("inf") if self._config.restarted else self._config.source.reach_timeout_s, self._stopping)
        failures = 0
        try:
            while not self._stopping.is_set():
                started_s = time.monotonic()
                try:
                    self._run_session(topics)
                except (SourceAway, BrokerAway) as error:
                    failures = 0 if time.monotonic() - started_s > _BACK_OFF_MAX_S * 2 else failures + 1
                    log.warning("%s; going on from the last committed position", error)
                    self._stopping.wait(min(_BACK_OFF_MAX_S, _BACK_OFF_MIN_S * 2 ** min(failures, 10)))
        finally:
            self._drop_publisher()

    def _reach_source(self) -> None:
        """The first look at the source, before anything is written; a server that isn't there is refused after a while."""
        deadline = time.monotonic() + self._config.source.reach_timeout_s
        while not self._stopping.is_set():
            try:
                with SourceSession(self._config.source.address) as session:
                    facts = source_facts(session)
                    check_source(session, facts, self._config.source)
                    check_tables(session, facts, self._config.source)
                return
            except SourceAway as error:
                if time.monotonic() > deadline and not self._config.restarted:
                    raise SourceRefused(f"{error}; start it, or mend [source] url") from error
                self._stopping.wait(0.5)

    def _run_session(self, topics: Topics) -> None:
        try:
            own_ids = topics.ensure_own()
            if self._publisher is None:
                self._publisher = Publisher(self._config.kafka, self._instance, now_ms, self._stopping)
            session = _Session(self._config, self._publisher, topics, own_ids, self._stopping)
            session.run()
        except SourceAway:
            self._abort()
            raise
        except BrokerAway:
            self._drop_publisher()
            raise
        except BrokerFenced as error:
            self._drop_publisher()
            self._fencings += 1
            check_fenced(self._config.kafka, self._instance, self._fencings)
            raise BrokerAway(str(error)) from error

    def _abort(self) -> None:
        """The source is away: the open Kafka transaction is given up, the producer and its claim are kept (R6)."""
        if self._publisher is not None:
            try:
                self._publisher.abort()
            except (BrokerAway, BrokerFenced):
                self._drop_publisher()

    def _drop_publisher(self) -> None:
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None


class _Session:
    """One dump connection from one committed position."""

    def __init__(
        self,
        config: ReaderConfig,
        publisher: Publisher,
        topics: Topics,
        own_ids: dict[str, str],
        stopping: threading.Event,
    ) -> None:
        self._config = config
        self._publisher = publisher
        self._topics = topics
        self._own_ids = own_ids
        self._stopping = stopping
        self._committed_s = time.monotonic()
        self._gathered_bytes = 0
        """Of the binlog's rows that the open Kafka transaction holds."""
        self._next_step_s = 0.0
        self._next_requests_s = 0.0

    def run(self) -> None:
        """Reads until told to stop; raises what ends a session."""
        with SourceSession(self._config.source.address) as session:
            facts = source_facts(session)
            check_source(session, facts, self._config.source)
            jobs_log = Log(self._config.kafka, jobs_topic(self._config.kafka.prefix))
            try:
                self._run(session, facts, jobs_log)
            finally:
                jobs_log.close()

    def _run(self, session: SourceSession, facts: SourceFacts, jobs_log: Log) -> None:
        kafka = self._config.kafka
        self._publisher.claim()
        tables = FollowedTables(
            self._config.source.patterns,
            kafka.prefix,
            kafka.partitions,
            partial(_is_transactional, self._config),
            lower_case=facts.lower_case,
        )
        records = _job_records(jobs_log)
        tables.load(records.tables.values(), self._schemas())
        position = self._start_position(session, facts, records)
        with self._shard_readers(facts) as shard_readers:
            self._jobs = JobRunner(
                tables,
                shard_readers,
                kafka.prefix,
                self._topics.ensure_tables,
                JobLimits(self._config.shard_rows, self._config.shard_bytes, self._config.job_rows_per_s),
            )
            self._jobs.queue.load(records.requests.values(), records.states.values())
            for order in records.orders.values():
                self._jobs.queue.orders.append(order)
            self._check_topics(tables)
            self._publisher.topic_ids = self._topic_ids()
            self._tables = tables
            self._begin_at(position, records.requests)
            new = [name for name in facts.tables if self._config.source.patterns.matches(name)]
            self._jobs.queue.add_first_reads(new, now_ms())
            # A set that was empty on a server that has transactions doesn't hold what lies before it.
            self._with_gtids = facts.gtid_mode and bool(position.gtids or not binlog_status(session).gtids)
            with_gtids = asks_by_gtids(facts, position)
            if with_gtids and position.server_uuid != facts.server_uuid:
                position = replace(position, file="", pos=0)
            position = replace(position, server_uuid=facts.server_uuid)
            connection = DumpConnection(self._config.source, position, with_gtids=with_gtids)
            try:
                self._read(connection, position, facts, jobs_log)
            finally:
                connection.close()

    @contextmanager
    def _shard_readers(self, facts: SourceFacts) -> Iterator[list[ShardReader]]:
        source = self._config.source
        with ExitStack() as stack:
            readers = []
            for _ in range(self._config.job_connections):
                reader = ShardReader(
                    source.address,
                    source.patterns,
                    facts.collations,
                    source.on_undecodable,
                    self._config.job_threads_running_max,
                )
                stack.callback(reader.close)
                readers.append(reader)
            yield readers

    # ---- the start ----

    def _schemas(self) -> dict[tuple[TableName, str], TableSchema]:
        schemas_log = Log(self._config.kafka, schemas_topic(self._config.kafka.prefix))
        try:
            found = [TableSchema.from_json(record.value) for record in schemas_log.to_end() if record.value is not None]
        finally:
            schemas_log.close()
        return {(schema.name, schema.fingerprint): schema for schema in found}

    def _topic_ids(self) -> str:
        prefix = self._config.kafka.prefix
        return " ".join(self._own_ids[topic] for topic in (positions_topic(prefix), jobs_topic(prefix)))

    def _start_position(self, session: SourceSession, facts: SourceFacts, records: JobRecords) -> Position:
        """The committed position; the source's present end for a new prefix, or where the old place is given up by name."""
        committed = self._publisher.committed
        everything = any(asked.everything and asked.id not in records.states for asked in records.requests.values())
        if not everything and committed is not None and committed.begun:
            if committed.topic_ids and committed.topic_ids != self._topic_ids():
                raise BrokerStopped(
                    "the topics __positions or __jobs are others than those that were written to: they were deleted and made "
                    "again; give up the old place and read the tables anew: rowflow snapshot --all --start-over"
                )
            check_position(session, facts, committed)
            log.info("goes on from %s", committed)
            return committed
        if not everything and records.tables:
            raise BrokerStopped(
                f"{positions_topic(self._config.kafka.prefix)} holds no position, but tables are followed: it was deleted or "
                "emptied; give up the old place and read the tables anew: rowflow snapshot --all --start-over"
            )
        status = binlog_status(session)
        log.info("begins at the source's present end, %s", status.place)
        return Position(status.place.file, status.place.pos, status.gtids if facts.gtid_mode else "", facts.server_uuid)

    def _begin_at(self, position: Position, requests: dict[str, JobRequest]) -> None:
        """The position that is begun at, with what was given up by name noted as done, and tables left out."""
        given_up = [replace(request, everything=False) for request in requests.values() if request.everything]
        records = [self._tables.job_record(request) for request in given_up] + self._tables.left_out_records()
        if records:
            self._publisher.add(records)
        if records or not self._publisher.stands_at(position):
            self._commit(position)

    def _check_topics(self, tables: FollowedTables) -> None:
        """W7: the topic of a followed table is the one that it was; its partitions are as many as configured."""
        followed = {table.topic: table for table in tables.all() if table.publishing and table.state is not None}
        ids = self._topics.ids(list(followed))
        for topic, table in followed.items():
            assert table.state is not None
            if ids.get(topic) != table.state.topic_id:
                what = "doesn't exist any more" if topic not in ids else "was deleted and made again"
                raise BrokerStopped(
                    f"topic {topic} {what}; read the table anew into it: rowflow snapshot {table.name} --start-over"
                )
        self._topics.ensure_tables(list(followed))

    # ---- the loop ----

    def _read(self, connection: DumpConnection, position: Position, facts: SourceFacts, jobs_log: Log) -> None:
        config = self._config
        self._stream = Stream(
            self._tables,
            position,
            config.kafka.prefix,
            facts.collations,
            partial(compile_plan, on_undecodable=config.source.on_undecodable),
            EventSplitter(connection.next_sequence, checksums=connection.checksums),
            with_gtids=self._with_gtids,
            part_rows=config.part_rows,
            part_bytes=config.transaction_bytes,
            publish_part=self._publish_part,
        )
        self._server_id = facts.server_id
        try:
            self._loop(connection, jobs_log)
        except StoppedError:
            self._commit_whole()
            raise
        self._commit_whole()

    def _commit_whole(self) -> None:
        """At an end: the whole transactions that are there are committed."""
        self._gather()
        if self._publisher.open:
            self._commit(self._stream.position())

    def _loop(self, connection: DumpConnection, jobs_log: Log) -> None:
        while not self._stopping.is_set():
            timeout_s = _RECEIVE_IDLE_S if self._jobs.idle else _STEP_EVERY_S
            if self._publisher.open:
                timeout_s = min(timeout_s, _GATHER_S)
            chunk = connection.receive(timeout_s)
            for _ in self._stream.feed(chunk or b"", now_ms()):
                self._transactions_done()
            self._between_chunks(jobs_log, more_waits=chunk is not None and len(chunk) == CHUNK_BYTES)
            if chunk is not None:
                connection.pause_allowed()

    def _transactions_done(self) -> None:
        self._gather()
        now_s = time.monotonic()
        if self._publisher.open and self._is_full(now_s):
            self._commit(self._stream.position())
        if now_s >= self._next_step_s and not self._stream.in_transaction:
            self._step_jobs()

    def _gather(self) -> None:
        """Puts the whole transactions that the stream holds into the Kafka transaction."""
        self._gathered_bytes += self._stream.whole_bytes
        batches = self._stream.take()
        if batches:
            note_published(self._tables, batches)
            self._publisher.add(batches)

    def _is_full(self, now_s: float) -> bool:
        """R3: by rows, by bytes or by time."""
        config, publisher = self._config, self._publisher
        return (
            publisher.rows >= config.transaction_rows
            or self._gathered_bytes >= config.transaction_bytes
            or now_s - publisher.open_since_s >= config.transaction_time_s
        )

    def _gathers(self, now_s: float) -> bool:
        """Whether nothing waits just now, but more is on its way: the last transaction is old already."""
        behind = self._stream.now_ms - self._stream.source_ms > _BEHIND_MS
        return behind and now_s - self._publisher.open_since_s < _GATHER_S

    def _publish_part(self) -> None:
        """A large transaction: what of it is decoded goes out, with the place in the middle of it (R4)."""
        batches = self._stream.take_part()
        note_published(self._tables, batches)
        self._publisher.add(batches)
        self._commit(self._stream.part_position())

    def _commit(self, position: Position) -> None:
        self._publisher.commit(position)
        self._gathered_bytes = 0
        self._committed_s = time.monotonic()

    def _between_chunks(self, jobs_log: Log, *, more_waits: bool) -> None:
        stream, publisher = self._stream, self._publisher
        now_s = time.monotonic()
        if not stream.place.file:
            # Asked for by GTIDs on a server that wasn't read before: its first event says where we are.
            return
        if stream.in_transaction:
            if publisher.open and now_s - publisher.open_since_s >= _PART_TIME_S:
                self._publish_part()
            return
        if publisher.open and (self._is_full(now_s) or not (more_waits or self._gathers(now_s))):
            self._commit(stream.position())
        elif not publisher.open and now_s - self._committed_s >= _IDLE_POSITION_S:
            committed = publisher.committed
            if committed is None or committed.place != stream.place:
                self._commit(stream.position())
        if now_s >= self._next_requests_s:
            self._next_requests_s = now_s + _REQUESTS_EVERY_S
            self._take_requests(jobs_log)
        if now_s >= self._next_step_s:
            self._step_jobs()

    def _take_requests(self, jobs_log: Log) -> None:
        for record in jobs_log.new():
            if record.value is None:
                continue
            request = parse_job_record(record.key, record.value)
            if isinstance(request, JobOrder):
                self._jobs.queue.orders.append(request)
            if isinstance(request, JobRequest):
                if request.everything:
                    request = replace(request, everything=False)
                    self._publisher.add([self._tables.job_record(request)])
                self._jobs.queue.add(request)

    def _step_jobs(self) -> None:
        """One step of the jobs, between two source transactions.

        Not before one that is published in part: a window opened there would not note the keys that it passes over.
        """
        self._next_step_s = time.monotonic() + _STEP_EVERY_S
        if self._jobs.idle or self._stream.skips:
            return
        stream = self._stream
        place = stream.place
        origin = Origin(stream.now_ms, self._server_id, "", place.file, place.pos, stream.now_ms)
        batches = self._jobs.step(Moment(stream.position(), origin, stream.source_ms))
        if batches:
            note_published(self._tables, batches)
            self._publisher.add(batches)
            self._commit(stream.position())


def _job_records(jobs_log: Log) -> JobRecords:
    records = JobRecords()
    for record in jobs_log.to_end():
        if record.value is not None:
            records.take(record.key, record.value)
    return records


def _is_transactional(config: ReaderConfig, name: TableName) -> bool:
    """Whether the table's engine has transactions; asked only where the binlog holds a ROLLBACK."""
    with SourceSession(config.source.address) as session:
        rows = session.texts(
            "SELECT E.TRANSACTIONS FROM information_schema.TABLES T JOIN information_schema.ENGINES E "
            "ON E.ENGINE = T.ENGINE WHERE T.TABLE_SCHEMA = %s AND T.TABLE_NAME = %s",
            name,
        )
    return not rows or rows[0][0] == "YES"
