"""Waiting longer and longer for something that is away.

Comes in: failed attempts.  Goes out: pauses, and a log line now and then instead of one for each attempt.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

FIRST_S = 0.1
LONGEST_S = 5.0
REPORT_EVERY_S = 10.0


class BackOff:
    """Pauses from 0.1 s, doubling up to 5 s, with jitter so that workers don't come back all at once."""

    def __init__(self) -> None:
        self._pause_s = FIRST_S
        self._reported_at = -REPORT_EVERY_S

    async def sleep(self) -> None:
        """Pause, and pause longer the next time."""
        await asyncio.sleep(self._next())

    def block(self) -> None:
        """The same for a thread."""
        time.sleep(self._next())

    def report(self, log: logging.Logger, message: str, *parts: object) -> None:
        """Log a warning, at most every ten seconds."""
        now = time.monotonic()
        if now - self._reported_at >= REPORT_EVERY_S:
            self._reported_at = now
            log.warning(message, *parts)

    def _next(self) -> float:
        pause_s = self._pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, no secret
        self._pause_s = min(self._pause_s * 2, LONGEST_S)
        return pause_s
