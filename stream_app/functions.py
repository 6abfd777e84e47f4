"""A ``functions.py`` that changes while its worker runs.

Comes in: the file, and the fingerprint of the code that the worker has loaded.  Goes out: RestartNeeded once the file has
other code, so that the worker begins anew with it.

Guarantees: the file's code is looked at before each slice (and so before a begin barrier, which says by which functions the
whole mirror is computed), as well as every few seconds.  A file that can't be used ends no worker: it is warned about once
each time it is written, and the functions that were loaded go on.

Whether the new code loads is tried in a process of its own: what it imports may have changed too, and this process would
keep what it imported before.  ``python -m stream_app.functions FILE PATTERN...`` is that process.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

from schemas.errors import SettingError
from schemas.patterns import TablePatterns
from sink.computed import FunctionsError, fingerprint_of, load
from stream_app.errors import RestartNeeded

_TRIAL_TIME_S = 30.0

log = logging.getLogger("rowflow.worker")


class FunctionsWatch:
    """Looks whether a file still holds the functions that were loaded.  May be called from any thread."""

    def __init__(self, path: Path, patterns: TablePatterns | None, fingerprint: str) -> None:
        self._path = path
        self._patterns = patterns
        self._fingerprint = fingerprint
        self._seen: tuple[int, ...] | None = None
        """What the file was like when it was read last; None: it wasn't yet."""
        self._lock = threading.Lock()

    def look(self) -> None:
        """Raise RestartNeeded if the file has other code, which loads."""
        with self._lock:
            now = _written(self._path)
            if now == self._seen:
                return
            try:
                if fingerprint_of(self._path) != self._fingerprint:
                    _try_to_load(self._path, self._patterns)
                    raise RestartNeeded(f"{self._path} has changed: beginning anew with its functions")
            except FunctionsError as error:
                log.warning(
                    "%s.  This worker goes on with the functions that it began with; one that starts now would end: mend"
                    " the file",
                    error,
                )
            self._seen = now


def _written(path: Path) -> tuple[int, ...]:
    """What changes whenever the file is written; nothing where it can't be seen."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _try_to_load(path: Path, patterns: TablePatterns | None) -> None:
    """Raise FunctionsError if a worker that starts now could not load the file."""
    texts = [] if patterns is None else [pattern.text for pattern in patterns.patterns]
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", __name__, str(path), *texts],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TRIAL_TIME_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise FunctionsError(f"{path}: has not loaded within {_TRIAL_TIME_S:.0f} s") from None
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"ended the process that loaded it, with {done.returncode}"]
        raise FunctionsError(told[-1])


def main(file: str, *patterns: str) -> None:
    """Load the file as a worker does; exit 1 and one line on stderr if that fails."""
    try:
        load(Path(file), TablePatterns.from_settings(patterns) if patterns else None)
    except SettingError as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
