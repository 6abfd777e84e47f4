"""The client is one file that imports no room: what it says twice is held to schemas/ and to the commands."""

import dataclasses
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rowflow import client
from rowflow.client import Client, ClientError
from rowflow.receipts import Receipt, receipt_of
from schemas import jobs
from schemas.errors import SettingError
from schemas.jobs import JobOrder, JobOrderKind, JobRequest, JobState, JobStatus
from schemas.patterns import TablePatterns
from schemas.tables import TableName
from schemas.topics import jobs_topic, positions_topic, table_topic
from sink.fold import STORED_WITHOUT_TEXT

NAMES = st.text(alphabet="ab.*?`é_-A", min_size=1, max_size=5)
PART = st.sampled_from(["a", "*", "a?", "shop", "`a*`", "`a``b`", "S*"])


class Sent:
    """In the place of a producer: what was sent."""

    sent: list[tuple[str, bytes, bytes]]

    def __init__(self, options: dict[str, Any]) -> None:
        Sent.sent = []

    def produce(self, topic: str, value: bytes, key: bytes, on_delivery: object) -> None:
        Sent.sent.append((topic, key, value))

    def flush(self, timeout_s: float) -> int:
        return 0


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(client, "Producer", Sent)
    return Client(
        source_url="mysql://u@h", bootstrap_servers="k", prefix="p", sink_url="mysql://u@h/results", tables=["shop.*"]
    )


@given(db=NAMES, table=NAMES)
def test_topics_have_the_same_names(db: str, table: str) -> None:
    assert client.table_topic("p", db, table) == table_topic("p", TableName(db, table))


@given(
    patterns=st.lists(st.builds("{}{}.{}".format, st.sampled_from(["", "!"]), PART, PART), min_size=1, max_size=3),
    db=st.sampled_from(["a", "ab", "a*", "a`b", "shop", "Shop", "mysql"]),
    table=st.sampled_from(["a", "ab", "a*", "a`b", "shop", "Shop"]),
)
@example(patterns=["shop.S*"], db="shop", table="shop")
def test_the_same_tables_are_captured(patterns: list[str], db: str, table: str) -> None:
    try:
        wanted = TablePatterns.from_settings(patterns).matches(TableName(db, table))
    except SettingError:
        wanted = False
    assert client._is_captured(patterns, db, table) == wanted


def test_a_request_and_an_order_are_what_the_reader_reads(made: Client) -> None:
    job = made.snapshot("shop.books", where="price > 1", shards=3, job_id="größe")
    ((topic, key, value),) = Sent.sent
    request = jobs.parse_job_record(key, value)
    assert isinstance(request, JobRequest)
    assert (topic, key) == (jobs_topic("p"), request.key())
    wanted = JobRequest(
        "shop", "books", "größe", "client", request.requested_ms, fresh=False, where="price > 1", shards=3
    )
    assert request == wanted
    for order in JobOrderKind:
        getattr(job, order.value)()
        ((_, key, value),) = Sent.sent
        told = jobs.parse_job_record(key, value)
        assert isinstance(told, JobOrder)
        assert (told.id, told.order, key) == ("größe", order.value, told.key())


def test_a_table_that_isnt_captured_is_refused(made: Client) -> None:
    with pytest.raises(ClientError, match="isn't captured"):
        made.snapshot("other.books")


def test_receipts_are_the_commands() -> None:
    names = [one.name for one in dataclasses.fields(Receipt)]
    assert [one.name for one in dataclasses.fields(client.Receipt)] == names
    state = JobState(
        "shop", "books", "j", "client", fresh=True, status="done", started_ms=1_000, shards=3, rows_read=2_000,
        rows_dropped=15, rows_published=1_985, low="b.1:4", high="b.1:9", finished_ms=3_500, digests=[1, 2**64 - 1],
        lags=[0, 5, 0, 3, 0, 0, 2, *[0] * 9], lag_max_ms=88,
    )  # fmt: skip
    found = client._receipt(dataclasses.asdict(state), "books", 5)
    assert dataclasses.asdict(found) == dataclasses.asdict(receipt_of(state, "books", 5))


def test_names_of_states_and_topics_are_those_of_schemas() -> None:
    state = JobState("shop", "books", "j", "client", fresh=True, status="", started_ms=1)
    opened = {status for status in JobStatus if dataclasses.replace(state, status=status.value).open}
    assert opened == client.OPEN
    assert client.LAG_BOUNDS_MS == jobs.LAG_BOUNDS_MS
    assert client._STORED_WITHOUT_TEXT == STORED_WITHOUT_TEXT
    assert (jobs_topic("p"), positions_topic("p")) == ("p.__jobs", "p.__positions")


def test_settings_come_from_the_file_and_the_environment(tmp_path: Any) -> None:
    (tmp_path / "secret").write_text("s3/cret\n")
    file = tmp_path / "rowflow.toml"
    file.write_text(
        '[source]\nurl = "mysql://u@h:1"\ntables = ["shop.*"]\n[kafka]\nbootstrap_servers = "k:1"\nprefix = "p"\n'
        '[sink]\nurl = "mysql://u@h/results"\n'
    )
    made = Client.from_file(
        file, {"ROWFLOW_SOURCE__PASSWORD_FILE": str(tmp_path / "secret"), "ROWFLOW_SINK__URL": "mysql://v@i/other"}
    )
    assert made._source_url == "mysql://u:s3%2Fcret@h:1"
    assert made._servers.sink_url == "mysql://v@i/other"
    file.write_text(file.read_text().replace('prefix = "p"', ""))
    with pytest.raises(ClientError, match=r"no \[kafka\] prefix, and ROWFLOW_KAFKA__PREFIX isn't set"):
        Client.from_file(file, {})
