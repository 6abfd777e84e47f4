"""Fire: writers that change the keys of one table as fast as the server commits, while a first read goes over it.

Comes in: a pipeline.  Goes out: a table in which every change of a key has a higher version than all before it, threads
that write it, and what a read under that fire published too old.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import MySQLdb

from tests.helpers import connect, connected, execute
from tests.processes import Pipeline
from tests.topics import Event

WRITERS = 8
CHANGES = 6
SHARD_ROWS = 400
"""Of a short first read under fire, so that it has many windows."""
_AT_A_TIME = 2_000
_DEADLOCK = 1213


def make_table(shop: Pipeline, rows: int) -> None:
    """A table in which every change of a key has a higher version than all before it, also behind a delete."""
    with shop.source() as source:
        execute(
            source, "CREATE TABLE fire (id INT PRIMARY KEY, version BIGINT NOT NULL, payload VARCHAR(200) NOT NULL)"
        )
        for start in range(0, rows, _AT_A_TIME):
            values = ", ".join(
                f"({number}, 0, 'row {number}')" for number in range(start, min(rows, start + _AT_A_TIME))
            )
            execute(source, f"INSERT INTO fire VALUES {values}")


class FireWriter(threading.Thread):
    """Changes keys of its own, one in :data:`WRITERS`, as fast as the server commits."""

    def __init__(self, url: str, database: str, number: int, rows: int, changes: int) -> None:
        super().__init__(name=f"fire-{number}", daemon=True)
        self._connection = connect(url, database)
        self._number, self._rows, self._changes = number, rows, changes
        self._random = random.Random(number)
        self._enough = threading.Event()
        self.commits_s: list[float] = []
        """When each transaction was committed, in seconds since 1970."""
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write until told to stop."""
        version = 0
        try:
            while not self._enough.is_set():
                version += self._changes
                self._transaction(version)
        except MySQLdb.Error as error:
            self.failure = error
        finally:
            self._connection.close()

    def _transaction(self, version: int) -> None:
        """Some changes; a deadlock, as a locking first read may make them, takes all of them back."""
        try:
            execute(self._connection, "BEGIN")
            for number in range(self._changes):
                key = self._random.randrange(self._rows // WRITERS) * WRITERS + self._number
                self._change(key, version + number)
            execute(self._connection, "COMMIT")
            self.commits_s.append(time.time())
        except MySQLdb.OperationalError as error:
            if error.args[0] != _DEADLOCK:
                raise
            execute(self._connection, "ROLLBACK")

    def _change(self, key: int, version: int) -> None:
        kind = self._random.random()
        if kind < 0.1:
            execute(self._connection, "UPDATE fire SET version = %s WHERE id = %s", (version, key))
            execute(self._connection, "DELETE FROM fire WHERE id = %s", (key,))
        else:
            execute(
                self._connection,
                "INSERT INTO fire VALUES (%s, %s, 'new') AS new ON DUPLICATE KEY UPDATE version = new.version",
                (key, version),
            )

    @property
    def written(self) -> int:
        """The changes so far."""
        return len(self.commits_s) * self._changes

    def written_between(self, begin_s: float, end_s: float) -> int:
        """The changes that were committed between two moments."""
        return sum(begin_s <= commit_s <= end_s for commit_s in self.commits_s) * self._changes

    def stop(self) -> None:
        """End; raises what ended it before."""
        self._enough.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure


@contextmanager
def under_fire(shop: Pipeline, rows: int, changes: int = CHANGES, delay_us: int = 20_000) -> Iterator[list[FireWriter]]:
    """Writers on all keys, with a group commit that takes ``delay_us``."""
    with connected(shop.addresses.source_root_url) as root:
        execute(root, "SET GLOBAL binlog_group_commit_sync_delay = %s", (delay_us,))
        writers = [
            FireWriter(shop.addresses.source_root_url, shop.database, number, rows, changes)
            for number in range(WRITERS)
        ]
        try:
            for writer in writers:
                writer.start()
            yield writers
        finally:
            for writer in writers:
                writer.stop()
            execute(root, "SET GLOBAL binlog_group_commit_sync_delay = 0")


class OlderReads:
    """Finds the ``r`` events that are older than an event of their key before them."""

    def __init__(self) -> None:
        self._newest: dict[bytes, int] = {}
        self.findings: list[str] = []

    def take(self, events: Iterable[Event]) -> list[str]:
        """Look at the next events of the topic; gives all that was found so far."""
        for event in events:
            if event.value is None or event.op in ("m", "t"):
                continue
            row = event.value["after"] or event.value["before"]
            newest = self._newest.get(event.key_bytes, -1)
            if event.op == "r" and row["version"] < newest:
                self.findings.append(f"offset {event.offset} of [{event.partition}]: r of version {row['version']}")
            self._newest[event.key_bytes] = max(newest, row["version"] + (event.op == "d"))
        return self.findings
