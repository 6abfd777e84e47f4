"""A seeded workload on the source: all that clients do to tables, through a plain client.

Comes in: an address, a database, a seed.  Goes out: committed, rolled back and empty transactions, in any mixture; each
committed one that changed rows has a row of its own in ``audit``.  Guarantees no equality of two runs with one seed: the
moments of stops and reconnects are not seeded.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import MySQLdb
from MySQLdb.connections import Connection

from tests.helpers import connect, execute

TABLES = ("audit", "ints", "pairs", "names", "labels", "everything", "books")
KEYS = 400
_RECONNECT_S = 0.1
_LOST = {1053, 1927, 2002, 2003, 2006, 2013, 2055}
_CONFLICTS = {1062, 1205, 1213}

_CREATE = (
    "CREATE TABLE audit (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, seed BIGINT NOT NULL, number BIGINT NOT NULL)",
    "CREATE TABLE ints (id INT NOT NULL PRIMARY KEY, amount BIGINT NULL, note VARCHAR(100) NULL)",
    """CREATE TABLE pairs (
        a VARCHAR(20) COLLATE utf8mb4_0900_as_cs NOT NULL, b INT NOT NULL, price DECIMAL(12,4) NULL,
        PRIMARY KEY (b, a), KEY price (price))""",
    "CREATE TABLE names (name VARCHAR(40) COLLATE utf8mb4_0900_as_cs NOT NULL PRIMARY KEY, number INT NULL)",
    "CREATE TABLE labels (label VARCHAR(40) COLLATE utf8mb4_0900_ai_ci NOT NULL PRIMARY KEY, number INT NULL)",
    """CREATE TABLE everything (
        id BIGINT UNSIGNED NOT NULL PRIMARY KEY, tiny TINYINT NULL, tiny_u TINYINT UNSIGNED NULL, small SMALLINT NULL,
        medium MEDIUMINT NULL, medium_u MEDIUMINT UNSIGNED NULL, int_u INT UNSIGNED NULL, big BIGINT NULL,
        big_u BIGINT UNSIGNED NULL, year_ YEAR NULL, bit_1 BIT(1) NULL, bit_64 BIT(64) NULL, money DECIMAL(10,2) NULL,
        digits DECIMAL(65,30) NULL, float_ FLOAT NULL, double_ DOUBLE NULL, char_ CHAR(10) NULL,
        text_latin1 VARCHAR(50) CHARACTER SET latin1 NULL, text_utf16 VARCHAR(50) CHARACTER SET utf16 NULL,
        text_ TEXT NULL, binary_ BINARY(8) NULL, varbinary_ VARBINARY(50) NULL, blob_ BLOB NULL, date_ DATE NULL,
        datetime_ DATETIME NULL, datetime_3 DATETIME(3) NULL, datetime_6 DATETIME(6) NULL, time_ TIME NULL,
        time_6 TIME(6) NULL, timestamp_ TIMESTAMP NULL, timestamp_6 TIMESTAMP(6) NULL,
        enum_ ENUM('small', 'größer', 'XL') NULL, set_ SET('x', 'y', 'ž', 'w') NULL, json_ JSON NULL, point_ POINT NULL)""",
    """CREATE TABLE books (
        id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY, isbn CHAR(13) NOT NULL, title VARCHAR(255) NOT NULL,
        author VARCHAR(120) NOT NULL, publisher VARCHAR(120) NULL, price DECIMAL(10,2) NOT NULL,
        currency ENUM('USD','EUR','CNY') NOT NULL DEFAULT 'CNY', stock INT NOT NULL DEFAULT 0, rating FLOAT NULL,
        tags JSON NULL, description TEXT NULL, published DATE NULL,
        created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
        updated_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6), KEY isbn (isbn))""",
)

_TEXTS = (
    "",
    " ",
    "a",
    "人间失格",
    "größe",
    "tab\tline\nend",
    "quote ' \" \\ %s",
    "null\0byte",
    "🙂 emoji",
    "e\u0301",
    "\x7f\x1b",
)
_LATIN1 = ("", "é", "ÿ €", "plain", "\u0081")
_NAME_STEMS = ("a", "A", "a ", "a  ", "ä", "Ä", "b", "ß", "ss", "人", "🙂")
_COLUMNS: dict[str, Callable[[random.Random], Any]] = {
    "tiny": lambda r: r.choice((-128, 127, 0, -1, r.randrange(-128, 128))),
    "tiny_u": lambda r: r.choice((0, 255, 128, r.randrange(256))),
    "small": lambda r: r.choice((-32768, 32767, r.randrange(-32768, 32768))),
    "medium": lambda r: r.choice((-8388608, 8388607, r.randrange(-8388608, 8388608))),
    "medium_u": lambda r: r.choice((0, 16777215, 8388608)),
    "int_u": lambda r: r.choice((0, 4294967295, 2147483648, r.randrange(4294967296))),
    "big": lambda r: r.choice((-(2**63), 2**63 - 1, r.randrange(-(2**63), 2**63))),
    "big_u": lambda r: r.choice((0, 2**64 - 1, 2**63, r.randrange(2**64))),
    "year_": lambda r: r.choice((0, 1901, 2155, 2026)),
    "bit_1": lambda r: r.randrange(2),
    "bit_64": lambda r: r.choice((0, 2**64 - 1, 2**63, r.randrange(2**64))),
    "money": lambda r: r.choice(("0.00", "-0.01", "99999999.99", "-99999999.99", "46.80")),
    "digits": lambda r: r.choice(
        ("-0.000000000000000000000000000001", "9" * 35 + "." + "9" * 30, "1.5", "-" + "9" * 35)
    ),
    "float_": lambda r: r.choice((0.1, -0.0, 3.4e38, 1e-45, 16777217.0, r.uniform(-1e6, 1e6))),
    "double_": lambda r: r.choice((0.1, 1.7976931348623157e308, 5e-324, -2.5, r.uniform(-1e12, 1e12))),
    "char_": lambda r: r.choice(("", "ab", "größe", "人间")),
    "text_latin1": lambda r: r.choice(_LATIN1),
    "text_utf16": lambda r: r.choice(("", "A", "人", "🙂")),
    "text_": lambda r: r.choice(_TEXTS) * r.choice((1, 1, 1, 40)),
    "binary_": lambda r: r.choice((b"", b"ab", b"\0\0", b"\xff" * 8, r.randbytes(8))),
    "varbinary_": lambda r: r.choice((b"", b"ab\0", r.randbytes(20))),
    "blob_": lambda r: r.randbytes(r.choice((0, 1, 300, 3000))),
    "date_": lambda r: r.choice(("2026-11-22", "0000-00-00", "2015-00-21", "1000-01-01", "9999-12-31", "2015-02-30")),
    "datetime_": lambda r: r.choice(("2026-11-22 13:13:30", "0000-00-00 00:00:00", "2015-00-21 01:02:03")),
    "datetime_3": lambda r: r.choice(("2026-11-22 13:13:30.996", "1000-01-01 00:00:00.000", "9999-12-31 23:59:59.999")),
    "datetime_6": lambda r: r.choice(
        ("2026-11-22 13:13:30.996694", "2026-11-22 13:13:30.000001", "0000-00-00 00:00:00")
    ),
    "time_": lambda r: r.choice(("-838:59:59", "838:59:59", "00:00:00", "-00:00:01", "12:30:45")),
    "time_6": lambda r: r.choice(("-838:59:59.000000", "-00:00:00.000001", "838:59:58.999999", "12:00:00.5")),
    "timestamp_": lambda r: r.choice(("1970-01-01 00:00:01", "0000-00-00 00:00:00", "2038-01-19 03:14:07")),
    "timestamp_6": lambda r: r.choice(
        ("1970-01-01 00:00:01.000001", "2026-11-22 13:13:30.996694", "0000-00-00 00:00:00")
    ),
    "enum_": lambda r: r.choice(("small", "größer", "XL", "")),
    "set_": lambda r: ",".join(r.sample(("x", "y", "ž", "w"), r.randrange(5))),
}


def create_tables(connection: Connection) -> None:
    """Make the tables in the connection's database."""
    for statement in _CREATE:
        execute(connection, statement)


class Workload(threading.Thread):
    """One client; several may run at a time.  Survives a server that goes away."""

    def __init__(
        self,
        url: str,
        database: str,
        seed: int,
        *,
        per_s: float = 0.0,
        tables: Sequence[str] = TABLES,
        first_rows: int = 0,
    ) -> None:
        """``per_s``: transactions begun a second, 0 for as many as can be; ``first_rows`` are inserted into each table."""
        super().__init__(name=f"workload-{seed}", daemon=True)
        self._url, self._database, self._seed = url, database, seed
        self._random = random.Random(seed)
        self._pace_s = 1 / per_s if per_s else 0.0
        self._tables = [table for table in tables if table != "audit"]
        self._first_rows = first_rows
        self._enough = threading.Event()
        self._connection: Connection | None = None
        self._number = 0
        self._affected = 0
        """Rows that statements have changed so far, rolled back ones too."""
        self._effects: Counter[str] = Counter()
        """The kinds of change of the present transaction that had an effect."""
        self.counts: Counter[str] = Counter()
        """``committed``, ``empty``, ``lost``, ``conflicts``; and what had an effect: ``rolled back``, ``savepoint``, and each
        kind of change where it was committed."""
        self.failure: BaseException | None = None

    # ---- running ----

    def run(self) -> None:
        """Write until told to stop; a failure is kept for :meth:`stop`."""
        try:
            self.write()
        except BaseException as error:  # noqa: BLE001 - handed over to the test, which raises it
            self.failure = error
        finally:
            if self._connection is not None:
                self._connection.close()

    def stop(self) -> Counter[str]:
        """End after the present transaction; raises what ended it before."""
        self._enough.set()
        self.join(60)
        assert not self.is_alive(), "the workload doesn't end"
        if self.failure is not None:
            raise self.failure
        return self.counts

    def write(self, transactions: int | None = None) -> None:
        """Write so many transactions, or until told to stop, in this thread."""
        for table in self._tables if self._first_rows else ():
            self._tried(lambda table=table: self._insert_into(table, self._first_rows))  # type: ignore[misc]
        next_s = time.monotonic()
        done = 0
        while transactions is None or done < transactions:
            next_s = max(next_s + self._pace_s, time.monotonic() - 1.0)
            if self._enough.wait(max(0.0, next_s - time.monotonic())) if self._pace_s else self._enough.is_set():
                return
            self._tried(self._transaction)
            done += 1

    def _tried(self, action: Callable[[], None]) -> None:
        """Run an action; a server that is away is waited for, a conflict ends the transaction."""
        try:
            action()
        except MySQLdb.Error as error:
            code = error.args[0]
            if code in _CONFLICTS and self._connection is not None:
                self.counts["conflicts"] += 1
                self._execute("ROLLBACK")
            elif code in _LOST or isinstance(error, MySQLdb.InterfaceError):
                self.counts["lost"] += 1
                self._connection = None
                self._enough.wait(_RECONNECT_S)
            else:
                raise

    def _execute(self, sql: str, parameters: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        if self._connection is None:
            self._connection = connect(self._url, self._database)
            execute(self._connection, "SET sql_mode = 'ALLOW_INVALID_DATES', innodb_lock_wait_timeout = 5")
        with self._connection.cursor() as cursor:
            cursor.execute(sql, parameters)
            if cursor.description:
                return list(cursor.fetchall())
            self._affected += cursor.rowcount
            return []

    # ---- transactions ----

    def _transaction(self) -> None:
        shapes: list[tuple[int, Callable[[], None]]] = [
            (2, self._empty),
            (2, self._without_effect),
            (4, self._rolled_back),
            (8, self._with_savepoint),
            (8, self._autocommitted),
            (30, self._several_changes),
        ]
        self._random.choices([shape for _, shape in shapes], [weight for weight, _ in shapes])[0]()

    def _begin(self) -> None:
        self._effects.clear()
        self._execute("BEGIN")

    def _empty(self) -> None:
        self._begin()
        self._execute("COMMIT")
        self.counts["empty"] += 1

    def _without_effect(self) -> None:
        self._begin()
        self._execute("UPDATE ints SET amount = amount WHERE id = -1")
        self._execute("UPDATE ints SET amount = amount")
        self._execute("COMMIT")
        self.counts["empty"] += 1

    def _rolled_back(self) -> None:
        self._begin()
        for _ in range(self._random.randrange(1, 4)):
            self._change()
        self._execute("ROLLBACK")
        self.counts["rolled back"] += self._effects.total() > 0

    def _with_savepoint(self) -> None:
        self._begin()
        self._change()
        kept = Counter(self._effects)
        self._execute("SAVEPOINT before_it")
        self._change()
        self._change()
        self._execute("ROLLBACK TO SAVEPOINT before_it")
        taken_back, self._effects = self._effects.total() - kept.total(), kept
        self._change()
        self._commit()
        self.counts["savepoint"] += taken_back > 0

    def _autocommitted(self) -> None:
        self._number += 1
        self._execute("INSERT INTO audit (seed, number) VALUES (%s, %s)", (self._seed, self._number))
        self.counts["committed"] += 1

    def _several_changes(self) -> None:
        self._begin()
        for _ in range(self._random.choice((1, 1, 2, 3, 6))):
            self._change()
        self._commit()

    def _commit(self) -> None:
        self._number += 1
        self._execute("INSERT INTO audit (seed, number) VALUES (%s, %s)", (self._seed, self._number))
        self._execute("COMMIT")
        self.counts["committed"] += 1
        self.counts.update(self._effects)

    # ---- changes ----

    def _change(self) -> None:
        table = self._random.choice(self._tables)
        changes: list[tuple[int, str, Callable[[str], None]]] = [
            (6, "insert", lambda table: self._insert_into(table, self._random.choice((1, 1, 3, 20)))),
            (6, "update", self._update),
            (3, "delete", self._delete_from),
            (2, "key change", self._change_key),
            (2, "key swap", self._swap_keys),
        ]
        _, kind, change = self._random.choices(changes, [weight for weight, _, _ in changes])[0]
        before = self._affected
        change(table)
        self._effects[kind] += self._affected > before

    def _key(self, table: str) -> tuple[Any, ...]:
        number = self._random.randrange(KEYS)
        if table == "pairs":
            return (self._random.choice(_NAME_STEMS), number % 40)
        if table in ("names", "labels"):
            text = f"{number % 30}{self._random.choice(_NAME_STEMS)}"
            return (text.swapcase() if self._random.random() < 0.3 else text,)
        return (number + 1,)

    def _row(self, table: str) -> dict[str, Any]:
        choice = self._random
        key = dict(zip(KEY_COLUMNS[table], self._key(table), strict=True))
        if table == "ints":
            return key | {"amount": choice.randrange(-(2**40), 2**40), "note": choice.choice((None, *_TEXTS))}
        if table == "pairs":
            return key | {"price": choice.choice((None, "0.0000", "-1.5000", "99999999.9999"))}
        if table in ("names", "labels"):
            return key | {"number": choice.randrange(1000)}
        if table == "books":
            return key | book(choice)
        values = {name: (None if choice.random() < 0.12 else make(choice)) for name, make in _COLUMNS.items()}
        return key | values | {"json_": _json(choice)}

    def _insert_into(self, table: str, rows: int) -> None:
        made = [self._row(table) for _ in range(rows)]
        columns = list(made[0])
        one = "(" + ", ".join(["%s"] * len(columns)) + ")"
        values = [value for row in made for value in row.values()]
        names = ", ".join(columns)
        how = self._random.randrange(3)
        verb = "REPLACE" if how == 0 else "INSERT"
        tail = "" if how == 0 else f" AS new ON DUPLICATE KEY UPDATE {columns[-1]} = new.{columns[-1]}"
        self._execute(f"{verb} INTO {table} ({names}) VALUES {', '.join([one] * rows)}{tail}", values)
        if table == "everything" and self._random.random() < 0.3:
            self._execute(
                "UPDATE everything SET point_ = ST_GeomFromText('POINT(1.5 -2)'), json_ = JSON_OBJECT('money',"
                " CAST('1.10' AS DECIMAL(5,2)), 'when', TIMESTAMP'2026-11-22 13:13:30.5', 'bytes', CAST('ab' AS BINARY))"
                " WHERE id %% 7 = %s",
                (self._random.randrange(7),),
            )

    def _update(self, table: str) -> None:
        row = self._row(table)
        keys = KEY_COLUMNS[table]
        values = {name: value for name, value in row.items() if name not in keys}
        columns = self._random.sample(sorted(values), self._random.randrange(1, len(values) + 1))
        assignments = ", ".join(f"{column} = %s" for column in columns)
        where = " AND ".join(f"{key} = %s" for key in keys)
        parameters: list[Any] = [values[column] for column in columns]
        if self._random.random() < 0.3:
            order = ", ".join(keys)
            rows = self._random.choice((1, 5, 50))
            self._execute(f"UPDATE {table} SET {assignments} ORDER BY {order} LIMIT {rows}", parameters)
        else:
            self._execute(f"UPDATE {table} SET {assignments} WHERE {where}", [*parameters, *(row[key] for key in keys)])

    def _delete_from(self, table: str) -> None:
        keys = KEY_COLUMNS[table]
        order = ", ".join(f"{key} DESC" for key in keys)
        if self._random.random() < 0.2:
            self._execute(f"DELETE FROM {table} ORDER BY {order} LIMIT {self._random.choice((1, 8, 40))}")
        else:
            where = " AND ".join(f"{key} = %s" for key in keys)
            self._execute(f"DELETE FROM {table} WHERE {where}", self._key(table))

    def _change_key(self, table: str) -> None:
        """Where the new key is taken, its row goes first; in tables whose keys compare loosely, letters' case changes too."""
        keys = KEY_COLUMNS[table]
        where = " AND ".join(f"{key} = %s" for key in keys)
        old, new = self._key(table), self._key(table)
        if table == "labels" and self._random.random() < 0.5:
            self._execute("UPDATE labels SET label = UPPER(label) WHERE number %% 3 = %s", (self._random.randrange(3),))
            return
        assignments = ", ".join(f"{key} = %s" for key in keys)
        self._execute(f"UPDATE IGNORE {table} SET {assignments} WHERE {where}", (*new, *old))

    def _swap_keys(self, table: str) -> None:
        """Two rows change their keys with each other, by way of a third key."""
        keys = KEY_COLUMNS[table]
        names = ", ".join(keys)
        found = self._execute(
            f"SELECT {names} FROM {table} ORDER BY {names} LIMIT 2 OFFSET %s FOR UPDATE", (self._random.randrange(20),)
        )
        if len(found) < 2:
            return
        one, two = found
        free: tuple[Any, ...] = ("#swap", 1) if table == "pairs" else ("#swap",) if table in _BY_NAME else (10**6,)
        assignments = ", ".join(f"{key} = %s" for key in keys)
        where = " AND ".join(f"{key} = %s" for key in keys)
        for new, old in ((free, one), (one, two), (two, free)):
            self._execute(f"UPDATE {table} SET {assignments} WHERE {where}", (*new, *old))


KEY_COLUMNS: dict[str, tuple[str, ...]] = {
    "audit": ("id",), "ints": ("id",), "pairs": ("a", "b"), "names": ("name",), "labels": ("label",),
    "everything": ("id",), "books": ("id",),
}  # fmt: skip
_BY_NAME = ("names", "labels")


def book(choice: random.Random) -> dict[str, Any]:
    """A book's columns but its id."""
    pages = choice.randrange(50, 900)
    return {
        "isbn": f"978{choice.randrange(10**10):010d}",
        "title": choice.choice(
            ("人间失格", "Der Steppenwolf", "Designing Data-Intensive Applications", "L'Étranger 🙂")
        ),
        "author": choice.choice(("太宰治", "Hermann Hesse", "Martin Kleppmann", "Albert Camus")),
        "publisher": choice.choice((None, "O'Reilly", "作家出版社")),
        "price": f"{choice.randrange(100, 9999) / 100:.2f}",
        "currency": choice.choice(("USD", "EUR", "CNY")),
        "stock": choice.randrange(100),
        "rating": choice.choice((None, 4.5, 4.7, 0.1)),
        "tags": json.dumps({"genre": "novel", "pages": pages, "tags": ["日本", "文学"]}, ensure_ascii=False),
        "description": choice.choice((None, "Roman. " * 10)),
        "published": choice.choice((None, "2015-08-01")),
    }


def insert_books(connection: Connection, rows: int, seed: int, *, first_id: int = 1, at_a_time: int = 1000) -> None:
    """Insert so many books with ids from ``first_id`` on, ``at_a_time`` in a statement."""
    choice = random.Random(seed)
    for start in range(0, rows, at_a_time):
        made = [{"id": first_id + number, **book(choice)} for number in range(start, min(rows, start + at_a_time))]
        one = "(" + ", ".join(["%s"] * len(made[0])) + ")"
        values = [value for row in made for value in row.values()]
        execute(connection, f"INSERT INTO books ({', '.join(made[0])}) VALUES {', '.join([one] * len(made))}", values)


def _json(choice: random.Random) -> str | None:
    documents: tuple[Any, ...] = (
        None, {}, [], "text 人 🙂 \" \\", 0, -1, 2**63, 2**64 - 1, 0.1, 1e300, True, None,
        {"bb": 1, "a": [1, 2, {"deep": None}], "": "empty key", "ключ": "значение"},
        {"long": "x" * choice.choice((10, 5000)), "numbers": list(range(choice.choice((3, 300))))},
    )  # fmt: skip
    document = choice.choice(documents)
    return None if choice.random() < 0.1 else json.dumps(document, ensure_ascii=choice.random() < 0.5)
