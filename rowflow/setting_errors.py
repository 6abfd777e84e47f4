"""What is wrong with the settings, in words.

Comes in: pydantic's findings, and the names in the environment.  Goes out: one SettingError that names each setting,
where it stands and, for an unknown one, the nearest known one.  Values are never shown: they may be secrets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from schemas.errors import SettingError
from schemas.patterns import near_names

OTHER_TOOLS_WORDS = {
    "topic.prefix": "kafka.prefix",
    "topic": "kafka.prefix",
    "table.include.list": "source.tables",
    "database.include.list": "source.tables",
    "include": "source.tables",
    "filter": "source.tables",
    "database.server.id": "source.server_id",
    "replica_server_id": "source.server_id",
    "event.processing.failure.handling.mode": "source.on_undecodable",
    "table.name.format": "sink.table_name",
}
"""What Debezium, Maxwell and the JDBC sink call a thing that Rowflow has too."""


def setting_error(
    error: ValidationError, model: type[BaseModel], variables: Mapping[str, str], file: str
) -> SettingError:
    """All of pydantic's findings as one error.

    ``variables``: the names in the environment by the settings that they give; ``file``: what else the settings are
    from.
    """
    known = known_settings(model)
    lines = [
        _finding(details, known, variables, file)
        for details in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return SettingError("\n".join(dict.fromkeys(lines)))


def known_settings(model: type[BaseModel], above: str = "") -> list[str]:
    """The names of all settings below a model: ``source.url``, ..."""
    names = []
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        names += [f"{above}{name}"] if section is None else known_settings(section, f"{above}{name}.")
    return names


def section_of(annotation: object) -> type[BaseModel] | None:
    """The model in an annotation like ``SourceSettings | None``, if there is one."""
    for part in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part
    return None


def refuse_unknown_variables(names: Iterable[str], prefix: str, model: type[BaseModel]) -> None:
    """Refuse variables that are meant for the settings and reach none, such as ``ROWFLOW_SORCE__URL``.

    A name is meant for the settings when it has ``__`` or begins like a section: ``ROWFLOW_SOURCE_URL``.
    """
    sections = tuple(f"{prefix}{name.upper()}" for name in model.model_fields)
    known = [f"{prefix}{name.replace('.', '__').upper()}" for name in known_settings(model)]
    accepted = {*known, *(f"{name}_FILE" for name in known), *sections}
    for name in sorted(names):
        upper = name.upper()
        meant = upper.startswith(prefix) and ("__" in upper or upper.startswith(tuple(f"{s}_" for s in sections)))
        if meant and upper not in accepted:
            raise SettingError(f"unknown setting {name} in the environment{_meant(near_names(upper, accepted))}")


def _finding(details: ErrorDetails, known: Collection[str], variables: Mapping[str, str], file: str) -> str:
    name = ".".join(str(part) for part in details["loc"])
    place = variables.get(name) or next(
        (text for known, text in variables.items() if name.startswith(f"{known}.")), file
    )
    match details["type"]:
        case "extra_forbidden":
            last = str(details["loc"][-1])
            same = OTHER_TOOLS_WORDS.get(last) or OTHER_TOOLS_WORDS.get(name)
            return f"unknown setting {name} ({place}){_meant((same,) if same else _near_settings(name, last, known))}"
        case "missing":
            return f"the setting {name} is missing: add it to {file} or set {_variable(name)}"
        case _:
            return f"the setting {name} ({place}) can't be right: {details['msg'].removeprefix('Value error, ')}"


def _near_settings(name: str, last: str, known: Collection[str]) -> tuple[str, ...]:
    """Known settings like ``name``; else one that has its last part in another section."""
    elsewhere = tuple(setting for setting in known if setting.rpartition(".")[2] == last)
    sections = {setting.partition(".")[0] for setting in known}
    return near_names(name, known) or elsewhere or near_names(name, sections)


def _variable(name: str) -> str:
    return f"ROWFLOW_{name.replace('.', '__').upper()}"


def _meant(near: tuple[str, ...]) -> str:
    return f"; did you mean {near[0]}?" if near else ""
