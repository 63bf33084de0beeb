"""What a trainer says it takes, and whether a value would be taken."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from touchstone.core.documents import shorten, suggest
from touchstone_agent.protocol.errors import ConfigurationError

Scalar = bool | int | float | str

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "boolean": ((bool,), "true or false"),
    "integer": ((int,), "a whole number"),
    "number": ((int, float), "a number"),
    "string": ((str,), "a text"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """
    One value that a job gives the trainer.

    :param field: The field of the manifest it comes from.
    :param key: Key of the trainer's configuration, or name of one of its flags.
    :param value: The value.
    """

    field: str
    key: str
    value: Scalar

    @property
    def is_flag(self) -> bool:
        """Tell whether the key is a flag's short name."""
        return "." not in self.key


class Parameter(BaseModel):
    """A key of the trainer's configuration, as ``elnigma describe`` prints it."""

    model_config = ConfigDict(extra="ignore")

    type: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Scalar, ...] = ()


class Flag(BaseModel):
    """A flag of the trainer: the key it stands for."""

    model_config = ConfigDict(extra="ignore")

    key: str


class Description(BaseModel):
    """What a trainer takes, as ``elnigma describe`` prints it."""

    model_config = ConfigDict(extra="ignore")

    trainer: str = "trainer"
    version: str = ""
    params: dict[str, Parameter]
    free_params: tuple[str, ...] = ()
    hyper: dict[str, Flag] = Field(default_factory=dict)
    configs: tuple[str, ...] = ()


def parse_description(text: str) -> Description:
    """
    Read what ``elnigma describe`` prints.

    :raises ConfigurationError: If it is something else.
    """
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigurationError(
            f"describe: is not what `elnigma describe` prints: {place} {first['msg']}".rstrip()
        ) from error


def check_setting(place: str, setting: Setting, description: Description) -> str:
    """
    Return the full key of a setting that the trainer takes.

    :param place: What the setting belongs to, for messages.
    :param setting: The setting.
    :param description: The trainer.
    :raises ConfigurationError: If it knows no such key, or would refuse the value.
    """
    where = f"{place}.{setting.field}"
    key = setting.key
    if setting.is_flag:
        flag = description.hyper.get(key.replace("-", "_"))
        if flag is None:
            hint = suggest(key, [*description.hyper, *description.params])
            raise ConfigurationError(f"{where}: the trainer has no flag --{key}{hint}")
        key = flag.key
    parameter = description.params.get(key)
    if parameter is None:
        if any(fnmatchcase(key, pattern) for pattern in description.free_params):
            return key
        hint = suggest(key, description.params)
        raise ConfigurationError(f"{where}: the trainer has no key {key}{hint}")
    _check_value(where, setting.value, parameter)
    return key


def _check_value(where: str, value: Scalar, parameter: Parameter) -> None:
    kinds, words = _TYPES.get(parameter.type, ((bool, int, float, str), "a value"))
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise ConfigurationError(f"{where}: {shorten(value)} is not {words}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if parameter.minimum is not None and value < parameter.minimum:
            raise ConfigurationError(f"{where}: {value} is below {parameter.minimum:g}")
        if parameter.maximum is not None and value > parameter.maximum:
            raise ConfigurationError(f"{where}: {value} is above {parameter.maximum:g}")
    if parameter.choices and value not in parameter.choices:
        choices = ", ".join(str(choice) for choice in parameter.choices)
        raise ConfigurationError(f"{where}: {shorten(value)} is none of {choices}")
