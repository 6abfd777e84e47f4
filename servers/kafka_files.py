"""Kafka's jars, fetched by Maven from wherever this machine's Maven fetches, and checked against kafka_jars.sha256."""

import os
import shlex
import shutil
import tempfile
from functools import cache
from pathlib import Path

from servers.commands import succeeds
from servers.downloads import cache_directory, exclusive, read_sums, sha256_sums
from servers.errors import OWN_SERVERS_HINT, ServerError

KAFKA_VERSION = "4.3.0"

_HERE = Path(__file__).parent
_POM = _HERE / "kafka_pom.xml"
_LOG_SETTINGS = _HERE / "kafka_log4j2.properties"
_EXPECTED_SUMS = _HERE / "kafka_jars.sha256"


@cache
def find_kafka() -> Path:
    """Return the directory with Kafka's jars; downloads them if need be (needs mvn and the network)."""
    jars = cache_directory() / f"kafka-{KAFKA_VERSION}"
    expected = read_sums(_EXPECTED_SUMS)
    with exclusive(cache_directory() / "kafka.lock"):
        if not jars.is_dir():
            _download(jars, expected)
        _check(jars, expected, advice=f"Remove it: rm -r {jars}")
    return jars


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


def _download(jars: Path, expected: dict[str, str]) -> None:
    """Fetch the jars; the directory appears whole and checked, or not at all."""
    if shutil.which("mvn") is None:
        raise ServerError("Kafka is fetched by Maven, and there is no mvn: sudo apt-get install maven")
    print(f"  fetching Kafka {KAFKA_VERSION} by Maven, a quarter of a minute ...", flush=True)
    log_file = cache_directory() / "maven.log"
    with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="kafka.") as scratch:
        fetched = Path(scratch, "jars")
        fetch: list[str | Path] = ["mvn", "--batch-mode", "--file", _POM, f"-Dmaven.repo.local={scratch}/repository"]
        goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
        if not succeeds([*fetch, *goal], log_file):
            raise ServerError(f"Maven can't fetch Kafka {KAFKA_VERSION}, see {log_file}. {OWN_SERVERS_HINT}")
        _check(fetched, expected, advice="Nothing of it was kept.")
        fetched.rename(jars)


def _check(jars: Path, expected: dict[str, str], advice: str) -> None:
    found = sha256_sums(jars)
    if found != expected:
        names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise ServerError(f"{', '.join(names)} in {jars}: not the bytes that {_EXPECTED_SUMS} names. {advice}")
