"""One Ctrl-C of `rowflow up` ends all of it cleanly within ten seconds: in a first read, and with servers that are away.

Cleanly: by itself, with 0.  No child has to be killed, no worker cuts its threads off, nothing is left.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from servers.kafka import KafkaServer
from tests.helpers import ServiceAddresses, execute
from tests.processes import Pipeline, Program, children, pipeline
from tests.proxy import SilentProxy, silent_proxy

END_S = 10.0
SAID_S = 60.0
DOUBLINGS = 18
"""262,144 rows: more than are read before the worker has begun to write them."""
_READER_MISSES_KAFKA = re.compile(r"^reader +\| \S+ WARNING (?:kafka|reader): Kafka", re.MULTILINE)
"""While it writes, and at the begin of a session."""


@contextmanager
def kafka_behind_a_proxy(directory: Path) -> Iterator[SilentProxy]:
    """A broker of this test's own that clients reach by a proxy: the address that it advertises."""
    kafka = KafkaServer(directory / "kafka")
    with silent_proxy(int(kafka.bootstrap_servers.rpartition(":")[2])) as proxy:
        kafka.options["advertised.listeners"] = f"PLAINTEXT://127.0.0.1:{proxy.port}"
        kafka.start()
        try:
            yield proxy
        finally:
            kafka.stop()


@contextmanager
def away(server: SilentProxy) -> Iterator[None]:
    """Nobody listens meanwhile; afterwards it is there again, whatever failed: the topics are deleted through it."""
    server.cut()
    try:
        yield
    finally:
        server.mend()


@contextmanager
def silent(server: SilentProxy) -> Iterator[None]:
    """No answer comes meanwhile."""
    server.silence()
    try:
        yield
    finally:
        server.speak()


def press_ctrl_c(up: Program) -> None:
    """Ctrl-C in its terminal reaches `up` alone: its children have process groups of their own."""
    pids = children(up.process.pid)
    up.process.send_signal(signal.SIGINT)
    assert up.ended(END_S) == 0, up.tail()
    for phrase in ("is killed", "cut off", "Traceback"):
        assert phrase not in up.text(), up.text()
    assert up.text().endswith("| ended\n"), up.tail()
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def start_up(shop: Pipeline) -> Program:
    """`rowflow up`, with a reader and a worker that are both at work."""
    up = shop.start("up", "--workers", "1")
    shop.until(lambda: "goes on from" in up.text() and "seek topic=" in up.text(), SAID_S, "reader and worker to begin")
    return up


@pytest.mark.timeout(240)
def test_one_ctrl_c_ends_all_in_time_whatever_up_is_at(services: ServiceAddresses, tmp_path: Path) -> None:
    sink_port = urlsplit(services.sink_url).port
    assert sink_port is not None
    with kafka_behind_a_proxy(tmp_path) as kafka, silent_proxy(sink_port) as sink:
        addresses = replace(
            services,
            bootstrap_servers=f"127.0.0.1:{kafka.port}",
            sink_url=services.sink_url.replace(f":{sink_port}", f":{sink.port}"),
        )
        with pipeline(addresses, tmp_path / "shop") as shop, shop.source() as source:
            execute(source, "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(20))")
            execute(source, "INSERT INTO t VALUES (0, 'a row')")
            for doubling in range(DOUBLINGS):
                execute(source, f"INSERT INTO t SELECT id + {1 << doubling}, note FROM t")

            up = shop.start("up", "--workers", "1")
            shop.until(lambda: any(shop.progress().values()), SAID_S, "the first rows in the sink")
            press_ctrl_c(up)
            assert shop.table_states()["t"]["status"] == "first read"

            up = start_up(shop)
            with away(kafka):
                shop.until(lambda: _READER_MISSES_KAFKA.search(up.text()), SAID_S, "the reader to say so")
                press_ctrl_c(up)

            up = start_up(shop)
            with away(sink):
                shop.until(lambda: "Can't connect to server" in up.text(), SAID_S, "the worker to say so")
                with silent(kafka):
                    shop.until(lambda: _READER_MISSES_KAFKA.search(up.text()), SAID_S, "the reader to say so")
                    press_ctrl_c(up)
