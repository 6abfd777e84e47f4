"""GTID sets against sets of numbers."""

from hypothesis import given
from hypothesis import strategies as st

from cdc_reader.gtids import Gtid, GtidSet

ONE = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
OTHER = "aaaaaaaa-71ca-11e1-9e33-c80aa9429562"
SOURCES = st.sampled_from([ONE, OTHER, f"{ONE}:blue", f"{ONE}:green"])
GTIDS = st.builds(Gtid, SOURCES, st.integers(1, 60))


def as_numbers(text: str) -> set[tuple[str, int]]:
    """The members, read from the text by the manual's grammar, independently of GtidSet."""
    members = set()
    for part in filter(None, text.split(",")):
        uuid, *fields = part.split(":")
        tag = ""
        for field in fields:
            if field[0].isalpha():
                tag = ":" + field
                continue
            first, _, last = field.partition("-")
            members |= {(uuid + tag, number) for number in range(int(first), int(last or first) + 1)}
    return members


@given(st.lists(GTIDS, max_size=80))
def test_adding_gives_the_union_and_twice_changes_nothing(gtids: list[Gtid]) -> None:
    found = GtidSet()
    for gtid in [*gtids, *gtids[::2]]:
        found.add(gtid)
    assert as_numbers(str(found)) == {(gtid.source, gtid.number) for gtid in gtids}
    assert all(gtid in found for gtid in gtids)


@given(st.lists(GTIDS, max_size=60))
def test_text_is_read_back(gtids: list[Gtid]) -> None:
    found = GtidSet()
    for gtid in gtids:
        found.add(gtid)
    assert str(GtidSet(str(found))) == str(found)
    assert found.tagged == any(":" in gtid.source for gtid in gtids)


@given(st.lists(GTIDS, max_size=60))
def test_intervals_never_touch(gtids: list[Gtid]) -> None:
    found = GtidSet()
    for gtid in gtids:
        found.add(gtid)
    for part in filter(None, str(found).split(",")):
        ends = [tuple(int(x) for x in field.split("-")) for field in part.split(":")[1:] if field[0].isdigit()]
        tags = [index for index, field in enumerate(part.split(":")[1:]) if field[0].isalpha()]
        if not tags:
            for (_, *last), (first, *_) in zip([(e[0], e[-1]) for e in ends], ends[1:], strict=False):
                assert first > last[0] + 1
