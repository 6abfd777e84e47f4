"""The log: its form, and what it never holds."""

import io
import logging
from collections.abc import Iterator

import pytest

from rowflow.logs import REPEATED_S, LineFormatter, RepeatFilter, describe_place, set_up_logging

CANARY = "canary-77aa"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a logger with our formatter writes."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(LineFormatter())
    logger = logging.getLogger("rowflow.test")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield written
    logger.removeHandler(handler)
    logger.propagate = True


def fail_with_values() -> None:
    try:
        raise KeyError(CANARY)
    except KeyError as error:
        raise ValueError(f"Duplicate entry '{CANARY}' for key 'PRIMARY'") from error


def test_a_line_has_time_level_place_and_text(logged: io.StringIO) -> None:
    logging.getLogger("rowflow.test").info("topic=%s rows=%d", "bookshop.shop.books", 3)
    line = logged.getvalue()
    assert line.endswith("Z INFO test_logs: topic=bookshop.shop.books rows=3\n")
    assert line[10] == "T"


def test_a_traceback_shows_places_and_types_but_no_values(logged: io.StringIO) -> None:
    try:
        fail_with_values()
    except ValueError:
        logging.getLogger("rowflow.test").exception("failed")
    text = logged.getvalue()
    assert "in fail_with_values" in text
    assert "builtins.KeyError\nwhich led to:" in text
    assert text.rstrip().endswith("builtins.ValueError")
    assert CANARY not in text


def test_an_unforeseen_failure_is_described_without_values() -> None:
    with pytest.raises(ValueError, match="Duplicate") as caught:
        fail_with_values()
    described = describe_place(caught.value)
    assert described.startswith("ValueError in fail_with_values (")
    assert CANARY not in described


def test_at_debug_only_our_own_rooms_speak(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        # Captured handlers are not closed: they are taken away before logging is set up anew.
        root.handlers[:] = []
        set_up_logging(verbose=True)
        logging.getLogger("cdc_reader.reader").debug("ours")
        logging.getLogger("aiokafka.consumer").debug(CANARY)
        logging.getLogger("faust").info(CANARY)
        logging.getLogger("faust").warning("theirs")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    written = capsys.readouterr().err
    assert "DEBUG test_logs: ours" in written
    assert "WARNING test_logs: theirs" in written
    assert CANARY not in written


def said(name: str, text: str, *values: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, values, None)


def test_what_a_library_repeats_is_let_through_once_in_a_while() -> None:
    now_s = 100.0
    repeats = RepeatFilter(lambda: now_s)
    away = "Unable connect to node with id %s"
    assert repeats.filter(said("aiokafka", away, 0))
    assert not any(repeats.filter(said("aiokafka", away, node)) for node in range(80))
    assert repeats.filter(said("aiokafka", "another"))
    assert repeats.filter(said("aiokafka.client", away, 0))
    assert repeats.filter(said("aiokafka", away, 0, level=logging.CRITICAL))
    now_s += REPEATED_S
    assert repeats.filter(said("aiokafka", away, 0))
    assert not repeats.filter(said("aiokafka", away, 0))


def test_what_the_rooms_repeat_is_always_let_through() -> None:
    repeats = RepeatFilter(lambda: 100.0)
    assert all(repeats.filter(said("stream_app.app", "partition %d", number)) for number in range(3))


def test_the_set_up_log_limits_what_libraries_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        root.handlers[:] = []
        set_up_logging(verbose=False)
        for node in range(80):
            logging.getLogger("aiokafka").error("no connection to node %s", node)
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert capsys.readouterr().err.count("no connection to node") == 1
