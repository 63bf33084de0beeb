"""What a run may carry: a new submission or an accepted one, with or without a schedule."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from touchstone.core.documents import name_field, shorten
from touchstone.core.names import is_submission_id
from touchstone.core.refs import check_ref
from touchstone.core.remotes import MAX_URL, parse_remote
from touchstone_agent.protocol.errors import ConfigurationError

MAX_INTERVALS = 50
MAX_INTERVAL = 250
"""Trading days that el-nigma looks ahead at most."""
MAX_INTERVALS_TEXT = 500
MAX_PATH = 500
MAX_NOTES = 4000
MAX_ARGUMENTS = 200
"""Lines of overrides, and as many of further arguments."""
MAX_ARGUMENT = 2000
MAX_HOSTS = 100
MAX_HOST = 60
MAX_GPU_MODELS = 20
MAX_GPU_MODEL = 100
MAX_JOB = 100
MAX_ID = 48
MAX_USD = 1_000_000
MAX_HOURS = 24 * 31
MAX_USER = 200
MAX_RUNS = 200
"""Runs of one submission."""
MAX_CONF_BYTES = 32 * 1024
"""A whole conf as JSON: it is in a submission's record twice, in each task's once, and in a START,
where each quote is four characters."""
INTERVALS_PATTERN = r"^\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*$"
UPLOAD_SCHEME = "upload:"

_INTERVALS = re.compile(INTERVALS_PATTERN)
_UPLOAD = re.compile(r"upload:[0-9a-f]{64}")
_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*=.*", re.DOTALL)


class System(StrEnum):
    """What kind of module a submission is."""

    FEATURE_SET = "feature_set"
    MODEL_STRUCTURE = "model_structure"


class Platform(StrEnum):
    """Where trainings may run; ``any`` prefers on-prem servers."""

    ANY = "any"
    ON_PREM = "on-prem"
    RUNPOD = "runpod"


class CloudChoice(StrEnum):
    """Whose machines a pod may be on; ``any`` tries RunPod's own first."""

    ANY = "any"
    SECURE = "secure"
    COMMUNITY = "community"


def _parse_intervals(value: object) -> object:
    if isinstance(value, str):
        if len(value) > MAX_INTERVALS_TEXT:
            raise ValueError(f"is longer than {MAX_INTERVALS_TEXT} characters")
        if not value.strip():
            raise ValueError("is empty; give whole days, for example 1,5,20")
        if not _INTERVALS.fullmatch(value):
            raise ValueError(f"{shorten(value)} is not a list of whole days such as 1,5,20")
        return [int(part) for part in value.split(",")]
    return value


def _drop_blank(value: object) -> object:
    """The trigger form sends a blank line for a trailing newline, and None for a cleared list."""
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [item for item in value if not (isinstance(item, str) and not item.strip())]
    return value


def _blank_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _check_relative(value: str) -> str:
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("-") or "\0" in value:
        raise ValueError(f"{shorten(value)} is not a path below the source's root")
    return value


def _check_argument(value: str) -> str:
    # No program can be given one.
    if "\0" in value:
        raise ValueError(f"{shorten(value)} has a character of code 0 in it")
    return value


Argument = Annotated[str, Field(max_length=MAX_ARGUMENT), AfterValidator(_check_argument)]
Arguments = Annotated[
    tuple[Argument, ...], Field(max_length=MAX_ARGUMENTS), BeforeValidator(_drop_blank)
]
Hosts = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_HOST)], ...],
    Field(max_length=MAX_HOSTS),
    BeforeValidator(_drop_blank),
]
GpuModels = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_GPU_MODEL)], ...],
    Field(max_length=MAX_GPU_MODELS),
    BeforeValidator(_drop_blank),
]
Text = Annotated[str | None, BeforeValidator(_blank_is_none)]
Amount = Annotated[Decimal, Field(gt=0, le=MAX_USD, max_digits=12, decimal_places=6)]
Usd = Annotated[Amount | None, BeforeValidator(_blank_is_none)]


class Schedule(BaseModel):
    """
    How an accepted submission is to be trained; an engineer's decision.

    :param intervals: Prediction intervals in days; one task each.
    :param config_file: Path of the el-nigma configuration, relative to its configuration folder.
    :param branch: Branch, tag or commit of el-nigma; ``None`` for the trainer image's own.
    :param fetched_data_end_to: Last day of data to use; ``None`` for all there is.
    :param platform: Where it may run.
    :param overrides: ``key.path=value`` each, as for ``--config_override``.
    :param passthrough: Further arguments for el-nigma, after ``--``.
    :param seed: Seed of the training.
    :param baseline: Submission to compare with; ``None`` for none.
    :param priority: Higher is placed first; submitters share what is free inside a priority.
    :param require_cuda: Run nowhere without a CUDA GPU.
    :param prefer_cuda: Wait for a CUDA GPU for a while before anything lesser is taken.
    :param min_vram_gib: Least memory of the GPU, GiB.
    :param min_ram_gib: Least memory of the server, GiB.
    :param allowed_hosts: Servers it may run on; empty for any.
    :param job: Name of the job in its manifest, for servers' allow and deny lists.
    :param gpu_models: GPU models for pods, best first; empty for the installation's own list.
    :param cloud: Whose machines pods may be on.
    :param max_price: Most that a pod may cost, USD per hour; ``None`` for no ceiling of its own.
    :param budget: Most that all pods of the submission may cost together, USD.
    :param max_hours: Longest training, hours; ``None`` for the installation's own limit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)

    intervals: Annotated[tuple[int, ...], BeforeValidator(_parse_intervals)] = Field(min_length=1)
    config_file: str = Field(default="default.toml", max_length=MAX_PATH)
    branch: Text = None
    fetched_data_end_to: Annotated[dt.date | None, BeforeValidator(_blank_is_none)] = None
    platform: Platform = Platform.ANY
    overrides: Arguments = ()
    passthrough: Arguments = ()
    seed: int = Field(default=0, ge=0, lt=2**31)
    baseline: Text = Field(default=None, max_length=MAX_ID)
    priority: int = Field(default=0, ge=-100, le=100)
    require_cuda: bool = False
    prefer_cuda: bool = False
    min_vram_gib: float = Field(default=0, ge=0, le=1024)
    min_ram_gib: float = Field(default=0, ge=0, le=65536)
    allowed_hosts: Hosts = ()
    job: Text = Field(default=None, max_length=MAX_JOB)
    gpu_models: GpuModels = ()
    cloud: CloudChoice = CloudChoice.ANY
    max_price: Usd = None
    budget: Usd = None
    max_hours: float | None = Field(default=None, gt=0, le=MAX_HOURS)

    @field_validator("intervals")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(item < 1 or item > MAX_INTERVAL for item in value):
            raise ValueError(f"an interval is a whole number of days from 1 to {MAX_INTERVAL}")
        distinct = tuple(dict.fromkeys(value))
        if len(distinct) > MAX_INTERVALS:
            raise ValueError(f"{len(distinct)} intervals; at most {MAX_INTERVALS} at once")
        return distinct

    @field_validator("config_file")
    @classmethod
    def _config_is_relative(cls, value: str) -> str:
        return _check_relative(value)

    @field_validator("branch")
    @classmethod
    def _branch_is_a_ref(cls, value: str | None) -> str | None:
        return None if value is None else check_ref(value)

    @field_validator("overrides")
    @classmethod
    def _overrides_are_pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not _OVERRIDE.fullmatch(item):
                raise ValueError(f"{shorten(item)} is not key.path=value")
        return value

    @field_validator("passthrough")
    @classmethod
    def _passthrough_can_be_split(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                shlex.split(item)
            except ValueError as error:
                raise ValueError(f"{shorten(item)}: {error}") from error
        return value

    @property
    def passthrough_argv(self) -> tuple[str, ...]:
        """Return the passthrough lines as single arguments, split as a shell would."""
        return tuple(word for line in self.passthrough for word in shlex.split(line))


class Source(BaseModel):
    """
    Where a new submission's module is.

    :param url: Git URL, or ``upload:<sha256>`` of an archive uploaded before.
    :param ref: Branch, tag or commit; ``None`` for the default branch.
    :param path: Folder of the module below the root; ``.`` for the root.
    :param system: What kind of module it is.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=MAX_URL)
    ref: Text = None
    path: str = Field(default=".", max_length=MAX_PATH)
    system: System = System.FEATURE_SET

    @field_validator("url")
    @classmethod
    def _is_a_source(cls, value: str) -> str:
        if value.startswith(UPLOAD_SCHEME):
            if not _UPLOAD.fullmatch(value):
                raise ValueError("an uploaded source is upload:<sha256 in 64 hex digits>")
            return value
        # Whether its host, or a path, is allowed depends on the installation: the git hook knows.
        parse_remote(value)
        return value

    @field_validator("ref")
    @classmethod
    def _is_a_ref(cls, value: str | None) -> str | None:
        return None if value is None else check_ref(value)

    @field_validator("path")
    @classmethod
    def _path_is_relative(cls, value: str) -> str:
        return _check_relative(value or ".")

    @property
    def upload_sha256(self) -> str | None:
        """Return the digest of an uploaded archive; ``None`` for a git source."""
        return self.url.removeprefix(UPLOAD_SCHEME) if self.url.startswith(UPLOAD_SCHEME) else None


class RunConf(BaseModel):
    """
    A run's conf after checking.

    :param source: A new submission, or ``None``.
    :param submission_id: An accepted submission, or ``None``; exactly one of the two is given.
    :param schedule: How to train it; ``None`` ends the run at ``accept``.
    :param notes: Free text of the submitter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source | None = None
    submission_id: str | None = None
    schedule: Schedule | None = None
    notes: str = Field(default="", max_length=MAX_NOTES)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.source is None) == (self.submission_id is None):
            raise ValueError(
                "source: give either a source (a new submission) "
                "or a submission_id (an accepted one), not both"
            )
        if self.submission_id is not None:
            if not is_submission_id(self.submission_id):
                raise ValueError(
                    f"submission_id: {shorten(self.submission_id)} is not a submission's id"
                )
            if self.schedule is None:
                raise ValueError("intervals: scheduling an accepted submission needs intervals")
        return self


SOURCE_KEYS = {"source": "url", "ref": "ref", "path": "path", "system": "system"}
SCHEDULE_KEYS = {
    "intervals": "intervals",
    "config_file": "config_file",
    "branch": "branch",
    "fetched_data_end_to": "fetched_data_end_to",
    "platform": "platform",
    "config_overrides": "overrides",
    "passthrough_args": "passthrough",
    "seed": "seed",
    "baseline": "baseline",
    "priority": "priority",
    "require_cuda": "require_cuda",
    "prefer_cuda": "prefer_cuda",
    "min_vram_gib": "min_vram_gib",
    "min_ram_gib": "min_ram_gib",
    "allowed_hosts": "allowed_hosts",
    "job": "job",
    "gpu_models": "gpu_models",
    "cloud": "cloud",
    "max_price": "max_price",
    "budget": "budget",
    "max_hours": "max_hours",
}
PLACEMENT_KEYS = (
    *("priority", "require_cuda", "prefer_cuda", "min_vram_gib", "min_ram_gib"),
    *("allowed_hosts", "job"),
)
"""Those keys of a schedule that say what it needs of a server."""
OTHER_KEYS = ("submission_id", "notes")
CONF_KEYS = (*SOURCE_KEYS, *SCHEDULE_KEYS, *OTHER_KEYS)
"""Every key of a run's conf, as the form, REST and CI send them: flat."""


def parse_conf(conf: dict[str, Any]) -> RunConf:
    """
    Check a run's flat conf.

    A run has a schedule exactly when ``intervals`` is given and not null; the form sends every
    field, so other schedule fields alone do not make one.

    :param conf: Keys of :data:`CONF_KEYS`; null means not given.
    :raises ConfigurationError: Naming the first field that is unknown or wrong.
    """
    unknown = sorted(set(conf) - set(CONF_KEYS))
    if unknown:
        raise ConfigurationError(
            f"{name_field(unknown[:1])}: unknown field; known are {', '.join(sorted(CONF_KEYS))}"
        )
    _check_size(conf)
    given = {key: value for key, value in conf.items() if value is not None}
    nested: dict[str, Any] = {key: given[key] for key in OTHER_KEYS if key in given}
    if nested.get("submission_id") == "":
        del nested["submission_id"]
    if given.get("source"):
        nested["source"] = {new: given[old] for old, new in SOURCE_KEYS.items() if old in given}
    if "intervals" in given:
        nested["schedule"] = {new: given[old] for old, new in SCHEDULE_KEYS.items() if old in given}
    try:
        return RunConf.model_validate(nested)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error


def _check_size(conf: Mapping[str, Any]) -> None:
    sizes = {}
    for key, value in conf.items():
        try:
            text = json.dumps(value, ensure_ascii=False, default=str)
        except (RecursionError, ValueError) as error:
            raise ConfigurationError(f"{key}: is nested too deeply") from error
        sizes[key] = len(text.encode(errors="surrogatepass"))
    if sum(sizes.values()) > MAX_CONF_BYTES:
        largest = max(sizes, key=lambda key: sizes[key])
        raise ConfigurationError(
            f"{largest}: is too long: all fields of a run may have {MAX_CONF_BYTES} bytes "
            f"together, and have {sum(sizes.values())}, of which this one has {sizes[largest]}"
        )


def _explain(error: ValidationError) -> str:
    """Say the first error in the words of the flat conf."""
    item = error.errors()[0]
    names = {new: old for old, new in (SOURCE_KEYS | SCHEDULE_KEYS).items()}
    parts = [str(part) for part in item["loc"] if part not in {"source", "schedule"}]
    message = item["msg"].removeprefix("Value error, ")
    if not parts:
        return message
    parts[0] = names.get(parts[0], parts[0])
    return f"{'.'.join(parts)}: {message}"


def build_conf(conf: RunConf) -> dict[str, Any]:
    """Return the flat, canonical form of a checked conf; parsing it again gives the same."""
    data = conf.model_dump(mode="json", exclude_none=True)
    flat: dict[str, Any] = {key: data[key] for key in OTHER_KEYS if key in data}
    source, schedule = data.get("source", {}), data.get("schedule", {})
    flat |= {old: source[new] for old, new in SOURCE_KEYS.items() if new in source}
    flat |= {old: schedule[new] for old, new in SCHEDULE_KEYS.items() if new in schedule}
    return flat
