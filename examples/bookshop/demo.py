"""The story: `python -m examples.bookshop.demo`, which `make demo` calls with servers of its own.

In: the environment's servers.  Out: 0 if all of it held: the first read, both kills survived, nothing missing after
`rowflow wait`, no difference found by `rowflow check`, every event exactly once.  Else 1, with what didn't hold; 130 after
Ctrl-C.  However it ends, it leaves no process behind.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from examples.bookshop import exactly_once
from examples.bookshop.books import fill
from examples.bookshop.errors import DemoError
from examples.bookshop.gauges import Gauges
from examples.bookshop.pipeline import Pipeline
from examples.bookshop.screen import Screen
from examples.bookshop.stage import GIVEN_BOOKS, PARTITIONS, PREFIX, TABLE, TOPIC, WORKERS, Stage, rows
from examples.bookshop.topic import Topic
from examples.bookshop.workload import Workload
from servers.mysql import Connection

FIRST_READ_S = 120.0
BACK_S = 60.0
COMMAND_S = 90.0
_LOOK_EVERY_S = 0.02
_SHOW_EVERY_S = 0.25
_KILLS = (("worker", 0.2), ("reader", 0.6))
"""What is killed, and when, as a part of the time that the shop is open."""
_CALM_S = 2.0
"""So long the shop stays open after the last one is back: the last numbers shown are those of every day."""


class _Killed(NamedTuple):
    """Who was killed, and when, by the two clocks; ``at`` in UTC."""

    name: str
    at: datetime
    at_s: float


class Demo:
    """One telling of the story."""

    def __init__(self, stage: Stage, *, books: int, open_s: float, kills: bool, keep: bool) -> None:
        self._stage = stage
        self._books = books
        self._open_s = open_s
        self._kills = _KILLS if kills else ()
        self._keep = keep
        self._screen = Screen()
        self._mirror = f"{stage.sink_schema}.{TABLE.partition('.')[2]}"
        rowflow = Path(sys.executable).with_name("rowflow")
        self._pipeline = Pipeline(_short(rowflow), _short(stage.config), stage.directory / "up.log")

    def tell(self) -> None:
        """All of it; DemoError at the first thing that doesn't hold."""
        self._screen.title(f"{TABLE} in MySQL -> topic {TOPIC} in Kafka -> {self._mirror} in MySQL")
        self._stage.prepare()
        self._write_books()
        try:
            self._pipeline.start()
            with closing(Topic(self._stage.bootstrap_servers, TOPIC, PARTITIONS)) as topic:
                self._first_read()
                self._open_shop(topic)
                self._hold_against_the_source()
                self._hold_against_the_topic(topic)
                self._show_results(topic)
            self._keep_open()
        finally:
            code = self._pipeline.end()
        if code != 0:
            raise DemoError(f"rowflow up ended its Ctrl-C with {code}:\n{self._pipeline.log_tail()}")

    def _write_books(self) -> None:
        with closing(self._stage.source()) as source, self._screen.bar(f"writing {TABLE}", self._books) as move:
            written = GIVEN_BOOKS
            for count in fill(source, GIVEN_BOOKS + 1, self._books):
                written += count
                move(written)
        self._screen.say(f"{self._books:,} books in {TABLE}")

    def _first_read(self) -> None:
        """From the start of `rowflow up` until all books are in the results."""
        began_s = time.monotonic()
        self._screen.title("First read")
        self._screen.say(f"$ {self._pipeline.line('up')}", "cyan")
        self._screen.say(f"a reader and {WORKERS} workers; what they say is in {_short(self._pipeline.log)}")
        exactly_once.watch(self._stage, self._pipeline.must_run, FIRST_READ_S)
        with closing(self._stage.sink()) as sink, self._screen.bar(f"rows in {self._mirror}", self._books) as move:

            def arrived() -> bool:
                count = _rows_in_results(sink)
                move(count)
                return count >= self._books

            self._until(arrived, FIRST_READ_S, f"all books to be in {self._mirror}")
        self._screen.say(f"{self._books:,} books in {self._mirror}, {time.monotonic() - began_s:.1f} s after the start")

    def _open_shop(self, topic: Topic) -> None:
        """Changes come in; two processes are killed; the demo looks on."""
        pulse_books = topic.a_book_of_each_partition()
        crashes = ", and two crashes" if self._kills else ""
        self._screen.title(f"The shop is open: inserts, updates, deletes, transactions of many rows{crashes}")
        with closing(self._stage.source()) as source, closing(self._stage.sink()) as sink:
            workload = Workload(source, self._books, pulse_books)
            gauges = Gauges(sink, topic, pulse_books, workload.pulses)
            workload.start()
            try:
                self._look_on(workload, gauges)
            finally:
                workload.stop()
        self._screen.say(
            f"closed: {workload.transactions:,} transactions ({workload.rolled_back:,} rolled back), {workload.rows:,} rows"
            " changed"
        )

    def _look_on(self, workload: Workload, gauges: Gauges) -> None:
        began_s = time.monotonic()
        shown_s = 0.0
        kills = list(self._kills)
        killed: _Killed | None = None
        close_s = began_s + self._open_s
        with self._screen.live() as show:
            while kills or killed or time.monotonic() < close_s:
                workload.must_run()
                self._pipeline.must_run()
                gauges.look_for_stamps()
                now_s = time.monotonic()
                if now_s - shown_s >= _SHOW_EVERY_S:
                    shown_s = now_s
                    show(now_s - began_s, gauges.read())
                if killed is not None:
                    killed = self._see_back(killed, gauges)
                    close_s = max(close_s, time.monotonic() + _CALM_S)
                elif kills and now_s - began_s >= kills[0][1] * self._open_s:
                    killed = self._kill(kills.pop(0)[0])
                time.sleep(_LOOK_EVERY_S)

    def _kill(self, command: str) -> _Killed:
        at, at_s = datetime.now(UTC).replace(tzinfo=None), time.monotonic()
        name, pid = self._pipeline.kill_9(command)
        self._screen.say(f"killed {name} (kill -9 {pid}) ...", "red")
        return _Killed(name, at, at_s)

    def _see_back(self, killed: _Killed, gauges: Gauges) -> _Killed | None:
        """Back: what was committed at the source after the kill has come into every partition of the results."""
        away_s = time.monotonic() - killed.at_s
        if gauges.has_caught_up_with(killed.at):
            self._screen.say(f"killed {killed.name} ... back after {away_s:.1f} s", "green")
            return None
        if away_s > BACK_S:
            raise DemoError(
                f"{killed.name} was killed and isn't back after {BACK_S:.0f} s:\n{self._pipeline.log_tail()}"
            )
        return killed

    def _hold_against_the_source(self) -> None:
        self._screen.title("Is the copy right?")
        self._run("wait", "--timeout", f"{COMMAND_S * 2 / 3:.0f}")
        self._run("check")

    def _hold_against_the_topic(self, topic: Topic) -> None:
        with closing(self._stage.sink()) as sink:
            moves = exactly_once.moves_of(sink, TOPIC)
        offsets = topic.offsets()
        if any(topic.begins().values()):
            raise DemoError("the topic's logs don't begin at 0 any more; nothing can be said of what came before")
        found = exactly_once.findings(moves, topic.ends(), offsets)
        if found:
            raise DemoError("not exactly once:\n" + "\n".join(found[:10]))
        handled = sum(map(len, offsets.values()))
        self._screen.say(
            f"exactly once: {len(moves):,} transactions of the sink moved the progress; they join from 0 to the logs' ends and"
            f" handled {handled:,} records, which is what lies there",
            "green",
        )

    def _run(self, *arguments: str) -> None:
        """Run a command as the user would; its output is part of the story."""
        self._screen.say(f"$ {self._pipeline.line(*arguments)}", "cyan")
        began_s = time.monotonic()
        done = self._pipeline.run(*arguments, timeout_s=COMMAND_S)
        self._screen.say((done.stdout + done.stderr).rstrip() or f"done after {time.monotonic() - began_s:.1f} s")
        if done.returncode != 0:
            raise DemoError(f"rowflow {arguments[0]} ended with {done.returncode}:\n{self._pipeline.log_tail()}")

    def _show_results(self, topic: Topic) -> None:
        columns = ("id", "title", "price", "stock", "rating", "search_text")
        with closing(self._stage.sink()) as sink:
            self._screen.title(f"{self._mirror}; search_text is computed by examples/bookshop/functions.py")
            few = rows(sink, f"SELECT {', '.join(columns)} FROM {self._mirror} ORDER BY updated_at DESC, id LIMIT 5")
            self._screen.table(columns, few)
            group = f"rowflow-{PREFIX}-{rows(sink, 'SELECT id FROM _rowflow_sink')[0][0]}"
        ends = topic.ends()
        self._screen.title("Topics")
        self._screen.table(("topic", "partition", "end of the log"), [(TOPIC, *end) for end in sorted(ends.items())])
        self._screen.say(
            f"{PREFIX}.__positions, {PREFIX}.__schemas, {PREFIX}.__jobs: where the reader stands, shapes, jobs"
        )
        self._screen.title(
            "Look inside" if self._keep else "Look inside (KEEP=1 make demo keeps it all running for that)"
        )
        for line in self._lines_to_look_inside(group):
            self._screen.say(line, "cyan")

    def _lines_to_look_inside(self, group: str) -> list[str]:
        """Command lines that can be pasted as they are."""
        brokers = self._stage.bootstrap_servers
        servers = ("--bootstrap-server", brokers)
        kcat = ("kcat", "-b", brokers, "-t", TOPIC, "-C", "-e", "-q", "-o", "beginning", "-c", "5")
        lines = (
            (*kcat, "-X", "isolation.level=read_committed", "-f", r"%t [%p] @%o %k: %s\n"),
            (self._tool("kafka-console-consumer"), *servers, "--topic", TOPIC, "--isolation-level", "read_committed",
             "--from-beginning", "--max-messages", "5", "--formatter-property", "print.key=true"),
            (self._tool("kafka-topics"), *servers, "--describe", "--topic", TOPIC),
            (self._tool("kafka-consumer-groups"), *servers, "--describe", "--group", group),
        )  # fmt: skip
        return [shlex.join(words) for words in lines]

    def _keep_open(self) -> None:
        """With KEEP=1: say what to try, and go on until Ctrl-C."""
        if not self._keep:
            return
        mysql = self._tool("mysql")
        change = shlex.join((mysql, "-e", f"UPDATE {TABLE} SET stock = stock + 10 WHERE id = 1"))
        look = shlex.join((mysql, "-e", f"SELECT id, title, stock, search_text FROM {self._mirror} WHERE id = 1"))
        self._screen.title("It all goes on running until Ctrl-C. Try in another terminal")
        for line in (
            f"{change} && {self._pipeline.line('wait', '--timeout', '30')} && {look}",
            self._pipeline.line("status"),
            self._pipeline.line("snapshot", TABLE, "--wait"),
            self._pipeline.line("check"),
        ):
            self._screen.say(line, "cyan")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while True:
                self._pipeline.must_run()
                time.sleep(_SHOW_EVERY_S)
        except KeyboardInterrupt:
            self._screen.say("ending")

    def _tool(self, name: str) -> str:
        """One of the scripts that came with the servers, or the command of that name in the PATH."""
        script = self._stage.directory / "bin" / name
        return str(_short(script)) if script.exists() else name

    def _until(self, condition: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            self._pipeline.must_run()
            if time.monotonic() > deadline_s:
                raise DemoError(f"waited {timeout_s:.0f} s for {what}:\n{self._pipeline.log_tail()}")
            time.sleep(_LOOK_EVERY_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell the story once; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.bookshop.demo", description="The bookshop, end to end.")
    parser.add_argument(
        "--dir", type=Path, default=Path(".local/demo"), help="for its own files (default: %(default)s)"
    )
    parser.add_argument("--books", type=int, default=20_000, help="how many to begin with (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15.0, help="how long the shop is open (default: %(default)s)")
    parser.add_argument("--no-kills", action="store_true", help="kill nobody: shorter by what coming back takes")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is ended
    try:
        stage = Stage.from_environment(os.environ, options.dir)
        keep = os.environ.get("KEEP", "") not in {"", "0"}
        Demo(stage, books=options.books, open_s=options.seconds, kills=not options.no_kills, keep=keep).tell()
    except DemoError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nended by Ctrl-C", file=sys.stderr)
        return 130
    print("\nAll of it held.")
    return 0


def _rows_in_results(sink: Connection) -> int:
    """How many books have come; 0 while there is no mirror."""
    mirror = TABLE.partition(".")[2]
    if not rows(sink, "SHOW TABLES LIKE %s", (mirror,)):
        return 0
    count = rows(sink, f"SELECT COUNT(*) FROM {mirror}")[0][0]
    assert isinstance(count, int)
    return count


def _short(path: Path) -> Path:
    """A path as one types it from here."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_absolute() and path.is_relative_to(here) else path


if __name__ == "__main__":
    sys.exit(main())
