"""The configuration of a training: its schema, and how files, flags and overrides combine."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from elnigma.errors import ConfigError

CONFIG_FOLDER = Path(__file__).parent / "configs"
# Free-form table for the parameters of submitted model structures, handed to build_model().
FREE_PREFIX = "model.params."
# Two years of trading days.
MAX_WINDOW = 512
MAX_SEEDS = 10

Value = bool | int | float | str
Config = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Param:
    """
    One configuration key.

    :param key: ``section.name``.
    :param default: Its value where nothing sets it; its type is the key's type.
    :param help: What it means, with unit.
    :param minimum: Least value of a number.
    :param maximum: Greatest value of a number.
    :param choices: Allowed values of a text, if they are few.
    :param flag: Whether it is a hyper-parameter with a ``--<name>`` flag in the passthrough.
    :param is_date: Whether a text is a day, ``YYYY-MM-DD``, or a time in ISO 8601, or empty.
    """

    key: str
    default: Value
    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    flag: bool = False
    is_date: bool = False

    @property
    def flag_name(self) -> str:
        """Return the flag's name without its dashes."""
        return self.key.rpartition(".")[2]


SCHEMA: tuple[Param, ...] = (
    Param(
        key="split.validation_from",
        default="2011-01-01",
        is_date=True,
        help="first day or time of the rows that stop the training and scale the positions",
    ),
    Param(
        key="split.test_from",
        default="2014-01-01",
        is_date=True,
        help="first day or time of the rows that are scored",
    ),
    Param(
        key="split.test_to",
        default="",
        is_date=True,
        help="last scored day or time; empty for all",
    ),
    Param(
        key="features.module",
        default="elnigma.features.reference",
        help="feature set where --feature-set is not given: folder or dotted name",
    ),
    Param(
        key="model.structure",
        default="elnigma.models.mlp",
        help="model structure where --model-structure is not given: folder or dotted name",
    ),
    Param(
        key="model.layers", default=2, minimum=0, maximum=16, flag=True, help="hidden layers"
    ),
    Param(
        key="model.units",
        default=32,
        minimum=1,
        maximum=4096,
        flag=True,
        help="units of each hidden layer",
    ),
    Param(
        key="model.dropout",
        default=0.2,
        minimum=0,
        maximum=0.95,
        flag=True,
        help="share of units left out in training",
    ),
    Param(key="model.l2", default=1e-4, minimum=0, maximum=10, flag=True, help="L2 penalty"),
    Param(
        key="model.window",
        default=0,
        minimum=0,
        maximum=MAX_WINDOW,
        flag=True,
        help="rows that the model sees, up to and with its own; 0 for what the structure says",
    ),
    Param(
        key="training.epochs", default=15, minimum=1, maximum=10_000, flag=True, help="most epochs"
    ),
    Param(
        key="training.patience",
        default=5,
        minimum=0,
        maximum=10_000,
        flag=True,
        help="epochs without a better validation loss before training stops; 0 for never",
    ),
    Param(
        key="training.batch_size",
        default=128,
        minimum=1,
        maximum=65_536,
        flag=True,
        help="rows a step",
    ),
    Param(
        key="training.learning_rate",
        default=1e-3,
        minimum=0,
        flag=True,
        help="step size of Adam",
    ),
    Param(
        key="training.precision",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        help="what layers compute in; mixed ones keep their weights in float32",
    ),
    Param(
        key="training.seed",
        default=0,
        minimum=0,
        maximum=2**31 - 1,
        flag=True,
        help="seeds everything random, unless the environment names a seed",
    ),
    Param(
        key="training.seed_count",
        default=1,
        minimum=1,
        maximum=MAX_SEEDS,
        help="pairs of models, of this seed and the ones after it; predictions are their mean",
    ),
    Param(
        key="backtest.cost_bps",
        default=1.0,
        minimum=0,
        maximum=1000,
        help="cost of changing the position by one, basis points; what a move must exceed",
    ),
    Param(
        key="backtest.bars_per_year", default=252, minimum=1, help="rows a year, to annualise with"
    ),
    Param(
        key="backtest.n_resamples",
        default=1000,
        minimum=100,
        maximum=100_000,
        help="resamples of the confidence interval",
    ),
)  # fmt: skip
BY_KEY = {param.key: param for param in SCHEMA}
FLAGS = {param.flag_name: param for param in SCHEMA if param.flag}


def build_config(
    file: str,
    passthrough: Sequence[str],
    overrides: Sequence[str],
    defaults: Mapping[str, Value] | None = None,
) -> Config:
    """
    Combine defaults, file, hyper flags and overrides; later ones win, in that order.

    :param file: Path below the config folder or the el-nigma checkout.
    :param passthrough: Everything after ``--``: hyper flags, and ``--config_override`` again.
    :param overrides: ``key=value`` each.
    :param defaults: Of a data set, in place of the built-in ones.
    :return: Values by full key.
    :raises ConfigError: With the key that is unknown or has an impossible value.
    """
    config: Config = {param.key: param.default for param in SCHEMA} | dict(defaults or {})
    for key, value in _flatten(_read_file(find_config_file(file))):
        config[key] = check_value(key, value, source=file)
    flags, more_overrides = _split_passthrough(passthrough)
    for name, text in flags:
        param = _find_flag(name)
        config[param.key] = check_value(param.key, _parse_text(param.key, text), source=f"--{name}")
    for override in (*overrides, *more_overrides):
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--config_override {override!r} is not of the form key=value")
        key = key.strip()
        config[key] = check_value(key, _parse_text(key, text), source="--config_override")
    borders = [config["split.validation_from"], config["split.test_from"]]
    if not all(borders):
        raise ConfigError("split.validation_from and split.test_from must not be empty")
    if read_moment(borders[0]) >= read_moment(borders[1]):
        raise ConfigError("split.validation_from must be before split.test_from")
    return config


def nest(config: Config) -> dict[str, Any]:
    """Return the configuration as tables, as it would stand in a file."""
    document: dict[str, Any] = {}
    for key, value in sorted(config.items()):
        table = document
        *tables, name = key.split(".")
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return document


def find_config_file(path: str) -> Path:
    """
    Find a configuration file by its relative path.

    :raises ConfigError: If there is none, or the path leads out of the folders it may be in.
    """
    folders = [CONFIG_FOLDER]
    checkout = os.environ.get("ELNIGMA_ROOT")
    if checkout:
        folders.insert(0, Path(checkout))
    if Path(path).is_absolute():
        raise ConfigError(f"config {path!r}: give a path relative to the config folder")
    for folder in folders:
        candidate = (folder / path).resolve()
        if not candidate.is_relative_to(folder.resolve()):
            raise ConfigError(f"config {path!r} leads out of the config folder")
        if candidate.is_file():
            return candidate
    known = sorted(file.name for file in CONFIG_FOLDER.glob("*.toml"))
    raise ConfigError(f"config {path!r} does not exist{_suggest(path, known)}")


def check_value(key: str, value: Any, *, source: str) -> Any:
    """
    Return ``value`` in the key's type.

    :param source: Where it comes from, for the message.
    :raises ConfigError: If the key is unknown, or the value is of another type or out of range.
    """
    if key.startswith(FREE_PREFIX) and len(key) > len(FREE_PREFIX):
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(f"{source}: {key} must be a number, a text or true or false")
        return value
    param = BY_KEY.get(key)
    if param is None:
        raise ConfigError(f"{source}: unknown key {key!r}{_suggest(key, BY_KEY)}")
    kind = type(param.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"{source}: {key} must be {_KINDS[kind]}, not {value!r}")
    if isinstance(value, int | float):
        _check_range(param, value, source)
    if param.choices and value not in param.choices:
        raise ConfigError(f"{source}: {key} must be one of {', '.join(param.choices)}")
    if param.is_date and isinstance(value, str) and value:
        _check_moment(f"{source}: {key}", value)
    return value


def check_day(name: str, text: str) -> str:
    """Return ``text`` if it is a day, ``YYYY-MM-DD``; raise :class:`ConfigError` if not."""
    if not is_day(text):
        raise ConfigError(f"{name} must be a day, YYYY-MM-DD, not {text!r}")
    return text


def is_day(text: str) -> bool:
    """Return whether a text is a day, ``YYYY-MM-DD``, and no time."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def read_moment(text: str) -> datetime:
    """
    Return the time that a text names, or the first one of the day that it names, in UTC.

    :param text: A day, or a time in ISO 8601; without a zone it is UTC.
    :raises ValueError: If it is neither.
    """
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def with_seed(config: Config, seed: int | None) -> Config:
    """Return the configuration with the environment's seed, if there is one."""
    return config if seed is None else {**config, "training.seed": seed}


def describe_schema() -> dict[str, dict[str, Any]]:
    """Return the schema by key, as plain JSON."""
    described = {}
    for param in SCHEMA:
        entry: dict[str, Any] = {
            "type": _TYPE_NAMES[type(param.default)],
            "default": param.default,
            "help": param.help,
        }
        for name in ("minimum", "maximum"):
            if getattr(param, name) is not None:
                entry[name] = getattr(param, name)
        if param.choices:
            entry["choices"] = list(param.choices)
        if param.is_date:
            entry["format"] = "date"
        described[param.key] = entry
    return described


_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_TYPE_NAMES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _check_range(param: Param, value: float, source: str) -> None:
    # Written so that NaN fails as well.
    low = param.minimum is None or value >= param.minimum
    high = param.maximum is None or value <= param.maximum
    if not (low and high and abs(value) != float("inf")):
        least = "" if param.minimum is None else f" from {param.minimum:g}"
        most = "" if param.maximum is None else f" to {param.maximum:g}"
        raise ConfigError(f"{source}: {param.key} must be{least}{most}, not {value!r}")


def _check_moment(name: str, text: str) -> None:
    try:
        if is_day(text) or ("T" in text and 1700 <= read_moment(text).year < 2200):
            return
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"{name} must be a day, YYYY-MM-DD, or a time in ISO 8601, not {text!r}")


def _read_file(path: Path) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path.name!r} is not valid TOML: {error}") from error


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _split_passthrough(words: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    flags: list[tuple[str, str]] = []
    overrides: list[str] = []
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--") or word == "--":
            raise ConfigError(f"passthrough: {word!r} is not a --flag")
        name, separator, value = word[2:].partition("=")
        if not separator:
            if not remaining:
                raise ConfigError(f"passthrough: --{name} lacks its value")
            value = remaining.pop(0)
        if name in ("config_override", "config-override"):
            overrides.append(value)
        else:
            flags.append((name, value))
    return flags, overrides


def _find_flag(name: str) -> Param:
    param = FLAGS.get(name.replace("-", "_"))
    if param is None:
        raise ConfigError(f"passthrough: unknown flag '--{name}'{_suggest(name, FLAGS, '--')}")
    return param


def _parse_text(key: str, text: str) -> Any:
    """Read a value as TOML would, but let a text stand without quotes."""
    param = BY_KEY.get(key)
    if param is not None and isinstance(param.default, str):
        return text.strip().strip("\"'")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.75)
    # Somebody who forgets the section means the key that ends so.
    close += [key for key in known if key.rpartition(".")[2] == name and key not in close]
    return f"; did you mean {' or '.join(prefix + match for match in close)}?" if close else ""
