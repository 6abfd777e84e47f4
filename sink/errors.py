"""What can go wrong at the sink, sorted by what is to be done about it.

    Unreachable        the server is away, full, read-only or shutting down: wait, then the whole slice again, for ever
    LockConflict       another transaction was in the way (1205, 1213): ROLLBACK and the whole slice again
    StatementFailed    the server refused a statement; ``code`` says why
    `- ValueRefused    ... because of a value in it: one row is guilty, the others aren't
    SinkRefused        exit 3: refused at start (a missing grant, a wrong password, a sink that doesn't fit)
    SinkStopped        exit 4: going on would lose data

Messages hold the server's error number and its symbol.  The server's own text is left out, for it echoes values, except
for the codes whose text names only users, tables and columns.
"""

from __future__ import annotations

from schemas.errors import RefusedError, RowflowError, StoppedError


class SinkError(RowflowError):
    """A failure at the sink; ``code`` is MySQL's error number, 0 where there is none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Unreachable(SinkError):
    """The sink can't do anything now; nothing is wrong with what was sent."""


class LockConflict(SinkError):
    """A lock wait timed out, a deadlock was broken or the statement was interrupted."""


class StatementFailed(SinkError):
    """The server refused a statement for a reason that time doesn't mend."""


class ValueRefused(StatementFailed):
    """A value doesn't fit its column (too long, out of range, not valid JSON, ...)."""


class SinkRefused(RefusedError):
    """Refused before anything is written."""


class SinkStopped(StoppedError):
    """A loud stop at the sink."""
