"""The demo, with fewer books and less time: it holds, its lines can be pasted, and it notices when something doesn't hold.

Every slice is handed over twice in here.  What keeps that harmless is the compare of the progress; the demo without it fails.
The one that holds is told on a terminal, the one that fails into a file.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from examples.bookshop.demo import Demo
from examples.bookshop.errors import DemoError
from examples.bookshop.exactly_once import Move, findings
from examples.bookshop.stage import PARTITIONS, TOPIC, Stage
from examples.bookshop.topic import Topic
from servers.services import ROOT_VARIABLES, SERVER_VARIABLES, Services
from tests.faults.slices_twice import TWICE, UNCHECKED, launch_through
from tests.helpers import connected, execute, wait_until
from tests.terminal import CTRL_C, Terminal, on_terminal, plain

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("--books", "1000", "--seconds", "3")
STORY_S = 210.0
"""Quiet it is half a minute; beside other tests on two cores it has been three."""
LINE_S = 60.0
TIMEOUT_S = 300

_SERVICES = {*SERVER_VARIABLES, *ROOT_VARIABLES, "KEEP"}
_TRIED = "It all goes on running until Ctrl-C"
_INSIDE = "Look inside"


@dataclass
class Telling:
    """A demo on servers of its own, and what it has printed so far."""

    directory: Path
    process: subprocess.Popen[bytes]

    @property
    def file(self) -> Path:
        return self.directory / "printed"

    @property
    def printed(self) -> str:
        return plain(self.file.read_text(encoding="utf-8", errors="replace"))

    def lines_after(self, title: str) -> list[str]:
        """The lines of a part of the story: up to the next part."""
        part = self.printed.partition(title)[2].partition("\n")[2]
        return [line.strip() for line in part.partition("\n\n")[0].splitlines()]


@dataclass
class KeptTelling(Telling):
    """One that goes on running, on a terminal."""

    terminal: Terminal


def demo_command(directory: Path, options: Sequence[str]) -> list[str]:
    """The demo as `make demo` starts it."""
    demo = [sys.executable, "-m", "examples.bookshop.demo", "--dir", str(directory), *options]
    return [sys.executable, "-m", "servers", "--dir", str(directory), "run", "--", *demo]


def environment(directory: Path, fault: str, **variables: str) -> dict[str, str]:
    """Without servers, and with workers that do as ``fault`` says."""
    others = {name: value for name, value in os.environ.items() if name not in _SERVICES}
    return {**others, **variables, **launch_through(directory, fault)}


def tell(directory: Path, fault: str, options: Sequence[str]) -> Telling:
    """Start the demo, printing into a file."""
    with (directory / "printed").open("wb") as printed:
        process = subprocess.Popen(
            demo_command(directory, options),
            cwd=ROOT,
            env=environment(directory, fault),
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Telling(directory, process)


def end(telling: Telling) -> None:
    """Leave nothing behind, whatever happened."""
    if telling.process.poll() is None:
        telling.process.send_signal(signal.SIGTERM)
        telling.process.wait(60)
    Services(telling.directory).stop()


@pytest.fixture(scope="module")
def unchecked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Telling]:
    """A demo without the compare of the progress, which has begun: it mostly waits, so it runs beside the other one."""
    telling = tell(tmp_path_factory.mktemp("unchecked"), UNCHECKED, (*SHORT, "--no-kills"))
    yield telling
    end(telling)


@pytest.fixture(scope="module")
def kept(unchecked: Telling, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptTelling]:
    """A demo with KEEP=1 that has come to its end and goes on running."""
    assert unchecked.directory.exists()
    directory = tmp_path_factory.mktemp("kept")
    terminal = Terminal(
        demo_command(directory, SHORT),
        directory / "printed",
        directory=ROOT,
        environment=environment(directory, TWICE, KEEP="1"),
    )
    telling = KeptTelling(directory, terminal.process, terminal)

    def told() -> bool:
        return telling.process.poll() is not None or _TRIED.encode() in telling.file.read_bytes()

    try:
        wait_until(told, STORY_S, "the demo's end")
        assert telling.process.poll() is None, telling.printed
        yield telling
    finally:
        end(telling)


def must_tell_that_all_holds(telling: Telling) -> None:
    """Both kills, no difference, exactly once, though every slice came twice."""
    printed = telling.printed
    assert re.search(r"killed worker \d \.\.\. back after \d+\.\d s", printed), printed
    assert re.search(r"killed reader \.\.\. back after \d+\.\d s", printed), printed
    assert re.search(r"\b0 differences in [1-9][\d,]+ rows", printed), printed
    assert re.search(r"exactly once: [\d,]+ transactions of the sink", printed), printed
    up_log = (telling.directory / "up.log").read_text(encoding="utf-8")
    assert f"fault installed: {TWICE}" in up_log
    assert "missed topic=bookshop.shop.books" in up_log, "no slice came twice"


@pytest.mark.timeout(TIMEOUT_S)
def test_the_story_holds_though_every_slice_comes_twice(kept: KeptTelling) -> None:
    must_tell_that_all_holds(kept)


def test_a_terminal_shows_bars_and_a_live_table(kept: KeptTelling) -> None:
    for what in ("writing shop.books", "rows in results.books"):
        assert re.search(rf"{what} ━+ 1000/1000 0:00:\d\d", kept.printed), what
    assert "┃ partition ┃ rows/s ┃ lag ms ┃ next offset ┃ end of the log ┃" in kept.printed
    shown = re.findall(r"│ (\d|all) +│ +([\d,]+) │ +([\d,]+) │ +([\d,]*) │ +([\d,]*) │", kept.printed)
    assert {line[0] for line in shown} == {*map(str, range(PARTITIONS)), "all"}
    assert any(line[0] == "all" and line[1] != "0" for line in shown), "no row a second was ever shown"
    assert "rows/s, lag" not in kept.printed, "the lines that stand for the table elsewhere"


def test_a_topic_is_read_without_a_wait_at_its_end(kept: KeptTelling) -> None:
    """As it was once: 30 s for a last batch that is never full."""
    began_s = time.monotonic()
    with closing(Topic(Services(kept.directory).kafka.bootstrap_servers, TOPIC, PARTITIONS)) as topic:
        assert sum(map(len, topic.offsets().values())) > 1_000
    assert time.monotonic() - began_s < 15


def test_lines_to_look_inside_are_run_as_printed(kept: KeptTelling) -> None:
    lines = kept.lines_after(_INSIDE)
    tools = [Path(line.split()[0]).name for line in lines]
    assert tools == ["kcat", "kafka-console-consumer", "kafka-topics", "kafka-consumer-groups"]
    printed = [paste(line).stdout for line in lines]
    assert all("bookshop.shop.books" in printed[place] for place in (0, 2, 3)), printed
    assert printed[1].count('{"id":') >= 5, printed[1]
    assert "--isolation-level read_committed" in lines[1]
    group_lags = [row.split()[5] for row in printed[3].splitlines() if "bookshop.shop.books" in row]
    assert group_lags == ["0"] * 4


def test_lines_to_try_are_run_as_printed(kept: KeptTelling, tmp_path: Path) -> None:
    change, status, snapshot, check = kept.lines_after(_TRIED)
    stock_before = int(paste(change).stdout.split()[-3])
    assert int(paste(change).stdout.split()[-3]) == stock_before + 10
    assert "shop.books" in paste(status).stdout
    receipt = paste_on_terminal(snapshot, tmp_path / "snapshot")
    assert re.search(r"^shop\.books ━+ +[\d,]+/[\d,]+ \d+ shards, [\d,]+ rows/s", receipt, re.MULTILINE), receipt
    assert re.search(r"^shop\.books: [\d,]+ rows read, 0 dropped", receipt, re.MULTILINE), receipt
    compared = paste_on_terminal(check, tmp_path / "check")
    assert re.search(r"^shop\.books ━+ ", compared, re.MULTILINE), compared
    assert re.search(r"^0 differences in [1-9]", compared, re.MULTILINE), compared


def test_a_difference_fails_the_demo(kept: KeptTelling, capsys: pytest.CaptureFixture[str]) -> None:
    """A mirror's row that somebody else has changed, though the progress is right."""
    addresses = Services(kept.directory).environment()
    with connected(addresses["SINK_ROOT_URL"], "results") as sink:
        execute(sink, "UPDATE books SET stock = stock + 1 ORDER BY id DESC LIMIT 1")
    stage = Stage.from_environment(addresses, kept.directory)
    demo = Demo(stage, books=1, open_s=1, kills=False, keep=False)
    with pytest.raises(DemoError, match=r"^rowflow check ended with 1:"):
        demo._hold_against_the_source()
    assert re.search(r'^ +{"id":\d+} differs in stock$', capsys.readouterr().out, re.MULTILINE)


def test_a_check_that_cant_be_run_fails_the_demo_with_its_reason(
    kept: KeptTelling, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = Stage.from_environment(Services(kept.directory).environment(), kept.directory)
    demo = Demo(stage, books=1, open_s=1, kills=False, keep=False)
    with pytest.raises(DemoError, match=r"^rowflow check ended with 2:"):
        demo._run("check", "shop.boks")
    assert "rowflow: no captured table is called shop.boks; did you mean shop.books?" in capsys.readouterr().out


def paste(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, as it was printed."""
    done = subprocess.run(
        ["/bin/sh", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=LINE_S, check=False, env=_plain()
    )
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done


def paste_on_terminal(line: str, written: Path) -> str:
    """Run a line on a terminal, as it was printed; gives what it showed."""
    with on_terminal(["/bin/sh", "-c", line], written, directory=ROOT, environment=_plain()) as terminal:
        assert terminal.wait(LINE_S) == 0, f"{line}\n{terminal.shown}"
    return terminal.shown


def _plain() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("ROWFLOW_", "PYTHONPATH"))}


def test_ctrl_c_ends_all(kept: KeptTelling) -> None:
    """The last one that needs it: afterwards nothing runs."""
    kept.terminal.press(CTRL_C)
    assert kept.terminal.wait(60) == 0, kept.printed
    assert "All of it held." in kept.printed
    here = str(kept.directory)
    left = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = file.read_bytes()
        except OSError:
            continue
        if here.encode() in arguments:
            left.append(arguments.replace(b"\0", b" ").decode(errors="replace"))
    assert not left


@pytest.mark.timeout(TIMEOUT_S)
def test_without_the_progress_check_the_demo_fails(unchecked: Telling) -> None:
    code = unchecked.process.wait(STORY_S)
    assert f"fault installed: {UNCHECKED}" in (unchecked.directory / "up.log").read_text(encoding="utf-8")
    assert code == 1, unchecked.printed
    failure = unchecked.printed.partition("The demo failed: ")[2]
    assert failure.startswith("not exactly once:\n"), unchecked.printed
    assert re.search(r"^partition \d, \d+ to \d+: [1-9]\d* records handled, 0 lie there$", failure, re.MULTILINE), (
        failure
    )
    assert "All of it held" not in unchecked.printed


@pytest.mark.soak
@pytest.mark.timeout(2 * TIMEOUT_S)
def test_at_full_size_the_story_holds_though_every_slice_comes_twice(tmp_path: Path) -> None:
    telling = tell(tmp_path, TWICE, ())
    try:
        code = telling.process.wait(2 * STORY_S)
    finally:
        end(telling)
    assert code == 0, telling.printed
    assert "All of it held." in telling.printed
    must_tell_that_all_holds(telling)


WHOLE = [Move(0, 0, 0, 0), Move(0, 0, 4, 3), Move(0, 4, 9, 4)]
OFFSETS = {0: [0, 1, 3, 4, 5, 6, 7]}


def test_joined_moves_are_right() -> None:
    assert findings(WHOLE, {0: 9}, OFFSETS) == []


@pytest.mark.parametrize(
    ("moves", "words"),
    [
        ([Move(0, 0, 4, 3), Move(0, 5, 9, 3)], "it stood at 4, the next move begins at 5"),
        ([Move(0, 0, 4, 3), Move(0, 3, 9, 5)], "it stood at 4, the next move begins at 3"),
        ([Move(0, 0, 4, 3), Move(0, 4, 2, 0), Move(0, 2, 9, 5)], "back from 4 to 2"),
        ([Move(0, 0, 4, 3), Move(0, 4, 9, 5)], "5 records handled, 4 lie there"),
        ([Move(0, 0, 4, 3), Move(0, 4, 4, 1), Move(0, 4, 9, 4)], "1 records handled, 0 lie there"),
        ([Move(0, 0, 4, 3)], "the moves end at 4, the log at 9"),
        ([], "the moves end at 0, the log at 9"),
    ],
)
def test_moves_that_dont_join_are_found(moves: list[Move], words: str) -> None:
    assert any(words in found for found in findings(moves, {0: 9}, OFFSETS))
