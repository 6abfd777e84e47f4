"""The settings.

Comes in: flags, the environment (``ROWFLOW_SOURCE__URL``), files named by it (``ROWFLOW_SOURCE__URL_FILE``), files in a
directory of secrets, and ``rowflow.toml``; what stands first here counts.  Goes out: one frozen :class:`Settings`.

Guarantees: an unknown key is refused with the nearest known one, wherever it stands; no message and no representation
shows a URL or a password.  Which sections a command needs, it says by :meth:`Settings.require`.  Not checked here:
whether servers, topics or files exist, and librdkafka's options (rowflow/kafka.py asks librdkafka itself).
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from rowflow.errors import NoSettingsError
from rowflow.setting_errors import refuse_unknown_variables, setting_error
from rowflow.urls import parse_mysql_url
from schemas.addresses import MysqlAddress
from schemas.errors import SettingError
from schemas.patterns import TablePatterns

ENV_PREFIX = "ROWFLOW_"
CONFIG_FILE = Path("rowflow.toml")
SECRETS_DIRECTORY = Path("/run/secrets")
"""Where container engines put secrets; ours are called like the variables: ``rowflow_source__password``."""

PATHS = (("source", "ssl_ca"), ("sink", "ssl_ca"), ("stream", "functions"))
"""The settings that are paths."""


def _split_at_commas(value: object) -> object:
    """A list as the environment and flags give it: ``shop.*,!shop.log_*``."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _check_patterns(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        TablePatterns.from_settings(value)
    except SettingError as error:
        raise ValueError(str(error)) from None
    return value


def _parse_object(value: object) -> object:
    """A table as the environment and flags give it: ``{"linger.ms": 5}``."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError('write it as JSON, like {"linger.ms": 5}') from None


KafkaOptions = Annotated[dict[str, str | int | float | bool], NoDecode, BeforeValidator(_parse_object)]
NonEmpty = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class SourceSettings(_Section):
    """``[source]``: the MySQL server whose tables are captured."""

    url: SecretStr
    """mysql://user@host:port of the server that is read"""
    tables: Annotated[
        tuple[NonEmpty, ...],
        NoDecode,
        BeforeValidator(_split_at_commas),
        Field(min_length=1),
        AfterValidator(_check_patterns),
    ]
    """database.table patterns with * and ?, commas between; ! leaves out"""
    server_id: int = Field(default=5401, ge=1, le=2**32 - 1)
    """number that no other replica of this server has"""
    password: SecretStr | None = None
    """instead of one in the URL"""
    ssl_ca: Path | None = None
    """CA file; the server's certificate and name are verified by it"""
    on_undecodable: Literal["stop", "dead-letter"] = "stop"
    """what a text invalid in its character set does"""

    @property
    def address(self) -> MysqlAddress:
        """Where the source is.  Raises SettingError."""
        return _address("source", self, with_database=False)

    @property
    def patterns(self) -> TablePatterns:
        """Which tables are captured.  Raises SettingError."""
        return TablePatterns.from_settings(self.tables)


class KafkaSettings(_Section):
    """``[kafka]``: the brokers and the topics."""

    bootstrap_servers: NonEmpty
    """host:port of brokers, commas between"""
    prefix: Annotated[NonEmpty, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$", max_length=100)]
    """begin of all topics' names"""
    partitions: int = Field(default=4, ge=1, le=1000)
    """of each table's topic; can't be changed later"""
    retention_hours: int = Field(default=7 * 24, ge=-1)
    """how long events stay in the topics; -1: for ever"""
    producer: KafkaOptions = {}
    """librdkafka options of the reader"""
    consumer: KafkaOptions = {}
    """librdkafka options of all that consumes"""


class SinkSettings(_Section):
    """``[sink]``: the MySQL database that holds the results."""

    url: SecretStr
    """mysql://user@host:port/database of the results"""
    password: SecretStr | None = None
    """instead of one in the URL"""
    ssl_ca: Path | None = None
    """CA file; the server's certificate and name are verified by it"""
    table_name: Annotated[NonEmpty, StringConstraints(pattern=r"\{table\}")] = "{table}"
    """name of a mirror, of {db} and {table}"""

    @property
    def address(self) -> MysqlAddress:
        """Where the sink is, its database included.  Raises SettingError."""
        return _address("sink", self, with_database=True)


class StreamSettings(_Section):
    """``[stream]``: the workers."""

    workers: int = Field(default=2, ge=1, le=100)
    """worker processes that up starts"""
    functions: Path | None = None
    """Python file with @computed functions"""
    dead_letters_in_a_row_max: int = Field(default=100, ge=0)
    """more of them in a row stop the worker"""


class JobsSettings(_Section):
    """``[jobs]``: the reading of whole tables."""

    connections: int = Field(default=4, ge=1, le=64)
    """so many shards of a table are read at the same time"""
    rows_per_s: int = Field(default=0, ge=0)
    """no more rows are read per second; 0: as many as possible"""
    threads_running_max: int = Field(default=0, ge=0)
    """no shard is begun while the source's Threads_running is above it; 0: always"""


class Settings(BaseSettings):
    """All settings; a section is None where nothing of it is configured."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
    )

    source: SourceSettings | None = None
    kafka: KafkaSettings | None = None
    sink: SinkSettings | None = None
    stream: StreamSettings = StreamSettings()
    jobs: JobsSettings = JobsSettings()

    def require_source(self) -> SourceSettings:
        """The section ``source``.  Raises SettingError where it isn't configured, as its siblings do."""
        if self.source is None:
            raise _missing_section("source", "url and tables")
        return self.source

    def require_kafka(self) -> KafkaSettings:
        """The section ``kafka``."""
        if self.kafka is None:
            raise _missing_section("kafka", "bootstrap_servers and prefix")
        return self.kafka

    def require_sink(self) -> SinkSettings:
        """The section ``sink``."""
        if self.sink is None:
            raise _missing_section("sink", "url")
        return self.sink


def load_settings(config: Path | None = None, flags: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Gather the settings.

    ``config``: the file; without it ``ROWFLOW_CONFIG`` and then ``./rowflow.toml``, if it is there, is taken.
    ``flags``: values from the command line, by section and name.  Raises SettingError; NoSettingsError where nothing is
    configured anywhere.
    """
    refuse_unknown_variables(os.environ, ENV_PREFIX, Settings)
    file = _config_file(config)
    table = {} if file is None else _read_toml(file)

    class Gathered(Settings):
        """The settings with their sources for this one call."""

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return (
                InitSettingsSource(settings_cls, {name: dict(values) for name, values in (flags or {}).items()}),
                _variables_source(settings_cls),
                _named_files_source(settings_cls),
                NestedSecretsSettingsSource(file_secret_settings, SECRETS_DIRECTORY, secrets_dir_missing="ok"),
                InitSettingsSource(settings_cls, table),
            )

    try:
        settings: Settings = Gathered()
    except ValidationError as error:
        raise setting_error(error, Settings, _variables(), str(file or CONFIG_FILE)) from None
    except SettingsError as error:
        raise SettingError(f"the environment holds a section that isn't a JSON object: {error}") from None
    if settings.source is None and settings.kafka is None and settings.sink is None:
        raise NoSettingsError(
            f"nothing is configured: there is no {CONFIG_FILE} here, and no ROWFLOW_SOURCE__URL; above is one to copy"
        )
    return settings


def _config_file(config: Path | None) -> Path | None:
    """The file that was asked for, which must be there, or the usual one, if it is."""
    asked = config or os.environ.get(f"{ENV_PREFIX}CONFIG")
    if asked:
        return Path(asked)
    return CONFIG_FILE if CONFIG_FILE.exists() else None


def _read_toml(file: Path) -> dict[str, Any]:
    """The file's tables; relative paths in it are meant from where it lies."""
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"can't read the settings in {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"{file} isn't TOML: {error}") from None
    for section, name in PATHS:
        value = table.get(section, {}).get(name) if isinstance(table.get(section), dict) else None
        if isinstance(value, str):
            table[section][name] = str(file.parent / value)
    return table


def _variables_source(settings_cls: type[BaseSettings]) -> EnvSettingsSource:
    """``ROWFLOW_SOURCE__URL``: the setting is the variable's value."""
    source = EnvSettingsSource(settings_cls)
    source.env_vars = {name: value for name, value in source.env_vars.items() if not _names_file(name)}
    return source


def _named_files_source(settings_cls: type[BaseSettings]) -> EnvSettingsSource:
    """``ROWFLOW_SOURCE__URL_FILE``: the setting is what the file holds, without white space at its ends."""
    source = EnvSettingsSource(settings_cls)
    contents = {}
    for name, value in source.env_vars.items():
        if _names_file(name) and value:
            try:
                contents[name.removesuffix("_file")] = Path(value).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "it isn't UTF-8"
                raise SettingError(f"can't read the file that {name.upper()} names: {reason}") from None
    source.env_vars = contents
    return source


def _names_file(variable: str) -> bool:
    """Whether a variable, in lower case, names a file that holds a setting."""
    return variable.startswith(ENV_PREFIX.lower()) and "__" in variable and variable.endswith("_file")


def _variables() -> dict[str, str]:
    """The variables that hold settings, by the settings' names."""
    found = {}
    for variable in os.environ:
        name = variable.upper()
        if name.startswith(ENV_PREFIX):
            setting = name.removeprefix(ENV_PREFIX).removesuffix("_FILE").replace("__", ".").lower()
            found[setting] = variable
    return found


def _address(name: str, section: SourceSettings | SinkSettings, *, with_database: bool) -> MysqlAddress:
    return parse_mysql_url(
        name,
        section.url.get_secret_value(),
        password=None if section.password is None else section.password.get_secret_value(),
        ssl_ca=section.ssl_ca,
        with_database=with_database,
    )


def _missing_section(name: str, needed: str) -> SettingError:
    return SettingError(
        f"this command needs the settings [{name}] with {needed}: add them to {CONFIG_FILE}"
        f" or set {ENV_PREFIX}{name.upper()}__..."
    )
