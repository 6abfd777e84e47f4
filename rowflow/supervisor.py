"""Child processes that are kept running.

Comes in: command lines.  Goes out: the children's output, line by line, and at the end why it ended.  A child that was
killed, or ended with any code but those below, is started again with back-off; one that ended with the code for "start
me again" at once; a child's 2, 3 or 4 ends all.  SIGINT and SIGTERM end all: each child gets SIGTERM and has
:data:`END_TIME_S` to go before it is killed; a second signal kills at once.

Guarantees: no child outlives the supervisor, however that ends (rowflow/lifeline.py).  Each child has a process group
of its own, so that Ctrl-C reaches the supervisor alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rowflow.lifeline import LIFELINE, RESTARTED

END_TIME_S = 9.0
"""How long children have after SIGTERM; with the killing after it all is over within ten seconds."""
FINAL_CODES = frozenset({2, 3, 4})
BACK_OFF_FIRST_S = 0.5
BACK_OFF_MAX_S = 30.0
STEADY_S = 60.0
"""A child that ran for so long begins its back-off anew when it ends."""

_DRAIN_S = 1.0
_KILL_S = 1.0
"""How long after the killing is waited for.  asyncio takes a process for ended when its pipes are too, and one that a
child has started, in a session of its own, may hold these open."""
_LINE_BYTES_MAX = 1 << 20
_MESSAGE_LINES_MAX = 60
_MESSAGE_START = "rowflow: "


@dataclass(frozen=True, slots=True)
class ChildCommand:
    """One child: what it is called in the output, and its command line."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why the supervisor ended: 0 for a signal, else the child's code and its last message."""

    exit_code: int
    message: str = ""


def back_off_s(failures: int) -> float:
    """How long to wait before the start that follows so many failures in a row, from 1 on."""
    return min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(failures - 1, 10))


def last_message(lines: Sequence[str]) -> str:
    """What a child said why it ended: from its last line that begins like one of ours, else its last line."""
    starts = [number for number, line in enumerate(lines) if line.startswith(_MESSAGE_START)]
    if not starts:
        return lines[-1] if lines else ""
    return "\n".join(lines[starts[-1] :]).removeprefix(_MESSAGE_START)


def describe_end(code: int) -> str:
    """How a child ended, in words."""
    return f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with {code}"


@dataclass(slots=True)
class _Child:
    command: ChildCommand
    process: Process | None = None
    failures: int = 0
    ended_at_s: float | None = None
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_MESSAGE_LINES_MAX))


class Supervisor:
    """Runs the children until one ends for good or a signal comes."""

    def __init__(
        self,
        commands: Sequence[ChildCommand],
        *,
        environment: Mapping[str, str],
        show_line: Callable[[str, str], None],
        tell: Callable[[str], None],
        start_again_code: int,
    ) -> None:
        """``show_line`` gets a child's name and a line of its output; ``tell`` what happens to the children."""
        self._children = [_Child(command) for command in commands]
        self._environment = dict(environment)
        self._show_line = _undisturbed(show_line)
        self._tell = _undisturbed(tell)
        self._start_again_code = start_again_code
        self._ending = asyncio.Event()
        self._outcome = Outcome(0)

    async def run(self) -> Outcome:
        """Start the children and keep them until the end; returns when all have gone."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        keepers = [asyncio.create_task(self._keep(child)) for child in self._children]
        ending = asyncio.create_task(self._ending.wait())
        await asyncio.wait([ending, *keepers], return_when=asyncio.FIRST_COMPLETED)
        self._ending.set()
        for process in self._running():
            process.send_signal(signal.SIGTERM)
        await asyncio.wait(keepers, timeout=END_TIME_S)
        for child in self._children:
            if child.process in self._running():
                self._tell(f"{child.command.name} didn't end within {END_TIME_S:.0f} s and is killed")
                _kill(child.process)
        ended, left = await asyncio.wait(keepers, timeout=_KILL_S)
        for keeper in left:
            keeper.cancel()
        await asyncio.gather(*ended)
        return self._outcome

    def _on_signal(self) -> None:
        if self._ending.is_set():
            for process in self._running():
                _kill(process)
        else:
            self._tell("ending; a second signal kills")
            self._ending.set()

    async def _keep(self, child: _Child) -> None:
        """Start a child again and again, until it ends for good or all end."""
        while not self._ending.is_set():
            started_at_s = time.monotonic()
            code = await self._run_once(child)
            if self._ending.is_set():
                return
            if code in FINAL_CODES:
                self._outcome = Outcome(code, last_message(list(child.lines)))
                return
            child.ended_at_s = time.monotonic()
            if code == self._start_again_code:
                self._tell(f"{child.command.name} asked to be started again")
                continue
            child.failures = 1 if child.ended_at_s - started_at_s >= STEADY_S else child.failures + 1
            delay_s = back_off_s(child.failures)
            self._tell(f"{child.command.name} {describe_end(code)}; it is started again in {delay_s:.1f} s")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), delay_s)

    async def _run_once(self, child: _Child) -> int:
        """One life of a child, until its output is read; gives its exit code, negative for a signal."""
        environment = {**self._environment, LIFELINE: "1"}
        if child.ended_at_s is not None:
            environment[RESTARTED] = "1"
        child.lines.clear()
        child.process = process = await asyncio.create_subprocess_exec(
            *child.command.arguments, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=environment, process_group=0
        )
        if self._ending.is_set():
            process.send_signal(signal.SIGTERM)
        elif child.ended_at_s is not None:
            away_s = time.monotonic() - child.ended_at_s
            self._tell(f"{child.command.name} is back after {away_s:.1f} s (process {process.pid})")
        reading = asyncio.create_task(self._read(child, process.stdout))
        code = await process.wait()
        await asyncio.wait([reading], timeout=_DRAIN_S)
        reading.cancel()
        return code

    async def _read(self, child: _Child, output: asyncio.StreamReader | None) -> None:
        async for line in _lines(output):
            child.lines.append(line)
            self._show_line(child.command.name, line)

    def _running(self) -> list[Process]:
        processes = [child.process for child in self._children]
        return [process for process in processes if process is not None and process.returncode is None]


def _undisturbed(show: Callable[..., None]) -> Callable[..., None]:
    """The same, whatever becomes of the terminal or file behind it: children whose output isn't read stand still."""

    def show_if_possible(*texts: str) -> None:
        with contextlib.suppress(Exception):
            show(*texts)

    return show_if_possible


def _kill(process: Process) -> None:
    """SIGKILL to the process and those that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _lines(stream: asyncio.StreamReader | None) -> AsyncIterator[str]:
    """Lines without their ends; one longer than a MiB is cut into pieces."""
    rest = b""
    while stream is not None and (chunk := await stream.read(1 << 16)):
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LINE_BYTES_MAX:
            whole, rest = [*whole, rest], b""
        for line in whole:
            yield line.decode(errors="replace")
    if rest:
        yield rest.decode(errors="replace")
