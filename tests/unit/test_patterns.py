"""Which tables the patterns of ``[source] tables`` capture."""

import pytest

from schemas.errors import SettingError
from schemas.patterns import TablePatterns, near_names
from schemas.tables import TableName

BOOKS = TableName("shop", "books")


def patterns(*texts: str) -> TablePatterns:
    return TablePatterns.from_settings(texts)


@pytest.mark.parametrize(
    ("texts", "name", "captured"),
    [
        (["shop.books"], BOOKS, True),
        (["shop.books"], TableName("shop", "books2"), False),
        (["shop.books"], TableName("myshop", "books"), False),
        (["shop.*"], BOOKS, True),
        (["shop.b?oks"], BOOKS, True),
        (["sh*.*"], BOOKS, True),
        (["*.books"], BOOKS, True),
        (["shop.Books"], BOOKS, False),
        # A dot in a table's name belongs to the database's part of no pattern.
        (["shop.*"], TableName("shop.old", "books"), False),
        (["`shop.old`.*"], TableName("shop.old", "books"), True),
        (["shop.`a*b`"], TableName("shop", "a*b"), True),
        (["shop.`a*b`"], TableName("shop", "axb"), False),
        (["shop.`a``b`"], TableName("shop", "a`b"), True),
        # What fnmatch would take as a class of characters is itself here.
        (["shop.a[12]"], TableName("shop", "a1"), False),
        (["shop.a[12]"], TableName("shop", "a[12]"), True),
        (["shop.*", "!shop.log_*"], TableName("shop", "log_1"), False),
        (["!shop.log_*", "shop.*"], TableName("shop", "log_1"), False),
        (["shop.*", "! shop.log_*"], BOOKS, True),
        (["*.*"], TableName("mysql", "user"), False),
        (["*.*"], TableName("performance_schema", "threads"), False),
    ],
)
def test_patterns_capture_what_they_say(texts: list[str], name: TableName, *, captured: bool) -> None:
    assert patterns(*texts).matches(name) is captured


@pytest.mark.parametrize("text", ["books", "", ".", "shop.", ".books", "shop.`books", "!!shop.books"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"database\.table"):
        patterns(text)


def test_patterns_that_only_leave_out_are_refused() -> None:
    with pytest.raises(SettingError, match="without !"):
        patterns("!shop.log_*")


def test_a_pattern_that_covers_nothing_is_told_with_near_names() -> None:
    tables = [BOOKS, TableName("shop", "orders"), TableName("blog", "posts")]
    found = patterns("shop.boks", "shpo.*", "shop.*", "zzz.*").unmatched(tables)
    assert [(at.pattern, at.near) for at in found] == [
        ("shop.boks", ("shop.books",)),
        ("shpo.*", ("shop.*",)),
        ("zzz.*", ()),
    ]


def test_near_names_pass_over_letter_case() -> None:
    assert near_names("SHOP.BOOKS", ["shop.books", "blog.posts"]) == ("shop.books",)


def test_patterns_know_which_databases_they_reach() -> None:
    assert patterns("shop.books", "!results.*").reach_into("shop")
    assert not patterns("shop.books").reach_into("results")
    assert patterns("*.books").reach_into("results")
