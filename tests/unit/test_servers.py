"""servers/: what needs no server. Processes that are not ours stay alone; downloads are what they should be."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from servers.downloads import read_sums, sha256_sums, write_sums
from servers.errors import ServerError
from servers.given import given_servers
from servers.ports import free_port, is_free
from servers.processes import ServerProcess
from tests.helpers import wait_until


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a careless stop would end."""
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[ServerProcess]:
    """A process of ours, running."""
    process = ServerProcess(tmp_path, "sleeper")
    process.start(["sleep", "300"])
    yield process
    process.kill()


def test_a_pid_that_now_belongs_to_another_process_is_not_ours(
    tmp_path: Path, sleeper: ServerProcess, bystander: subprocess.Popen[bytes]
) -> None:
    _, start_time, boot_id = (tmp_path / "sleeper.pid").read_text().split()
    started_before_the_bystander = f"{bystander.pid} {int(start_time) - 1} {boot_id}\n"
    (tmp_path / "stale.pid").write_text(started_before_the_bystander)
    stale = ServerProcess(tmp_path, "stale")

    assert stale.pid is None
    stale.kill()
    stale.stop(timeout_s=1)

    assert bystander.poll() is None


def test_a_process_is_found_by_the_next_program_and_ended_by_it(tmp_path: Path, sleeper: ServerProcess) -> None:
    found = ServerProcess(tmp_path, "sleeper")
    assert found.pid == sleeper.pid

    found.stop(timeout_s=10)

    assert sleeper.pid is None
    assert not (tmp_path / "sleeper.pid").exists()


def test_a_second_start_is_refused(sleeper: ServerProcess) -> None:
    with pytest.raises(ServerError, match="runs already"):
        sleeper.start(["sleep", "300"])


_LEADERLESS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(300,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_whose_first_thread_has_ended_is_there_until_the_last_one_has(tmp_path: Path) -> None:
    """As a killed mysqld is for a moment: its port was taken for another program's, and it was started with a new one."""
    dying = ServerProcess(tmp_path, "dying")
    dying.start([sys.executable, "-c", _LEADERLESS])
    pid = dying.pid
    wait_until(lambda: _state(dying) == "Z", 5, "the first thread to end")

    assert dying.pid == pid
    dying.kill()

    assert dying.pid is None


def test_a_suspended_process_is_ended_in_order(tmp_path: Path) -> None:
    orderly = ServerProcess(tmp_path, "orderly")
    orderly.start(["sh", "-c", "trap 'echo in order; exit' TERM; echo ready; while :; do sleep 0.05; done"])
    wait_until(lambda: "ready" in orderly.log_file.read_text(), 5, "the trap to be set")
    orderly.suspend()
    wait_until(lambda: _state(orderly) == "T", 5, "the process to be suspended")

    orderly.stop(timeout_s=2)

    assert orderly.pid is None
    assert "in order" in orderly.log_file.read_text()


def test_a_process_deaf_to_sigterm_is_ended_all_the_same(tmp_path: Path) -> None:
    deaf = ServerProcess(tmp_path, "deaf")
    deaf.start(["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"])
    wait_until(lambda: "deaf" in deaf.log_file.read_text(), 5, "the trap to be set")

    deaf.stop(timeout_s=0.2)

    assert deaf.pid is None


def test_a_process_outlives_the_terminal_of_its_starter(sleeper: ServerProcess) -> None:
    assert sleeper.pid is not None
    assert os.getsid(sleeper.pid) == sleeper.pid


def test_a_process_that_ends_while_starting_is_reported_with_its_log(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path, "broken")
    process.start(["sh", "-c", "echo no such file; exit 1"])

    with pytest.raises(ServerError, match="no such file"):
        process.wait_ready(lambda: False, timeout_s=10)


def test_ports_are_below_the_range_of_outgoing_connections() -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()

    assert is_free(port)
    assert port < lowest_outgoing


def test_sums_are_those_of_sha256sum(tmp_path: Path) -> None:
    files = tmp_path / "files"
    (files / "deep").mkdir(parents=True)
    (files / "a").write_bytes(b"one")
    (files / "deep" / "b").write_bytes(b"\0" * 100_000)
    sums = sha256_sums(files)
    write_sums(tmp_path / "SHA256SUMS", sums)

    assert read_sums(tmp_path / "SHA256SUMS") == sums
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "../SHA256SUMS"], cwd=files, check=True)
    (files / "a").write_bytes(b"two")
    assert sha256_sums(files) != sums


def test_servers_are_given_all_three_or_none() -> None:
    three = {
        "ROWFLOW_SOURCE__URL": "mysql://u@source",
        "ROWFLOW_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092",
        "ROWFLOW_SINK__URL": "mysql://u@sink/results",
    }
    assert given_servers({"PATH": "/bin", **three}) == three
    assert given_servers({"PATH": "/bin", "ROWFLOW_SINK__URL": ""}) is None
    for name in three:
        with pytest.raises(ServerError, match=f"not {name}"):
            given_servers({key: value for key, value in three.items() if key != name})


def _state(process: ServerProcess) -> str:
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_kill_is_sigkill(tmp_path: Path) -> None:
    process = ServerProcess(tmp_path, "sleeper")
    with subprocess.Popen(["sleep", "300"]) as child:
        identity = _identity_of(child.pid)
        (tmp_path / "sleeper.pid").write_text(identity)
        process.kill()
        assert child.wait(10) == -signal.SIGKILL


def _identity_of(pid: int) -> str:
    """Return the pid file of a process as proc(5) gives it: pid, field 22 (start time), the boot's id."""
    start_time = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[22 - 3]
    return f"{pid} {start_time} {Path('/proc/sys/kernel/random/boot_id').read_text()}"
