"""Compressed transactions: the events inside a TRANSACTION_PAYLOAD event.

Comes in: the event's body.  Goes out: its events one after the other, unpacked as they are asked for, so that a large
transaction takes no more memory than its largest event.  The one module of this room that imports zstandard.
Source: MySQL manual, "Binary Log Transaction Compression"; mysql::binlog::event::Transaction_payload_event.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import BinaryIO, NamedTuple

import zstandard

from cdc_reader.errors import EventUnreadable
from cdc_reader.events import HEADER_BYTES, transaction_payload

_HEADER = struct.Struct("<IBII").unpack_from
_ZSTD, _NONE = 0, 255


class InnerEvent(NamedTuple):
    """One event: its bytes with its header, but without a checksum, and what that header says."""

    buffer: bytes
    event_type: int
    time_s: int
    server_id: int


def payload_events(buffer: bytes, body: int, end: int) -> Iterator[InnerEvent]:
    """The events inside; raises EventUnreadable where the compression is unknown or the payload is cut off."""
    payload = transaction_payload(buffer, body, end)
    packed = buffer[payload.start : end]
    reader: BinaryIO
    if payload.compression == _ZSTD:
        reader = zstandard.ZstdDecompressor().stream_reader(packed)
    elif payload.compression == _NONE:
        reader = BytesIO(packed)
    else:
        raise EventUnreadable(
            f"a transaction has the compression {payload.compression}, unknown to this version of Rowflow"
        )
    try:
        while header := reader.read(HEADER_BYTES):
            time_s, event_type, server_id, size = _HEADER(header)
            event = header + reader.read(size - HEADER_BYTES)
            if len(event) != size:
                raise EventUnreadable("a compressed transaction is cut off")
            yield InnerEvent(event, event_type, time_s, server_id)
    except (zstandard.ZstdError, struct.error) as error:
        raise EventUnreadable("a compressed transaction can't be unpacked") from error
