"""
What the command line reads of the API's answers that show records, and of Airflow's own.

A record is shown as it is stored, also one that makes no sense: a field that is odd here is taken
for absent, so that it hides nothing else. What a newer server adds is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StrictFloat,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from touchstone.core.answers.fleet import DispatcherState, DispatcherWork, Placements
from touchstone.core.records.submissions import Fact

Read = TypeVar("Read")
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Answer(Generic[Read]):
    """
    What the API has answered.

    :param document: As it came, which ``--json`` prints.
    :param value: What the commands read of it.
    """

    document: Mapping[str, JsonValue]
    value: Read


def _read_text(value: object) -> str | None:
    return None if value is None else str(value)


def _read_or_none(value: object, read: ValidatorFunctionWrapHandler) -> object:
    """Return what a part says; ``None`` for one that is empty, or odd."""
    if value is None or value == {}:
        return None
    try:
        return read(value)
    except ValidationError:
        return None


def _read_list(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else ()


def _read_table(value: object) -> object:
    return value if isinstance(value, Mapping) else {}


OrNone = WrapValidator(_read_or_none)
Text = Annotated[str | None, BeforeValidator(_read_text)]
Number = Annotated[StrictInt | StrictFloat | None, OrNone]
Many = Annotated[tuple[Item, ...], BeforeValidator(_read_list)]
Texts = Many[Annotated[str, BeforeValidator(str)]]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


# --- submissions and tasks ---------------------------------------------------------------------


class Waiting(_Part):
    """A place in the queue, why, and about when that is over, ISO 8601."""

    position: int
    of: int
    priority: Annotated[int | None, OrNone] = None
    reason: Text = None
    p50: Text = None
    p90: Text = None


class QueuedTask(Waiting):
    """A task that waits for a slot, whose it is, and since when, ISO 8601."""

    submission_id: str
    task_id: str
    submitted_by: Text = None
    is_validation: bool = False
    since: Text = None


class ShownQueue(_Part):
    """What waits and may be seen, the next first of each kind, and how much waits in all."""

    waiting: Many[QueuedTask] = ()
    total: int = 0
    dispatcher: DispatcherState | None = None


class Cost(_Part):
    """What pods have cost, US dollars as text, and whether one is still billed."""

    usd: str
    is_open: bool


class ShownPod(_Part):
    """A pod of a task's newest attempt."""

    id: Text = None
    gpu: Text = None
    cpu: Text = None
    vcpus: Annotated[int | None, OrNone] = None
    cloud: Text = None
    data_center: Text = None
    price_per_hour: Text = None
    address: Text = None


class ShownModel(_Part):
    """A trained model, and whether loading it could run code."""

    strategy: Text = None
    seed: Number = None
    may_carry_code: Annotated[bool | None, OrNone] = None
    code_reason: Text = None

    @property
    def label(self) -> str:
        """Return which model it is, by its seed where there are several pairs."""
        return f"{self.strategy}, seed {self.seed}" if self.seed is not None else f"{self.strategy}"


class ShownPublished(_Part):
    """What a training has published, as far as tables show it, and whether it has charts."""

    models: Many[ShownModel] = ()
    device: Annotated[Mapping[str, Fact], BeforeValidator(_read_table)] = Field(
        default_factory=dict
    )
    drawn: Annotated[bool, BeforeValidator(lambda value: isinstance(value, Mapping))] = False


class GpuNote(_Part):
    """What an attempt made of its GPU, in one line."""

    note: Text = None


class ShownTask(_Part):
    """A task of a submission, as far as tables show it."""

    task_id: Annotated[str, BeforeValidator(str)]
    interval: Annotated[int | None, OrNone] = None
    status: Text = None
    phase: Text = None
    progress_phase: Text = None
    percent: Number = None
    eta_seconds: Number = None
    running_at: Text = None
    ended_at: Text = None
    server: Text = None
    container: Text = None
    image: Text = None
    image_digest: Text = None
    reason: Text = None
    is_retriable: Annotated[bool | None, OrNone] = None
    waiting: Annotated[Waiting | None, OrNone] = None
    pod: Annotated[ShownPod | None, OrNone] = None
    cost: Annotated[Cost | None, OrNone] = None
    gpu: Annotated[GpuNote | None, OrNone] = None
    published: Annotated[ShownPublished | None, OrNone] = None


class ShownData(_Part):
    """The data set of an event, or of a submission."""

    name: Text = None
    version: Text = None

    @property
    def label(self) -> str:
        """Return name and version, as far as they are known."""
        return " ".join(filter(None, (self.name, self.version)))


class ShownBranch(_Part):
    """The branch of el-nigma that a submission runs."""

    branch: Text = None
    commit: Text = None


class ShownSchedule(_Part):
    """How a submission is trained, as far as tables show it."""

    seed: Annotated[StrictInt | None, OrNone] = None
    seed_count: Annotated[StrictInt | None, OrNone] = None
    folds: Texts = ()


class ShownFigure(_Part):
    """A figure, or why there is none."""

    value: Number = None
    note: Text = None


class ShownBeside(_Part):
    """What is shown beside a verdict."""

    baseline: Text = None
    similarity: Annotated[ShownFigure | None, OrNone] = None
    nearest: Annotated[ShownFigure | None, OrNone] = None
    nearest_name: Text = None
    contribution: Annotated[ShownFigure | None, OrNone] = None
    baseline_correlation: Annotated[ShownFigure | None, OrNone] = None
    contributivity: Annotated[ShownFigure | None, OrNone] = None
    equal_share: Number = None
    deflated_sharpe: Annotated[ShownFigure | None, OrNone] = None
    overfitting: Annotated[ShownFigure | None, OrNone] = None
    leading: Annotated[ShownFigure | None, OrNone] = None


class ShownForward(_Part):
    """What the models of a training have come to on rows newer than they are."""

    task_id: Text = None
    interval: Number = None
    data: Text = None
    run_id: Text = None
    scored_at: Text = None
    reason: Text = None
    rows: Number = None
    first: Text = None
    last: Text = None
    metrics: Annotated[Mapping[str, Number], BeforeValidator(_read_table)] = Field(
        default_factory=dict
    )
    metric_notes: Annotated[Mapping[str, Text], BeforeValidator(_read_table)] = Field(
        default_factory=dict
    )


class ListedSubmission(_Part):
    """A submission in a list."""

    submission_id: str
    status: Text = None
    submitted_by: Text = None
    created_at: Text = None
    ended_at: Text = None
    notes: Text = None
    reason: Text = None
    score: Number = None
    score_low: Number = None
    score_high: Number = None
    verdict: Text = None
    replay_of: Text = None
    waiting: Annotated[Waiting | None, OrNone] = None


class ShownSubmission(ListedSubmission):
    """A submission by itself."""

    system: Text = None
    source_url: Text = None
    source_ref: Text = None
    source_path: Text = None
    waived_columns: Texts = ()
    commit: Text = None
    content_sha256: Text = None
    verdict_reason: Text = None
    beside: Annotated[ShownBeside | None, OrNone] = None
    forward: Many[ShownForward] = ()
    forward_note: Text = None
    remarks: Texts = ()
    run_ids: Texts = ()
    elnigma: Annotated[ShownBranch | None, OrNone] = None
    data: Annotated[ShownData | None, OrNone] = None
    schedule: Annotated[ShownSchedule | None, OrNone] = None
    cost: Annotated[Cost | None, OrNone] = None


class SubmissionList(_Part):
    """A page of submissions, the newest first; ``next`` is the cursor of the next one."""

    submissions: tuple[ListedSubmission, ...]
    next: str | None = None
    dispatcher: Annotated[DispatcherState | None, OrNone] = None


class SubmissionAnswer(_Part):
    """A submission with its tasks."""

    submission: ShownSubmission
    tasks: tuple[ShownTask, ...]
    dispatcher: Annotated[DispatcherState | None, OrNone] = None


class ShownResult(_Part):
    """What came of one prediction interval, or of one fold of it."""

    interval: Number = None
    fold: Number = None
    rows: Text = None
    status: Text = None
    reason: Text = None
    mlflow_url: Text = None
    metrics: Annotated[Mapping[str, Number], BeforeValidator(_read_table)] = Field(
        default_factory=dict
    )
    reported: Annotated[Mapping[str, Number], BeforeValidator(_read_table)] = Field(
        default_factory=dict
    )
    judged: Text = None
    judged_reason: Text = None
    models: Many[ShownModel] = ()


class ShownChart(_Part):
    """Where a chart of a training is, and whose it is: the judge's or the trainer's."""

    task_id: Text = None
    name: Text = None
    url: Text = None
    by: Text = None


class Results(_Part):
    """What a submission came to."""

    status: Text = None
    reason: Text = None
    score: Number = None
    score_low: Number = None
    score_high: Number = None
    verdict: Text = None
    verdict_reason: Text = None
    beside: Annotated[ShownBeside | None, OrNone] = None
    replay_of: Text = None
    results: Many[ShownResult] = ()
    chart_links: Many[ShownChart] = ()
    forward: Many[ShownForward] = ()
    forward_note: Text = None


# --- the fleet -----------------------------------------------------------------------------------


class ShownDeclared(_Part):
    """What the fleet file says of a server, as far as tables show it."""

    priority: Text = None


class ShownDrained(_Part):
    """That a server was drained: by whom, when, and what slots it had."""

    slots: int = 0
    validation_slots: int = 0
    by: Text = None
    at: Text = None


class ShownCapability(_Part):
    """What may be relied on of a server."""

    cuda: bool
    vram_gib: float
    ram_gib: float
    free_disk_gib: Number = None


class ShownHold(_Part):
    """What a server is not asked for, in one line, and for whose tasks alone."""

    told: str
    label: Text = None


class ServerRow(_Part):
    """A server in the fleet's status; slots of ``None`` mean that it has no pool."""

    server: str
    description: Text = None
    is_alive: bool = False
    heartbeat_age_seconds: float | None = None
    slots: int | None = None
    in_use: int = 0
    validation_slots: int | None = None
    validation_in_use: int = 0
    capability: ShownCapability
    gpus: Texts = ()
    gpu_shares: int | None = None
    gpu_driver: Text = None
    declared: Annotated[ShownDeclared | None, OrNone] = None
    drained: Annotated[ShownDrained | None, OrNone] = None
    holds: Many[ShownHold] = ()
    differences: Texts = ()
    warnings: Texts = ()


class ShownProof(_Part):
    """What the reaper's last list of pods was."""

    at: Text = None
    seen: int = 0
    ours: int = 0
    unknown: int = 0
    terminated: Many[JsonValue] = ()
    has_failed: bool = False
    is_dry_run: bool = False


class RunPodRow(_Part):
    """How RunPod is: its slots, its money, and what keeps us from renting."""

    slots: int | None = None
    in_use: int = 0
    is_connected: bool = False
    is_low: bool = False
    balance_usd: Text = None
    block: Text = None
    proof: Annotated[ShownProof | None, OrNone] = None


class FleetStatus(_Part):
    """How servers and pools are."""

    placements: Placements
    waiting: int = 0
    servers: tuple[ServerRow, ...]
    dead_letters: Annotated[Mapping[str, int], BeforeValidator(_read_table)] = Field(
        default_factory=dict
    )
    runpod: RunPodRow
    differences: Texts = ()
    warnings: Texts = ()
    dispatcher: Annotated[DispatcherWork | None, OrNone] = None


class DrainedServer(_Part):
    """What a drain has left: what is remembered, and how much still runs."""

    drained: ShownDrained
    in_use: int
    validation_in_use: int


class AttachedServer(_Part):
    """The slots that an attach has given back."""

    slots: int
    validation_slots: int


# --- Airflow's own -------------------------------------------------------------------------------


class Token(_Part):
    """What a login is answered with."""

    access_token: str


# --- events ---------------------------------------------------------------------------------------


class ShownQuota(_Part):
    """How many submissions an event takes of everybody, in how many hours."""

    submissions: int
    hours: float


class ShownRows(_Part):
    """Which rows an event judges."""

    validation_from: Text = None
    test_from: Text = None
    test_to: Text = None
    closed_from: Text = None
    folds: Texts = ()


class ShownJudging(_Part):
    """How an event judges."""

    intervals: Texts = ()
    seeds: Texts = ()
    seed_count: Number = None
    arrivals: Number = None


class ShownEvent(_Part):
    """An event."""

    event: str
    title: Text = None
    problem: Text = None
    baseline: Text = None
    opens_at: Text = None
    closes_at: Text = None
    closed_at: Text = None
    participants: Texts = ()
    data: Annotated[ShownData | None, OrNone] = None
    rows: Annotated[ShownRows | None, OrNone] = None
    judging: Annotated[ShownJudging | None, OrNone] = None
    quota: Annotated[ShownQuota | None, OrNone] = None
    waivers: bool = False
    is_changed: bool = False


class EventList(_Part):
    """All events, and why those that make no sense are not among them."""

    events: tuple[ShownEvent, ...]
    unreadable: Mapping[str, str] = Field(default_factory=dict)


class EventObjection(_Part):
    """Why an event takes no submission of the user now; ``None`` if it does."""

    objection: str | None = None


class ShownInstrument(_Part):
    """An instrument of a data set."""

    role: Text = None
    close: Text = None


class ShownColumn(_Part):
    """A column of a data set."""

    instrument: Text = None
    available_at: Text = None


class ShownDataSet(_Part):
    """A version of a data set."""

    name: str
    version: str
    title: Text = None
    file: Text = None
    frequency: Text = None
    calendar: Text = None
    bars_per_year: Number = None
    rows: Annotated[ShownRows | None, OrNone] = None
    instruments: Mapping[str, ShownInstrument] = Field(default_factory=dict)
    columns: Mapping[str, ShownColumn] = Field(default_factory=dict)
    digest: Text = None
    archive_bytes: Number = None
    added_at: Text = None
    added_by: Text = None
    is_complete: bool = True
    is_private: bool = False
    is_changed: bool = False


class DataSetList(_Part):
    """All data sets, and why those that make no sense are not among them."""

    built_in: Text = None
    data_sets: tuple[ShownDataSet, ...]
    unreadable: Mapping[str, str] = Field(default_factory=dict)


class DataSetVersions(_Part):
    """The versions of a data set, the newest first."""

    name: str
    versions: tuple[ShownDataSet, ...]


class ShownStatement(_Part):
    """What was said of a submission once."""

    at: Text = None
    phase: Text = None
    sentence: Text = None
    beside: Annotated[ShownBeside | None, OrNone] = None
    waived_columns: Texts = ()


class ShownRow(_Part):
    """A row of a leaderboard."""

    rank: Number = None
    name: str
    event: Text = None
    user: Text = None
    score: Number = None
    difference: Number = None
    low: Number = None
    high: Number = None
    p: Number = None
    n: Number = None
    verdict: Text = None
    reason: Text = None
    seed_count: Number = None
    baseline_seed_count: Number = None
    fold_count: Number = None
    beside: Annotated[ShownBeside | None, OrNone] = None
    waived_columns: Texts = ()
    history: Many[ShownStatement] = ()


class Leaderboard(_Part):
    """An event's leaderboard, best first."""

    event: str
    baseline: Text = None
    rows: tuple[ShownRow, ...]
    count: Number = None
    next: Number = None
    unreadable: Texts = ()


class Comparison(_Part):
    """What was said of some submissions."""

    rows: tuple[ShownRow, ...]
    missing: Texts = ()
