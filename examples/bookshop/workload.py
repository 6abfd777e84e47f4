"""A shop that is open: a thread that changes books until it is told to stop.

In: a connection, and one book of each partition.  Out: committed (and some rolled back) transactions, and a pulse: a few
times a second the books of all partitions are stamped with the time in one transaction.  When a stamp shows up in the
results, the lag is known to the millisecond, from the source's commit to the sink's, whatever lies between.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from examples.bookshop.books import INSERT, book
from servers.mysql import Connection

PULSE_EVERY_S = 0.1
_TRANSACTIONS_PER_S = 150.0
_MOVED_BY = 1_000_000
"""A book whose number changes goes there: its row leaves one key, and maybe one partition, for another."""


class Workload:
    """Customers and clerks."""

    def __init__(self, connection: Connection, books: int, pulse_books: Sequence[int]) -> None:
        """Take over the connection; ``pulse_books`` are left alone otherwise."""
        self._connection = connection
        self._chance = random.Random(20_000)  # noqa: S311 - the same shop each time
        self._next_number = books + 1
        self._numbers = sorted(set(range(1, books + 1)).difference(pulse_books))
        self._pulse_books = tuple(pulse_books)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._failure: Exception | None = None
        self.pulses: list[datetime] = []
        """The stamps, oldest first, in UTC; each is there before its transaction begins."""
        self.transactions = 0
        self.rows = 0
        self.rolled_back = 0

    def start(self) -> None:
        """Open the shop."""
        self._thread.start()

    def stop(self) -> None:
        """Close it, once its last transaction is committed; raises what ended it before its time."""
        self._stopping.set()
        self._thread.join()
        self.must_run()

    def must_run(self) -> None:
        """Raise what ended the thread, if something did."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        begun_s = time.monotonic()
        pulse_due_s = begun_s
        done = 0
        try:
            while not self._stopping.is_set():
                now_s = time.monotonic()
                if now_s >= pulse_due_s:
                    pulse_due_s = now_s + PULSE_EVERY_S
                    self._pulse()
                self._do_something()
                done += 1
                self._stopping.wait(max(0.0, begun_s + done / _TRANSACTIONS_PER_S - time.monotonic()))
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asks
            self._failure = error

    def _pulse(self) -> None:
        stamp = datetime.now(UTC).replace(tzinfo=None)
        self.pulses.append(stamp)
        self._change("UPDATE shop.books SET updated_at = %s WHERE id IN %s", (stamp, self._pulse_books))
        self._connection.commit()

    def _do_something(self) -> None:
        deeds: tuple[tuple[Callable[[], None], int], ...] = (
            (self._sell, 40),
            (self._add, 20),
            (self._rate, 15),
            (self._take_out, 10),
            (self._raise_prices, 5),
            (self._renumber, 5),
            (self._change_mind, 5),
        )
        self._chance.choices([deed for deed, _ in deeds], [weight for _, weight in deeds])[0]()
        self._connection.commit()
        self.transactions += 1

    def _sell(self) -> None:
        """An order: one to eight books, one of them maybe twice."""
        for number in self._some(self._chance.randrange(1, 9)):
            self._change("UPDATE shop.books SET stock = stock - 1 WHERE id = %s", (number,))

    def _add(self) -> None:
        for _ in range(self._chance.randrange(1, 6)):
            self._change(INSERT, book(self._next_number))
            self._numbers.append(self._next_number)
            self._next_number += 1

    def _rate(self) -> None:
        """JSON is changed in place, a float is set, a text becomes NULL."""
        for number in self._some(3):
            self._change(
                "UPDATE shop.books SET rating = %s, description = NULL, tags = JSON_SET(tags, '$.pages', %s) WHERE id = %s",
                (self._chance.randrange(10, 51) / 10, self._chance.randrange(2_000), number),
            )

    def _take_out(self) -> None:
        """A book is deleted; now and then it comes back in the same transaction, under the same number."""
        number = self._numbers.pop(self._chance.randrange(len(self._numbers)))
        self._change("DELETE FROM shop.books WHERE id = %s", (number,))
        if self._chance.random() < 0.3 and number < self._next_number:
            self._change(INSERT, book(number))
            self._numbers.append(number)

    def _raise_prices(self) -> None:
        """One statement, many rows."""
        first = self._chance.randrange(1, self._next_number)
        self._change(
            "UPDATE shop.books SET price = price + 0.1 WHERE id BETWEEN %s AND %s AND id NOT IN %s",
            (first, first + 60, self._pulse_books),
        )

    def _renumber(self) -> None:
        """The key itself changes."""
        place = self._chance.randrange(len(self._numbers))
        number = self._numbers[place]
        if number < _MOVED_BY:
            self._change("UPDATE shop.books SET id = id + %s WHERE id = %s", (_MOVED_BY, number))
            self._numbers[place] = number + _MOVED_BY

    def _change_mind(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute("UPDATE shop.books SET stock = -1000 WHERE id = %s", (self._some(1)[0],))
        self._connection.rollback()
        self.rolled_back += 1

    def _some(self, count: int) -> list[int]:
        return self._chance.choices(self._numbers, k=count)

    def _change(self, statement: str, parameters: Sequence[object]) -> None:
        with self._connection.cursor() as cursor:
            self.rows += cursor.execute(statement, parameters)
