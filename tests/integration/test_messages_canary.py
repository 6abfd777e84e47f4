"""No password and no value of a row is in any output at -v, whatever fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from urllib.parse import urlsplit

import pytest
from MySQLdb.connections import Connection

from servers.kafka import KafkaServer
from servers.ports import free_port
from tests.helpers import ServiceAddresses, execute, unique_name
from tests.messages import goes_on, message_of, stops_well
from tests.processes import Pipeline, Setting, pipeline

SOURCE_PASSWORD = "canary-source-91d4"  # noqa: S105 - it is there to be looked for
SINK_PASSWORD = "canary-sink-5a0f"  # noqa: S105
KAFKA_PASSWORD = "canary-kafka-c7e2"  # noqa: S105
VALUE = "canary-value-3b7e"
KEY = "canary-key-60d8"
FUNCTIONS = """
from rowflow import computed

@computed("{database}.t")
def length(row: dict) -> int:
    if row["id"] == 3:
        raise RuntimeError("can't do " + row["note"])
    return len(row["note"])
"""


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    """A broker whose listener for clients asks for the canary; by the other one it and the tests reach it."""
    made = KafkaServer(tmp_path_factory.mktemp("kafka"))
    broker, controller = made._ports()
    listeners = f"PLAINTEXT://127.0.0.1:{broker},CLIENTS://127.0.0.1:{free_port()}"
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    made.options.update(
        {
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,CLIENTS:SASL_PLAINTEXT",
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": listeners,
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.clients.plain.sasl.jaas.config": f'{login} required user_rowflow="{KAFKA_PASSWORD}";',
        }
    )
    made.start()
    yield made
    made.stop()


def kafka_settings(kafka: KafkaServer, password: str) -> dict[str, Setting]:
    """``[kafka]`` for the listener that asks."""
    options = {
        "security.protocol": "SASL_PLAINTEXT",
        "sasl.mechanism": "PLAIN",
        "sasl.username": "rowflow",
        "sasl.password": password,
    }
    clients = kafka.options["advertised.listeners"].rpartition("//")[2]
    return {"bootstrap_servers": clients, "producer": options, "consumer": options}


@pytest.fixture(scope="module", autouse=True)
def refused(
    services: ServiceAddresses, kafka: KafkaServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pipeline]:
    """A reader and a worker whom the broker refuses the login, for half a minute while the other tests run."""
    settings = {"kafka": kafka_settings(kafka, f"{KAFKA_PASSWORD}-wrong")}
    addresses = replace(services, bootstrap_servers=kafka.bootstrap_servers)
    with pipeline(addresses, tmp_path_factory.mktemp("refused"), settings) as made:
        for command in ("reader", "worker"):
            made.start(command, "-v")
        yield made


@pytest.fixture
def users(services: ServiceAddresses, source_root: Connection) -> Iterator[tuple[str, str]]:
    """A user of the source and one of the sink, who have canaries for passwords."""
    source, sink = unique_name("canary"), unique_name("canary")
    execute(source_root, f"CREATE USER {source} IDENTIFIED BY '{SOURCE_PASSWORD}'")
    execute(source_root, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO {source}")
    execute(source_root, f"CREATE USER {sink} IDENTIFIED BY '{SINK_PASSWORD}'")
    yield source, sink
    execute(source_root, f"DROP USER {source}, {sink}")


@pytest.fixture
def shop(
    services: ServiceAddresses, source_root: Connection, users: tuple[str, str], kafka: KafkaServer, tmp_path: Path
) -> Iterator[Pipeline]:
    """A pipeline with those users, and a function that fails for some rows."""
    source_user, sink_user = users
    with pipeline(replace(services, bootstrap_servers=kafka.bootstrap_servers), tmp_path / "shop") as made:
        execute(source_root, f"GRANT ALL ON {made.sink_schema}.* TO {sink_user}")
        functions = tmp_path / "functions.py"
        functions.write_text(FUNCTIONS.format(database=made.database))
        at = urlsplit(services.source_url).netloc.rpartition("@")[2]
        made.settings = {
            "source": {"url": f"mysql://{source_user}:{SOURCE_PASSWORD}@{at}", "on_undecodable": "dead-letter"},
            "kafka": kafka_settings(kafka, KAFKA_PASSWORD),
            "sink": {"url": f"mysql://{sink_user}:{SINK_PASSWORD}@{at}/{made.sink_schema}"},
            "stream": {"functions": str(functions)},
        }
        made.write_config()
        write(
            made,
            "CREATE TABLE t (id INT PRIMARY KEY, note VARCHAR(200), facts JSON)",
            f"INSERT INTO t VALUES (1, '{VALUE}', JSON_OBJECT('a', '{VALUE}')), (3, '{VALUE}', NULL)",
            "CREATE TABLE k (code VARCHAR(60) PRIMARY KEY, note VARCHAR(60) CHARACTER SET greek)",
            f"INSERT INTO k VALUES ('{KEY}-1', '{VALUE}'), ('{KEY}-2', '{VALUE}'), ('{KEY}-3', '{VALUE}')",
        )
        yield made


def write(shop: Pipeline, *statements: str) -> None:
    """Run statements in one session of the source."""
    with shop.source() as source:
        for statement in statements:
            execute(source, statement)


def holds_nothing(*outputs: str, but: str = "") -> None:
    """There is something in the outputs, and none of the canaries; ``but``: one that may be in them."""
    assert any(outputs)
    for output in outputs:
        for canary in {SOURCE_PASSWORD, SINK_PASSWORD, KAFKA_PASSWORD, VALUE, KEY} - {but}:
            assert canary not in output
            assert canary.encode().hex() not in output


def has_mirrors(shop: Pipeline) -> bool:
    """Whether the worker has made both mirrors."""
    with shop.sink() as sink:
        made = "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN ('t', 'k')"
        return execute(sink, made) == [(2,)]


def ran(shop: Pipeline, code: int, *line: str) -> CompletedProcess[str]:
    """A command that ran at -v."""
    done = shop.run(*line, "-v")
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_canaries_are_in_no_output_of_what_goes_well(shop: Pipeline, kafka: KafkaServer) -> None:
    up = shop.start("up", "-v")
    done = [
        ran(shop, 0, "wait", "--timeout", "60"),
        ran(shop, 0, "snapshot", f"{shop.database}.k", "--wait"),
        ran(shop, 0, "status"),
    ]
    write(shop, f"UPDATE k SET code = '{KEY}-4' WHERE code = '{KEY}-2'", f"DELETE FROM k WHERE code = '{KEY}-3'")
    done.append(ran(shop, 0, "wait", "--timeout", "60"))
    with shop.sink() as sink:
        assert execute(sink, "SELECT code FROM k ORDER BY code") == [(f"{KEY}-1",), (f"{KEY}-4",)]
        execute(sink, f"UPDATE k SET note = '{VALUE}-2' WHERE code = '{KEY}-4'")
    check = ran(shop, 1, "check", f"{shop.database}.k")
    assert f"{KEY}-4" in check.stdout, "the differing keys are what is asked for"
    holds_nothing(check.stdout, but=KEY)
    holds_nothing(*(each.stdout + each.stderr for each in done), check.stderr)
    stops_well(up)
    holds_nothing(up.text())


def test_canaries_are_in_no_output_of_what_fails(shop: Pipeline) -> None:
    reader = shop.start("reader", "-v")
    shop.until(lambda: reader.text().count(" is done: ") == 2, 30, "the first reads")
    worker, read = shop.start("worker", "-v"), shop.start("read", "-v", "--to", "stdout")
    shop.until(lambda: has_mirrors(shop), 30, "the mirrors")
    with shop.sink() as sink:
        execute(sink, f"ALTER TABLE t MODIFY note VARCHAR({len(VALUE) + 2})")
    write(
        shop,
        f"INSERT INTO t VALUES (4, '{VALUE} {VALUE}', NULL), (5, '{VALUE}', NULL)",
        f"UPDATE t SET note = '{VALUE}-2' WHERE id = 1",
        "DELETE FROM t WHERE id = 5",
        f"INSERT INTO k VALUES ('{KEY}-5', CONCAT(X'D2', '{VALUE}'))",
    )
    shop.wait()
    with shop.sink() as sink:
        letters = dict(execute(sink, "SELECT CONVERT(`key` USING utf8mb4), reason FROM _rowflow_dead_letters"))
        raised, refused, undecodable = (letters.pop(key) for key in ('{"id":3}', '{"id":4}', f'{{"code":"{KEY}-5"}}'))
        assert VALUE in raised, "the computed function's message is kept in the sink"
        assert "the sink refuses the row" in refused
        assert undecodable.endswith("stored as NULL: note")
        assert not letters
        assert execute(sink, "SELECT note FROM t WHERE id = 1") == [(f"{VALUE}-2",)]
        # A change of the mirrors by hand fails statements that hold values and keys.
        execute(sink, "ALTER TABLE t DROP COLUMN note")
        execute(sink, "ALTER TABLE k DROP COLUMN note")
    outputs = [each.stdout + each.stderr for each in (shop.run("status", "-v"), shop.run("check", "-v"))]
    write(shop, f"INSERT INTO t VALUES (6, '{VALUE}', NULL)", f"INSERT INTO k VALUES ('{KEY}-6', '{VALUE}')")
    message_of(shop, worker, 4)
    write(
        shop,
        "SET SESSION binlog_row_image = 'MINIMAL'",
        f"UPDATE k SET note = '{VALUE}-3' WHERE code = '{KEY}-6'",
    )
    message_of(shop, reader, 4)
    message_of(shop, read, 4)
    # What read prints on stdout is rows; the rest is its log.
    lines = read.text().splitlines()
    assert any(line.startswith("{") and VALUE in line for line in lines)
    log = "\n".join(line for line in lines if not line.startswith("{"))
    holds_nothing(*outputs, reader.text(), worker.text(), log)


def test_canaries_are_in_no_output_where_kafka_refuses_the_login(refused: Pipeline, kafka: KafkaServer) -> None:
    outputs = [ran(refused, 1, *line) for line in (["status"], ["wait", "--timeout", "1"])]
    programs = list(refused.programs)
    messages = [message_of(refused, program, 3) for program in programs]
    assert "refuses the login" in messages[0]
    assert "[kafka.consumer]" in messages[0]
    holds_nothing(*(each.stdout + each.stderr for each in outputs), *(program.text() for program in programs))
    write(refused, "CREATE TABLE t (id INT PRIMARY KEY)")
    refused.write_config({"kafka": kafka_settings(kafka, KAFKA_PASSWORD)})
    reader, worker = goes_on(refused, with_job=True), refused.start("worker")
    refused.wait()
    with refused.sink() as sink:
        assert execute(sink, "SELECT id FROM t") == [(1,)]
    stops_well(reader, worker)
