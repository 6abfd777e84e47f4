"""What keeps a comparison from being made.  All end with exit code 1: what isn't compared isn't known to be right."""

from __future__ import annotations

from schemas.errors import RowflowError


class CheckError(RowflowError):
    """A comparison couldn't be made."""


class TableChangedError(CheckError):
    """A table isn't what it was when its comparison began; the text is a reason, without the table's name."""
