"""Books, as varied as a shop's: several scripts, NULLs, JSON, decimals, dates before 1970.

In: a book's number.  Out: its row.  The same number gives the same book in every run.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from datetime import date, timedelta

from servers.mysql import Connection

COLUMNS = (
    "id", "isbn", "title", "author", "publisher", "price", "currency", "stock", "rating", "tags", "description", "published"
)  # fmt: skip
INSERT = f"INSERT INTO shop.books ({', '.join(COLUMNS)}) VALUES ({', '.join(['%s'] * len(COLUMNS))})"
_ROWS_A_STATEMENT = 1_000

_NOUNS = (
    "Haus", "rivière", "кошка", "海", "שיר", "الليل", "garden", "jardín", "Straße", "βιβλίο", "雪", "naïveté", "Ørn", "ağaç",
    "moon 🌙", "coeur", "Ça va?", "łódź",
)  # fmt: skip
_PATTERNS = ("The {} of {}", "{} & {}", "{}: {}", "“{}” … {}", "{}\n{}", "{}\t\\{}'s", "{} {}  ")
_AUTHORS = (
    "Gabriel García Márquez", "太宰治", "Лев Толстой", "Simone de Beauvoir", "Þórbergur Þórðarson", "O'Brien, Flann",
    "Yaşar Kemal", "نجيب محفوظ", "Ōe Kenzaburō", "Wisława Szymborska",
)  # fmt: skip
_PUBLISHERS = ("O'Reilly", "作家出版社", "Éditions Gallimard", "Suhrkamp", "", None, None)
_TAGS = ("novel", "poetry", "日本", "science", "enfants", 'say "hi"', "back\\slash", "ünïcödé", "🚀")
_FIRST_DAY = date(1850, 1, 1)


def fill(connection: Connection, first: int, last: int) -> Iterator[int]:
    """Insert the books from one number to another, committing now and then; gives the number of rows after each part."""
    for begin in range(first, last + 1, _ROWS_A_STATEMENT):
        numbers = range(begin, min(begin + _ROWS_A_STATEMENT, last + 1))
        with connection.cursor() as cursor:
            cursor.executemany(INSERT, [book(number) for number in numbers])
        connection.commit()
        yield len(numbers)


def book(number: int) -> Sequence[object]:
    """The values of COLUMNS."""
    chance = random.Random(number)  # noqa: S311 - the same books each time
    return (
        number,
        _isbn(number),
        chance.choice(_PATTERNS).format(chance.choice(_NOUNS), chance.choice(_NOUNS)),
        chance.choice(_AUTHORS),
        chance.choice(_PUBLISHERS),
        f"{chance.randrange(0, 100_000_000) / 100:.2f}" if chance.random() < 0.02 else f"{chance.uniform(0, 90):.2f}",
        chance.choice(("USD", "EUR", "CNY")),
        chance.randrange(-3, 200),
        None if chance.random() < 0.3 else chance.randrange(10, 51) / 10,
        _tags(chance),
        None if chance.random() < 0.4 else chance.choice(("", " ", "Roman. ", "一 二 三 ")) * chance.randrange(1, 80),
        None if chance.random() < 0.2 else _FIRST_DAY + timedelta(days=chance.randrange(64_000)),
    )


def _tags(chance: random.Random) -> str | None:
    """A JSON text; SQL's NULL and JSON's null are two things."""
    if chance.random() < 0.2:
        return None if chance.random() < 0.8 else "null"
    return json.dumps(
        {
            "tags": chance.sample(_TAGS, chance.randrange(4)),
            "pages": chance.randrange(1, 2_000),
            "weight_kg": chance.choice((0.1, 1e-7, 1.5, 12345678901234567890, -0.5)),
            "reviews": [{"by": chance.choice(_AUTHORS), "stars": stars} for stars in range(chance.randrange(3))],
        },
        ensure_ascii=chance.random() < 0.5,
    )


def _isbn(number: int) -> str:
    """A number of thirteen digits with its check digit (ISO 2108)."""
    digits = f"979{number:09d}"
    weighed = sum(int(digit) * (1, 3)[place % 2] for place, digit in enumerate(digits))
    return f"{digits}{-weighed % 10}"
