"""Asking for jobs from Python: one file, to be imported or copied; it needs confluent-kafka and mysqlclient, and no other room.

Comes in: where source, Kafka and sink are.  Goes out: jobs that read tables again, their progress and receipts, and ``wait``,
after which the results hold all that the source had committed (exactness.md C1)::

    from rowflow.client import Client

    with Client.from_file("rowflow.toml") as client:
        job = client.snapshot("shop.books", where="price > 100")
        while not job.done():
            print(job.progress())
            time.sleep(1)
        print(job.receipt(), job.results)

Nothing here runs in the background; one client belongs to one thread.  Names of topics, records and columns are those of
schemas/, which a test holds them to.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import quote, unquote, urlsplit

import MySQLdb
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from MySQLdb.connections import Connection

LOOK_AGAIN_S = 0.2
ANSWER_S = 10.0
OPEN = frozenset({"waiting", "reading", "paused"})
LAG_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
_SYSTEM_DATABASES = frozenset({"mysql", "sys", "information_schema", "performance_schema"})
_TOPIC_LENGTH_MAX = 249
_NO_SUCH_TABLE = 1146
_STORED_WITHOUT_TEXT = "text not valid in its character set, stored as NULL"


class ClientError(Exception):
    """A server doesn't answer, or what was asked can't be done."""


class NotInTime(ClientError):
    """What was waited for didn't happen in time; the message says what was missing."""


class JobEnded(ClientError):
    """The job has failed or was cancelled."""


class Progress(NamedTuple):
    """How far a job is; ``rows_estimate`` (of the table) is 0 and ``eta_s`` None where nobody knows.

    ``rows_seen``: so many of them lie behind, about; with a condition more than were read.
    """

    status: str
    rows_read: int = 0
    rows_estimate: int = 0
    shards: int = 0
    rows_per_s: float = 0.0
    eta_s: float | None = None
    rows_seen: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a job has done; see the command ``snapshot --wait --json``."""

    id: str
    table: str
    results: str
    where: str
    rows_read: int
    rows_dropped: int
    rows_published: int
    rows_written: int
    dead_letters: int
    shards: int
    shards_at_a_time: int
    low: str
    high: str
    checksum: str
    lag_p50_ms: int
    lag_p99_ms: int
    lag_max_ms: int
    seconds: float
    rows_per_s: float


class Job:
    """One job of one table."""

    def __init__(self, servers: _Servers, job_id: str, table: str) -> None:
        self._servers = servers
        self.id = job_id
        self.table = table

    @property
    def results(self) -> str:
        """The table with the results, in the sink's schema; empty before a worker has begun with it."""
        return self._servers.mirror(self.table)

    def progress(self) -> Progress:
        """How far it is; ``waiting`` before a reader has begun with it."""
        state = self._servers.state(self.id)
        if state is None:
            return Progress("waiting")
        seconds = ((state["finished_ms"] or state["updated_ms"]) - state["started_ms"]) / 1000
        rate = state["rows_read"] / seconds if seconds > 0 else 0.0
        left, seen = max(0, state["rows_estimate"] - state["rows_seen"]), state["rows_seen"]
        knows = state["rows_estimate"] > 0 and seen > 0 and state["status"] in OPEN
        return Progress(
            state["status"],
            state["rows_read"],
            state["rows_estimate"],
            state["shards"],
            round(rate, 1),
            round(left / seen * seconds, 1) if knows else None,
            seen,
        )

    def done(self) -> bool:
        """Whether the results hold all its rows.  Raises JobEnded where they never will."""
        state = self._servers.state(self.id)
        if state is not None and state["status"] in {"failed", "cancelled"}:
            raise JobEnded(f"job {self.id} of {self.table}: {state['status']} {state['reason']}".strip())
        return state is not None and state["status"] == "done" and self._servers.stored(self.id, self.table) is None

    def wait(self, timeout_s: float | None = None) -> Receipt:
        """Return the receipt when it is done; raises JobEnded, NotInTime."""
        _wait_while(lambda: None if self.done() else f"job {self.id} isn't done: {self.progress()}", timeout_s)
        return self.receipt()

    def receipt(self) -> Receipt:
        """What it has done; complete, so that it may be asked for when the job is done.  Raises ClientError before."""
        state = self._servers.state(self.id)
        if state is None or not self.done():
            raise ClientError(f"job {self.id} isn't done yet: its receipt comes when the results hold its rows")
        return _receipt(state, self.results, self._servers.letters(self.table, state))

    def pause(self) -> None:
        """Read nothing more of it until it is resumed."""
        self._servers.order(self.id, "pause")

    def resume(self) -> None:
        """Go on with it."""
        self._servers.order(self.id, "resume")

    def cancel(self) -> None:
        """Give it up; what it has brought stays."""
        self._servers.order(self.id, "cancel")


class Client:
    """All servers of one pipeline."""

    def __init__(
        self,
        *,
        source_url: str,
        bootstrap_servers: str,
        prefix: str,
        sink_url: str,
        tables: Sequence[str],
        kafka_options: Mapping[str, Any] | None = None,
    ) -> None:
        """URLs are ``mysql://user:password@host:port``, the sink's with its schema; ``tables``: patterns, as in the settings.

        ``kafka_options``: as in ``[kafka.consumer]``, for brokers that want TLS or a login.
        """
        self._source_url, self._tables = source_url, tables
        self._servers = _Servers(bootstrap_servers, prefix, sink_url, kafka_options or {})

    @classmethod
    def from_file(cls, path: str | os.PathLike[str], environment: Mapping[str, str] = os.environ) -> Self:
        """From ``rowflow.toml``; variables like ROWFLOW_SOURCE__URL count before it, as they do for the commands."""
        settings = tomllib.loads(Path(path).read_text(encoding="utf-8"))

        def setting(section: str, name: str, otherwise: Any = None) -> Any:
            variable = f"ROWFLOW_{section}__{name}".upper()
            if f"{variable}_FILE" in environment:
                return Path(environment[f"{variable}_FILE"]).read_text(encoding="utf-8").rstrip("\n")
            found = environment.get(variable, settings.get(section, {}).get(name, otherwise))
            if found is None:
                raise ClientError(f"{path} has no [{section}] {name}, and {variable} isn't set")
            return found

        def address(section: str) -> str:
            url, password = str(setting(section, "url")), str(setting(section, "password", ""))
            return _with_password(url, password) if password else url

        tables = setting("source", "tables")
        return cls(
            source_url=address("source"),
            bootstrap_servers=setting("kafka", "bootstrap_servers"),
            prefix=setting("kafka", "prefix"),
            sink_url=address("sink"),
            tables=json.loads(tables) if isinstance(tables, str) else tables,
            kafka_options=settings.get("kafka", {}).get("consumer", {}),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections up."""
        self._servers.close()

    # ---- jobs ----

    def snapshot(self, table: str, *, where: str = "", shards: int = 0, job_id: str | None = None) -> Job:
        """Ask for a table (``database.table``) to be read again, whole or where an SQL expression holds.

        Asked twice under one ``job_id``, it runs once.  A reader that is down takes it when it runs again.
        """
        db, _, name = table.partition(".")
        if not _is_captured(self._tables, db, name):
            raise ClientError(f"{table} isn't captured: [source] tables are {', '.join(self._tables)}")
        stem = job_id or f"snapshot-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        request = {
            "db": db, "table": name, "id": stem, "origin": "client", "requested_ms": _now_ms(), "fresh": not where,
            "start_over": False, "everything": False, "where": where, "shards": shards,
        }  # fmt: skip
        self._servers.send(stem, "request", request)
        return Job(self._servers, stem, table)

    def job(self, job_id: str) -> Job:
        """A job that was asked for before.  Raises ClientError where nobody has."""
        records = self._servers.job_records()
        found = records.get((job_id, "state")) or records.get((job_id, "request"))
        if found is None:
            raise ClientError(f"there is no job {job_id}")
        return Job(self._servers, job_id, f"{found['db']}.{found['table']}")

    def jobs(self) -> list[Job]:
        """All jobs that were asked for and those that run by themselves."""
        ids = dict.fromkeys(job_id for job_id, kind in self._servers.job_records() if kind in {"request", "state"})
        return [self.job(job_id) for job_id in ids]

    # ---- wait ----

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when the results hold all that the source has committed by now; raises NotInTime, JobEnded."""
        with _connected(self._source_url) as source:
            place, server = _binlog_end(source)
            names = _rows(
                source, "SELECT TABLE_SCHEMA, TABLE_NAME FROM information_schema.TABLES WHERE TABLE_TYPE = 'BASE TABLE'"
            )
        captured = [f"{db}.{name}" for db, name in names if _is_captured(self._tables, db, name)]
        if not captured:
            raise ClientError("[source] tables captures no table that there is: there is nothing to wait for")

        def unread() -> str | None:
            position = self._servers.position()
            for table in captured:
                missing = self._unread_table(table)
                if missing:
                    return missing
            if position is None or position["server_uuid"] != server:
                return "the reader hasn't come to this server; is it running?"
            if _order_of(position["file"], position["pos"]) < _order_of(*place):
                return f"the reader stands at {position['file']}:{position['pos']} and hasn't come to {place[0]}:{place[1]}"
            return self._open_job(captured)

        _wait_while(unread, timeout_s)
        ends = {table: self._servers.log_ends(table) for table in captured}
        _wait_while(
            lambda: next(filter(None, (self._servers.behind(table, of) for table, of in ends.items())), None), timeout_s
        )

    def _unread_table(self, table: str) -> str | None:
        state = self._servers.job_records().get((table, "table"))
        if state is None:
            return f"the reader hasn't begun with {table}; is it running?"
        if state["status"] == "stands still":
            raise JobEnded(f"{table} stands still: {state['reason']}")
        if state["status"] != "followed" or state["look"]:
            return f"{table} isn't read in its present shape yet"
        return None

    def _open_job(self, captured: Sequence[str]) -> str | None:
        records = self._servers.job_records()
        for (job_id, kind), record in records.items():
            state = records.get((job_id, "state"))
            is_open = state["status"] in OPEN if state else kind == "request"
            if kind in {"request", "state"} and f"{record['db']}.{record['table']}" in captured and is_open:
                return f"job {job_id} isn't finished"
        return None


@dataclass(slots=True)
class _Servers:
    """What Kafka and the sink say, asked anew each time."""

    bootstrap_servers: str
    prefix: str
    sink_url: str = field(repr=False)
    kafka_options: Mapping[str, Any] = field(repr=False)
    _jobs: _Followed | None = field(default=None, repr=False)
    _positions: _Followed | None = field(default=None, repr=False)
    _stored_ends: dict[str, dict[int, int]] = field(default_factory=dict, repr=False)

    def close(self) -> None:
        for followed in filter(None, (self._jobs, self._positions)):
            followed.close()
        self._jobs = self._positions = None

    def stored(self, job_id: str, table: str) -> str | None:
        """What of a finished job the sink lacks; its last commit lies before the logs' ends as they are seen first."""
        ends = self._stored_ends.get(job_id)
        if ends is None:
            ends = self._stored_ends[job_id] = self.log_ends(table)
        return self.behind(table, ends)

    def behind(self, table: str, ends: Mapping[int, int]) -> str | None:
        topic = table_topic(self.prefix, *table.split(".", 1))
        with _connected(self.sink_url) as sink:
            rows = _rows(
                sink,
                "SELECT partition_id, next_offset FROM _rowflow_progress WHERE topic = %s",
                (topic,),
                missing_ok=True,
            )
            awaited = _rows(sink, "SELECT awaited_job FROM _rowflow_tables WHERE topic = %s", (topic,), missing_ok=True)
        stored = dict(rows)
        for partition, end in sorted(ends.items()):
            if stored.get(partition, -1) < end:
                return (
                    f"the sink's next offset of {topic} [{partition}] is {stored.get(partition)}, the log's end {end}"
                )
        return f"the mirror of {table} waits for job {awaited[0][0]}" if awaited and awaited[0][0] else None

    def mirror(self, table: str) -> str:
        topic = table_topic(self.prefix, *table.split(".", 1))
        with _connected(self.sink_url) as sink:
            rows = _rows(sink, "SELECT mirror FROM _rowflow_tables WHERE topic = %s", (topic,), missing_ok=True)
        return str(rows[0][0]) if rows else ""

    def letters(self, table: str, state: Mapping[str, Any]) -> int:
        topic = table_topic(self.prefix, *table.split(".", 1))
        first = state["first_row"]
        with _connected(self.sink_url) as sink:
            rows = _rows(
                sink,
                "SELECT COUNT(*) FROM (SELECT CONVERT(`value` USING utf8mb4) AS event FROM _rowflow_dead_letters"
                " WHERE topic = %s AND reason NOT LIKE %s) AS letters WHERE IF(JSON_VALID(event),"
                " JSON_UNQUOTE(JSON_EXTRACT(event, '$.op')) = 'r'"
                " AND CAST(JSON_UNQUOTE(JSON_EXTRACT(event, '$.source.row')) AS SIGNED) BETWEEN %s AND %s, FALSE)",
                (topic, f"{_STORED_WITHOUT_TEXT}%", first, first + state["rows_read"] - 1),
                missing_ok=True,
            )
        return int(rows[0][0]) if rows else 0

    def log_ends(self, table: str) -> dict[int, int]:
        """By partition, where its log ends, committed or not."""
        topic = table_topic(self.prefix, *table.split(".", 1))
        consumer = self._consumer("read_uncommitted")
        try:
            found = consumer.list_topics(topic, timeout=ANSWER_S).topics[topic].partitions
            places = [TopicPartition(topic, partition) for partition in found]
            ends = [(place, consumer.get_watermark_offsets(place, timeout=ANSWER_S)) for place in places]
        except KafkaException as error:
            raise ClientError(f"Kafka at {self.bootstrap_servers}: {error.args[0].str()}") from None
        finally:
            consumer.close()
        return {place.partition: offsets[1] for place, offsets in ends}

    def _consumer(self, isolation_level: str) -> Consumer:
        return Consumer(
            {
                **self.kafka_options,
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": f"rowflow-{self.prefix}-client",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "isolation.level": isolation_level,
                "fetch.wait.max.ms": 20,
                "log_level": 3,
            }
        )

    def send(self, job_id: str, kind: str, record: Mapping[str, Any]) -> None:
        producer = Producer(
            {
                **self.kafka_options,
                "bootstrap.servers": self.bootstrap_servers,
                "acks": "all",
                "enable.idempotence": True,
            }
        )
        failed: list[KafkaError] = []
        topic = f"{self.prefix}.__jobs"
        producer.produce(
            topic,
            json.dumps(record).encode(),
            job_key(job_id, kind),
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
        try:
            left = producer.flush(ANSWER_S)
        except SystemError as error:
            # confluent-kafka has a failure of the whole producer raised already when it calls ``on_delivery``.
            raise ClientError(f"{topic} at {self.bootstrap_servers}: {error.__cause__}") from None
        if left or failed:
            reason = failed[0].str() if failed else "no answer"
            raise ClientError(f"{topic} at {self.bootstrap_servers}: {reason}; has a reader run with this prefix yet?")

    def order(self, job_id: str, order: str) -> None:
        self.send(job_id, "order", {"id": job_id, "order": order, "ordered_ms": _now_ms()})

    def state(self, job_id: str) -> Mapping[str, Any] | None:
        return self.job_records().get((job_id, "state"))

    def job_records(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        """The last records of ``__jobs``, by id and kind."""
        if self._jobs is None:
            self._jobs = _Followed(self._consumer("read_committed"), f"{self.prefix}.__jobs")
        return {(key["id"], key["kind"]): record for key, record in self._jobs.records()}

    def position(self) -> Mapping[str, Any] | None:
        if self._positions is None:
            self._positions = _Followed(self._consumer("read_committed"), f"{self.prefix}.__positions", tail=1_000)
        return next((record for _, record in self._positions.records()), None)


class _Followed:
    """The last record of every key in a topic of one partition, read on with each call."""

    def __init__(self, consumer: Consumer, topic: str, tail: int | None = None) -> None:
        """``tail``: only so many of the records that are there; where each has the same key."""
        self._consumer, self._topic, self._tail = consumer, topic, tail
        self._next: int | None = None
        self._values: dict[bytes, bytes] = {}

    def records(self) -> list[tuple[Any, Mapping[str, Any]]]:
        """Keys and values; raises ClientError."""
        try:
            self._read()
        except KafkaException as error:
            raise ClientError(f"{self._topic}: {error.args[0].str()}") from None
        return [(json.loads(key), json.loads(value)) for key, value in self._values.items()]

    def _read(self) -> None:
        place = TopicPartition(self._topic, 0)
        if self._next is None:
            offsets = self._consumer.get_watermark_offsets(place, timeout=ANSWER_S)
            if offsets is None:  # type: ignore[redundant-expr, unused-ignore]  # the library's stubs don't say so
                raise ClientError(f"{self._topic}: Kafka doesn't answer within {ANSWER_S:g} s")
            begin, end = offsets
            self._next = begin if self._tail is None else max(begin, end - self._tail)
            self._consumer.assign([TopicPartition(self._topic, 0, self._next)])
        else:
            self._consumer.resume([place])
            self._consumer.seek(TopicPartition(self._topic, 0, self._next))
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            message = self._consumer.poll(ANSWER_S)
            if message is None:
                continue
            error = message.error()
            if error is None:
                self._values[message.key() or b""] = message.value() or b"null"
                self._next = (message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its only name
                self._consumer.pause([place])
                return
            elif error.code() != KafkaError._ALL_BROKERS_DOWN:  # noqa: SLF001
                raise KafkaException(error)
        raise ClientError(f"{self._topic} could not be read to its end within {ANSWER_S:g} s")

    def close(self) -> None:
        self._consumer.close()


def job_key(job_id: str, kind: str) -> bytes:
    """A key in ``__jobs``."""
    return json.dumps({"id": job_id, "kind": kind}, separators=(",", ":"), ensure_ascii=False).encode()


def table_topic(prefix: str, db: str, table: str) -> str:
    """The name of a table's topic."""
    plain = ".".join((prefix, re.sub(r"[^A-Za-z0-9_-]", "_", db), re.sub(r"[^A-Za-z0-9_-]", "_", table)))
    if plain == f"{prefix}.{db}.{table}" and len(plain) <= _TOPIC_LENGTH_MAX:
        return plain
    digest = hashlib.sha256(f"{len(db)}:{db}.{table}".encode()).hexdigest()[:12]
    return f"{plain[: _TOPIC_LENGTH_MAX - 13]}-{digest}"


def _is_captured(patterns: Iterable[str], db: str, table: str) -> bool:
    """Whether a pattern covers the table and none with ``!`` does."""
    if db.lower() in _SYSTEM_DATABASES:
        return False
    fitting = []
    for text in patterns:
        found = re.fullmatch(r"(!?)\s*(`(?:[^`]|``)+`|[^`.!][^`.]*)\.(`(?:[^`]|``)+`|[^`.!][^`.]*)", text.strip())
        if found is None:
            raise ClientError(f"{text!r} isn't a pattern of tables")
        covers = all(
            re.fullmatch(_expression(part), name, re.DOTALL) for part, name in ((found[2], db), (found[3], table))
        )
        if covers:
            fitting.append(found[1] == "!")
    return bool(fitting) and not any(fitting)


def _expression(part: str) -> str:
    if part.startswith("`"):
        return re.escape(part[1:-1].replace("``", "`"))
    return "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in part)


def _receipt(state: Mapping[str, Any], results: str, letters: int) -> Receipt:
    seconds = (state["finished_ms"] - state["started_ms"]) / 1000
    return Receipt(
        id=state["id"],
        table=f"{state['db']}.{state['table']}",
        results=results,
        where=state["where"],
        rows_read=state["rows_read"],
        rows_dropped=state["rows_dropped"],
        rows_published=state["rows_published"],
        rows_written=state["rows_published"] - letters,
        dead_letters=letters,
        shards=state["shards"],
        shards_at_a_time=state["shards_at_a_time"],
        low=state["low"],
        high=state["high"],
        checksum="".join(f"{half:016x}" for half in state["digests"]),
        lag_p50_ms=_lag_ms(state, 0.5),
        lag_p99_ms=_lag_ms(state, 0.99),
        lag_max_ms=state["lag_max_ms"],
        seconds=round(seconds, 3),
        rows_per_s=round(state["rows_read"] / seconds, 1) if seconds > 0 else 0.0,
    )


def _lag_ms(state: Mapping[str, Any], share: float) -> int:
    wanted, count, most = share * sum(state["lags"]), 0, int(state["lag_max_ms"])
    for bound_ms, here in zip(LAG_BOUNDS_MS, state["lags"], strict=False):
        count += here
        if count >= wanted:
            return min(bound_ms, most)
    return most


def _wait_while(missing: Callable[[], str | None], timeout_s: float | None) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while (reason := missing()) is not None:
        if deadline is not None and time.monotonic() >= deadline:
            raise NotInTime(f"not in time ({timeout_s:g} s): {reason}")
        time.sleep(LOOK_AGAIN_S)


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    parts = urlsplit(url)
    try:
        connection = MySQLdb.connect(
            host=parts.hostname or "",
            port=parts.port or 3306,
            user=unquote(parts.username or ""),
            passwd=unquote(parts.password or ""),
            db=unquote(parts.path.lstrip("/")),
            charset="utf8mb4",
            connect_timeout=int(ANSWER_S),
            autocommit=True,
        )
    except MySQLdb.Error as error:
        raise ClientError(f"{parts.hostname}:{parts.port or 3306} can't be reached: {error.args[-1]}") from None
    try:
        yield connection
    finally:
        connection.close()


def _rows(
    connection: Connection, statement: str, parameters: Sequence[Any] = (), *, missing_ok: bool = False
) -> list[tuple[Any, ...]]:
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, tuple(parameters) or None)
            return list(cursor.fetchall())
    except MySQLdb.Error as error:
        if missing_ok and error.args[0] == _NO_SUCH_TABLE:
            return []
        raise ClientError(str(error.args[-1])) from error


def _binlog_end(connection: Connection) -> tuple[tuple[str, int], str]:
    try:
        rows = _rows(connection, "SHOW BINARY LOG STATUS")
    except ClientError:
        rows = _rows(connection, "SHOW MASTER STATUS")
    if not rows:
        raise ClientError("the source has no binlog")
    return (rows[0][0], int(rows[0][1])), str(_rows(connection, "SELECT @@global.server_uuid")[0][0])


def _order_of(file: str, pos: int) -> tuple[int, int]:
    digits = file.rpartition(".")[2]
    return (int(digits) if digits.isdigit() else 0), pos


def _with_password(url: str, password: str) -> str:
    parts = urlsplit(url)
    host = f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)
    return parts._replace(netloc=f"{parts.username}:{quote(password, safe='')}@{host}").geturl()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
