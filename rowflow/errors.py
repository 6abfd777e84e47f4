"""The command line's own failures; the kinds they are of, and their exit codes, stand in schemas/errors.py."""

from __future__ import annotations

from schemas.errors import RefusedError, RowflowError, SettingError


class NoSettingsError(SettingError):
    """Nothing was configured at all: the message holds a whole settings file to copy."""


class UnknownTableError(SettingError):
    """A table was named on the command line that isn't captured."""


class NotInTimeError(RowflowError):
    """What was waited for didn't happen in the time that was given."""


class NothingCapturedError(RowflowError):
    """The patterns capture no table that there is."""


class StandsStillError(RowflowError):
    """A table that was waited for stands still."""


class JobFailedError(RowflowError):
    """A job that was waited for has failed."""


class NoReaderError(RefusedError):
    """Nothing of a reader is in Kafka yet."""


class UnreachableError(RefusedError):
    """A server that the command needs doesn't answer."""


class ChildEndedError(RowflowError):
    """A child of `up` ended for good; its code and its message are `up`'s own."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
