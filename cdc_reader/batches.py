"""What goes to Kafka together: messages of one topic, and the barriers among them.

Comes in: messages as the decode plans make them; barriers as the tables' states ask for them.  Goes out: batches in the
order in which they are published.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

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


def transaction_part(server_id: int, gtid: str, file: str) -> bytes:
    """The part of ``source`` that is the same for a whole source transaction, up to the value of ``pos``."""
    place = {"server_id": server_id, "gtid": gtid or None, "file": file}
    return b"," + orjson.dumps(place)[1:-1] + b',"pos":'


def source_mid(head: bytes, origin: Origin) -> bytes:
    """All of ``source`` up to the value of ``row``, as the plans take it."""
    place = transaction_part(origin.server_id, origin.gtid, origin.file)
    return b'%s%d%s%d,"row":' % (head, origin.ts_ms, place, origin.pos)


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
