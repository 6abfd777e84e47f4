"""The kinds of failure that every room shares, each with the exit code that the command line ends with.

    RowflowError (1)
    |- SettingError (2)   a setting or a usage that can't be right
    |- RefusedError (3)   refused at start, before anything is written
    `- StoppedError (4)   stopped loudly: going on would lose or guess data

A message says what, where, and the statement, setting or command that mends it; never a row's values, never a secret.
"""

from __future__ import annotations


class RowflowError(Exception):
    """A failure that is told to the user in its own words, without a traceback."""

    exit_code = 1


class SettingError(RowflowError):
    """A setting, an option or a usage that can't be right."""

    exit_code = 2


class RefusedError(RowflowError):
    """A start that is refused before anything is written."""

    exit_code = 3


class StoppedError(RowflowError):
    """A loud stop: going on would lose data or guess it."""

    exit_code = 4
