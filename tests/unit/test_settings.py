"""Settings: where they come from, what is refused, what is never shown."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from rowflow import settings as settings_module
from rowflow.errors import NoSettingsError
from rowflow.settings import Settings, load_settings
from rowflow.template import TEMPLATE
from rowflow.urls import parse_mysql_url
from schemas.addresses import MysqlAddress
from schemas.errors import SettingError

CANARY = "canary-4f1d"


@pytest.fixture(autouse=True)
def no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, and no variables of Rowflow's."""
    for name in list(os.environ):
        if name.upper().startswith("ROWFLOW"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(settings_module, "SECRETS_DIRECTORY", tmp_path / "secrets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_toml(directory: Path, text: str = TEMPLATE) -> Path:
    file = directory / "rowflow.toml"
    file.write_text(text, encoding="utf-8")
    return file


def refusal(**flags: dict[str, Any]) -> str:
    with pytest.raises(SettingError) as caught:
        load_settings(flags=flags)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_printed_template_is_complete(no_settings: Path) -> None:
    write_toml(no_settings)
    settings = load_settings()
    assert settings.require_source().tables == ("shop.*", "!shop.log_*")
    assert settings.require_source().address == MysqlAddress("127.0.0.1", 3306, "rowflow", "")
    assert settings.require_sink().address.database == "results"
    assert settings.require_kafka().partitions == 4
    assert settings.stream.workers == 2


def test_without_settings_there_is_a_template_to_copy() -> None:
    with pytest.raises(NoSettingsError):
        load_settings()


def test_flags_count_before_the_environment_before_files_before_the_toml(
    no_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_toml(no_settings, TEMPLATE.replace("workers = 2", "workers = 1"))
    assert load_settings().stream.workers == 1

    (no_settings / "secrets").mkdir()
    (no_settings / "secrets" / "rowflow_stream__workers").write_text("2\n")
    assert load_settings().stream.workers == 2

    (no_settings / "named").write_text("3\n")
    monkeypatch.setenv("ROWFLOW_STREAM__WORKERS_FILE", str(no_settings / "named"))
    assert load_settings().stream.workers == 3

    monkeypatch.setenv("ROWFLOW_STREAM__WORKERS", "4")
    assert load_settings().stream.workers == 4

    assert load_settings(flags={"stream": {"workers": "5"}}).stream.workers == 5
    assert load_settings(flags={"stream": {"workers": "5"}}).require_kafka().prefix == "bookshop"


def test_the_environment_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROWFLOW_SOURCE__URL", "mysql://reader@db:3307")
    monkeypatch.setenv("ROWFLOW_SOURCE__TABLES", "shop.*, !shop.log_*")
    monkeypatch.setenv("ROWFLOW_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092")
    monkeypatch.setenv("ROWFLOW_KAFKA__PREFIX", "bookshop")
    monkeypatch.setenv("ROWFLOW_KAFKA__PRODUCER", '{"linger.ms": 5}')
    settings = load_settings()
    assert settings.require_source().tables == ("shop.*", "!shop.log_*")
    assert settings.require_kafka().producer == {"linger.ms": 5}
    with pytest.raises(SettingError, match=r"\[sink\] with url"):
        settings.require_sink()


def test_the_file_may_be_named(no_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = no_settings / "named.toml"
    named.write_text(TEMPLATE.replace("bookshop", "named"))
    other = no_settings / "other.toml"
    other.write_text(TEMPLATE.replace("bookshop", "other"))
    monkeypatch.setenv("ROWFLOW_CONFIG", str(other))
    assert load_settings().require_kafka().prefix == "other"
    assert load_settings(named).require_kafka().prefix == "named"
    with pytest.raises(SettingError, match=r"missing\.toml"):
        load_settings(no_settings / "missing.toml")


def test_paths_in_the_file_are_meant_from_where_it_lies(no_settings: Path) -> None:
    elsewhere = no_settings / "elsewhere"
    elsewhere.mkdir()
    file = write_toml(elsewhere, TEMPLATE + 'functions = "functions.py"\n')
    assert load_settings(file).stream.functions == elsewhere / "functions.py"


@pytest.mark.parametrize(
    ("written", "unknown", "meant"),
    [
        ("tables", "tabels", "source.tables"),
        ("bootstrap_servers", "bootstrap_server", "kafka.bootstrap_servers"),
        ("prefix", "topic_prefiks", "kafka.prefix"),
        ("prefix", '"topic.prefix"', "kafka.prefix"),
        ("server_id", "replica_server_id", "source.server_id"),
        ("[stream]", "[streams]", "stream.workers"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(no_settings: Path, written: str, unknown: str, meant: str) -> None:
    write_toml(no_settings, TEMPLATE.replace(f"\n{written}", f"\n{unknown}"))
    message = refusal()
    assert "unknown setting" in message
    assert unknown.strip('"[]') in message
    assert f"did you mean {meant}?" in message


@pytest.mark.parametrize("name", ["ROWFLOW_SORCE__URL", "ROWFLOW_SOURCE_URL", "ROWFLOW_SOURCE__URLL"])
def test_an_unknown_variable_is_refused_with_the_nearest(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, CANARY)
    message = refusal()
    assert name in message
    assert "did you mean ROWFLOW_SOURCE__URL?" in message
    assert CANARY not in message


@pytest.mark.parametrize(
    ("section", "name", "value", "words"),
    [
        ("kafka", "partitions", "many", "valid integer"),
        ("kafka", "partitions", "0", "greater than or equal to 1"),
        ("kafka", "prefix", "book shop", "pattern"),
        ("source", "tables", "books", "database.table"),
        ("source", "tables", "", "at least 1"),
        ("source", "server_id", "0", "greater than or equal to 1"),
        ("source", "on_undecodable", "skip", "'stop' or 'dead-letter'"),
        ("sink", "table_name", "copy", "pattern"),
        ("kafka", "producer", "linger.ms=5", "as JSON"),
    ],
)
def test_a_value_that_cant_be_is_refused_by_name(
    no_settings: Path, section: str, name: str, value: str, words: str
) -> None:
    write_toml(no_settings)
    message = refusal(**{section: {name: value}})
    assert f"{section}.{name}" in message
    assert words in message


def test_a_missing_setting_is_named_with_its_variable(no_settings: Path) -> None:
    write_toml(no_settings, TEMPLATE.replace("prefix", "#"))
    assert "kafka.prefix is missing" in refusal()
    assert "ROWFLOW_KAFKA__PREFIX" in refusal()


def test_a_file_that_isnt_toml_is_refused_with_the_place(no_settings: Path) -> None:
    write_toml(no_settings, "[source\n")
    assert "rowflow.toml isn't TOML" in refusal()
    assert "line 1" in refusal()


def test_secrets_are_in_no_representation(no_settings: Path) -> None:
    write_toml(no_settings, TEMPLATE.replace("rowflow@", f"rowflow:{CANARY}@"))
    settings = load_settings(flags={"source": {"password": CANARY}})
    address = settings.require_source().address
    assert address.password == CANARY
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(address), str(address)):
        assert CANARY not in shown


@pytest.mark.parametrize(
    "url",
    [
        f"postgres://rowflow:{CANARY}@db",
        f"mysql://:{CANARY}@db",
        f"mysql://rowflow:{CANARY}@",
        f"mysql://rowflow:{CANARY}@db:x",
        f"mysql://rowflow:{CANARY}@db:99999",
        f"mysql://rowflow:a/{CANARY}@db",
        f"mysql://rowflow:{CANARY}@db/results?ssl=1",
        f"mysql://rowflow:{CANARY}#1@db/results",
        f"mysql://rowflow:{CANARY}@db/",
        f"mysql://rowflow:{CANARY}@[db/results",
    ],
)
def test_a_url_that_cant_be_read_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_mysql_url("sink", url, with_database=True)
    assert "sink.url" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_urls_are_percent_decoded() -> None:
    address = parse_mysql_url("sink", "mysql://row%40flow:p%2Fw%3A%25@[::1]:3307/my%20results", with_database=True)
    assert address == MysqlAddress("::1", 3307, "row@flow", "p/w:%", "my results")


def test_a_password_of_its_own_counts_before_the_urls() -> None:
    address = parse_mysql_url("source", "mysql://rowflow:one@db", password="two", with_database=False)  # noqa: S106
    assert (address.password, address.port) == ("two", 3306)


def test_a_source_url_with_a_database_is_refused_with_the_setting_that_is_meant() -> None:
    with pytest.raises(SettingError, match=r'tables = \["shop\.\*"\]'):
        parse_mysql_url("source", "mysql://rowflow@db/shop", with_database=False)


def test_loading_logs_nothing(no_settings: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_toml(no_settings, TEMPLATE.replace("rowflow@", f"rowflow:{CANARY}@"))
    with caplog.at_level(logging.DEBUG):
        assert isinstance(load_settings(), Settings)
    assert CANARY not in caplog.text
