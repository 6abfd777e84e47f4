"""Splits the bytes of a dump connection into packets.

Comes in: chunks of any size, as the socket gives them.  Goes out: (buffer, start, end) of each whole payload; nothing is
copied but payloads that lie across two chunks and those of 16 MiB and more, which the protocol splits
(MySQL manual, "Sending More Than 16Mb").  Sequence numbers are checked: a missing packet is never passed over.
"""

from __future__ import annotations

from collections.abc import Iterator

from cdc_reader.errors import SourceAway

_SPLIT_BYTES = 0xFFFFFF


class PacketSplitter:
    """Holds what is left of the last chunk; one instance for one connection."""

    def __init__(self, next_sequence: int) -> None:
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._wanted_bytes = 0
        self._long: list[bytes] = []
        self._sequence = next_sequence

    def split(self, chunk: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Yields the whole payloads that end in ``chunk``; raises SourceAway where a packet is missing between them."""
        if self._rest_bytes:
            # Joined only once the packet is whole: chunk by chunk, a large one would be copied again and again.
            self._rest.append(chunk)
            self._rest_bytes += len(chunk)
            if self._rest_bytes < self._wanted_bytes:
                return
            chunk = b"".join(self._rest)
        length = len(chunk)
        offset = 0
        sequence = self._sequence
        wanted = 4
        while length - offset >= 4:
            size = chunk[offset] | chunk[offset + 1] << 8 | chunk[offset + 2] << 16
            end = offset + 4 + size
            if end > length:
                wanted = 4 + size
                break
            if chunk[offset + 3] != sequence:
                raise SourceAway(f"a packet is missing on the binlog connection: {chunk[offset + 3]} after {sequence}")
            sequence = sequence + 1 & 255
            if size == _SPLIT_BYTES or self._long:
                self._long.append(chunk[offset + 4 : end])
                if size != _SPLIT_BYTES:
                    whole, self._long = b"".join(self._long), []
                    yield whole, 0, len(whole)
            else:
                yield chunk, offset + 4, end
            offset = end
        self._sequence = sequence
        self._rest = [chunk[offset:]]
        self._rest_bytes = length - offset
        self._wanted_bytes = wanted
