"""What goes to Kafka together: messages of one topic, and the barriers among them.

Comes in: messages as the decode plans make them; barriers as the tables' states ask for them.  Goes out: batches in the
order in which they are published.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from cdc_reader.gtids import Gtid
from cdc_reader.plans import Message
from schemas.events import BARRIER_KEY, Barrier, BarrierKind, Op
from schemas.tables import TableName

VERSION = "0.1.0"
BY_KEY = -1
"""The partition of a message that goes where its key belongs."""


class Batch(NamedTuple):
    """Messages for one topic; ``table`` is set for rows of a captured table, None for barriers and records."""

    topic: str
    messages: list[Message]
    table: TableName | None = None
    partition: int = BY_KEY


class Origin(NamedTuple):
    """Where and when an event came to be: the parts of ``source`` that aren't the table's."""

    ts_ms: int
    server_id: int
    gtid: str
    file: str
    pos: int
    now_ms: int


def source_head(prefix: str, name: TableName, fingerprint: str, snapshot: str = "false") -> bytes:
    """The part of ``source`` that is the same for all events of a table version, up to the value of ``ts_ms``."""
    fixed = {
        "version": VERSION,
        "connector": "mysql",
        "name": prefix,
        "snapshot": snapshot,
        "db": name.db,
        "table": name.table,
        "schema": fingerprint,
    }
    return b',"source":' + orjson.dumps(fixed)[:-1] + b',"ts_ms":'


def source_mid(head: bytes, origin: Origin) -> bytes:
    """All of ``source`` up to the value of ``row``, as the plans take it."""
    gtid = b'"%s"' % origin.gtid.encode() if origin.gtid else b"null"
    begin, end = _place_parts(origin.server_id, origin.file)
    return b'%s%d%s%s%s%d,"row":' % (head, origin.ts_ms, begin, gtid, end, origin.pos)


def _place_parts(server_id: int, file: str) -> tuple[bytes, bytes]:
    """What stands between the values of ``ts_ms`` and ``gtid``, and between that and the value of ``pos``."""
    return b',"server_id":%d,"gtid":' % server_id, b',"file":%s,"pos":' % orjson.dumps(file)


class SourceWriter:
    """``source_mid`` for the stream's events; it remembers what one source transaction has in common with the last."""

    def __init__(self) -> None:
        self._known: tuple[int, str, str] = (-1, "", "")
        self._begin = self._end = b""

    def mid(self, head: bytes, ts_ms: int, server_id: int, gtid: Gtid | None, file: str, pos: int) -> bytes:
        """As ``source_mid``."""
        if gtid is None:
            return source_mid(head, Origin(ts_ms, server_id, "", file, pos, 0))
        source, number, _ = gtid
        known = self._known
        if known[0] != server_id or known[1] is not source or known[2] is not file:
            begin, end = _place_parts(server_id, file)
            self._begin, self._end = b'%s"%s:' % (begin, source.encode()), b'"' + end
            self._known = server_id, source, file
        return b'%s%d%s%d%s%d,"row":' % (head, ts_ms, self._begin, number, self._end, pos)


def event_tail(now_ms: int) -> bytes:
    """What stands behind ``op`` in an event."""
    return b',"ts_ms":%d}' % now_ms


def barrier_batches(
    topic: str,
    partitions: int,
    head: bytes,
    origin: Origin,
    barrier: Barrier,
    extra: Mapping[str, Any] | None = None,
) -> list[Batch]:
    """The barrier's event, once for every partition of the topic; ``extra`` joins the field ``barrier``."""
    op = Op.TRUNCATE if barrier.kind is BarrierKind.TRUNCATE else Op.MESSAGE
    detail = orjson.dumps({**barrier.to_dict(), **(extra or {})})
    value = b"".join(
        (
            b'{"before":null,"after":null',
            source_mid(head, origin),
            b'0},"op":"%s","ts_ms":%d,"barrier":%s}' % (op.value.encode(), origin.now_ms, detail),
        )
    )
    return [Batch(topic, [(0, BARRIER_KEY, value, None)], None, partition) for partition in range(partitions)]
