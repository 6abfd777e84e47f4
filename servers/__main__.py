"""python -m servers up | down | run: what the Makefile calls.

Commands:
    up    start a set and leave it running; ends with the two lines to type next
    down  end it
    run   start an empty set, run a command with the environment that leads to it, end the set, exit as the command did

"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from servers.downloads import exclusive
from servers.errors import ServerError
from servers.given import given_servers, make_bookshop, missing_roots
from servers.services import Services, write_files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m servers", description="MySQL and Kafka for development and tests.")
    parser.add_argument("--dir", type=Path, default=Path(".local"), help="where they live (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start them and leave them running")
    commands.add_parser("down", help="end them")
    run = commands.add_parser("run", help="run a command with servers of its own, which end with it: run -- COMMAND")
    run.add_argument("words", nargs="+", metavar="COMMAND")
    options = parser.parse_args(arguments)
    try:
        if options.command == "up":
            return _up(options.dir)
        if options.command == "down":
            return _down(options.dir)
        return _run(options.dir, options.words)
    except ServerError as error:
        print(f"servers: {error}", file=sys.stderr)
        return 1


def _up(directory: Path) -> int:
    given = given_servers(os.environ)
    settings_file = directory / "rowflow.toml"
    up = f".venv/bin/rowflow up --config {settings_file}"
    wait = f".venv/bin/rowflow wait --config {settings_file}"
    if given is not None:
        print(f"Using the servers that {', '.join(given)} name; none is started.")
        missing = missing_roots(given)
        if missing:
            print(f"No shop.books, results and users are made there: for that, set {' and '.join(missing)} too")
            print("(mysql://USER:PASSWORD@HOST:PORT, users who may make databases and users).")
        else:
            make_bookshop(given)
        write_files(directory, given)
        _print_next(up, wait)
    else:
        services = _start(directory)
        print(f"  MySQL 127.0.0.1:{services.mysql.port} (pid {services.mysql.pid})")
        print(f"  Kafka {services.kafka.bootstrap_servers} (pid {services.kafka.pid})")
        mysql = f"{directory / 'bin' / 'mysql'} -e"
        change, look = "UPDATE shop.books SET stock = stock + 10", "SELECT id, title, stock FROM results.books"
        _print_next(up, f'{mysql} "{change}" && {wait} && {mysql} "{look}"')
    return 0


def _print_next(first_line: str, second_line: str) -> None:
    print(f"Type next, in two terminals:\n  {first_line}\n  {second_line}")


def _down(directory: Path) -> int:
    if directory.exists():
        Services(directory).stop()
        print(f"The servers in {directory} are down; their data stays there.")
    return 0


def _run(directory: Path, command: Sequence[str]) -> int:
    if given_servers(os.environ) is not None:
        return _exit_code(command, {})
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what is to be ended is ended
    with exclusive(directory / "run.lock", notice=f"Waiting for another run in {directory} to end ..."):
        services = Services(directory)
        services.stop()
        services.remove()
        try:
            return _exit_code(command, _start(directory).environment())
        finally:
            services.stop()


def _start(directory: Path) -> Services:
    started_at = time.monotonic()
    print(f"Starting MySQL and Kafka in {directory} ...", flush=True)
    services = Services(directory)
    services.start()
    print(f"  ready after {time.monotonic() - started_at:.1f} s", flush=True)
    return services


def _exit_code(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run the command in the foreground and return what a shell would: its exit code, or 128 + the signal's number."""
    asked_to_end: list[int] = []
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal tells the command as well: it is for it to end
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_end.append(number))
    with subprocess.Popen(command, env={**os.environ, **environment}) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        if asked_to_end:
            process.terminate()
        code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
