"""Rowflow's processes without their imports: forked from one process that has loaded all of Rowflow and started nothing.

A start takes a second of a core otherwise, and the tests need hundreds.  From there on it is `python -m` itself: own session,
environment, descriptors, signals and exit code.  Processes started from nothing are in the tests of `up`, the demo and the
documents.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Protocol

_COMMANDS = ("reader", "worker", "wait", "snapshot", "jobs", "check", "status", "read")
_CONTEXT = multiprocessing.get_context("forkserver")
_ONE_AT_A_TIME = threading.Lock()
"""The library reads an exit code from a pipe, once: a second thread beside it would find the pipe's end, and say 255.

It asks all processes for theirs whenever one is started.
"""
_CONTEXT.set_forkserver_preload([__name__, *(f"rowflow.commands.{command}" for command in _COMMANDS)])


class Process(Protocol):
    """What a test asks of a process: as subprocess.Popen has it."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; raises TimeoutExpired."""

    def send_signal(self, sig: int, /) -> None:
        """To be sent only while it runs."""


class Forked:
    """A forked process of Rowflow."""

    def __init__(
        self,
        line: Sequence[str],
        directory: Path,
        environment: Mapping[str, str],
        output: Path,
        errors: Path | None = None,
    ) -> None:
        """``line``: a module and its arguments; ``errors``: where stderr goes, if not where stdout goes."""
        self._line = list(line)
        self._process = _CONTEXT.Process(
            target=_run, args=(self._line, str(directory), dict(environment), str(output), str(errors or output))
        )
        with _ONE_AT_A_TIME:
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        with _ONE_AT_A_TIME:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; raises TimeoutExpired."""
        connection.wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(self._line, timeout or 0)
        return code

    def send_signal(self, sig: int, /) -> None:
        """To be sent only while it runs."""
        if self.poll() is None:
            os.kill(self.pid, sig)


def run_to_end(
    line: Sequence[str], directory: Path, environment: Mapping[str, str], output: Path, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """A module's exit code and what it printed; its output goes through files that begin like ``output``."""
    files = output.with_suffix(".out"), output.with_suffix(".err")
    process = Forked(line, directory, environment, *files)
    try:
        code = process.wait(timeout_s)
    finally:
        process.send_signal(signal.SIGKILL)
    printed = [file.read_text(encoding="utf-8") for file in files]
    return subprocess.CompletedProcess(list(line), code, *printed)


def _run(line: Sequence[str], directory: str, environment: Mapping[str, str], output: str, errors: str) -> None:
    """In the forked process: become `python -m LINE`."""
    os.setsid()
    os.chdir(directory)
    for number, name in ((1, output), (2, errors)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    module, *sys.argv[1:] = line
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        # A forked process doesn't come to the interpreter's own end.
        atexit._run_exitfuncs()
