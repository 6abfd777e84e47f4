"""A server process that outlives the program that started it, known by its pid file.

In: a command. Out: a process in a session of its own, writing to a log file. Guarantees that no foreign process is ever
signalled: the pid file holds the pid together with its start time and the machine's boot id, so a pid that was given to
another process meanwhile does not count. Linux only (/proc).
"""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from servers.errors import ServerError

_POLL_S = 0.02


def _identity(pid: int) -> str | None:
    """Return what tells this process from all that had or will have its pid; None if it is gone or a zombie.

    While it dies, its first thread may be a zombie before the others are, and its ports are taken until the last one is.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    # proc(5): the name is in brackets and may hold spaces; state is the first field after it, start time the 20th.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" and threads < 2 else f"{pid} {fields[19]} {boot_id}"


class ServerProcess:
    """One process, its pid file `NAME.pid` and its log `NAME.log` in a directory."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self.log_file = directory / f"{name}.log"
        self._pid_file = directory / f"{name}.pid"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id; None when the process does not run (or the pid now belongs to another)."""
        if self._child is not None:
            self._child.poll()  # a dead child of ours stays a zombie until it is asked
        try:
            recorded = self._pid_file.read_text(encoding="ascii").strip()
            pid = int(recorded.split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if _identity(pid) == recorded else None

    def start(self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> None:
        """Start the command, detached from this terminal. Refused while the process runs."""
        if self.pid is not None:
            raise ServerError(f"{self.name} runs already with pid {self.pid}")
        with self.log_file.open("ab") as log:
            self._child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        identity = _identity(self._child.pid)
        if identity is not None:
            self._pid_file.write_text(identity + "\n", encoding="ascii")

    def wait_ready(self, is_ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when `is_ready()` says so; an error with the end of the log if the process dies or time is up."""
        deadline = time.monotonic() + timeout_s
        while not is_ready():
            if self.pid is None:
                raise ServerError(f"{self.name} ended while it was starting. {self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} is not ready after {timeout_s:.0f} s. {self._log_tail()}")
            time.sleep(_POLL_S)

    def stop(self, timeout_s: float) -> None:
        """End the process politely (SIGTERM), and by SIGKILL when time is up. Does nothing if it does not run."""
        pid = self.pid
        if pid is not None:
            self._signal(signal.SIGCONT)  # one that was stopped would never see the SIGTERM
            self._signal(signal.SIGTERM)
            if not self._has_ended(timeout_s):
                self.kill()
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would, and return when it is gone."""
        self._signal(signal.SIGKILL)
        if not self._has_ended(timeout_s=10):
            raise ServerError(f"{self.name} (pid {self.pid}) is still there 10 s after SIGKILL")

    def suspend(self) -> None:
        """Stop the process (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a suspended process go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _has_ended(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.pid is not None and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return self.pid is None

    def _log_tail(self) -> str:
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()[-8:]
        return f"The end of {self.log_file}:\n" + "\n".join(f"    {line}" for line in lines)
