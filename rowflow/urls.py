"""``mysql://`` URLs.

Comes in: a URL from the settings, perhaps with a password apart.  Goes out: a schemas.addresses.MysqlAddress.  Messages
name the setting and what is wrong with it and never show the URL, for it may hold a password.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from schemas.addresses import MysqlAddress
from schemas.errors import SettingError

MYSQL_PORT = 3306
_SCHEMES = ("mysql", "mariadb")
_ENCODING_HINT = (
    "in it, characters such as / # ? @ : and % of a name or a password are written percent-encoded (%2F for /);"
    " or leave the password out there and give it in ROWFLOW_{section}__PASSWORD or a file named by"
    " ROWFLOW_{section}__PASSWORD_FILE"
)


def parse_mysql_url(
    section: str, url: str, *, password: str | None = None, ssl_ca: Path | None = None, with_database: bool
) -> MysqlAddress:
    """Take apart ``mysql://user[:password]@host[:port][/database]`` of the settings' ``section``.

    ``password``, if given, counts instead of the URL's.  ``with_database``: the URL must name one; else it must not.
    Raises SettingError.
    """
    parts = _split(section, url)
    if parts.scheme not in _SCHEMES:
        raise SettingError(f"{section}.url doesn't begin with mysql://: write mysql://user@host:{MYSQL_PORT}")
    if parts.query or parts.fragment:
        raise _malformed(section, "has a ? or a # part")
    if not parts.hostname:
        raise _malformed(section, "names no host")
    if not parts.username:
        raise SettingError(f"{section}.url names no user: write mysql://user@{parts.hostname}")
    return MysqlAddress(
        host=parts.hostname,
        port=_port(section, parts),
        user=unquote(parts.username, errors="strict"),
        password=unquote(parts.password or "") if password is None else password,
        database=_database(section, parts, with_database=with_database),
        ssl_ca=None if ssl_ca is None else str(ssl_ca),
    )


def _split(section: str, url: str) -> SplitResult:
    try:
        return urlsplit(url.strip())
    except ValueError:
        raise _malformed(section, "can't be read as a URL") from None


def _port(section: str, parts: SplitResult) -> int:
    try:
        return parts.port or MYSQL_PORT
    except ValueError:
        raise _malformed(section, "has no number from 1 to 65535 as its port") from None


def _database(section: str, parts: SplitResult, *, with_database: bool) -> str:
    database = unquote(parts.path.strip("/"))
    if with_database and not database:
        raise SettingError(
            f"{section}.url names no database: add the one that the results go to, like"
            f" mysql://{parts.username}@{parts.hostname}:{_port(section, parts)}/results"
        )
    if not with_database and database:
        raise SettingError(
            f"{section}.url names a database, which means nothing there: leave it out,"
            f' and say in {section}.tables what is captured, like tables = ["{database}.*"]'
        )
    if "/" in database:
        raise _malformed(section, "has more than one name behind the host")
    return database


def _malformed(section: str, what: str) -> SettingError:
    return SettingError(f"{section}.url {what}: {_ENCODING_HINT.format(section=section.upper())}")
