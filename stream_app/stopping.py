"""How a worker ends: once, with the first reason given, within a deadline.

Comes in: a signal, or a failure from any task or thread.  Goes out: the process's end.  The failure's message is the last
line on stderr.  What still runs in threads is cut off: its transaction was not committed, and the sink rolls it back.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time

from schemas.errors import RowflowError

LINGER_S = 1.0
"""After its last line the process stays no longer than this."""

log = logging.getLogger("rowflow.worker")


class Stopping:
    """The one place that knows why the worker ends.  All methods may be called from any thread."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        # Signals are handled in the main thread, which may hold the lock just then.
        self._lock = threading.RLock()
        self._failure: RowflowError | None = None
        self._begun = False
        self._exit_code: int | None = None

    @property
    def begun(self) -> bool:
        """Whether the worker is on its way out."""
        return self._begun

    def fail(self, failure: RowflowError) -> None:
        """End the worker with this failure's exit code and message, unless it ends for another reason already."""
        with self._lock:
            first = self._failure is None and not self._begun
            if first:
                self._failure = failure
        if first:
            log.error("stopping: %s", type(failure).__name__)
            self.begin()
            os.kill(os.getpid(), signal.SIGTERM)

    def begin(self) -> None:
        """Start the deadline; called at the first signal too."""
        with self._lock:
            if self._begun:
                return
            self._begun = True
        threading.Thread(target=self._cut_off, name="deadline", daemon=True).start()

    def finish_with(self, failure: RowflowError) -> int:
        """The same, for a failure of the start."""
        with self._lock:
            self._failure = self._failure or failure
        return self.finish()

    def finish(self, exit_code: int = 0) -> int:
        """Print the last line; returns the exit code: the failure's, else the given one."""
        with self._lock:
            if self._exit_code is not None:
                return self._exit_code
            failure = self._failure
            self._exit_code = exit_code if failure is None else failure.exit_code
        if failure is not None:
            sys.stdout.flush()
            sys.stderr.write(f"rowflow: {failure}\n")
            sys.stderr.flush()
        # Threads that wait for a server would be waited for at the interpreter's end.
        threading.Thread(target=self._leave, args=(LINGER_S,), name="leaving", daemon=True).start()
        return self._exit_code

    def _cut_off(self) -> None:
        time.sleep(self._timeout_s)
        log.warning("still busy %.0f s after the signal: cut off", self._timeout_s)
        self.finish()
        self._leave(0)

    def _leave(self, after_s: float) -> None:
        time.sleep(after_s)
        os._exit(self._exit_code or 0)
