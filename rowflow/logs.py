"""Logging for all processes of Rowflow.

Goes out: one line per record on stderr, in UTC: ``2026-11-22T13:13:30.996Z INFO reader: text key=value``.
Guarantees: a traceback shows places and types of errors and never their messages, for a driver's message may quote a
row's values; other people's libraries are heard from WARNING on, for at DEBUG some of them print what they carry; what
one of them says again and again, as while a server is away, is let through once in ten seconds.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from types import TracebackType

ROOMS = ("rowflow", "cdc_reader", "stream_app", "sink", "schemas", "check")
REPEATED_S = 10.0
_TEMPLATES_MOST = 1_000

ExceptionInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def set_up_logging(*, verbose: bool) -> None:
    """Send the rooms' records from INFO on (``verbose``: from DEBUG on) to stderr; replaces what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    handler.addFilter(RepeatFilter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for room in ROOMS:
        logging.getLogger(room).setLevel(logging.DEBUG if verbose else logging.INFO)


class RepeatFilter(logging.Filter):
    """Lets a library's message through once in REPEATED_S, whatever its arguments; the rooms' own always."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._passed_s: dict[tuple[str, int, str, type[BaseException] | None], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is new, or was last let through long enough ago."""
        if record.name.partition(".")[0] in ROOMS:
            return True
        now = self._now()
        error = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.levelno, str(record.msg), error)
        passed_s = self._passed_s.get(key)
        if passed_s is not None and now - passed_s < REPEATED_S:
            return False
        # A library that puts values into its templates mustn't fill the memory.
        if len(self._passed_s) >= _TEMPLATES_MOST:
            self._passed_s.clear()
        self._passed_s[key] = now
        return True


class LineFormatter(logging.Formatter):
    """Time, level, the module's short name, message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03dZ %(levelname)s %(module)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime

    def formatException(self, ei: ExceptionInfo) -> str:  # noqa: N802 - the base class's name
        """The traceback without the errors' messages."""
        return "" if ei[1] is None else describe_traceback(ei[1])


def describe_traceback(error: BaseException) -> str:
    """Places and types of an error and of those that led to it, innermost cause first, without their messages."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.insert(0, f"{frames}{type(current).__module__}.{type(current).__qualname__}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\nwhich led to:\n".join(parts)


def describe_place(error: BaseException) -> str:
    """Type and innermost place of an error, in one line."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__qualname__}{place}"
