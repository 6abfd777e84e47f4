"""Kafka's jars, checked against kafka_jars.sha256, and how Java runs what is in them."""

import os
import shlex
import shutil
from functools import cache
from pathlib import Path

from servers.errors import OWN_SERVERS_HINT, ServerError
from servers.maven import Jars

KAFKA_VERSION = "4.3.0"

_HERE = Path(__file__).parent
_LOG_SETTINGS = _HERE / "kafka_log4j2.properties"
_JARS = Jars(f"kafka-{KAFKA_VERSION}", _HERE / "kafka_pom.xml", _HERE / "kafka_jars.sha256", OWN_SERVERS_HINT)


@cache
def find_kafka() -> Path:
    """Return the directory with Kafka's jars; downloads them if need be (needs mvn and the network)."""
    return _JARS.find()


def java() -> str:
    """Return the java to run Kafka with."""
    found = shutil.which("java")
    if found is None:
        raise ServerError("Kafka needs Java 17, and there is no java: sudo apt-get install openjdk-17-jre-headless")
    return found


def java_options(jars: Path) -> list[str]:
    """Return the options for any class of Kafka's: where the classes are, and a log on standard error.

    As with Kafka's own scripts, KAFKA_JVM_PERFORMANCE_OPTS in the environment takes the place of what is usual for speed.
    """
    performance = shlex.split(os.environ.get("KAFKA_JVM_PERFORMANCE_OPTS", "-XX:+UseSerialGC"))
    return [*performance, f"-Dlog4j2.configurationFile={_LOG_SETTINGS}", "-cp", f"{jars}/*"]
