"""Barriers: all partitions of a topic wait for each other (exactness.md B1).

Comes in: a partition that has come to a barrier, inside its slice's transaction; later, partitions that ask whether
they may go on.  Goes out: rows of ``_rowflow_barriers``, and the barrier's work, done by one worker once all have
come.

Guarantees: the work runs under the topic's lock, on the connection that holds it, with no transaction open; whoever
dies in the middle leaves the barrier open, and another one does the work again, which must stand that.  A barrier is
marked done in one transaction with what its work changed in the bookkeeping.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from schemas.events import Barrier
from sink.fold import BarrierRecord, read_barrier
from sink.locks import topic_lock
from sink.sql import Session, SessionPool

Bookkeeping = Callable[[Session], None]
"""What is written in the transaction that marks the barrier done."""
Work = Callable[[Session, str, Barrier, bytes], Bookkeeping]
"""Does a barrier's work, idempotent; is given a session without a transaction, the topic, and the barrier's field as JSON."""


class _Entered(NamedTuple):
    """Partitions that stand at a barrier which isn't done, and its field as JSON."""

    partitions: int
    field: bytes


def enter(session: Session, topic: str, partition: int, record: BarrierRecord) -> None:
    """The partition stands at the barrier: all before it is in the same transaction.

    A row that is there already is of the same barrier, come to again after its topic was begun anew.
    """
    session.execute(
        "INSERT INTO _rowflow_barriers (topic, barrier_id, partition_id, barrier, entered_at)"
        " VALUES (%s, %s, %s, %s, UTC_TIMESTAMP(3)) ON DUPLICATE KEY UPDATE"
        " barrier = VALUES(barrier), entered_at = VALUES(entered_at), done = 0",
        (topic, record.barrier.id, partition, record.field),
    )


def try_to_finish(pool: SessionPool, topic: str, barrier_id: str, partitions: int, work: Work) -> bool:
    """Whether the barrier is done; does its work if all partitions have come and nobody else is at it."""
    with pool.lend() as session:
        entered = _entered(session, topic, barrier_id)
    if entered is None:
        return True
    if entered.partitions < partitions:
        return False
    with pool.lend_long() as session, topic_lock(session, topic, wait_s=0) as given:
        if not given:
            return False
        entered = _entered(session, topic, barrier_id)
        if entered is None:
            return True
        if entered.partitions < partitions:
            return False
        bookkeeping = work(session, topic, read_barrier(entered.field), entered.field)
        session.begin()
        bookkeeping(session)
        _mark_done(session, topic, barrier_id)
        session.commit()
    return True


def _entered(session: Session, topic: str, barrier_id: str) -> _Entered | None:
    """How many partitions wait at a barrier; None: none does, it is done or was given up."""
    rows = session.fetch(
        "SELECT COUNT(*), MAX(barrier) FROM _rowflow_barriers WHERE topic = %s AND barrier_id = %s AND done = 0",
        (topic, barrier_id),
    )
    partitions, field = rows[0]
    return _Entered(partitions, field) if partitions else None


def _mark_done(session: Session, topic: str, barrier_id: str) -> None:
    """Mark it, and forget those that were done before it."""
    session.execute("DELETE FROM _rowflow_barriers WHERE topic = %s AND done = 1", (topic,))
    session.execute(
        "UPDATE _rowflow_barriers SET done = 1 WHERE topic = %s AND barrier_id = %s AND done = 0", (topic, barrier_id)
    )
