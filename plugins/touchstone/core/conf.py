"""What a run may carry: a new submission or an accepted one, with or without a schedule."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from touchstone.core.data_sets import Version
from touchstone.core.documents import name_field, shorten
from touchstone.core.names import is_submission_id
from touchstone.core.refs import check_ref
from touchstone.core.remotes import MAX_URL, parse_remote
from touchstone.core.schedule import (
    MAX_ID,
    MAX_PATH,
    Hosts,
    Schedule,
    Text,
    check_relative,
    drop_blank,
)
from touchstone.core.waivers import WaivedColumns
from touchstone_agent.protocol.errors import ConfigurationError

MAX_NOTES = 4000
MAX_REPLAY = MAX_ID + 5
MAX_USER = 200
MAX_RUNS = 200
"""Runs of one submission."""
MAX_CONF_BYTES = 32 * 1024
"""A whole conf as JSON: it is in a submission's record twice, in each task's once, and in a START,
where each quote is four characters."""
UPLOAD_SCHEME = "upload:"

_UPLOAD = re.compile(r"upload:[0-9a-f]{64}")
_TRAINING = re.compile(r"i[1-9][0-9]{0,2}(-f[0-9])?")


class System(StrEnum):
    """What kind of module a submission is."""

    FEATURE_SET = "feature_set"
    MODEL_STRUCTURE = "model_structure"


class Source(BaseModel):
    """
    Where a new submission's module is.

    :param url: Git URL, or ``upload:<sha256>`` of an archive uploaded before.
    :param ref: Branch, tag or commit; ``None`` for the default branch.
    :param path: Folder of the module below the root; ``.`` for the root.
    :param system: What kind of module it is.
    :param waived_columns: Columns of a feature set that may know later rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(min_length=1, max_length=MAX_URL)
    ref: Text = None
    path: str = Field(default=".", max_length=MAX_PATH)
    system: System = System.FEATURE_SET
    waived_columns: WaivedColumns = ()

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
        return check_relative(value or ".")

    @model_validator(mode="after")
    def _has_columns(self) -> Self:
        if self.waived_columns and self.system is not System.FEATURE_SET:
            raise ValueError("waived_columns: a model structure has no columns; leave it out")
        return self

    @property
    def upload_sha256(self) -> str | None:
        """Return the digest of an uploaded archive; ``None`` for a git source."""
        return self.url.removeprefix(UPLOAD_SCHEME) if self.url.startswith(UPLOAD_SCHEME) else None


class Replay(BaseModel):
    """
    A training that is to be run again, to see whether it comes to the same.

    :param task: ``SUBMISSION/TASK``.
    :param hosts: Servers it may run on; empty for those that the task might.
    :param data_version: A newer version of its data set on which its models are scored, instead
        of training them again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field(max_length=MAX_REPLAY)
    hosts: Hosts = ()
    data_version: Version | None = None

    @field_validator("task")
    @classmethod
    def _is_a_training(cls, value: str) -> str:
        submission_id, _, task_id = value.partition("/")
        if not is_submission_id(submission_id) or not _TRAINING.fullmatch(task_id):
            raise ValueError(f"{shorten(value)} is not SUBMISSION/TASK, such as momentum-1/i5")
        return value

    @property
    def submission_id(self) -> str:
        """Return the submission."""
        return self.task.partition("/")[0]

    @property
    def task_id(self) -> str:
        """Return the task within it."""
        return self.task.partition("/")[2]


class RunConf(BaseModel):
    """
    A run's conf after checking.

    :param source: A new submission, or ``None``.
    :param submission_id: An accepted submission, or ``None``.
    :param replay: A training to be run again, or ``None``; exactly one of the three is given.
    :param schedule: How to train it; ``None`` ends the run at ``accept``.
    :param notes: Free text of the submitter.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source | None = None
    submission_id: str | None = None
    replay: Replay | None = None
    schedule: Schedule | None = None
    notes: str = Field(default="", max_length=MAX_NOTES)

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if self.replay is not None:
            if self.source is not None or self.submission_id is not None:
                raise ValueError("replay: give neither a source nor a submission_id beside it")
            if self.schedule is not None:
                raise ValueError("intervals: a replay trains what its task has trained, no more")
            return self
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


WAIVED = "waived_columns"
SOURCE_KEYS = {
    "source": "url",
    "ref": "ref",
    "path": "path",
    "system": "system",
    WAIVED: WAIVED,
}
DATA_VERSION = "data_version"
REPLAY_KEYS = {"replay": "task", "allowed_hosts": "hosts", DATA_VERSION: DATA_VERSION}
OTHER_KEYS = ("submission_id", "notes")
CONF_KEYS = tuple(dict.fromkeys((*SOURCE_KEYS, *Schedule.model_fields, *REPLAY_KEYS, *OTHER_KEYS)))
"""Every key of a run's conf, as the form, REST and CI send them: flat."""


def parse_conf(conf: Mapping[str, object]) -> RunConf:
    """
    Check a run's flat conf.

    A run has a schedule exactly when ``intervals`` is given and not null; the form sends every
    field, so other schedule fields alone do not make one. Of them a replay has ``allowed_hosts``.

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
    if drop_blank(given.get(WAIVED)) and not given.get("source"):
        # Unlike the other fields of a source it would be missed, and not noticed.
        raise ConfigurationError(
            f"{WAIVED}: columns are waived where a submission is new, and stay so; leave it out"
        )
    if given.get(DATA_VERSION) and not given.get("replay"):
        raise ConfigurationError(
            f"{DATA_VERSION}: only the models of a training are scored on another version, which "
            "replay names; the version of an event's data is the event's"
        )
    nested: dict[str, object] = {key: given[key] for key in OTHER_KEYS if key in given}
    if nested.get("submission_id") == "":
        del nested["submission_id"]
    if given.get("source"):
        nested["source"] = {new: given[old] for old, new in SOURCE_KEYS.items() if old in given}
    if given.get("replay"):
        nested["replay"] = {new: given[old] for old, new in REPLAY_KEYS.items() if given.get(old)}
    if "intervals" in given:
        nested["schedule"] = {key: given[key] for key in Schedule.model_fields if key in given}
    try:
        return RunConf.model_validate(nested)
    except ValidationError as error:
        raise ConfigurationError(_explain(error)) from error


def _check_size(conf: Mapping[str, object]) -> None:
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
    names = {new: old for old, new in (SOURCE_KEYS | REPLAY_KEYS).items()}
    parts = [str(part) for part in item["loc"] if part not in {"source", "schedule", "replay"}]
    message = item["msg"].removeprefix("Value error, ")
    if not parts:
        return message
    parts[0] = names.get(parts[0], parts[0])
    return f"{'.'.join(parts)}: {message}"


def build_conf(conf: RunConf) -> dict[str, JsonValue]:
    """Return the flat, canonical form of a checked conf; parsing it again gives the same."""
    data = conf.model_dump(mode="json", exclude_none=True)
    flat: dict[str, JsonValue] = {key: data[key] for key in OTHER_KEYS if key in data}
    source, replay = data.get("source", {}), data.get("replay", {})
    flat |= {old: replay[new] for old, new in REPLAY_KEYS.items() if new in replay}
    flat |= {old: source[new] for old, new in SOURCE_KEYS.items() if new in source}
    if not flat.get(WAIVED):
        # As before one could waive any: the same conf is the same request.
        flat.pop(WAIVED, None)
    flat |= data.get("schedule", {})
    return flat
