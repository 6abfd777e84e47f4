"""Failures of the reader.

SourceRefused (3)    the source's settings, grants or position don't allow a start
BrokerRefused (3)    Kafka's topics or listeners don't allow a start
SourceStopped (4)    an event that can't be followed without losing or guessing data
BrokerStopped (4)    fenced by another reader; a topic that is another one now; an event that is too large for it
SourceAway           the source can't be reached: wait, reconnect, go on from the last committed position
BrokerAway           Kafka can't be reached: the same
BrokerFenced         the Kafka transaction's producer was fenced: by another reader or by its own time-out

Raised where nobody knows the place, and made whole by the stream:
EventUnreadable      an event isn't what it should be: a SourceStopped with the place and the way past it
TableUnfollowable    a table's shape is unknown to this version: that table alone stands still
"""

from __future__ import annotations

from schemas.errors import RefusedError, RowflowError, StoppedError
from schemas.tables import TableName


class SourceRefused(RefusedError):
    """The source's settings, grants or binlogs don't allow a start."""


class BrokerRefused(RefusedError):
    """Kafka's topics, listeners or grants don't allow a start."""


class SourceStopped(StoppedError):
    """The binlog holds something that can't be followed without losing or guessing data."""


class BrokerStopped(StoppedError):
    """Another reader has taken over, a topic isn't the one that it was, or it can't take an event."""


class SourceAway(RowflowError):
    """The source can't be reached, or the connection was lost."""


class BrokerAway(RowflowError):
    """Kafka can't be reached, or a transaction has to be begun anew."""


class BrokerFenced(RowflowError):
    """The producer was fenced; by whom stands in the last committed position (exactness.md R5)."""


class EventUnreadable(RowflowError):
    """An event that is damaged or of an unknown form; the message says what about it, ``table`` whose rows it has."""

    def __init__(self, text: str, table: TableName | None = None) -> None:
        super().__init__(text)
        self.table = table


class TableUnfollowable(RowflowError):
    """A table with a column of a type, or in a form, that this version doesn't know; the message says which and what to do."""
