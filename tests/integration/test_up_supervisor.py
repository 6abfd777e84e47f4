"""The supervisor of `rowflow up`, with small real children in place of the reader and the workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rowflow.supervisor import _KILL_S, END_TIME_S, back_off_s, last_message
from tests.helpers import wait_until

START_AGAIN = 75

_SUPERVISE = """
import asyncio, os, sys
from rowflow import supervisor as module
from rowflow.supervisor import ChildCommand, Supervisor
module.END_TIME_S = float(os.environ.get("END_TIME_S", module.END_TIME_S))
def show(name, line):
    print(f"{name} | {line}", flush=True)
    if line == "can't be shown":
        raise RuntimeError
supervisor = Supervisor(
    [ChildCommand(f"child {number}", (sys.executable, "-c", code)) for number, code in enumerate(sys.argv[1:], 1)],
    environment=os.environ,
    show_line=show,
    tell=lambda text: print(text, flush=True),
    start_again_code=75,
)
outcome = asyncio.run(supervisor.run())
print(f"outcome {outcome.exit_code}: {outcome.message!r}", flush=True)
"""

_RUNS = """
import signal, sys, time
from rowflow.lifeline import hold_lifeline, was_restarted
hold_lifeline()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
# In one write: a signal that ends the process in the middle of its line would leave a part of it.
sys.stdout.write(f"runs {'again' if was_restarted() else 'first'} {__import__('os').getpid()}\\n")
sys.stdout.flush()
time.sleep(600)
"""
_DEAF = _RUNS.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


class Supervised:
    """A supervisor in a process of its own, and what it has printed."""

    def __init__(self, directory: Path, *children: str) -> None:
        self._file = directory / "output"
        with self._file.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SUPERVISE, *children], stdout=output, stderr=output, start_new_session=True
            )

    @property
    def lines(self) -> list[str]:
        """What there is by now."""
        return self._file.read_text().splitlines()

    def wait_for(self, text: str, times: int = 1, timeout_s: float = 20) -> list[str]:
        """The lines that hold the text, once there are so many."""

        def found() -> list[str] | None:
            lines = [line for line in self.lines if text in line]
            return lines if len(lines) >= times else None

        return wait_until(found, timeout_s, f"{text!r} {times} times in {self._file}") or []

    def child_pids(self, child: str) -> list[int]:
        """The process ids that a child has told, the first one first."""
        return [int(line.split()[-1]) for line in self.lines if line.startswith(f"{child} | runs")]

    def end(self) -> None:
        """End it for good."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(*children: str) -> Supervised:
        directory = tmp_path / str(len(started))
        directory.mkdir(exist_ok=True)
        started.append(Supervised(directory, *children))
        return started[-1]

    yield start
    for supervised in started:
        supervised.end()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


Supervise = Callable[..., Supervised]


def test_a_killed_child_is_started_again_and_told_that_it_isnt_the_first(supervise: Supervise) -> None:
    supervised = supervise(_RUNS, _RUNS)
    supervised.wait_for("| runs first", 2)
    os.kill(supervised.child_pids("child 1")[0], signal.SIGKILL)
    assert supervised.wait_for("child 1 was killed (SIGKILL); it is started again in 0.5 s")
    supervised.wait_for("child 1 | runs again")
    assert supervised.wait_for("child 1 is back after")
    assert len(supervised.child_pids("child 2")) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_ends_all_with_0(supervise: Supervise, number: signal.Signals) -> None:
    supervised = supervise(_RUNS, _RUNS)
    supervised.wait_for("| runs", 2)
    pids = supervised.child_pids("child 1") + supervised.child_pids("child 2")
    supervised.process.send_signal(number)
    supervised.process.wait(10)
    assert supervised.lines[-1] == "outcome 0: ''"
    assert not any(map(alive, pids))


def test_a_child_that_doesnt_end_is_killed_in_time(supervise: Supervise, monkeypatch: pytest.MonkeyPatch) -> None:
    assert END_TIME_S + _KILL_S <= 10
    monkeypatch.setenv("END_TIME_S", "1")
    supervised = supervise(_DEAF, _RUNS)
    supervised.wait_for("| runs", 2)
    supervised.process.send_signal(signal.SIGINT)
    supervised.process.wait(8)
    assert "child 1 didn't end within 1 s and is killed" in supervised.lines
    assert supervised.lines[-1] == "outcome 0: ''"
    assert not alive(supervised.child_pids("child 1")[0])


def test_a_second_signal_kills_at_once(supervise: Supervise) -> None:
    supervised = supervise(_DEAF)
    supervised.wait_for("| runs")
    supervised.process.send_signal(signal.SIGINT)
    supervised.wait_for("a second signal kills")
    supervised.process.send_signal(signal.SIGINT)
    supervised.process.wait(5)
    assert not alive(supervised.child_pids("child 1")[0])


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_childs_final_code_ends_all_with_its_message(supervise: Supervise, code: int) -> None:
    child = f"import sys; sys.stderr.write('log line\\nrowflow: refused\\n  GRANT ...;\\n'); sys.exit({code})"
    supervised = supervise(_RUNS, child)
    supervised.process.wait(20)
    assert supervised.lines[-1] == f"outcome {code}: 'refused\\n  GRANT ...;'"
    assert not any(map(alive, supervised.child_pids("child 1")))


@pytest.mark.parametrize("code", [0, 1, 139])
def test_a_child_that_ends_otherwise_is_started_again_with_back_off(supervise: Supervise, code: int) -> None:
    supervised = supervise(f"import sys; sys.exit({code})")
    lines = supervised.wait_for(f"child 1 ended with {code}; it is started again in", 3)
    assert [line.split()[-2] for line in lines[:3]] == ["0.5", "1.0", "2.0"]


def test_a_child_that_asks_for_it_is_started_again_at_once(supervise: Supervise) -> None:
    child = _RUNS.replace("time.sleep(600)", f"sys.exit({START_AGAIN})")
    supervised = supervise(child)
    supervised.wait_for("child 1 asked to be started again", 3)
    assert not [line for line in supervised.lines if "it is started again in" in line]


def test_children_end_with_a_supervisor_that_was_killed(supervise: Supervise) -> None:
    supervised = supervise(_RUNS, _RUNS)
    supervised.wait_for("| runs", 2)
    pids = supervised.child_pids("child 1") + supervised.child_pids("child 2")
    supervised.process.kill()
    supervised.process.wait()
    wait_until(lambda: not any(map(alive, pids)), 15, "the children to end")


def test_ctrl_c_of_the_terminal_reaches_the_supervisor_alone(supervise: Supervise) -> None:
    supervised = supervise(_RUNS)
    supervised.wait_for("| runs")
    assert os.getpgid(supervised.child_pids("child 1")[0]) != os.getpgid(supervised.process.pid)


def test_a_childs_long_and_broken_lines_come_through(supervise: Supervise) -> None:
    child = (
        "import sys; out = sys.stdout.buffer; out.write(b'x' * 100_000 + b'\\n\\xff\\n' + b'end');"
        " out.flush(); sys.exit(4)"
    )
    supervised = supervise(child)
    supervised.process.wait(20)
    assert f"child 1 | {'x' * 100_000}" in supervised.lines
    assert "child 1 | \ufffd" in supervised.lines
    assert supervised.lines[-1] == "outcome 4: 'end'"


def test_output_that_cant_be_written_holds_nobody_up(supervise: Supervise, tmp_path: Path) -> None:
    """As on a full disk: a child whose output nobody read would stand still, and couldn't be ended."""
    written = tmp_path / "written"
    directory = tmp_path / "0"
    directory.mkdir()
    (directory / "output").symlink_to("/dev/full")
    supervised = supervise(f"print('x' * 1_000_000, flush=True); open({str(written)!r}, 'w')\n{_RUNS}")
    wait_until(written.exists, 20, "the child to go on")
    supervised.process.terminate()
    assert supervised.process.wait(10) is not None


@pytest.mark.parametrize("line", ["can't be shown", "\udcff"])
def test_whatever_showing_a_line_raises_the_rest_is_read(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii:strict")
    shown = line.encode(errors="surrogateescape") + b"\n"
    supervised = supervise(
        f"import sys; sys.stdout.buffer.write({shown!r} + b'x' * 1_000_000); print('\\nend'); sys.exit(4)"
    )
    assert supervised.process.wait(20) == 0
    assert supervised.lines[-1] == "outcome 4: 'end'"


def test_one_that_a_child_left_behind_with_its_pipes_holds_nobody_up(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("END_TIME_S", "1")
    child = (
        "import subprocess\n"
        "print('left', subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)\n" + _RUNS
    )
    supervised = supervise(child)
    pid = int(supervised.wait_for("| left")[0].split()[-1])
    supervised.wait_for("| runs")
    try:
        supervised.process.terminate()
        supervised.process.wait(8)
        assert "outcome 0: ''" in supervised.lines
    finally:
        os.kill(pid, signal.SIGKILL)


def test_back_off_doubles_up_to_half_a_minute() -> None:
    assert [back_off_s(failures) for failures in (1, 2, 3, 7, 8, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0, 30.0]


def test_the_last_message_begins_where_the_child_says_so() -> None:
    assert last_message(["rowflow: one", "log", "rowflow: two", "  more"]) == "two\n  more"
    assert last_message(["Traceback", "ValueError"]) == "ValueError"
    assert last_message([]) == ""
