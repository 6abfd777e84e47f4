"""Failures of the reader.

SourceRefused (3)    the source's settings, grants or position don't allow a start
BrokerRefused (3)    Kafka's topics or listeners don't allow a start
SourceStopped (4)    an event that can't be followed without losing or guessing data
BrokerStopped (4)    fenced by another reader; a topic that is another one now
SourceAway           the source can't be reached: wait, reconnect, go on from the last committed position
BrokerAway           Kafka can't be reached: the same
BrokerFenced         the Kafka transaction's producer was fenced: by another reader or by its own time-out
"""

from __future__ import annotations

from schemas.errors import RefusedError, RowflowError, StoppedError


class SourceRefused(RefusedError):
    """The source's settings, grants or binlogs don't allow a start."""


class BrokerRefused(RefusedError):
    """Kafka's topics, listeners or grants don't allow a start."""


class SourceStopped(StoppedError):
    """The binlog holds something that can't be followed without losing or guessing data."""


class BrokerStopped(StoppedError):
    """Another reader has taken over, or a topic isn't the one that it was."""


class SourceAway(RowflowError):
    """The source can't be reached, or the connection was lost."""


class BrokerAway(RowflowError):
    """Kafka can't be reached, or a transaction has to be begun anew."""


class BrokerFenced(RowflowError):
    """The producer was fenced; by whom stands in the last committed position (exactness.md R5)."""
