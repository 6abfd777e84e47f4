"""A terminal: what users see who type a command, and their keyboard.

Comes in: a command line.  Goes out: a process whose stdin, stdout and stderr are a terminal (pty(7)), all that it has written
there, in a file, and its keys.  Linux only.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CTRL_C = b"\3"
COLUMNS, LINES = 160, 50
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """One command on a terminal of its own."""

    def __init__(
        self, command: Sequence[str], written: Path, *, directory: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it; what it writes goes into ``written``."""
        self._own_end, its_end = pty.openpty()
        termios.tcsetwinsize(its_end, (LINES, COLUMNS))
        self._written = written
        self._file = written.open("wb", buffering=0)
        # setsid makes it the terminal's own process, as a shell would: Ctrl-C becomes a signal to its process group.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            cwd=directory,
            env={**environment, "TERM": "xterm-256color"},
            stdin=its_end,
            stdout=its_end,
            stderr=its_end,
        )
        os.close(its_end)
        self._copier = threading.Thread(target=self._copy, name="terminal", daemon=True)
        self._copier.start()

    @property
    def shown(self) -> str:
        """What it has written so far, without colours and the cursor's ways; what was overwritten stays."""
        return plain(self._written.read_text(encoding="utf-8", errors="replace"))

    def press(self, keys: bytes) -> None:
        """Type."""
        os.write(self._own_end, keys)

    def wait(self, timeout_s: float) -> int:
        """The exit code, once it has ended and all that it wrote is there."""
        code = self.process.wait(timeout_s)
        self._copier.join(timeout_s)
        return code

    def end(self) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _copy(self) -> None:
        with self._file, contextlib.suppress(OSError):  # it is raised when nobody has the other end open any more
            while piece := os.read(self._own_end, 1 << 16):
                self._file.write(piece)
        os.close(self._own_end)


@contextlib.contextmanager
def on_terminal(
    command: Sequence[str], written: Path, *, directory: Path, environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """A command that runs on a terminal, at the latest up to the block's end."""
    terminal = Terminal(command, written, directory=directory, environment=environment)
    try:
        yield terminal
    finally:
        terminal.end()


def plain(written: str) -> str:
    """The same without colours and the cursor's ways; what was overwritten stays."""
    return _CONTROL.sub("", written)
