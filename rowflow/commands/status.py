"""`rowflow status`."""

from __future__ import annotations

import time
from dataclasses import asdict

import click
import orjson
from rich.console import Console
from rich.live import Live

from rowflow.observer import Observer, observer_of
from rowflow.options import settings_command
from rowflow.settings import Settings
from rowflow.status import Status
from rowflow.status_view import render

WATCH_S = 2.0


@settings_command("status", "source", "kafka", "sink", example="rowflow status --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with --watch one line each time.")
@click.option("--watch", is_flag=True, help="Look again every two seconds until Ctrl-C.")
def status(settings: Settings, *, as_json: bool, watch: bool) -> int:
    """Show where everything stands: reader, jobs, partitions, barriers, dead letters.

    Exit 1 if something is wrong: a server that doesn't answer, a table that stands still.
    """
    with observer_of(settings) as observer:
        return _show(observer, as_json=as_json, watch=watch)


def _show(observer: Observer, *, as_json: bool, watch: bool) -> int:
    """Print one status, or many until Ctrl-C; gives the exit code of the last one."""
    console = Console(highlight=False, soft_wrap=True)
    found = observer.look()
    if not watch:
        if as_json:
            click.echo(_json(found))
        else:
            console.print(render(found))
        return 0 if found.healthy else 1
    try:
        if as_json:
            while True:
                click.echo(_json(found))
                time.sleep(WATCH_S)
                found = observer.look()
        with Live(render(found), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                found = observer.look()
                live.update(render(found), refresh=True)
    except KeyboardInterrupt:
        return 0


def _json(found: Status) -> bytes:
    return orjson.dumps({"healthy": found.healthy, **asdict(found)})
