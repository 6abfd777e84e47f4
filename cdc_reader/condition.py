"""The condition of a job that reads a part of a table: `rowflow snapshot --where`.

Comes in: text that somebody typed.  Goes out: nothing, or a SettingError that names the place.  One SQL expression over the
columns of one row is let through, as it stands; whatever reads elsewhere, waits, assigns or hides is not.  It is run by the
source's user, who can do no more than SELECT.  The command looks at it before it asks, and the reader before it runs it: who
asks from Python may have it from anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, TokenError

from schemas.errors import SettingError

_REFUSED_KINDS: dict[type[exp.Expr], str] = {
    exp.Query: "a query inside it",
    exp.Values: "a query inside it",
    exp.AggFunc: "a function over many rows",
    exp.Window: "a function over many rows",
    exp.Placeholder: "a placeholder",
    exp.Parameter: "a variable",
    exp.SessionParameter: "a variable",
    exp.PropertyEQ: "an assignment",
}
_REFUSED_FUNCTIONS = frozenset(
    {
        "sleep", "benchmark", "get_lock", "release_lock", "release_all_locks", "is_free_lock", "is_used_lock", "load_file",
        "master_pos_wait", "source_pos_wait", "wait_for_executed_gtid_set", "wait_until_sql_thread_after_gtids",
        "last_insert_id", "nextval", "setval",
    }
)  # fmt: skip
"""They wait, lock, read files or change something."""


def check_condition(text: str) -> None:
    """Raise SettingError where the text isn't one expression over a row."""
    try:
        # By tokens, for no tree keeps all comments, and of /*! the server runs what it holds.
        if any(token.comments for token in sqlglot.tokenize(text, read="mysql")):
            raise _refused(text, min(_places(text, "/*", "--", "#"), default=1), "a comment")
        trees = sqlglot.parse(text, read="mysql")
    except ParseError as error:
        found = error.errors[0] if error.errors else {}
        raise _refused(text, int(found.get("col") or 1), str(found.get("description") or error)) from None
    except TokenError as error:
        raise _refused(text, 1, str(error)) from None
    tree = trees[0] if trees else None
    if len(trees) > 1:
        raise _refused(text, text.find(";") + 1, "more than one expression")
    if not isinstance(tree, exp.Condition):
        raise _refused(text, 1, "not an expression")
    for node in tree.walk():
        for kind, what in _REFUSED_KINDS.items():
            if isinstance(node, kind):
                raise _refused(text, _place_of(text, node), what)
        # In backticks a function's name is an identifier, and the server runs it all the same.
        if isinstance(node, exp.Anonymous) and node.name.lower() in _REFUSED_FUNCTIONS:
            raise _refused(text, _place_of(text, node), f"the function {node.name}")
        if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Func):
            raise _refused(text, _place_of(text, node), "a stored function")


def _place_of(text: str, node: exp.Expr) -> int:
    """Where a node's first word stands, counted from 1."""
    word = node.sql("mysql").lstrip("(").split("(", maxsplit=1)[0].split(" ", maxsplit=1)[0]
    return min(_places(text, word), default=1)


def _places(text: str, *words: str) -> Iterator[int]:
    for word in words:
        found = text.lower().find(word.lower())
        if found >= 0:
            yield found + 1


def _refused(text: str, column: int, what: str) -> SettingError:
    return SettingError(
        f'--where takes one SQL expression over the columns of a row, as in "price > 100"; column {column}: {what}\n'
        f"  {text}\n  {' ' * (column - 1)}^"
    )
