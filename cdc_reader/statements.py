"""What a QUERY event's text means to the reader; shapes of tables are never taken from it.

Comes in: the text and the default database.  Goes out: a :class:`Statement`: transaction control, TRUNCATE, DML, or another
statement with the names that it holds.  A small tokenizer: it knows comments (the executable ones are text), strings and
quoted names, and no grammar beyond that.  Whatever it can't tell is "other", whose tables are looked at again.
Source: MySQL manual, "Comments", "Schema Object Names", "String Literals".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum, auto
from typing import NamedTuple

from schemas.tables import TableName


class Kind(Enum):
    """What kind of statement it is."""

    BEGIN = auto()
    COMMIT = auto()
    ROLLBACK = auto()
    SAVEPOINT = auto()
    ROLLBACK_TO = auto()
    XA = auto()
    TRUNCATE = auto()
    DML = auto()
    """INSERT, UPDATE, ...: the server logged a change as a statement."""
    GONE = auto()
    """DROP TABLE, RENAME TABLE, DROP DATABASE: the named tables are no longer what they were."""
    RESHAPED = auto()
    """ALTER TABLE that may change rows without row events, or the table's shape."""
    OTHER = auto()


class Statement(NamedTuple):
    """``tables``: the tables named, in order; ``database``: of DROP DATABASE; ``savepoint``: its name."""

    kind: Kind
    tables: tuple[TableName, ...] = ()
    database: str = ""
    savepoint: str = ""


_TOKEN = re.compile(
    rb"""
      (?P<space> \s+ | \#[^\n]* | --(?=[\s]|$)[^\n]* )
    | (?P<executable> /\*(?:!|M!)\d* )
    | (?P<comment> /\*.*?\*/ )
    | (?P<close> \*/ )
    | (?P<name> `(?:[^`]|``)*` )
    | (?P<string> '(?:[^'\\]|\\.|'')*' | "(?:[^"\\]|\\.|"")*" )
    | (?P<word> [A-Za-z0-9_$@\x80-\xff]+ )
    | (?P<mark> . )
    """,
    re.VERBOSE | re.DOTALL,
)

_DML = {"INSERT", "UPDATE", "DELETE", "REPLACE", "LOAD"}
_HARMLESS_AFTER_DROP = {"INDEX", "KEY", "FOREIGN", "CONSTRAINT", "CHECK", "DEFAULT"}
_HARMLESS_AFTER_RENAME = {"INDEX", "KEY"}
_RESHAPING = {"MODIFY", "CHANGE", "CONVERT", "DISCARD", "IMPORT", "EXCHANGE", "REORGANIZE", "COALESCE"}


class _Token(NamedTuple):
    text: str
    quoted: bool


def _tokens(query: bytes) -> Iterator[_Token]:
    for match in _TOKEN.finditer(query):
        kind = match.lastgroup
        if kind in ("space", "executable", "comment", "close"):
            continue
        raw = match.group()
        if kind == "name":
            yield _Token(raw[1:-1].replace(b"``", b"`").decode("utf-8", "replace"), quoted=True)
        elif kind == "string":
            yield _Token(raw[1:-1].decode("utf-8", "replace"), quoted=raw[:1] == b'"')
        else:
            yield _Token(raw.decode("utf-8", "replace"), quoted=False)


def parse_statement(query: bytes, database: str) -> Statement:
    """The statement of a QUERY event; ``database`` is the session's default one."""
    if query == b"BEGIN":
        return Statement(Kind.BEGIN)
    tokens = list(_tokens(query))
    words = [token.text.upper() if not token.quoted else "" for token in tokens]
    while words and words[-1] == ";":
        words.pop()
    first, second = [*words, "", ""][:2]
    if first in ("BEGIN", "COMMIT") or (first, second) == ("START", "TRANSACTION"):
        return Statement(Kind.COMMIT if first == "COMMIT" else Kind.BEGIN)
    if first == "ROLLBACK":
        return _rollback(tokens, words)
    if first == "SAVEPOINT":
        return Statement(Kind.SAVEPOINT, savepoint=tokens[1].text.lower())
    if first == "XA":
        return Statement(Kind.XA, savepoint=second)
    if first == "TRUNCATE":
        return Statement(Kind.TRUNCATE, _names(tokens[2 if second == "TABLE" else 1 :], database)[:1])
    names = _names(tokens, database)
    if first in _DML or first == "WITH":
        return Statement(Kind.DML, names)
    return Statement(_definition_kind(words), names, _dropped_database(tokens, words))


def _rollback(tokens: list[_Token], words: list[str]) -> Statement:
    if "TO" in words:
        return Statement(Kind.ROLLBACK_TO, savepoint=tokens[-1].text.lower())
    return Statement(Kind.ROLLBACK)


def _definition_kind(words: list[str]) -> Kind:
    first, second = [*words, "", ""][:2]
    if first == "RENAME" and second in ("TABLE", "TABLES"):
        return Kind.GONE
    if first == "DROP" and "TEMPORARY" not in words[:3]:
        return Kind.GONE if second in ("TABLE", "TABLES", "DATABASE", "SCHEMA") else Kind.OTHER
    if first == "ALTER" and "TABLE" in words[:4]:
        return Kind.RESHAPED if _may_change_rows(words[2:]) else Kind.OTHER
    return Kind.OTHER


def _may_change_rows(words: list[str]) -> bool:
    """Whether an ALTER TABLE holds anything but what surely leaves rows and shape alone, or adds to them."""
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in _RESHAPING or (word in ("TRUNCATE", "DROP") and following == "PARTITION"):
            return True
        if word == "DROP" and following not in _HARMLESS_AFTER_DROP:
            return True
        if word == "RENAME" and following not in _HARMLESS_AFTER_RENAME:
            return True
    return False


def _dropped_database(tokens: list[_Token], words: list[str]) -> str:
    if words[:1] == ["DROP"] and words[1:2] in (["DATABASE"], ["SCHEMA"]):
        return tokens[-1].text if tokens[-1].text != ";" else tokens[-2].text
    return ""


def _names(tokens: list[_Token], database: str) -> tuple[TableName, ...]:
    """Every name that may be a table's: ``a.b`` as a table of database ``a``, and a name alone as one of ``database``."""
    names: list[TableName] = []
    index = 0
    while index < len(tokens):
        token = tokens[index]
        if token.quoted or _is_word(token.text):
            if index + 2 < len(tokens) and tokens[index + 1] == _Token(".", quoted=False):
                names.append(TableName(token.text, tokens[index + 2].text))
                index += 3
                continue
            names.append(TableName(database, token.text))
        index += 1
    return tuple(dict.fromkeys(names))


def _is_word(text: str) -> bool:
    return len(text) > 1 or text.isalnum() or text in "_$@"
