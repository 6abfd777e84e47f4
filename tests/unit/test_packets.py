"""Events cut out of chunks."""

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_reader.errors import EventUnreadable, SourceAway, SourceRefused
from cdc_reader.packets import Event, EventSplitter

LIMIT = 0xFFFFFF
"""A packet of so many bytes is continued by the next one."""


def event(content: bytes, number: int = 0, *, checksum: bool = False) -> bytes:
    """The payload of a packet with an event."""
    size = 19 + len(content) + 4 * checksum
    whole = struct.pack("<IBIIIH", 1000 + number, 2, 77, size, 5000 + number, 0) + content
    return b"\0" + whole + (crc32(whole).to_bytes(4, "little") if checksum else b"")


def packets(payloads: list[bytes], first: int = 1) -> bytes:
    """The payloads as they come on the wire."""
    data, sequence = b"", first
    for payload in payloads:
        rest = payload
        while True:
            part, rest = rest[:LIMIT], rest[LIMIT:]
            data += len(part).to_bytes(3, "little") + bytes([sequence & 255]) + part
            sequence += 1
            if len(part) < LIMIT:
                break
    return data


def split(chunks: list[bytes], first: int = 1, *, checksums: bool = False) -> list[tuple[bytes, int]]:
    """The contents and log_pos of the events."""
    splitter = EventSplitter(first, checksums=checksums)
    found: list[Event] = [event for chunk in chunks for event in splitter.split(chunk)]
    for buffer, body, end, event_type, time_s, server_id, size, log_pos in found:
        assert (event_type, server_id, time_s) == (2, 77, log_pos - 4000)
        assert size == end - body + 19 + 4 * checksums
        assert buffer[body - 19 : body - 15] == time_s.to_bytes(4, "little")
    return [(buffer[body:end], log_pos) for buffer, body, end, *_, log_pos in found]


@given(st.lists(st.binary(max_size=60), max_size=40), st.integers(1, 120), st.booleans(), st.integers(0, 255))
def test_any_cut_gives_the_same_events(contents: list[bytes], size: int, checksum: bool, first: int) -> None:  # noqa: FBT001
    data = packets([event(content, n, checksum=checksum) for n, content in enumerate(contents)], first)
    chunks = [data[offset : offset + size] for offset in range(0, len(data), size)]
    assert split(chunks, first, checksums=checksum) == [(content, 5000 + n) for n, content in enumerate(contents)]


@pytest.mark.parametrize("more", [-1, 0, 1, 2, 20, 4000])
@pytest.mark.parametrize("cut", [7, LIMIT // 2, LIMIT + 3, LIMIT + 4, LIMIT + 9])
def test_an_event_about_as_large_as_a_packet_and_the_next_one_come(more: int, cut: int) -> None:
    """One of exactly the limit is followed by an empty packet."""
    content = bytes(LIMIT - 20 + more)
    data = packets([event(b"before"), event(content, 1), event(b"behind", 2)])
    assert split([data[:cut], data[cut:]]) == [(b"before", 5000), (content, 5001), (b"behind", 5002)]


def test_a_missing_packet_is_noticed() -> None:
    with pytest.raises(SourceAway, match="a packet is missing"):
        split([packets([event(b"a")], 1) + packets([event(b"c")], 3)])
    with pytest.raises(SourceAway, match="a packet is missing"):
        split([packets([event(b"a")], 1) + packets([b"\xfe"], 3)])


def test_fault_s18_a_changed_byte_is_noticed() -> None:
    data = packets([event(b"some content", checksum=True)])
    for place in range(5, len(data)):
        damaged = data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]
        with pytest.raises(EventUnreadable):
            split([damaged], checksums=True)


def test_an_event_of_another_length_than_it_says_is_noticed() -> None:
    with pytest.raises(EventUnreadable, match="says that it has"):
        split([packets([event(b"whole")[:-1]])])
    with pytest.raises(EventUnreadable, match="fewer than its header"):
        split([packets([event(b"")[:-1]])])


def test_an_error_of_the_server_is_an_exception() -> None:
    """MySQL manual, "Protocol::ERR_Packet"."""
    purged = b"\xff" + (1236).to_bytes(2, "little") + b"#HY000Could not find first log file name"
    with pytest.raises(SourceRefused, match=r"Could not find first log file name.*rowflow snapshot --all --start-over"):
        split([packets([purged])])
    killed = b"\xff" + (1317).to_bytes(2, "little") + b"#70100Query execution was interrupted"
    with pytest.raises(SourceAway, match="interrupted"):
        split([packets([killed])])
    with pytest.raises(SourceAway, match="has ended"):
        split([packets([event(b"last"), b"\xfe\0\0\2\0"])])
