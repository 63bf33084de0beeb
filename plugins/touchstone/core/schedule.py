"""
How an accepted submission is to be trained: each field once, with all that is asked of it.

The DAG's form, the options of the command line, the keys of a manifest, the check of a run's conf,
a task's specification and the table in the documentation all come from :class:`Schedule`. A field's
bounds stand in its type, and its :class:`Form` says how people are asked for it.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Annotated, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from touchstone.core.documents import shorten
from touchstone.core.folds import (
    LEAST_FOLDS,
    MOST_FOLDS,
    SPLIT_PREFIX,
    check_fold_days,
    list_rows,
    split_days,
    tell_rows,
)
from touchstone.core.refs import MAX_REF, check_ref

MAX_INTERVALS = 50
MAX_INTERVAL = 250
"""Bars that el-nigma looks ahead at most."""
MAX_INTERVALS_TEXT = 500
MAX_PATH = 500
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
LOWEST_PRIORITY = -100
HIGHEST_PRIORITY = 100
MAX_SEEDS = 10
MAX_FOLDS_TEXT = 200
"""All days on one line."""
MAX_TRAININGS = 100
"""Intervals times folds of one schedule."""
SEED_COUNT_KEY = "training.seed_count"
"""The trainer's own key of :attr:`Training.seed_count`."""
DEFAULT_CONFIG = "default.toml"
DEFAULT_EVENT = "default"
MAX_EVENT = 40
EVENT_PATTERN = r"^[a-z0-9](-?[a-z0-9])*$"
INTERVALS_PATTERN = r"^\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*$"

_INTERVALS = re.compile(INTERVALS_PATTERN)
_OVERRIDE_OPTIONS = ("--config_override", "--config-override")
_OVERRIDE = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*=.*", re.DOTALL)


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


class Section(StrEnum):
    """Part of the form in which a field stands."""

    SCHEDULE = "2. Schedule"
    PLACEMENT = "3. Where it may run"
    PODS = "4. Pods"


@dataclass(frozen=True, kw_only=True)
class Form:
    """
    How people are asked for a field.

    :param title: Its label in the form.
    :param section: Where it stands in the form.
    :param help: What it means, in Markdown; on the command line as well as in the form. What an
        empty field means stands at its end, after ``Empty:``.
    :param option: Its option on the command line; empty for a field that is given as
        ``--needs KEY=VALUE``, ``None`` for one that has another way of its own.
    :param example: An argument of that option, for the documentation.
    :param labels: What the form shows for each value of an enumeration.
    :param schema: What the form's JSON schema says otherwise than the field's type.
    :param effect: What the trainer, or the placement, gets of it, for the documentation.
    """

    title: str
    section: Section
    help: str
    option: str | None = ""
    example: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    schema: Mapping[str, JsonValue] = field(default_factory=dict)
    effect: str = ""


def _parse_intervals(value: object) -> object:
    if isinstance(value, str):
        if len(value) > MAX_INTERVALS_TEXT:
            raise ValueError(f"is longer than {MAX_INTERVALS_TEXT} characters; give fewer")
        if not value.strip():
            raise ValueError("is empty; give whole bars, for example 1,5,20")
        if not _INTERVALS.fullmatch(value):
            raise ValueError(f"{shorten(value)} is not a list of whole bars; write it as 1,5,20")
        return [int(part) for part in value.split(",")]
    return value


def drop_blank(value: object) -> object:
    """
    Return a list without blank lines.

    The trigger form sends one for a trailing newline, and ``None`` for a cleared list.
    """
    if value is None:
        return []
    if isinstance(value, (list, tuple)):
        return [item for item in value if not (isinstance(item, str) and not item.strip())]
    return value


def blank_is_none(value: object) -> object:
    """Return ``None`` for a text without a word in it: the trigger form sends one for no text."""
    return None if isinstance(value, str) and not value.strip() else value


def check_relative(value: str) -> str:
    """
    Return a path that stays below where it begins.

    :raises ValueError: If it might not, or could be taken for an option.
    """
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts or value.startswith("-") or "\0" in value:
        raise ValueError(
            f"{shorten(value)} is not a path below the source's root; write it without .. and "
            "without / in front"
        )
    return value


def _check_seed_count(override: str) -> None:
    # Estimates, events and verdicts go by the field: there is no other way to say it.
    if override.partition("=")[0].strip() == SEED_COUNT_KEY:
        raise ValueError(
            f"{shorten(override)} is a field of its own; leave it out, and give seed_count"
        )


def _check_folds(value: tuple[dt.date, ...]) -> tuple[dt.date, ...]:
    check_fold_days(value)
    return value


def _check_argument(value: str) -> str:
    # No program can be given one.
    if "\0" in value:
        raise ValueError(f"{shorten(value)} has a character of code 0 in it; leave it out")
    return value


Argument = Annotated[str, Field(max_length=MAX_ARGUMENT), AfterValidator(_check_argument)]
Arguments = Annotated[
    tuple[Argument, ...], Field(max_length=MAX_ARGUMENTS), BeforeValidator(drop_blank)
]
Hosts = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_HOST)], ...],
    Field(max_length=MAX_HOSTS),
    BeforeValidator(drop_blank),
]
GpuModels = Annotated[
    tuple[Annotated[str, Field(max_length=MAX_GPU_MODEL)], ...],
    Field(max_length=MAX_GPU_MODELS),
    BeforeValidator(drop_blank),
]
Folds = Annotated[
    tuple[dt.date, ...],
    BeforeValidator(split_days),
    AfterValidator(_check_folds),
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "string", "maxLength": MAX_FOLDS_TEXT},
            "maxItems": MOST_FOLDS,
        }
    ),
]
Text = Annotated[str | None, BeforeValidator(blank_is_none)]
Day = Annotated[dt.date | None, BeforeValidator(blank_is_none)]
Amount = Annotated[
    Decimal,
    Field(gt=0, le=MAX_USD, max_digits=12, decimal_places=6),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": MAX_USD}),
]
Usd = Annotated[Amount | None, BeforeValidator(blank_is_none)]
Hours = Annotated[float, Field(gt=0, le=MAX_HOURS)]


class Placement(BaseModel):
    """
    What the engineer asks of a machine on which a training may run.

    :param platform: Where it may run.
    :param require_cuda: Run nowhere without a CUDA GPU.
    :param prefer_cuda: Wait for a CUDA GPU for a while before anything lesser is taken.
    :param min_vram_gib: Least memory of the GPU, GiB; 0 for any.
    :param min_ram_gib: Least memory of the server, GiB; 0 for any.
    :param min_disk_gib: Disk that must be free where it begins, GiB; 0 for any.
    :param allowed_hosts: Servers it may run on; empty for any.
    :param gpu_models: GPU models for pods, best first; empty for the installation's own list.
    :param cloud: Whose machines pods may be on.
    :param max_price: Most that a pod may cost, USD per hour; ``None`` for no ceiling of its own.
    """

    # A task's specification is read by the version after, or before, the one that has written it.
    model_config = ConfigDict(frozen=True, extra="ignore")

    platform: Annotated[
        Platform,
        Form(
            title="Platform",
            section=Section.SCHEDULE,
            help="Where the trainings may run.",
            option="--platform",
            labels={
                Platform.ANY: "Anywhere (on-prem first)",
                Platform.ON_PREM: "On-prem servers",
                Platform.RUNPOD: "RunPod",
            },
            example="runpod",
            effect="where it may run: `on-prem`, `runpod`, or `any`: in a pod only when no server "
            "has a free slot",
        ),
    ] = Platform.ANY
    require_cuda: Annotated[
        bool,
        Form(
            title="Needs CUDA",
            section=Section.PLACEMENT,
            help="Never run without a CUDA GPU.",
            example="true",
            effect="only servers and pods with a CUDA GPU; a trainer that sees none ends at once",
        ),
    ] = False
    prefer_cuda: Annotated[
        bool,
        Form(
            title="Prefers CUDA",
            section=Section.PLACEMENT,
            help="Wait five minutes for a CUDA GPU before a lesser server may take it.",
            example="true",
            effect="five minutes of waiting for a CUDA GPU, then any server",
        ),
    ] = False
    min_vram_gib: Annotated[
        float,
        Form(
            title="GPU memory (GiB)",
            section=Section.PLACEMENT,
            help="Least memory of the GPU; 0 for any.",
            example="24",
            effect="only GPUs with as much memory",
        ),
    ] = Field(default=0, ge=0, le=1024)
    min_ram_gib: Annotated[
        float,
        Form(
            title="Memory (GiB)",
            section=Section.PLACEMENT,
            help="Least memory of the server; 0 for any.",
            example="64",
            effect="only servers with as much memory",
        ),
    ] = Field(default=0, ge=0, le=65536)
    min_disk_gib: Annotated[
        float,
        Form(
            title="Free disk (GiB)",
            section=Section.PLACEMENT,
            help="Disk that must be free where it begins; 0 for any.",
            example="50",
            effect="only servers that have as much free now; a pod is ordered with as much",
        ),
    ] = Field(default=0, ge=0, le=16384)
    allowed_hosts: Annotated[
        Hosts,
        Form(
            title="Servers",
            section=Section.PLACEMENT,
            help="Servers it may run on. Empty: any.",
            example="a,b",
            effect="only these servers",
        ),
    ] = ()
    gpu_models: Annotated[
        GpuModels,
        Form(
            title="GPU models",
            section=Section.PODS,
            help="GPU models for RunPod, best first, for example `RTX 4090`; "
            "`touchstone gpus` lists those that are there now. Empty: the installation's own list.",
            option="--gpu",
            example='"RTX 4090"',
            effect="GPU models of pods, best first",
        ),
    ] = ()
    cloud: Annotated[
        CloudChoice,
        Form(
            title="Cloud",
            section=Section.PODS,
            help="Whose machines pods may be on.",
            option="--cloud",
            labels={
                CloudChoice.ANY: "Any (secure first)",
                CloudChoice.SECURE: "Secure: RunPod's own data centres",
                CloudChoice.COMMUNITY: "Community: other people's machines, cheaper",
            },
            example="secure",
            effect="whose machines pods may be on: `any`, `secure` or `community`",
        ),
    ] = CloudChoice.ANY
    max_price: Annotated[
        Usd,
        Form(
            title="Price ceiling ($/h)",
            section=Section.PODS,
            help="Most that a pod may cost per hour. Empty: the installation's own ceiling.",
            option="--max-price",
            example="0.8",
            effect="most $ per hour of a pod",
        ),
    ] = None


class Training(Placement):
    """
    All of a schedule but the intervals: what a job of a manifest may leave out.

    :param config_file: Path of the el-nigma configuration, relative to its configuration folder.
    :param branch: Branch, tag or commit of el-nigma; ``None`` for the trainer image's own.
    :param fetched_data_end_to: Last day of data to use; ``None`` for all there is.
    :param config_overrides: ``key.path=value`` each, as for ``--config_override``.
    :param passthrough_args: Further arguments for el-nigma, after ``--``.
    :param seed: Seed of the training; the first one of several.
    :param seed_count: How many seeds are trained, this one and those after it; predictions are
        their mean.
    :param folds: First judged day of each forward fold, the earliest first; empty for none.
    :param baseline: Submission to compare with; ``None`` for none.
    :param event: The event that it enters.
    :param budget: Most that all pods of the submission may cost together, USD.
    :param max_hours: Longest training, hours; ``None`` for the installation's own limit.
    :param priority: Higher is placed first; submitters share what is free inside a priority.
    :param job: Name of the job in its manifest, for servers' allow and deny lists.
    """

    config_file: Annotated[
        str,
        Form(
            title="Config File",
            section=Section.SCHEDULE,
            help="El-nigma configuration, relative to its configuration folder.",
            option="--config",
            example="fast.toml",
            effect="`--config`; in the reference trainer `default.toml`, `fast.toml`, and "
            "`lstm.toml`, `tcn.toml` or `transformer.toml` for that "
            "[model structure](../include/elnigma/CONTRACT.md#the-reference-training)",
        ),
    ] = Field(default=DEFAULT_CONFIG, max_length=MAX_PATH)
    branch: Annotated[
        Text,
        Form(
            title="el-nigma Branch",
            section=Section.SCHEDULE,
            help="Branch, tag or commit of el-nigma. Empty: the one in the trainer image.",
            option="--branch",
            example="main",
            schema={"maxLength": MAX_REF},
            effect="a branch, tag or commit of el-nigma to train with; needs "
            "`TOUCHSTONE_ELNIGMA_GIT`, and [an admin's leave](#settings). Resolved once per run, "
            "by `register`; `touchstone show` tells the commit",
        ),
    ] = None
    fetched_data_end_to: Annotated[
        Day,
        Form(
            title="Fetched Data End To",
            section=Section.SCHEDULE,
            help="Last day of data to use, YYYY-MM-DD. Empty: all there is.",
            option="--fetched-data-end-to",
            example="2018-06-30",
            schema={"maxLength": 10},
            effect="the same",
        ),
    ] = None
    config_overrides: Annotated[
        Arguments,
        Form(
            title="Config overrides",
            section=Section.SCHEDULE,
            help="`key.path=value`, as for `--config_override`; for example `training.epochs=20`.",
            option="--override",
            example="key=value",
            effect="`--config_override key=value` each",
        ),
    ] = ()
    passthrough_args: Annotated[
        Arguments,
        Form(
            title="Passthrough Args",
            section=Section.SCHEDULE,
            help="Further arguments for el-nigma. A useful one: "
            "`--config_override key.path=value`, which changes one attribute of the configuration "
            "for this run.",
            option=None,
            example="everything after `--`",
            effect="the same, after `--`",
        ),
    ] = ()
    seed: Annotated[
        int,
        Form(
            title="Seed",
            section=Section.SCHEDULE,
            help="Same commit, configuration, data and seed give the same predictions.",
            option="--seed",
            example="3",
            effect="`TOUCHSTONE_SEED`",
        ),
    ] = Field(default=0, ge=0, lt=2**31)
    seed_count: Annotated[
        int,
        Form(
            title="Number of seeds",
            section=Section.SCHEDULE,
            help="So many pairs of models are trained for each interval, with this seed and the "
            "ones after it, and predictions are their mean: chance counts for less. Each pair "
            "takes as long as one.",
            option="--seed-count",
            example="3",
            effect="`--config_override training.seed_count=N`, unless it is 1",
        ),
    ] = Field(default=1, ge=1, le=MAX_SEEDS)
    folds: Annotated[
        Folds,
        Form(
            title="Forward folds",
            section=Section.SCHEDULE,
            help="First judged days, the earliest first, for example `2005-01-01`: each interval "
            "is trained once for each, on what came before, and is judged up to the next one. More "
            "rows are judged, and chance counts for less. Empty: one training for each interval.",
            option="--folds",
            example="2005-01-01,2010-01-01",
            effect=f"one task for each interval and fold (`i5-f0`, `i5-f1`): `--config_override` "
            f"of the `split.*` keys. {LEAST_FOLDS} to {MOST_FOLDS} days, as "
            "[the event](events.md#the-folds) has them",
        ),
    ] = ()
    baseline: Annotated[
        Text,
        Form(
            title="Baseline",
            section=Section.SCHEDULE,
            help="Submission to compare with, for the record: the event's decides. Empty: none.",
            option="--baseline",
            example="ID",
            effect="must be a successful submission; kept on record, the "
            "[event's baseline](events.md#the-baseline) decides",
        ),
    ] = Field(default=None, max_length=MAX_ID)
    event: Annotated[
        str,
        BeforeValidator(lambda value: DEFAULT_EVENT if blank_is_none(value) is None else value),
        Form(
            title="Event",
            section=Section.SCHEDULE,
            help="Event that it enters: what it is judged together with.",
            option="--event",
            example="NAME",
            effect="an [event](events.md), which says what it is compared with, and may refuse it",
        ),
    ] = Field(default=DEFAULT_EVENT, max_length=MAX_EVENT, pattern=EVENT_PATTERN)
    budget: Annotated[
        Usd,
        Form(
            title="Budget ($)",
            section=Section.PODS,
            help="Most that all pods of this submission may cost together. "
            "A pod is only rented if its longest life still fits.",
            option="--budget",
            example="20",
            effect="most $ for all pods of the submission",
        ),
    ] = None
    max_hours: Annotated[
        Hours | None,
        Form(
            title="Longest training (hours)",
            section=Section.PODS,
            help="A training that takes longer is ended. Empty: the installation's own limit.",
            option="--max-hours",
            example="6",
            effect="longest training; a pod's worst case is reserved by it",
        ),
    ] = None
    priority: Annotated[
        int,
        Form(
            title="Priority",
            section=Section.PLACEMENT,
            help="Higher goes first; inside a priority submitters share what is free.",
            example="10",
            effect="place in the order of those that wait",
        ),
    ] = Field(default=0, ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY)
    job: Annotated[
        Text,
        Form(
            title="Job",
            section=Section.PLACEMENT,
            help="Name of the job, for servers that take only some. Empty: none.",
            example="nightly",
            effect="what servers' `allow` and `deny` lists are compared with",
        ),
    ] = Field(default=None, max_length=MAX_JOB)

    @field_validator("config_file")
    @classmethod
    def _config_is_relative(cls, value: str) -> str:
        return check_relative(value)

    @field_validator("branch")
    @classmethod
    def _branch_is_a_ref(cls, value: str | None) -> str | None:
        return None if value is None else check_ref(value)

    @field_validator("config_overrides")
    @classmethod
    def _overrides_are_pairs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            if not _OVERRIDE.fullmatch(item):
                raise ValueError(f"{shorten(item)} is not an override; write it as key.path=value")
            _check_seed_count(item)
        return value

    @field_validator("passthrough_args")
    @classmethod
    def _passthrough_can_be_split(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for item in value:
            try:
                words = shlex.split(item)
            except ValueError as error:
                raise ValueError(f"{shorten(item)}: {error}") from error
            for word in words:
                option, _, override = word.partition("=")
                _check_seed_count(override if option in _OVERRIDE_OPTIONS else word)
        return value

    @model_validator(mode="after")
    def _rows_are_of_folds(self) -> Self:
        if not self.folds:
            return self
        if self.fetched_data_end_to is not None:
            raise ValueError(
                "fetched_data_end_to: the folds say which rows are judged, up to the last there "
                "is; leave out this one, or the folds"
            )
        for override in self._list_overrides():
            if override.partition("=")[0].strip().startswith(SPLIT_PREFIX):
                raise ValueError(
                    f"config_overrides: {shorten(override)} would change which rows are judged, "
                    "and the folds say that; leave it out, or the folds"
                )
        return self

    def _list_overrides(self) -> list[str]:
        """Return what is set of the configuration, in whatever way."""
        found = list(self.config_overrides)
        for word, following in pairwise([*self.passthrough_argv, ""]):
            option, separator, override = word.partition("=")
            if option in _OVERRIDE_OPTIONS:
                found.append(override if separator else following)
        return found

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        if not self.folds:
            # As the versions wrote it that knew of none.
            written.pop("folds", None)
        return written

    @property
    def placement(self) -> Placement:
        """Return what is asked of a machine, without all the rest."""
        asked = {name: getattr(self, name) for name in Placement.model_fields}
        return Placement.model_construct(**asked)

    @property
    def passthrough_argv(self) -> tuple[str, ...]:
        """Return the passthrough lines as single arguments, split as a shell would."""
        return tuple(word for line in self.passthrough_args for word in shlex.split(line))


class Schedule(Training):
    """
    An engineer's decision how an accepted submission is trained.

    :param intervals: Prediction intervals in bars of the data set; one task each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    intervals: Annotated[
        tuple[int, ...],
        BeforeValidator(_parse_intervals),
        Form(
            title="Prediction intervals",
            section=Section.SCHEDULE,
            help="Whole bars (days, unless the event has other data), comma-separated, for example "
            "1,5,20: one pair of models each. "
            "Empty: only validate.",
            option="--intervals",
            example="1,5,20",
            schema={
                "type": ["null", "string"],
                "maxLength": MAX_INTERVALS_TEXT,
                "pattern": INTERVALS_PATTERN,
            },
            effect="one task each (`i1`, `i5`, `i20`): `--prediction-interval N`. Up to "
            f"{MAX_INTERVALS}, each from 1 to {MAX_INTERVAL}",
        ),
    ] = Field(min_length=1)

    @property
    def trainings(self) -> tuple[tuple[int, int | None], ...]:
        """Return interval and number of the fold of each task; ``None`` without folds."""
        numbers: tuple[int | None, ...] = tuple(range(len(self.folds))) or (None,)
        return tuple((interval, number) for interval in self.intervals for number in numbers)

    def tell_fold(self, number: int | None) -> str | None:
        """Return which rows a fold is judged on, as a table tells them; ``None`` for no fold."""
        if number is None:
            return None
        return tell_rows(*list_rows(self.folds, None)[number])

    @model_validator(mode="after")
    def _are_few(self) -> Self:
        count = len(self.trainings)
        if self.folds and count > MAX_TRAININGS:
            raise ValueError(
                f"folds: {len(self.intervals)} intervals in {len(self.folds)} folds are {count} "
                f"trainings; give at most {MAX_TRAININGS} at once"
            )
        return self

    @field_validator("intervals")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(item < 1 or item > MAX_INTERVAL for item in value):
            raise ValueError(f"an interval is a whole number of bars from 1 to {MAX_INTERVAL}")
        distinct = tuple(dict.fromkeys(value))
        if len(distinct) > MAX_INTERVALS:
            raise ValueError(
                f"{len(distinct)} intervals are too many; give at most {MAX_INTERVALS} at once"
            )
        return distinct


_OLD_NAMES = {"overrides": "config_overrides", "passthrough": "passthrough_args"}
"""Names that the version before had in records for fields of the form."""


def rename_fields(stored: object) -> object:
    """Return a schedule of a record, as plain JSON values, with the names of this version."""
    if not isinstance(stored, Mapping):
        return stored
    return {_OLD_NAMES.get(name, name): value for name, value in stored.items()}


# The order in which people are asked: by section, and in it as the fields stand above.
FORMS: Mapping[str, Form] = {
    name: form
    for section in Section
    for name, info in sorted(Schedule.model_fields.items(), key=lambda item: item[0] != "intervals")
    for form in info.metadata
    if isinstance(form, Form) and form.section is section
}
"""How people are asked for each field of a schedule, by its name."""

NEEDS = tuple(name for name, form in FORMS.items() if form.option == "")
"""Fields that say what a schedule needs of a server."""
