"""What a running worker makes of a functions.py that is written anew."""

import logging
import os
import sys
from pathlib import Path

import pytest

from schemas.patterns import TablePatterns
from sink.computed import load
from stream_app.errors import RESTART_EXIT_CODE, RestartNeeded
from stream_app.functions import FunctionsWatch

PATTERNS = TablePatterns.from_settings(["shop.*", "!shop.log_*"])
LENGTH = 'from rowflow import computed\n@computed("shop.books")\ndef length(row: dict) -> int:\n    return {}\n'
AS_LOADED = LENGTH.format("1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of functions."""
    file = tmp_path / "functions.py"
    file.write_text(AS_LOADED)
    return file


@pytest.fixture
def watch(path: Path) -> FunctionsWatch:
    """A worker's, which has loaded the file."""
    return FunctionsWatch(path, PATTERNS, load(path, PATTERNS).fingerprint)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of since the last call."""
    found = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return found


def test_other_code_is_begun_anew_with_and_other_comments_are_not(path: Path, watch: FunctionsWatch) -> None:
    watch.look()
    path.write_text(f"# A comment.\n\n{AS_LOADED}")
    watch.look()
    path.write_text(LENGTH.format("2"))
    for _ in range(2):
        with pytest.raises(RestartNeeded, match=r"functions\.py has changed") as needed:
            watch.look()
    assert needed.value.exit_code == RESTART_EXIT_CODE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("def f(:\n", r"functions.py:1: "),
        ("import nothing_of_that_name\n", "functions.py:1: ModuleNotFoundError: "),
        (AS_LOADED.replace("shop.books", "shop.log_books"), "length: table shop.log_books isn't captured"),
        ("import os\nos._exit(3)\n", "ended the process that loaded it, with 3"),
        (None, "functions.py: can't be read: "),
    ],
    ids=["syntax", "import", "table", "ends", "gone"],
)
def test_file_that_cant_be_used_is_warned_about_once_and_the_old_functions_go_on(
    path: Path, watch: FunctionsWatch, caplog: pytest.LogCaptureFixture, text: str | None, told: str
) -> None:
    module = sys.modules["rowflow_functions"]
    path.unlink() if text is None else path.write_text(text)
    for _ in range(3):
        watch.look()
    (warning,) = warnings(caplog)
    assert told in warning
    assert "goes on with the functions that it began with" in warning
    assert sys.modules["rowflow_functions"] is module
    path.write_text(AS_LOADED)
    watch.look()
    assert not warnings(caplog)


def test_file_that_is_written_again_is_looked_at_again(
    path: Path, watch: FunctionsWatch, caplog: pytest.LogCaptureFixture
) -> None:
    for moment in range(2):
        path.write_text("def f(:\n")
        os.utime(path, ns=(0, moment))
        watch.look()
        assert len(warnings(caplog)) == 1


def test_what_the_file_imports_may_have_changed_with_it(tmp_path: Path, path: Path) -> None:
    helper = tmp_path / "helper_of_functions.py"
    helper.write_text("one = 1\n")
    path.write_text(f"from helper_of_functions import one\n{AS_LOADED}")
    watch = FunctionsWatch(path, PATTERNS, load(path, PATTERNS).fingerprint)
    helper.write_text("other = 12345\n")
    path.write_text(f"from helper_of_functions import other\n{AS_LOADED}")
    with pytest.raises(RestartNeeded):
        watch.look()
