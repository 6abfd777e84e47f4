"""A connection that is dead without being closed is noticed, and the reader goes on by a new one."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cdc_reader.errors import SourceAway
from cdc_reader.sql import SourceSession
from tests import oracle
from tests.decode_stand import address_of
from tests.helpers import ServiceAddresses, execute, wait_until
from tests.processes import pipeline
from tests.proxy import silent_proxy
from tests.topics import read_topics

HEARTBEAT_S, READ_TIMEOUT_S, SLACK_S = 1, 10, 6


def through(url: str, port: int) -> str:
    """The address by way of another port."""
    return url.replace(f":{urlsplit(url).port}", f":{port}")


def test_a_connection_that_falls_silent_is_given_up_and_nothing_is_lost(
    services: ServiceAddresses, tmp_path: Path
) -> None:
    port = urlsplit(services.source_url).port
    assert port is not None
    with silent_proxy(port) as proxy:
        by_proxy = replace(services, source_url=through(services.source_url, proxy.port))
        with pipeline(by_proxy, tmp_path) as shop, shop.source() as source:
            execute(source, "CREATE TABLE ints (id INT PRIMARY KEY)")
            reader = shop.start("reader")
            shop.wait_followed("ints")
            execute(source, "INSERT INTO ints VALUES (1), (2)")
            shop.wait_read()

            proxy.silence()
            silent_s = time.monotonic()
            execute(source, "INSERT INTO ints VALUES (3)")
            shop.until(
                lambda: "nothing came from the source for 10 s, no heartbeat either" in reader.text(),
                HEARTBEAT_S + READ_TIMEOUT_S + SLACK_S,
                "the reader to notice",
            )
            assert time.monotonic() - silent_s > READ_TIMEOUT_S - HEARTBEAT_S
            shop.until(lambda: proxy.refused > 0, 10, "an attempt in vain")
            proxy.speak()
            shop.wait_read()
            assert reader.stop() == 0
            events = read_topics(services.bootstrap_servers, [shop.topic("ints")])
            oracle.report(oracle.topic_differences(source, shop.database, "ints", events))
            oracle.report(oracle.doubled(events))


def test_a_statement_whose_answer_never_comes_is_given_up(services: ServiceAddresses) -> None:
    port = urlsplit(services.source_url).port
    assert port is not None
    with silent_proxy(port) as proxy:
        address = address_of(through(services.source_url, proxy.port))
        with SourceSession(address, read_timeout_s=1) as session:
            assert session.texts("SELECT 1") == [("1",)]
            proxy.silence()
            with pytest.raises(SourceAway, match="can't be reached"):
                session.texts("SELECT 1")
        with pytest.raises(SourceAway, match="can't be reached"):
            SourceSession(address, timeout_s=1)
        wait_until(lambda: proxy.refused == 1, 5, "the connection in vain")
