"""Where a MySQL server is and who we are there.

Comes in: the parts of a ``mysql://`` URL, already validated by the settings.  Goes out: one frozen value that both the
source's and the sink's connections are made from.  The password never shows in a representation.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class MysqlAddress:
    """One MySQL or MariaDB server with a user; ``database`` is empty where none is meant."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str = ""
    ssl_ca: str | None = None
    """Path of a CA file; given, the server's certificate and name are verified."""

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}" + (f"/{self.database}" if self.database else "")
