"""One at a time, over all workers of a sink.

Comes in: a session and a topic.  Goes out: whether this session is the one that may change the topic's mirror and
bookkeeping outside slices.  The lock is the server's own (GET_LOCK): it goes when the connection does, so a worker that
died holds nothing.  It belongs to the connection, so what it protects must run on that very connection (B1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

from sink.sql import Session


@contextmanager
def topic_lock(session: Session, topic: str, wait_s: int) -> Iterator[bool]:
    """Hold the lock of a topic; yields whether it was given within ``wait_s`` seconds (0: at once or not at all).

    progress.py takes the same lock: a place isn't given up while a barrier's work runs.
    """
    # Lock names are the whole server's and at most 64 characters: a digest keeps two sinks on it apart.
    name = "rowflow:" + hashlib.sha256(f"{session.database}\0{topic}".encode()).hexdigest()[:32]
    given = session.fetch("SELECT GET_LOCK(%s, %s)", (name, wait_s)) == ((1,),)
    try:
        yield given
    finally:
        if given and not session.broken:
            session.fetch("SELECT RELEASE_LOCK(%s)", (name,))
