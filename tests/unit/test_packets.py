"""Packets split out of chunks."""

import pytest

from cdc_reader.errors import SourceAway
from cdc_reader.packets import PacketSplitter


def packet(payload: bytes, sequence: int) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence & 255]) + payload


def split(chunks: list[bytes], first: int = 1) -> list[bytes]:
    splitter = PacketSplitter(first)
    return [buffer[start:end] for chunk in chunks for buffer, start, end in splitter.split(chunk)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_any_cut_gives_the_same_packets(size: int) -> None:
    payloads = [bytes([index & 255]) * (index * 7 % 50) for index in range(300)]
    data = b"".join(packet(payload, index + 1) for index, payload in enumerate(payloads))
    chunks = [data[offset : offset + size] for offset in range(0, len(data), size)]
    assert split(chunks) == payloads


def test_a_payload_of_16_mib_and_more_is_joined() -> None:
    limit = 0xFFFFFF
    payload = bytes(range(256)) * 65536 + b"the rest"
    data = packet(payload[:limit], 1) + packet(payload[limit:], 2) + packet(b"next", 3)
    assert split([data[: limit // 2], data[limit // 2 :]]) == [payload, b"next"]


def test_a_payload_of_exactly_the_limit_ends_with_an_empty_packet() -> None:
    payload = b"x" * 0xFFFFFF
    assert split([packet(payload, 1) + packet(b"", 2)]) == [payload]


def test_a_missing_packet_is_noticed() -> None:
    with pytest.raises(SourceAway, match="a packet is missing"):
        split([packet(b"a", 1) + packet(b"c", 3)])
