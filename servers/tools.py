"""Command line tools for a set of servers: Kafka's own, which come as Java classes without scripts, and MySQL's client.

They are made into a directory of small shell scripts that take the options anyone knows from Kafka's `bin/*.sh`.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from servers.kafka_files import java, java_options
from servers.mysql import MysqlServer

_KAFKA_TOOLS = {
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
}


def write_kafka_tools(directory: Path, jars: Path) -> None:
    """Write one script for each of Kafka's tools."""
    command = [java(), "-Xmx256m", "-XX:TieredStopAtLevel=1", *java_options(jars)]
    for name, java_class in _KAFKA_TOOLS.items():
        _write_script(directory / name, [*command, java_class])


def write_mysql_client(directory: Path, server: MysqlServer) -> None:
    """Write a `mysql` that is root on this server, if there is a client to be called; no password is in it."""
    command = server.client_command()
    if command is not None:
        _write_script(directory / "mysql", command)


def _write_script(file: Path, command: Sequence[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n', encoding="utf-8")
    file.chmod(0o755)
