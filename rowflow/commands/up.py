"""`rowflow up`."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable
from itertools import cycle

import click
from rich.console import Console
from rich.text import Text

from rowflow.errors import ChildEndedError
from rowflow.kafka import check_options
from rowflow.observer import observer_of
from rowflow.options import CommandLine, command_line, settings_command
from rowflow.preflight import check_sink
from rowflow.settings import Settings
from rowflow.status_view import summary
from rowflow.supervisor import ChildCommand, Supervisor
from stream_app.errors import RESTART_EXIT_CODE

STATUS_EVERY_S = 5.0
_COLOURS = ("cyan", "green", "magenta", "blue", "yellow")
_NAME_WIDTH = 9


class _Output:
    """The terminal: what `up` says, and its children's lines behind their names."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.to_terminal = console.is_terminal
        self._colours = cycle(_COLOURS)
        self._of_child: dict[str, str] = {}

    def tell(self, text: str) -> None:
        """A line of `up` itself."""
        self._console.print(Text.assemble((f"{'up':{_NAME_WIDTH}}| ", "bold"), text))

    def show_line(self, name: str, line: str) -> None:
        """A line of a child."""
        if name not in self._of_child:
            self._of_child[name] = next(self._colours)
        colour = self._of_child[name]
        self._console.print(Text.assemble((f"{name:{_NAME_WIDTH}}| ", colour), line))


@settings_command("up", "source", "kafka", "sink", "stream", "jobs", example="rowflow up --workers 2")
def up(settings: Settings) -> int:
    """Run the reader and the workers on this machine, supervised, until Ctrl-C.

    A child that was killed is started again; one that was refused or stopped loudly ends all, with its exit code.
    """
    check_options(settings.require_kafka())
    output = _Output(Console(highlight=False, soft_wrap=True))
    _say_what_runs(settings, output)
    try:
        check_sink(settings, with_mirrors=True)
    except KeyboardInterrupt:
        return 0
    line = command_line(click.get_current_context())
    supervisor = Supervisor(
        child_commands(settings.stream.workers, line),
        environment={**os.environ, **line.environment()},
        show_line=output.show_line,
        tell=output.tell,
        start_again_code=RESTART_EXIT_CODE,
    )
    if output.to_terminal:
        threading.Thread(target=_tell_status, args=(settings, output.tell), name="status", daemon=True).start()
    outcome = asyncio.run(supervisor.run())
    if outcome.exit_code:
        raise ChildEndedError(outcome.message, outcome.exit_code)
    output.tell("ended")
    return 0


def _tell_status(settings: Settings, tell: Callable[[str], None]) -> None:
    """Say every few seconds where everything stands, as long as the process lives."""
    with observer_of(settings) as observer:
        while True:
            time.sleep(STATUS_EVERY_S)
            tell(summary(observer.look()))


def child_commands(workers: int, line: CommandLine) -> list[ChildCommand]:
    """The reader and so many workers, with the same settings' file and verbosity."""
    shared = [*(("--config", str(line.config)) if line.config else ()), *(("-v",) if line.verbose else ())]
    start = (sys.executable, "-m", "rowflow.main")
    names = {"reader": "reader", **{f"worker {number}": "worker" for number in range(1, workers + 1)}}
    return [ChildCommand(name, (*start, command, *shared)) for name, command in names.items()]


def _say_what_runs(settings: Settings, output: _Output) -> None:
    source, kafka, sink = settings.require_source(), settings.require_kafka(), settings.require_sink()
    workers = settings.stream.workers
    output.tell(f"from   {source.address}, tables {', '.join(source.tables)}")
    output.tell(f"via    {kafka.bootstrap_servers}, topics {kafka.prefix}.*, {kafka.partitions} partitions each")
    output.tell(f"to     {sink.address}")
    output.tell(f"with   a reader and {workers} worker{'s' if workers > 1 else ''}; Ctrl-C ends all")
    if workers > kafka.partitions:
        output.tell(
            f"warning: {workers} workers for {kafka.partitions} partitions of each table: at times"
            f" {workers - kafka.partitions} of them have nothing to do"
        )
