"""What can go wrong in a worker, apart from what sink/ raises."""

from __future__ import annotations

from schemas.errors import RefusedError, RowflowError, StoppedError

RESTART_EXIT_CODE = 75
"""A worker that ends with this wants to be started again at once: its topics changed, nothing is wrong."""


class WorkerRefused(RefusedError):
    """A worker that can't begin."""


class WorkerStopped(StoppedError):
    """A worker that can't go on without losing data."""


class RestartNeeded(RowflowError):
    """The worker has to begin anew; the supervisor starts it again at once."""

    exit_code = RESTART_EXIT_CODE


class KafkaUnreachable(RowflowError):
    """Kafka doesn't answer; to be tried again."""


class SchemaUnknown(StoppedError):
    """A fingerprint that ``__schemas`` doesn't hold, even after waiting."""
