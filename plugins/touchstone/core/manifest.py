"""A manifest: jobs in a file, each of which becomes one submission however often it is applied."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticKnownError

from touchstone.core.conf import System, parse_conf
from touchstone.core.documents import Line, explain, name_field, read_toml, shorten, suggest
from touchstone.core.forms import find_kinds
from touchstone.core.schedule import DEFAULT_EVENT, SEED_COUNT_KEY, Schedule, Training
from touchstone.core.trainer import Description, Scalar, Setting, check_setting
from touchstone_agent.protocol.errors import ConfigurationError

SCHEMA_VERSION = 1
WHAT = "manifest"
ID_PREFIX = "m-"

MAX_JOBS = 1000
MAX_HYPER = 200

_ID_DIGITS = 24
_MAX_DEPTH = 8
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*", re.ASCII)
_MAX_TEXT = 1000

MODEL_KEY = "model.structure"
SPLIT_KEY = "split.recipe"
HOSTS_KEY = "split.train_hosts"
RESAMPLES_KEY = "backtest.n_resamples"


Name = Annotated[str, StringConstraints(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Whole = Annotated[int, Field(strict=True, ge=-(2**31), lt=2**31)]
Lines = Annotated[tuple[Line, ...], Field(max_length=100)]


_OTHERWISE = {
    "config_overrides": "a job says it in [jobs.hyper], key by key",
    "passthrough_args": "a job says it in [jobs.hyper], key by key",
    "job": "a job's name is its own",
}
"""Fields of a schedule that follow from others in a manifest, and from which."""


_KINDS = {name: kind for name, kind in find_kinds().items() if name not in _OTHERWISE}
"""What each field of a schedule is in JSON. TOML tells texts and numbers apart, so a text that is
given for a number is a mistake, and not the number in it."""


class Mode(StrEnum):
    """What a job comes to."""

    TRAIN = "train"
    VALIDATE = "validate"


class SplitRecipe(StrEnum):
    """By what training and test data are told apart."""

    HOST = "host"
    SAMPLE = "sample"
    TIME = "time"


def _check_kind(kind: str, value: object) -> object:
    """Return a value of TOML if it is of a kind; a text on one line, a number finite."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "integer" and (not is_number or isinstance(value, float)):
        raise PydanticKnownError("int_type")
    if kind == "number" and not is_number:
        raise PydanticKnownError("float_type")
    if kind == "number" and not math.isfinite(value):  # type: ignore[arg-type]
        raise PydanticKnownError("finite_number")
    if kind == "boolean" and not isinstance(value, bool):
        raise PydanticKnownError("bool_type")
    if kind == "array" and not isinstance(value, (list, tuple)):
        raise PydanticKnownError("tuple_type")
    is_day = isinstance(value, dt.date) and not isinstance(value, dt.datetime)
    if kind == "day" and not is_day and not isinstance(value, str):
        # A bare number would be taken for seconds since 1970.
        raise ValueError(f"{shorten(value)} is not a day, YYYY-MM-DD")
    if kind == "string" and not isinstance(value, str):
        raise PydanticKnownError("string_type")
    for text in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(text, str) and not text.isprintable():
            raise ValueError(f"{shorten(text)} has characters that cannot be printed")
    return value


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Defaults(Training):
    """
    What holds for a job that says nothing else; as for ``touchstone submit`` unless told here.

    :param intervals: Prediction intervals in days.
    :param model: Model structure, for feature sets; ``None`` for the configuration's.
    :param mode: Whether to train, or only to validate.
    :param split_recipe: By what training and test data are told apart; ``None`` for the trainer's.
    :param train_hosts: Hosts whose data are trained on; empty for all.
    :param n_resamples: Resamples of the confidence interval; ``None`` for the trainer's.
    :param hyper: Keys of the trainer's configuration, or short names of its flags.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intervals: tuple[Whole, ...] = ()
    system: System = System.FEATURE_SET
    model: Line | None = None
    mode: Mode = Mode.TRAIN
    split_recipe: SplitRecipe | None = None
    train_hosts: Lines = ()
    n_resamples: Whole | None = None
    hyper: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("*", mode="before")
    @classmethod
    def _is_of_its_kind(cls, value: object, info: ValidationInfo[object]) -> object:
        name = str(info.field_name)
        if name in _OTHERWISE:
            raise ValueError(f"cannot be given here; {_OTHERWISE[name]}")
        kind = _KINDS.get(name)
        return value if kind is None else _check_kind(kind, value)


class Job(Defaults):
    """
    One job, with the defaults filled in.

    :param name: Its name, by which servers' allow and deny lists know it.
    :param source: Git URL, or a folder or archive, relative to the manifest.
    :param ref: Branch, tag or commit of a git source.
    :param path: Folder of the module in the source.
    :param notes: For readers of the result.
    :param waived_columns: Columns against which the trainer holds no look-ahead.
    """

    name: Name
    source: Line = Field(min_length=1)
    ref: Line | None = None
    path: Line | None = None
    notes: Line | None = None
    waived_columns: Lines = ()


class Manifest(_Table):
    """
    A checked manifest.

    :param schema_version: Version of its form.
    :param name: Its own name.
    :param defaults: What holds for jobs that say nothing else.
    :param jobs: The jobs; ``hyper`` of each is flat, by dotted key.
    """

    schema_version: int
    name: Name
    defaults: Defaults = Defaults()
    jobs: Annotated[tuple[Job, ...], Field(max_length=MAX_JOBS)] = ()


_KNOWN = frozenset({*Manifest.model_fields, *Job.model_fields}.difference(_OTHERWISE))
# --- reading -----------------------------------------------------------------------------------


def parse_manifest(text: str) -> Manifest:
    """
    Check a manifest.

    :param text: TOML.
    :raises ConfigurationError: Naming the first field that is wrong, by its job's name.
    """
    document = read_toml(text, what=WHAT, version=SCHEMA_VERSION)
    try:
        # By itself first: an error of the defaults is not each job's.
        defaults = Defaults.model_validate(_flatten_table(document.get("defaults", {}), "defaults"))
    except ValidationError as error:
        place: list[str | int] = ["defaults", *error.errors()[0]["loc"]]
        raise ConfigurationError(explain(error, known=_KNOWN, location=place)) from error
    raw = document.get("jobs", [])
    if isinstance(raw, dict):
        raise ConfigurationError("jobs: is a table; write [[jobs]] above each job")
    filled = _fill_in(raw, defaults) if isinstance(raw, list) else raw
    try:
        manifest = Manifest.model_validate({**document, "defaults": defaults, "jobs": filled})
    except ValidationError as error:
        place = _name_job(error.errors()[0]["loc"], raw)
        raise ConfigurationError(explain(error, known=_KNOWN, location=place)) from error
    _check_names(manifest.jobs)
    for job in manifest.jobs:
        _check_job(job)
    return manifest


def _fill_in(raw: Sequence[object], defaults: Defaults) -> list[object]:
    given = defaults.model_dump(exclude_unset=True)
    filled: list[object] = []
    for place, job in enumerate(raw):
        if not isinstance(job, dict):
            filled.append(job)
            continue
        own = _flatten_hyper(job, name_field(_name_job(("jobs", place), raw)))
        hyper = own.get("hyper", {})
        # What is no table is handed on, to be refused by its name.
        if isinstance(hyper, dict):
            hyper = {**given.get("hyper", {}), **hyper}
        filled.append({**given, **own, "hyper": hyper})
    return filled


def _flatten_table(table: object, place: str) -> object:
    return _flatten_hyper(table, place) if isinstance(table, dict) else table


def _flatten_hyper(table: Mapping[str, object], place: str) -> Mapping[str, object]:
    hyper = table.get("hyper")
    if not isinstance(hyper, dict):
        return table
    flat: dict[str, Scalar] = {}
    for key, value in _walk(hyper, f"{place}.hyper"):
        if key in flat:
            raise ConfigurationError(f"{place}.hyper.{key}: given twice; keep one")
        flat[key] = value
    if len(flat) > MAX_HYPER:
        raise ConfigurationError(f"{place}.hyper: has more than {MAX_HYPER} entries")
    return {**table, "hyper": flat}


def _walk(
    table: Mapping[str, object], place: str, prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Scalar]]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        if not _KEY.fullmatch(key):
            raise ConfigurationError(
                f"{place}: {shorten(key)} cannot be a key of the trainer's configuration"
            )
        if isinstance(value, dict):
            if depth >= _MAX_DEPTH:
                raise ConfigurationError(f"{place}: tables are nested too deeply")
            yield from _walk(value, place, f"{key}.", depth + 1)
        else:
            yield key, _check_scalar(f"{place}.{key}", value)


def _check_scalar(place: str, value: object) -> Scalar:
    if isinstance(value, str):
        if len(value) > _MAX_TEXT or not value.isprintable():
            raise ConfigurationError(
                f"{place}: {shorten(value)} is too long, or has characters that cannot be printed"
            )
        return value
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and not abs(value) < 2**63:  # type: ignore[arg-type]
        raise ConfigurationError(f"{place}: {shorten(value)} is not a number that can be used")
    if not isinstance(value, (bool, int, float)):
        raise ConfigurationError(
            f"{place}: {shorten(value)} is neither a number, a text, nor true or false"
        )
    return value


def _name_job(place: Iterable[str | int], raw: object) -> list[str | int]:
    """Return a place with the job's name in it, instead of its number, if it has one."""
    parts = list(place)
    if len(parts) > 1 and parts[0] == "jobs" and isinstance(parts[1], int):
        job = raw[parts[1]] if isinstance(raw, list) else None
        name = job.get("name") if isinstance(job, dict) else None
        parts[1] = name if isinstance(name, str) and name else parts[1] + 1
    return parts


def _check_names(jobs: Iterable[Job]) -> None:
    by_folded: dict[str, str] = {}
    for job in jobs:
        if job.name.casefold() in by_folded:
            raise ConfigurationError(
                f"jobs.{job.name}.name: there is a job {by_folded[job.name.casefold()]!r} already; "
                "call one of the two something else"
            )
        by_folded[job.name.casefold()] = job.name


def _check_job(job: Job) -> None:
    place = f"jobs.{job.name}"
    if job.mode is Mode.TRAIN and not job.intervals:
        raise ConfigurationError(
            f"{place}.intervals: is missing; give days, for example [1, 5], in the job or in "
            'the defaults, or mode = "validate"'
        )
    if job.model is not None and job.system is System.MODEL_STRUCTURE:
        raise ConfigurationError(
            f"{place}.model: the source is the model structure itself; leave it out"
        )
    given: dict[str, str] = {}
    for setting in build_settings(job):
        if setting.key in given:
            raise ConfigurationError(
                f"{place}.{setting.field}: {given[setting.key]} sets {setting.key} as well; "
                "keep one of the two"
            )
        given[setting.key] = setting.field
    build_conf(job, source=job.source, notes="")


# --- what is submitted -------------------------------------------------------------------------


def build_settings(job: Job) -> list[Setting]:
    """Return what a job gives the trainer, in the order of the keys."""
    named = {
        "model": (MODEL_KEY, job.model),
        "split_recipe": (SPLIT_KEY, _find_recipe(job)),
        "train_hosts": (HOSTS_KEY, ",".join(job.train_hosts) or None),
        "n_resamples": (RESAMPLES_KEY, job.n_resamples),
    }
    settings = [
        Setting(field=field, key=key, value=value)
        for field, (key, value) in named.items()
        if value is not None
    ]
    return settings + [
        Setting(field=f"hyper.{key}", key=key, value=value)
        for key, value in sorted(job.hyper.items())
    ]


def build_conf(job: Job, *, source: str, notes: str) -> dict[str, object]:
    """
    Return the flat conf of a job's run.

    :param job: The job.
    :param source: Git URL, or what stands for an uploaded archive.
    :param notes: What the submission's notes say.
    :raises ConfigurationError: If a field has an impossible value, by its job's name.
    """
    conf: dict[str, object] = {
        "source": source,
        "ref": job.ref,
        "path": job.path,
        "system": job.system.value,
        "notes": notes,
        "waived_columns": list(job.waived_columns),
    }
    if job.mode is Mode.TRAIN:
        conf |= _build_schedule(job)
    conf = {key: value for key, value in conf.items() if value not in (None, "", [])}
    try:
        parse_conf(conf)
    except ConfigurationError as error:
        raise ConfigurationError(f"jobs.{job.name}.{error}") from error
    return conf


def build_submission_id(job: Job, *, content: str) -> str:
    """
    Return the id of a job's submission: the same for the same work, whatever it is called.

    Where and when it may run, its name and its priority are not part of the work.

    :param job: The job.
    :param content: The source: URL of a git source, or sha256 of an archive.
    """
    work = {
        "content": content,
        "ref": job.ref,
        "path": job.path or ".",
        "system": job.system.value,
        "mode": job.mode.value,
        "seed": job.seed,
        "intervals": sorted(set(job.intervals)),
        "config_file": job.config_file if "config_file" in job.model_fields_set else None,
        "branch": job.branch,
        "fetched_data_end_to": job.fetched_data_end_to and job.fetched_data_end_to.isoformat(),
        "baseline": job.baseline,
        "settings": {setting.key: setting.value for setting in build_settings(job)},
        # Not always: an id that was given before there were events stays what it is.
        **({"event": job.event} if job.event != DEFAULT_EVENT else {}),
        **({"seed_count": job.seed_count} if job.seed_count != 1 else {}),
        **({"waived_columns": list(job.waived_columns)} if job.waived_columns else {}),
        **({"folds": [day.isoformat() for day in job.folds]} if job.folds else {}),
    }
    text = json.dumps(work, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return ID_PREFIX + hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]


def build_notes(manifest: Manifest, job: Job) -> str:
    """Return a submission's notes, from which :func:`find_job` reads its job again."""
    own = f" - {job.notes}" if job.notes else ""
    return f"manifest {manifest.name}: {job.name}{own}"


def find_job(manifest: Manifest, submission_id: str, notes: str | None) -> str | None:
    """
    Return the job of this manifest that a submission came from; ``None`` if from none.

    :param notes: The submission's notes.
    """
    prefix = f"manifest {manifest.name}: "
    notes = notes or ""
    if not submission_id.startswith(ID_PREFIX):
        return None
    return notes.removeprefix(prefix).partition(" ")[0] if notes.startswith(prefix) else None


def _find_recipe(job: Job) -> str | None:
    # The trainer's own way needs no key, and it has none for it.
    recipe = job.split_recipe
    return None if recipe in {None, SplitRecipe.TIME} else str(recipe)


def _build_schedule(job: Job) -> dict[str, object]:
    settings = build_settings(job)
    said = job.model_dump(mode="json", include=set(Schedule.model_fields), exclude_unset=True)
    return said | {
        "intervals": list(job.intervals),
        "seed": job.seed,
        "config_overrides": [f"{s.key}={_format(s.value)}" for s in settings if not s.is_flag],
        "passthrough_args": [
            shlex.quote(f"--{s.key}={_format(s.value)}") for s in settings if s.is_flag
        ],
        "job": job.name,
    }


def _format(value: Scalar) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


# --- against the trainer -----------------------------------------------------------------------


def check_trainer(manifest: Manifest, description: Description) -> tuple[str, ...]:
    """
    Check that the trainer knows every key the jobs set, before any of them costs anything.

    :return: Jobs that could not be checked, because another branch of the trainer runs them.
    :raises ConfigurationError: Naming the first key or value that the trainer would refuse.
    """
    unchecked = []
    for job in manifest.jobs:
        if job.mode is not Mode.TRAIN:
            continue
        if job.branch is not None:
            unchecked.append(job.name)
            continue
        place = f"jobs.{job.name}"
        if "config_file" in job.model_fields_set and job.config_file not in description.configs:
            hint = suggest(job.config_file, description.configs)
            raise ConfigurationError(
                f"{place}.config_file: the trainer has no {shorten(job.config_file)}{hint}"
            )
        if job.seed_count > 1 and SEED_COUNT_KEY not in description.params:
            raise ConfigurationError(
                f"{place}.seed_count: the trainer trains one seed at a time; leave it out, or ask "
                "an admin for a trainer image of this version"
            )
        given: dict[str, str] = {}
        for setting in build_settings(job):
            key = check_setting(place, setting, description)
            if key in given:
                raise ConfigurationError(
                    f"{place}.{setting.field}: {given[key]} sets {key} as well; keep one of the two"
                )
            given[key] = setting.field
    return tuple(unchecked)
