"""What is refused of a source's filters, where its own words are enough."""

from __future__ import annotations

from typing import cast

import pytest

from cdc_reader import preflight
from cdc_reader.errors import SourceRefused
from cdc_reader.positions import Place
from cdc_reader.sql import BinlogStatus, SourceSession
from schemas.tables import TableName


class Unreplicated:
    """A session on a server that is nobody's replica."""

    def texts(self, _sql: str, _parameters: object = ()) -> list[tuple[str, ...]]:
        """Rows of whatever is asked for: none."""
        return []


@pytest.mark.parametrize(
    ("only", "ignored", "left_out"),
    [
        ((), (), None),
        (("shop", "crm"), (), "logs"),
        ((), ("logs", "tmp"), "logs"),
        (("logs", "shop", "crm"), (), None),
        (("nothing",), (), "shop"),
    ],
)
def test_a_captured_database_that_the_binlog_leaves_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, only: tuple[str, ...], ignored: tuple[str, ...], left_out: str | None
) -> None:
    status = BinlogStatus(Place("binlog.000001", 4), "", only, ignored)
    monkeypatch.setattr(preflight, "binlog_status", lambda _: status)
    captured = [TableName("shop", "books"), TableName("logs", "visits")]
    session = cast(SourceSession, Unreplicated())
    if left_out is None:
        preflight._check_filters(session, captured)
        return
    with pytest.raises(SourceRefused, match=f"leaves {left_out} out of its binlog"):
        preflight._check_filters(session, captured)
