"""Ranges of a table's primary key: what of a job is still to be read.

Comes in: keys as a SELECT prints their parts.  Goes out: the same as ``__jobs`` holds them.  A range begins behind ``after``
and ends with ``until``; None: at the table's own end.  No order is known here: that is the server's.  Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

Key = tuple[bytes, ...]


class KeyRange(NamedTuple):
    """The rows behind ``after``, up to ``until``."""

    after: Key | None = None
    until: Key | None = None

    def to_dict(self) -> dict[str, Any]:
        """As it stands in a job's state: each part of a key as hex of its bytes."""
        return {"after": _texts(self.after), "until": _texts(self.until)}

    @classmethod
    def from_dict(cls, text: dict[str, Any]) -> KeyRange:
        """The inverse of :meth:`to_dict`."""
        return cls(_key(text["after"]), _key(text["until"]))


def _texts(key: Key | None) -> list[str] | None:
    return None if key is None else [part.hex() for part in key]


def _key(texts: Sequence[str] | None) -> Key | None:
    return None if texts is None else tuple(bytes.fromhex(text) for text in texts)
