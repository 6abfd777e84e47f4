"""Forked processes of Rowflow end as others do, whoever asks."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.helpers import wait_until
from tests.preloaded import Forked, run_to_end
from tests.processes import ROOT


def read_codes_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who reads a process's exit code waits for another who does."""
    read, both = forkserver.read_signed, threading.Barrier(2)

    def read_together(pipe: int) -> int:
        with suppress(threading.BrokenBarrierError):
            both.wait(2)
        code: int = read(pipe)
        return code

    monkeypatch.setattr(forkserver, "read_signed", read_together)


def test_two_threads_that_ask_at_once_are_told_the_same_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Forked(["rowflow.main", "nosuch"], ROOT, os.environ, tmp_path / "log")
    read_codes_together(monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(process.wait, (30, 30))) == [2, 2]
    assert process.poll() == 2


def test_a_thread_that_starts_another_process_takes_no_exit_code_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = Forked(["rowflow.main", "nosuch"], ROOT, os.environ, tmp_path / "log")
    wait_until(lambda: not Path(f"/proc/{process.pid}").exists(), 30, "the process to end")
    read_codes_together(monkeypatch)
    with ThreadPoolExecutor(2) as threads:
        started = threads.submit(Forked, ["rowflow.main", "--version"], ROOT, os.environ, tmp_path / "another")
        assert threads.submit(process.wait, 30).result() == 2
        assert started.result().wait(30) == 0


def test_what_is_printed_goes_where_it_belongs(tmp_path: Path) -> None:
    done = run_to_end(["rowflow.main", "--version"], ROOT, os.environ, tmp_path / "version", 30)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("rowflow ")
    refused = run_to_end(["rowflow.main", "nosuch"], ROOT, os.environ, tmp_path / "nosuch", 30)
    assert "no such command" in refused.stderr
