"""Cuts the bytes of a dump connection into events.

Comes in: chunks of any size, as the socket gives them.  Goes out: each event where it lies in its buffer, with its header read;
nothing is copied but packets that lie across two chunks and those of 16 MiB and more, which the protocol splits
(MySQL manual, "Sending More Than 16Mb").

Guarantees: a packet that is missing (sequence numbers), an event of another length than it says, a bad checksum are never
passed over; an ERR or EOF packet is an exception.  Fault S18.
Written for speed: packet header and event header are read at once, for a source transaction of one row has five events.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

from cdc_reader.errors import EventUnreadable, SourceAway, SourceRefused
from cdc_reader.events import CHECKSUM_BYTES, CRC32_RESIDUE, HEADER_BYTES

Event = tuple[bytes, int, int, int, int, int, int, int]
"""Buffer, where the event's body begins and ends in it (without checksum), type, time in s, server id, size, log_pos.

The size and log_pos are as the header has them: 32 bits.
"""

_HEADERS = struct.Struct("<IBIBIII")
"""Length (3 bytes) and sequence number of the packet, its first byte (0: an event), the event's header but for its flags."""
_EVENT_HEADER = struct.Struct("<IBIII")
_PACKET_HEADER_BYTES = 4
_BODY = _PACKET_HEADER_BYTES + 1 + HEADER_BYTES
_SPLIT_BYTES = 0xFFFFFF
_ERRORS_POSITION = (1236, 1789)


class EventSplitter:
    """Holds what is left of the last chunk; one instance for one connection."""

    def __init__(self, next_sequence: int, *, checksums: bool) -> None:
        """``checksums``: whether events end with a CRC-32; the stream sets it anew at a FORMAT_DESCRIPTION event."""
        self.checksums = checksums
        self._sequence = next_sequence
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._wanted_bytes = 0
        self._long: list[bytes] = []

    def split(self, chunk: bytes) -> Iterator[Event]:
        """Yields the events that end in ``chunk``; raises SourceAway, SourceRefused and EventUnreadable."""
        if self._rest_bytes:
            # Joined only once the packet is whole: chunk by chunk, a large one would be copied again and again.
            self._rest.append(chunk)
            self._rest_bytes += len(chunk)
            if self._rest_bytes < self._wanted_bytes:
                return
            chunk = b"".join(self._rest)
        headers, crc = _HEADERS.unpack_from, crc32
        length = len(chunk)
        fast_end = length - _BODY
        sequence = self._sequence
        offset = 0
        while offset <= fast_end:
            packet, status, time_s, event_type, server_id, size, log_pos = headers(chunk, offset)
            end = offset + 4 + (packet & 0xFFFFFF)
            if end > length:
                break
            if packet >> 24 != sequence:
                raise _missing(packet >> 24, sequence)
            sequence = sequence + 1 & 255
            start, offset = offset, end
            if status or size + 5 != end - start or packet & 0xFFFFFF == _SPLIT_BYTES or self._long:
                if event := self._unusual(chunk, start + 4, end):
                    yield event
            elif not self.checksums:
                yield chunk, start + 24, end, event_type, time_s, server_id, size, log_pos
            elif crc(chunk[start + 5 : end]) == CRC32_RESIDUE:
                yield chunk, start + 24, end - 4, event_type, time_s, server_id, size, log_pos
            else:
                raise _damaged()
        self._sequence = sequence
        yield from self._last(chunk, offset)

    def _last(self, chunk: bytes, offset: int) -> Iterator[Event]:
        """Packets that are too short for an event, and what is left of the chunk."""
        length, wanted = len(chunk), _PACKET_HEADER_BYTES
        while length - offset >= _PACKET_HEADER_BYTES:
            packet = int.from_bytes(chunk[offset : offset + 4], "little")
            end = offset + 4 + (packet & 0xFFFFFF)
            if end > length:
                wanted = end - offset
                break
            if packet >> 24 != self._sequence:
                raise _missing(packet >> 24, self._sequence)
            self._sequence = self._sequence + 1 & 255
            if event := self._unusual(chunk, offset + 4, end):
                yield event
            offset = end
        self._rest = [chunk[offset:]]
        self._rest_bytes = length - offset
        self._wanted_bytes = wanted

    def _unusual(self, chunk: bytes, start: int, end: int) -> Event | None:
        """A packet that isn't one whole event: a part of one (None until its last), or none at all."""
        if end - start == _SPLIT_BYTES or self._long:
            self._long.append(chunk[start:end])
            if end - start == _SPLIT_BYTES:
                return None
            chunk, self._long = b"".join(self._long), []
            start, end = 0, len(chunk)
        if start == end or chunk[start]:
            raise _not_an_event(chunk[start:end])
        body = start + 1 + HEADER_BYTES
        if body > end:
            raise EventUnreadable(f"an event has {end - start - 1} bytes, fewer than its header")
        time_s, event_type, server_id, size, log_pos = _EVENT_HEADER.unpack_from(chunk, start + 1)
        if size != end - start - 1:
            raise EventUnreadable(f"an event has {end - start - 1} bytes and says that it has {size}")
        if self.checksums:
            if crc32(chunk[start + 1 : end]) != CRC32_RESIDUE:
                raise _damaged()
            end -= CHECKSUM_BYTES
        return chunk, body, end, event_type, time_s, server_id, size, log_pos


def _missing(found: int, expected: int) -> SourceAway:
    return SourceAway(f"a packet is missing on the binlog connection: {found} after {expected - 1 & 255}")


def _damaged() -> EventUnreadable:
    return EventUnreadable("an event has a bad checksum: it was damaged in the file or on its way")


def _not_an_event(packet: bytes) -> Exception:
    """What an ERR or EOF packet means (MySQL manual, "Protocol::ERR_Packet")."""
    if packet[:1] != b"\xff":
        return SourceAway("the source has ended the binlog connection")
    code = int.from_bytes(packet[1:3], "little")
    text = packet[9:].decode("utf-8", "replace") if packet[3:4] == b"#" else packet[3:].decode("utf-8", "replace")
    if code in _ERRORS_POSITION and "server_id" not in text and "max_allowed_packet" not in text:
        return SourceRefused(
            f"the source can't go on from the last position: {text} (error {code}); what lies between is lost to the "
            "binlog; give up the old place and read the tables anew: rowflow snapshot --all --start-over"
        )
    return SourceAway(f"the source has ended the binlog connection: {text} (error {code})")
