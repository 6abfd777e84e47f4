"""Servers of one's own, named in the environment, in place of those that are made here.

In: the environment.  Out: their addresses, and, where addresses of administrators are among them, the same bookshop in them:
`shop.books`, the schema of the results, and the two users.
"""

from collections.abc import Mapping
from contextlib import closing
from urllib.parse import unquote, urlsplit

from servers.bookshop import create_books, create_sink, create_source_user
from servers.errors import ServerError
from servers.mysql import MysqlError, connect_to
from servers.services import ROOT_VARIABLES, SERVER_VARIABLES


def given_servers(environment: Mapping[str, str]) -> dict[str, str] | None:
    """Return the servers named in the environment, None if none is; an error if some are and others not.

    With those of ROOT_VARIABLES that are set beside them.
    """
    given = {name: environment[name] for name in SERVER_VARIABLES if environment.get(name)}
    missing = [name for name in SERVER_VARIABLES if name not in given]
    if given and missing:
        names = f"{' and '.join(given)} set, but not {' and '.join(missing)}"
        raise ServerError(f"{names}: set all three, or none of them and servers are made")
    return {**given, **{name: environment[name] for name in ROOT_VARIABLES if environment.get(name)}} if given else None


def missing_roots(given: Mapping[str, str]) -> list[str]:
    """Return the variables without which no bookshop can be made there."""
    return [name for name in ROOT_VARIABLES if name not in given]


def make_bookshop(given: Mapping[str, str]) -> None:
    """Make what is not there yet of the bookshop, as the administrators of the given servers."""
    source_url, _, sink_url = (given[name] for name in SERVER_VARIABLES)
    schema = urlsplit(sink_url).path.lstrip("/")
    if not schema:
        raise ServerError(
            f"{SERVER_VARIABLES[2]} names no database for the results: mysql://USER:PASSWORD@HOST:PORT/results"
        )
    source_root, sink_root = ROOT_VARIABLES
    try:
        with closing(connect_to(given[source_root])) as source:
            create_books(source)
            create_source_user(source, *_password_and_user(source_url))
        with closing(connect_to(given[sink_root])) as sink:
            create_sink(sink, *_password_and_user(sink_url), schema)
    except MysqlError as error:
        raise ServerError(
            f"the bookshop can't be made: {error}; {source_root} and {sink_root} have to be users who may make databases and"
            " users"
        ) from None


def _password_and_user(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return unquote(parts.password or ""), unquote(parts.username or "")
