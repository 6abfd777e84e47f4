"""Rowflow, used as its users use it: `rowflow up` runs beside the demo, the other commands run to their ends.

In: the command and its settings' file.  Out: processes to be killed, and what the commands print.  Linux only (/proc).
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from examples.bookshop.errors import DemoError

_END_S = 10.0
_NOTICE_S = 10.0
_LOOK_EVERY_S = 0.02
_SETTINGS_VARIABLES = "ROWFLOW_"


class Pipeline:
    """`rowflow up`, its children, and its log."""

    def __init__(self, rowflow: Path, config: Path, log: Path) -> None:
        self.log = log
        self._rowflow = rowflow
        self._config = config
        self._up: subprocess.Popen[bytes] | None = None

    def words(self, *arguments: str) -> list[str]:
        """A command line of rowflow, as one types it."""
        return [str(self._rowflow), *arguments, "--config", str(self._config)]

    def line(self, *arguments: str) -> str:
        """The same, to be printed."""
        return shlex.join(self.words(*arguments))

    def start(self) -> None:
        """Start `rowflow up`; a Ctrl-C in the terminal doesn't reach it, the demo ends it."""
        with self.log.open("wb") as log:
            self._up = subprocess.Popen(
                self.words("up"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )

    def must_run(self) -> None:
        """Raise DemoError, with the end of its log, if `rowflow up` has ended."""
        code = None if self._up is None else self._up.poll()
        if code is not None:
            raise DemoError(f"rowflow up ended with {code}. The end of {self.log}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines of `rowflow up`."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def kill_9(self, command: str) -> tuple[str, int]:
        """Kill the youngest child that runs this command with SIGKILL; gives the name that `up` has for it, and its pid."""
        pid = self._children(command)[-1]
        said_before = self.log.stat().st_size
        os.kill(pid, signal.SIGKILL)
        deadline_s = time.monotonic() + _NOTICE_S
        while time.monotonic() < deadline_s:
            said = self.log.read_bytes()[said_before:].decode(errors="replace")
            name = re.search(rf"({command}(?: \d+)?) was killed", said)
            if name is not None:
                return name[1], pid
            self.must_run()
            time.sleep(_LOOK_EVERY_S)
        raise DemoError(f"rowflow up hasn't noticed within {_NOTICE_S:.0f} s that its {command} {pid} was killed")

    def run(self, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run another command to its end."""
        return subprocess.run(
            self.words(*arguments), env=_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def end(self) -> int:
        """End all of it, as Ctrl-C in its terminal would; gives the exit code of `rowflow up`."""
        if self._up is None:
            return 0
        self._up.send_signal(signal.SIGINT)
        try:
            return self._up.wait(_END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._up.pid, signal.SIGKILL)
            self._up.wait()
            raise DemoError(f"rowflow up hasn't ended within {_END_S:.0f} s of its Ctrl-C") from None

    def _children(self, command: str) -> list[int]:
        """The process ids of the children that run a command, the youngest last (proc(5))."""
        self.must_run()
        assert self._up is not None
        listed = Path(f"/proc/{self._up.pid}/task/{self._up.pid}/children").read_text(encoding="ascii").split()
        found = [int(pid) for pid in listed if command.encode() in _arguments(pid)]
        if not found:
            raise DemoError(f"rowflow up has no {command}. The end of {self.log}:\n{self.log_tail()}")
        return found


def _arguments(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _environment() -> Mapping[str, str]:
    """The environment without settings of Rowflow: they are in the file, for whoever types the same commands."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_SETTINGS_VARIABLES)}
