"""What is a GTID set and what isn't, by the manual's grammar."""

import pytest

from cdc_reader.gtids import GtidSet

UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        (f"{UUID}:1", f"{UUID}:1"),
        (f" {UUID.upper()}:7:1-5 ,\n{UUID}:6", f"{UUID}:1-7"),
        (f"{UUID}:3:a_tag:1-2:4", f"{UUID}:3:a_tag:1-2:4"),
        (f"{UUID}:{2**63 - 2}", f"{UUID}:{2**63 - 2}"),
    ],
)
def test_what_is_a_set_is_read(text: str, printed: str) -> None:
    assert str(GtidSet(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        UUID,
        f"{UUID}:",
        f"{UUID}:tag",
        f"{UUID}:1-",
        f"{UUID}:-1",
        f"{UUID}:0",
        f"{UUID}:5-3",
        f"{UUID}:1::2",
        f"{UUID}:1-2-3",
        f"{UUID}:1x",
        f"{UUID}:t-g:1",
        f"{UUID}:٣",
        f"{UUID}:{2**63 - 1}",
        f"{UUID.replace('e', 'g')}:1",
        f"{UUID.replace('-', '')}:1",
        "yesterday",
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="GTID"):
        GtidSet(text)
