"""A child that ends with its parent.

Comes in: the child's stdin, the read end of a pipe whose other end only the parent holds.  When the parent is gone,
however it went, the pipe is closed; the child then gets SIGTERM, as from a parent that stops it, and ends at the latest
ten seconds later.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

LIFELINE = "ROWFLOW_LIFELINE"
"""Variable that tells a child that its stdin is such a pipe."""
RESTARTED = "ROWFLOW_RESTARTED"
"""Variable that tells a child that it isn't the first: a server that is away is waited for."""
END_TIME_S = 10.0


def has_lifeline() -> bool:
    """Whether this process is a child of `up`."""
    return bool(os.environ.get(LIFELINE))


def hold_lifeline() -> None:
    """End this process when the parent ends, if there is a lifeline; call it from the main program."""
    if has_lifeline():
        threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), name="lifeline", daemon=True).start()


def was_restarted() -> bool:
    """Whether this process takes the place of one that ended."""
    return bool(os.environ.get(RESTARTED))


def _end_with_parent(pipe: int) -> None:
    while os.read(pipe, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_TIME_S)
    os._exit(1)
