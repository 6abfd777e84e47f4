"""Books for measuring: 14 columns with JSON, decimals and text of several scripts; tables of any size, and steady writes.

In: a connection to the database, a table like `shop.books`.  Out: rows; the same numbers give the same books in every run.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date

from MySQLdb.connections import Connection
from rich.progress import track

from examples.bookshop.books import COLUMNS

ROWS_A_TRANSACTION = 200
_GENERATED = 20_000
"""So many rows are made one by one; a large table has them again and again, under other numbers."""
_CHANGES = 10
"""Of each of the steady writer's transactions: seven updates, two inserts, a delete."""

_WORDS = [
    "数据",
    "流水线",
    "微服务",
    "架构",
    "book",
    "data",
    "the",
    "quick",
    "brown",
    "fox",
    "pipeline",
    "stream",
    "river",
    "change",
    "capture",
]

# One round trip for many transactions: the server's own loop is several times as fast as a client.
_OLTP = """
CREATE PROCEDURE shop.oltp(rows_wanted INT, last_id INT)
BEGIN
  DECLARE done INT DEFAULT 0;
  DECLARE chance INT;
  WHILE done < rows_wanted DO
    SET chance = done MOD 10;
    IF chance < 7 THEN
      UPDATE shop.books SET stock = stock + 1, price = price + 0.01 WHERE id = 1 + done * 7919 MOD last_id;
    ELSEIF chance < 9 THEN
      INSERT INTO shop.books (isbn, title, author, price, stock, tags)
      VALUES (CONCAT('T', done), '书 title', '某人', 12.5, 3, '{"a": [1, 2, 3]}');
    ELSE
      DELETE FROM shop.books WHERE id = last_id + (done - 9) DIV 10 * 2 + 1;
    END IF;
    SET done = done + 1;
  END WHILE;
END
"""


def fill_bulk(connection: Connection, rows: int, table: str = "shop.books") -> None:
    """Insert rows behind those that are there, so many a transaction."""
    connection.autocommit(False)  # noqa: FBT003
    first = last_book(connection, table) + 1
    chance = random.Random(first)
    for begin in track(range(first, first + rows, ROWS_A_TRANSACTION), "inserting"):
        numbers = range(begin, min(begin + ROWS_A_TRANSACTION, first + rows))
        with connection.cursor() as cursor:
            cursor.executemany(_insert(table), [_book(number, chance) for number in numbers])
        connection.commit()


def fill_large(connection: Connection, rows: int, table: str = "shop.books") -> None:
    """Insert rows behind those that are there, fast: most are made by the server from the first ones."""
    first, done = last_book(connection, table) + 1, min(rows, _GENERATED)
    fill_bulk(connection, done, table)
    others = ", ".join(COLUMNS[2:])
    while done < rows:
        more = min(_GENERATED, rows - done)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} (id, isbn, {others}) SELECT id + %s, LPAD(id + %s, 13, '0'), {others}"
                f" FROM {table} WHERE id >= %s AND id < %s",
                (done, done, first, first + more),
            )
        connection.commit()
        done += more


def fill_oltp(connection: Connection, rows: int) -> None:
    """Change one row a transaction."""
    connection.autocommit(True)  # noqa: FBT003
    last = last_book(connection)
    with connection.cursor() as cursor:
        cursor.execute(_OLTP)
        cursor.execute("CALL shop.oltp(%s, %s)", (rows, last))


def last_book(connection: Connection, table: str = "shop.books") -> int:
    """The highest number in the table; 0 where it is empty."""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT COALESCE(MAX(id), 0) FROM {table}")
        return int(cursor.fetchall()[0][0])


class SteadyWriter(threading.Thread):
    """Changes the first ``rows`` books of a table, so many a second (an open loop: what came late is made up for)."""

    def __init__(
        self, connection: Connection, rows: int, rows_per_s: float, table: str = "shop.books", seed: int = 0
    ) -> None:
        """Take a connection of its own, which it closes; another seed's numbers of new books are other ones."""
        super().__init__(name=f"steady-{seed}", daemon=True)
        self._connection, self._table = connection, table
        self._pause_s = _CHANGES / rows_per_s
        self._random = random.Random(seed)
        self._rows = rows
        self._next = last_book(connection, table) + 1 + seed * 10_000_000
        self._enough = threading.Event()
        self.commits_s: list[float] = []
        """When each transaction was committed, in seconds since 1970."""
        self.changes = 0
        """Rows changed so far."""
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Write until told to stop."""
        due_s = time.monotonic()
        try:
            self._connection.autocommit(False)  # noqa: FBT003
            while not self._enough.wait(max(0.0, due_s - time.monotonic())):
                self._transaction()
                due_s += self._pause_s
        except BaseException as error:  # noqa: BLE001 - stop() raises it
            self.failure = error
        finally:
            self._connection.close()

    def _transaction(self) -> None:
        changed = self._random.choices(range(1, self._rows + 1), k=7)
        new = (self._next, self._next + 1)
        with self._connection.cursor() as cursor:
            done = cursor.execute(
                f"UPDATE {self._table} SET stock = stock + 1, price = price + 0.01 WHERE id IN %s", (sorted(changed),)
            )
            done += cursor.executemany(_insert(self._table), [_book(number, self._random) for number in new])
            done += cursor.execute(f"DELETE FROM {self._table} WHERE id = %s", (self._random.randint(1, self._rows),))
        self._connection.commit()
        self._next += 2
        self.changes += done
        self.commits_s.append(time.time())

    def per_s(self, begin_s: float, end_s: float) -> float:
        """How many rows a second were changed between two moments, in seconds since 1970."""
        within = sum(begin_s <= commit_s <= end_s for commit_s in self.commits_s)
        return self.changes / max(len(self.commits_s), 1) * within / (end_s - begin_s)

    def stop(self) -> None:
        """End; raises what ended it before."""
        self._enough.set()
        self.join(30)
        if self.failure is not None:
            raise self.failure


@contextmanager
def steady_writes(writers: list[SteadyWriter]) -> Iterator[list[SteadyWriter]]:
    """Writers that write meanwhile."""
    for writer in writers:
        writer.start()
    try:
        yield writers
    finally:
        for writer in writers:
            writer.stop()


def _insert(table: str) -> str:
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"


def _book(number: int, chance: random.Random) -> tuple[object, ...]:
    """A book with about 300 bytes of values: short texts, a JSON object with a list in it, a text of twenty words."""
    return (
        number,
        f"{number:013d}",
        " ".join(chance.choices(_WORDS, k=5)),
        " ".join(chance.choices(_WORDS, k=2)),
        chance.choice(("人民邮电", "O'Reilly", None)),
        f"{chance.uniform(5, 200):.2f}",
        chance.choice(("USD", "EUR", "CNY")),
        chance.randrange(1000),
        chance.random() * 5,
        json.dumps(
            {"genre": chance.choice(_WORDS), "pages": chance.randrange(1000), "tags": chance.choices(_WORDS, k=3)}
        ),
        " ".join(chance.choices(_WORDS, k=20)),
        date(2000 + chance.randrange(26), 1, 1),
    )
