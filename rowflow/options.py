"""The options that commands share: the settings' file, a flag for each setting, ``-v``.

Comes in: a command's function that takes ``settings`` first.  Goes out: a click command that gathers the settings
(flags, environment, file), sets up the logs and calls it.  Passwords have no flags: other users of a machine can see a
process's arguments.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Concatenate, ParamSpec

import click

from rowflow.logs import set_up_logging
from rowflow.setting_errors import section_of
from rowflow.settings import ENV_PREFIX, Settings, load_settings

SHORT_FLAGS = {"source.tables": "--tables", "stream.workers": "--workers"}
WITHOUT_FLAG = {"password"}
_FLAGS_KEY = "rowflow.flags"

P = ParamSpec("P")


@dataclass(slots=True)
class CommandLine:
    """What was given on the command line for the settings; ``values`` by section and name, as texts."""

    config: Path | None = None
    verbose: bool = False
    values: dict[str, dict[str, str]] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        """The same as variables, for child processes."""
        return {
            f"{ENV_PREFIX}{section.upper()}__{name.upper()}": value
            for section, values in self.values.items()
            for name, value in values.items()
        }


def command_line(context: click.Context) -> CommandLine:
    """What this call's command line says about the settings."""
    found: CommandLine = context.meta.setdefault(_FLAGS_KEY, CommandLine())
    return found


class SettingsCommand(click.Command):
    """A command whose help ends with the settings' flags, apart from its own options, and an example."""

    example = ""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the two lists."""
        own: list[tuple[str, str]] = []
        settings: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                (settings if isinstance(parameter, SettingOption) else own).append(record)
        for title, records in (("Options", own), ("Settings (else from the environment or rowflow.toml)", settings)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        with formatter.section("Example"):
            formatter.write_text(self.example)


class SettingOption(click.Option):
    """The flag of one setting."""

    def __init__(self, section: str, name: str, help_text: str) -> None:
        flags = [f"--{section}-{name}".replace("_", "-"), SHORT_FLAGS.get(f"{section}.{name}")]
        super().__init__(
            [flag for flag in flags if flag],
            help=help_text,
            metavar="VALUE",
            expose_value=False,
            callback=_collector(section, name),
        )


def settings_command(
    name: str, *sections: str, example: str
) -> Callable[[Callable[Concatenate[Settings, P], int]], click.Command]:
    """Make a command of a function that takes the settings and its own options and gives the exit code.

    ``sections``: those whose settings get flags.  ``example``: a command line that can be run as it stands.
    """

    def decorate(function: Callable[Concatenate[Settings, P], int]) -> click.Command:
        @functools.wraps(function)
        def run(*args: P.args, **kwargs: P.kwargs) -> int:
            line = command_line(click.get_current_context())
            set_up_logging(verbose=line.verbose)
            return function(load_settings(line.config, line.values), *args, **kwargs)

        command = click.command(name, cls=SettingsCommand)(run)
        command.example = example
        command.params += [_CONFIG, _VERBOSE, *(flag for section in sections for flag in _flags(section))]
        return command

    return decorate


def _flags(section: str) -> list[SettingOption]:
    """The flags of a section's settings."""
    model = section_of(Settings.model_fields[section].annotation)
    fields = {} if model is None else model.model_fields
    return [
        SettingOption(section, name, setting.description or "")
        for name, setting in fields.items()
        if name not in WITHOUT_FLAG
    ]


def _collector(section: str, name: str) -> Callable[[click.Context, click.Parameter, str | None], None]:
    def collect(context: click.Context, _: click.Parameter, value: str | None) -> None:
        if value is not None:
            command_line(context).values.setdefault(section, {})[name] = value

    return collect


def _note_config(context: click.Context, _: click.Parameter, value: Path | None) -> None:
    command_line(context).config = value


def _note_verbose(context: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's signature
    command_line(context).verbose = value


_CONFIG = click.Option(
    ["--config"],
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The settings' file, instead of ./rowflow.toml.",
    expose_value=False,
    callback=_note_config,
)
_VERBOSE = click.Option(
    ["-v", "--verbose"],
    is_flag=True,
    help="Log more. Rows' values and passwords stay out of the log.",
    expose_value=False,
    callback=_note_verbose,
)
