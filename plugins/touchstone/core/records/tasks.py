"""
The record of a task: what it runs, and what became of its attempts.

The newest attempt is stored flat, among the task's own fields, where indexes and people look for
it; the ended ones before it are stored in a list. Here both are the same model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, ClassVar, Final, Generic, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from touchstone.core.outcomes import Outcome
from touchstone.core.records.forward import ForwardScore
from touchstone.core.records.judged import Judged
from touchstone.core.records.kept import KeptRecord, Part, StoredPart
from touchstone.core.records.stored import RecordUnreadable, StoredRecord, Time, Usd
from touchstone.core.records.submissions import Fact, Number
from touchstone.core.schedule import Platform
from touchstone.core.states import TASK_TERMINAL, TaskStatus
from touchstone.core.tasks import TaskSpec
from touchstone_agent.protocol.messages import AttemptPhase, AttemptRef, SlotClass

TaskKey = tuple[str, str]
"""Submission id and task id."""

MAX_REMEMBERED_REASON: Final = 300
"""Characters that are kept of an attempt's reason once another one has taken its place."""

_NULL_IS_AN_EMPTY_LIST = BeforeValidator(lambda value: () if value is None else value)
_NULL_IS_AN_EMPTY_TABLE = BeforeValidator(lambda value: {} if value is None else value)


class StoredFile(Part):
    """
    A file that an attempt has left, by its agent's or its pod's word.

    :param path: Path below the output folder; it is checked again before a file is made of it.
    :param sha256: Its digest.
    :param size: Its size in bytes.
    """

    path: str
    sha256: str
    size: int


class Cancel(Part):
    """
    Somebody wants an attempt to end.

    :param through_fence: The newest attempt that this is about.
    :param by: Who.
    :param at: When.
    :param reason: Why, in one line.
    """

    through_fence: int
    by: str
    at: Time
    reason: str


class StartEstimate(Part):
    """
    The first estimate of when an attempt would start.

    :param made_at: When it was made.
    :param p50: By when it was to start, as likely as not.
    :param p90: By when in nine cases of ten.
    :param stretch: By what the p90 was multiplied.
    """

    made_at: Time
    p50: Time
    p90: Time
    stretch: Number | None = None


class AttemptPlacement(Part):
    """
    Why an attempt went where it did.

    :param server: Where it went.
    :param platform: What that is; ``None`` for a server of one's own.
    :param gpus: GPUs that it was to be handed.
    :param gpu_shares: How many trainings share one of them.
    :param gpu_price_per_hour: What one costs, USD, as its owner declares.
    :param reason: Why there, in one line.
    :param at: When that was decided.
    :param estimate: When it was expected to start.
    :param max_tries: Airflow's limit of tries then: a clear raises it, a retry does not.
    :param try_number: Airflow's number of the try that it is good for, and for no other.
    :param is_on_deck: Whether it only stands ready, and has no server yet.
    :param was_on_deck: Whether it stood ready before, so that the dispatcher itself starts it.
    """

    model_config = ConfigDict(populate_by_name=True)

    server: str | None = None
    platform: Platform | None = None
    try_number: int | None = Field(default=None, validation_alias="try", serialization_alias="try")
    is_on_deck: bool = False
    was_on_deck: bool = False
    gpus: int | None = None
    gpu_shares: int | None = None
    gpu_price_per_hour: Number | None = None
    reason: str | None = None
    at: Time | None = None
    estimate: StartEstimate | None = None
    max_tries: int | None = None


class PodProblem(Part):
    """
    Why an attempt could not go on in its pod, or got none.

    :param failure_class: One word; see :data:`~touchstone.core.retries.RENTAL_CLASSES`.
    :param reason: One line for the engineer.
    """

    model_config = ConfigDict(populate_by_name=True)

    failure_class: str = Field(validation_alias="class", serialization_alias="class")
    reason: str


class PodRecord(Part):
    """
    What is on record of an attempt's pod.

    :param name: The name that it was ordered by, which no other attempt's pod has.
    :param id: RunPod's id; ``None`` while nobody knows what the order has become.
    :param ordered_at: When it was ordered.
    :param price_per_hour: What it costs, USD.
    :param gpu: Its GPU; ``None`` for a CPU pod.
    :param cpu: Its CPU; ``None`` for a GPU pod.
    :param vcpus: How many vCPUs it has.
    :param cloud: In which of RunPod's clouds.
    :param data_center: In which data center.
    :param life_seconds: How long it may live at most.
    :param created_at: When RunPod made it.
    :param login_at: When somebody logged in first.
    :param address: Where.
    :param boot_id: To which boot of it.
    :param ending_at: Since when it is being given back.
    :param gone_at: Since when it is proven gone.
    :param seconds: How long it is billed for, by our own clock.
    :param usd: What it has cost; ``None`` while it lives.
    :param is_billed: Whether that is RunPod's own word.
    :param problem: Why it was given back; ``None`` if its attempt had ended.
    """

    name: str
    id: str | None = None
    ordered_at: Time
    price_per_hour: Usd
    gpu: str | None = None
    cpu: str | None = None
    vcpus: int | None = None
    cloud: str | None = None
    data_center: str | None = None
    life_seconds: int | None = None
    created_at: Time | None = None
    login_at: Time | None = None
    address: str | None = None
    boot_id: str | None = None
    ending_at: Time | None = None
    gone_at: Time | None = None
    seconds: Number | None = None
    usd: Usd | None = None
    is_billed: bool = False
    problem: PodProblem | None = None

    @property
    def is_rented(self) -> bool:
        """Tell whether it may be billed: it is not proven gone."""
        return self.gone_at is None

    def outline(self) -> Self:
        """Return what its bill needs of it, once that is all that is kept."""
        return self if self.is_rented else self.pick(_OUTLINE_OF_A_POD)


class GpuUsage(Part):
    """
    What a runner tells of the GPU.

    :param mean_utilisation_percent: Share of the time in which it computed.
    :param note: Why it computed so little.
    """

    mean_utilisation_percent: Number | None = None
    note: str | None = None


class Usage(Part):
    """
    What an attempt used, by its runner's word.

    :param cpu_seconds: CPU time of all its processes.
    :param peak_memory_bytes: The most memory that they had together.
    :param gpu: What it made of its GPU.
    """

    cpu_seconds: Number | None = None
    peak_memory_bytes: Number | None = None
    gpu: GpuUsage | None = None


class Verdict(Part):
    """
    What is read of a runner's last word; all of it is kept.

    :param usage: What it used.
    """

    usage: Usage | None = None


class PublishedModel(Part):
    """
    A model that a training has left.

    :param strategy: Which of the pair.
    :param name: Its name, where there are several pairs; absent else.
    :param seed: Its seed; absent likewise.
    :param bucket: Where it is published.
    :param key: Under which key.
    :param sha256: Its digest.
    :param size: Its size in bytes.
    :param may_carry_code: Whether loading it could run code.
    :param code_reason: Why it could.
    """

    strategy: str | None = None
    name: str | None = None
    seed: int | None = None
    bucket: str | None = None
    key: str | None = None
    sha256: str | None = None
    size: int | None = None
    may_carry_code: bool = False
    code_reason: str | None = None


class PublishedChart(Part):
    """
    A chart of a training.

    :param name: Its name.
    :param url: Where it is shown.
    :param by: Whose it is, ``judge`` or ``trainer``; absent in records from before, where all are
        the trainer's.
    """

    name: str
    url: str
    by: str | None = None


class PublishedReplay(Part):
    """
    How a replay's outcome compares with the first one; all of it is kept.

    :param of: What it replays.
    :param attempt: Which attempt of that.
    :param verdict: How alike they are.
    :param reason: Why, in one line.
    :param forward: What the first one's models have come to on later rows; ``None`` for a replay
        proper.
    """

    of: str | None = None
    attempt: int | None = None
    verdict: str
    reason: str | None = None
    forward: ForwardScore | None = None


class Published(Part):
    """
    What a training has published.

    :param metrics: The judge's figures, or a replay's own; in the record itself the main ones only.
        In records from before, they are the trainer's.
    :param metric_notes: Why a figure is undefined, by its name; beside the record only.
    :param reported: The trainer's figures where the judge has none; as :attr:`metrics`.
    :param charts: Its charts; beside the record only.
    :param models: Its models.
    :param device: What it ran on, by its trainer's word.
    :param gpu: What it made of its GPU, as it is shown.
    :param mlflow_run_id: Its run in MLflow.
    :param mlflow_url: Where that is shown.
    :param replay: How it compares with what it replays; ``None`` for what is no replay.
    :param judged: What the judge found; ``None`` for a replay, and in records from before.
    :param charts_note: Why there is no chart of the judge's; ``None`` if there is one.
    :param held_back: The event that is to be closed before any figure is shown; ``None`` for none.
    :param published_at: When.
    :param details: All figures, notes and charts, beside the record.
    :param drawn: What the judge's charts show, beside the record; ``None`` if there are none, and
        in records from before.
    """

    metrics: Annotated[Mapping[str, Number | None], _NULL_IS_AN_EMPTY_TABLE] = Field(
        default_factory=dict
    )
    metric_notes: Annotated[Mapping[str, str], _NULL_IS_AN_EMPTY_TABLE] = Field(
        default_factory=dict
    )
    reported: Annotated[Mapping[str, Number | None], _NULL_IS_AN_EMPTY_TABLE] = Field(
        default_factory=dict
    )
    charts: Annotated[tuple[PublishedChart, ...], _NULL_IS_AN_EMPTY_LIST] = ()
    models: Annotated[tuple[PublishedModel, ...], _NULL_IS_AN_EMPTY_LIST] = ()
    device: Annotated[Mapping[str, Fact], _NULL_IS_AN_EMPTY_TABLE] = Field(default_factory=dict)
    gpu: JsonValue = None
    mlflow_run_id: str | None = None
    mlflow_url: str | None = None
    replay: PublishedReplay | None = None
    judged: Judged | None = None
    charts_note: str | None = None
    held_back: str | None = None
    published_at: Time | None = None
    details: StoredPart | None = None
    drawn: StoredPart | None = None


class Attempt(Part):
    """
    An attempt of a task: its newest, or one that has ended.

    :param run_id: The DAG run that wanted it.
    :param number: Airflow's number of the try; 0 for a task that had no attempt in its run yet.
    :param fence: Outranks every attempt with a lower one.
    :param platform: What its server is.
    :param server: Where it runs.
    :param container: Name of its container, or pod.
    :param gpus: GPUs that its server hands over; ``None`` in a pod, and in old records.
    :param image: The container image that it runs in.
    :param image_digest: What that image was, once it was there.
    :param placement: Why it went there.
    :param phase: Where it is, by its agent's word; ``None`` before the first.
    :param progress_phase: What its trainer does, in the trainer's words.
    :param percent: How far it is.
    :param eta_seconds: How long the trainer expects to need still.
    :param metrics: Intermediate figures.
    :param console_bytes: Bytes of its console.
    :param intent_at: When it was decided on.
    :param last_event_at: When it was heard of last.
    :param accepted_at: When its server took it.
    :param preparing_at: When its image was being pulled.
    :param running_at: When its container began.
    :param exited_at: When that ended.
    :param uploaded_at: When its files were there.
    :param ended_at: When it was over.
    :param exit_code: Exit code of its container; ``None`` if nobody has seen it.
    :param outcome: How it ended; ``None`` while it goes on.
    :param failure_class: The kind of failure, in one word.
    :param is_retriable: Whether another attempt may end otherwise.
    :param reason: Why it ended like that, in one line.
    :param verdict: Its runner's last word.
    :param files: What it has left, if the list is short.
    :param files_part: Where the list is, if it is long.
    :param cancel: Who wants it to end.
    :param published: What was published of it.
    :param pod: Its pod.
    :param judged: What the judge of its server has found, of a training on private data.
    """

    model_config = ConfigDict(populate_by_name=True)

    run_id: str | None = None
    number: int = Field(default=0, validation_alias="attempt", serialization_alias="attempt")
    fence: int = 0
    platform: Platform | None = None
    server: str | None = None
    container: str | None = None
    gpus: int | None = None
    image: str | None = None
    image_digest: str | None = None
    placement: AttemptPlacement | None = None
    phase: AttemptPhase | None = None
    progress_phase: str | None = None
    percent: Annotated[Number, BeforeValidator(lambda value: value or 0)] = 0
    eta_seconds: Number | None = None
    metrics: Annotated[Mapping[str, JsonValue], _NULL_IS_AN_EMPTY_TABLE] = Field(
        default_factory=dict
    )
    console_bytes: Annotated[int, BeforeValidator(lambda value: value or 0)] = 0
    intent_at: Time | None = None
    last_event_at: Time | None = None
    accepted_at: Time | None = None
    preparing_at: Time | None = None
    running_at: Time | None = None
    exited_at: Time | None = None
    uploaded_at: Time | None = None
    ended_at: Time | None = None
    exit_code: int | None = None
    outcome: Outcome | None = None
    failure_class: str | None = None
    is_retriable: bool | None = None
    reason: str | None = None
    verdict: Verdict | None = None
    files: Annotated[tuple[StoredFile, ...], _NULL_IS_AN_EMPTY_LIST] = ()
    files_part: StoredPart | None = None
    cancel: Cancel | None = None
    published: Published | None = None
    pod: PodRecord | None = None
    judged: Judged | None = None

    @property
    def max_tries(self) -> int | None:
        """Return Airflow's limit of tries as it was for this attempt."""
        return self.placement.max_tries if self.placement else None

    def fill(self) -> Self:
        """Return it with every field to be stored, so that nothing is left of one before it."""
        return self.mark_set(frozenset(type(self).model_fields))

    def remember(self) -> Self:
        """Return what is remembered of it when the next one takes its place."""
        reason = cut(self.reason, MAX_REMEMBERED_REASON)
        return self.change(reason=reason).pick(_REMEMBERED)

    def outline(self) -> Self:
        """Return the part that later attempts still need: what the counts of attempts use."""
        names = _OUTLINE | {"placement"}
        outline = self.change(placement=AttemptPlacement(max_tries=self.max_tries))
        if self.pod is None:
            return outline.pick(names)
        return outline.change(pod=self.pod.outline()).pick(names | {"pod"})


_REMEMBERED: Final = frozenset(
    {
        *("run_id", "number", "fence", "platform", "server", "container", "gpus", "image"),
        *("image_digest", "phase", "exit_code", "outcome", "failure_class", "reason"),
        *("intent_at", "running_at", "ended_at", "console_bytes", "placement", "pod"),
    }
)
"""Fields of an attempt that are remembered when the next one takes its place."""

_OUTLINE: Final = frozenset(
    {
        *("run_id", "number", "fence", "platform", "server", "phase", "exit_code"),
        *("outcome", "failure_class", "intent_at", "running_at", "ended_at"),
    }
)
_OUTLINE_OF_A_POD: Final = frozenset(
    {
        *("id", "name", "price_per_hour", "ordered_at", "ending_at", "gone_at"),
        *("seconds", "usd", "is_billed"),
    }
)


def cut(text: str | None, limit: int) -> str | None:
    """Return a text that others wrote, no longer than a record has room for."""
    return text if text is None or len(text) <= limit else f"{text[: limit - 3]}..."


class Earlier(Part):
    """
    What is known of attempts that are not listed any more.

    :param count: How many they were.
    :param pods: How many of them had pods.
    :param usd: What those have cost.
    """

    count: int = 0
    pods: int = 0
    usd: Usd = Decimal()


_FLAT: Final = frozenset(
    field.serialization_alias or name for name, field in Attempt.model_fields.items()
)
"""Stored fields of a task that are its newest attempt's."""


def _gather(stored: Mapping[str, object]) -> dict[str, object]:
    """Return a stored task with its newest attempt in one place."""
    newest = {name: stored[name] for name in _FLAT & stored.keys()}
    return {**{name: stored[name] for name in stored.keys() - _FLAT}, "newest": newest}


class EndedTask(KeptRecord):
    """
    What is learnt from of a task that has ended.

    :cvar FIELDS: What is read of a record for it, beside its key; a record has ten times as much.
    :param submission_id: The submission.
    :param task_id: The task within it.
    :param spec: What it runs.
    :param newest: Its newest attempt.
    """

    FIELDS: ClassVar = ("config", "fence", "outcome", "running_at", "exited_at", "placement")

    submission_id: str
    task_id: str
    spec: TaskSpec = Field(validation_alias="config", serialization_alias="config")
    newest: Attempt

    @classmethod
    def load(cls, stored: Mapping[str, object]) -> Self:
        """
        Parse a stored record.

        :param stored: Plain JSON values.
        :raises RecordUnreadable: Naming the task, and the first field that does not make sense.
        """
        try:
            return super().load(_gather(stored))
        except RecordUnreadable as error:
            told = str(error).replace("newest.", "")
            raise RecordUnreadable(
                f"task {stored.get('submission_id')}/{stored.get('task_id')}: {told}"
            ) from error

    def dump(self) -> dict[str, JsonValue]:
        """Return the fields that were stored or set, as plain JSON values."""
        return self._dump_but(set())

    def dump_changes(self, after: Self) -> dict[str, JsonValue]:
        """Return the fields in which another state of this record differs, as they are stored."""
        same = {name for name in type(self).model_fields if self._has_same(name, after)}
        before = self._dump_but(same)
        return {
            name: value
            for name, value in after._dump_but(same).items()
            if name not in before or value != before[name]
        }

    def _has_same(self, name: str, other: Self) -> bool:
        return getattr(self, name) is getattr(other, name)

    def _dump_but(self, names: set[str]) -> dict[str, JsonValue]:
        own = self.model_dump(
            mode="json", by_alias=True, exclude_unset=True, exclude={*names, "newest"}
        )
        return own if "newest" in names else {**own, **self.newest.dump()}


class TaskPlace(StoredRecord):
    """
    Where a task is.

    :param submission_id: The submission.
    :param task_id: The task within it.
    :param server: Where its newest attempt is; ``None`` also for what is no server's name.
    """

    submission_id: str
    task_id: str
    server: Annotated[
        str | None, BeforeValidator(lambda value: value if isinstance(value, str) else None)
    ] = None


class TaskOwner(Part):
    """
    What of a task's spec tells whose it is.

    :param submitted_by: Whose submission it is; for show, nothing is decided by it.
    """

    submitted_by: str = "unknown"


class TaskRow(StoredRecord):
    """
    What a list shows of a task.

    :param submission_id: The submission; of another DAG's program, its run.
    :param task_id: The task within it.
    :param spec: Whose it is.
    :param interval: Prediction interval; ``None`` for a validation.
    :param status: Where it is.
    :param server: Where its newest attempt is, or was; ``None`` for none, and for a pod.
    :param percent: How far it is.
    :param reason: Why it ended like that.
    :param created_at: When it was put on record.
    :param running_at: When its newest attempt began to run.
    :param ended_at: When that was over.
    """

    submission_id: str
    task_id: str
    spec: TaskOwner = Field(default=TaskOwner(), validation_alias="config")
    interval: int | None = None
    status: TaskStatus
    server: str | None = None
    percent: Annotated[Number, BeforeValidator(lambda value: value or 0)] = 0
    reason: str | None = None
    created_at: Time
    running_at: Time | None = None
    ended_at: Time | None = None

    @classmethod
    def list_wanted(cls) -> tuple[str, ...]:
        """Return the stored fields that a reader of this model wants."""
        return tuple("config" if name == "spec" else name for name in cls.model_fields)


class Task(EndedTask):
    """
    A task of a submission; see :class:`EndedTask` for what is read of many.

    :param kind: Validation or training.
    :param interval: Prediction interval in days; ``None`` for a validation.
    :param model_group_id: Under which its evaluations are found.
    :param map_index: Index of the task instance that waits for it; -1 for a single one.
    :param status: Where it is.
    :param past: Its ended attempts, oldest first, but for those of :attr:`earlier`.
    :param earlier: What is known of those before them.
    :param created_at: When it was put on record.
    :param queued_at: When it began to wait, if not then.
    :param version: Counts the changes.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    kind: SlotClass
    interval: int | None = None
    model_group_id: str | None = None
    map_index: int
    status: TaskStatus
    past: Annotated[tuple[Attempt, ...], _NULL_IS_AN_EMPTY_LIST] = Field(
        default=(), validation_alias="attempts", serialization_alias="attempts"
    )
    earlier: Earlier | None = None
    created_at: Time
    queued_at: Time | None = None
    version: int = 0

    @classmethod
    def load(cls, stored: Mapping[str, object]) -> Self:
        """Parse a stored record; see :meth:`EndedTask.load`."""
        found = super().load(stored)
        if found.newest.run_id is None:
            raise RecordUnreadable(f"task {found.name}: run_id: is missing")
        return found

    @property
    def key(self) -> TaskKey:
        """Return the submission's id and its own."""
        return self.submission_id, self.task_id

    @property
    def name(self) -> str:
        """Return it as people write it."""
        return f"{self.submission_id}/{self.task_id}"

    @property
    def run_id(self) -> str:
        """Return the DAG run that it is of."""
        return self.newest.run_id or ""

    @property
    def fence(self) -> int:
        """Return the fence of its newest attempt: whatever carries a lower one is outranked."""
        return self.newest.fence

    @property
    def ref(self) -> AttemptRef:
        """
        Return the reference of its newest attempt.

        :raises ValueError: If it has none in its run.
        """
        return AttemptRef(
            submission_id=self.submission_id,
            task_id=self.task_id,
            attempt=self.newest.number,
            fence=self.newest.fence,
        )

    @property
    def has_attempt(self) -> bool:
        """Tell whether it had an attempt in its run."""
        return self.newest.number > 0

    @property
    def is_ended(self) -> bool:
        """Tell whether its newest attempt has ended, and only files may still be moving."""
        return self.status in TASK_TERMINAL

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """Return its attempts that are listed, oldest first, the newest included if it had one."""
        newest = self.newest
        is_listed = any(attempt.fence == newest.fence for attempt in self.past)
        return self.past if not newest.number or is_listed else (*self.past, newest)

    @property
    def is_at_work(self) -> bool:
        """Tell whether an attempt is under way, or one of its pods may still be billed."""
        if self.has_attempt and not self.is_ended:
            return True
        pods = (attempt.pod for attempt in (*self.past, self.newest))
        return any(pod is not None and pod.is_rented for pod in pods)

    def advance(self, status: TaskStatus | None = None, **fields: object) -> Self:
        """
        Return it with its newest attempt further on.

        :param status: Where it is then; ``None`` for where it is.
        :param fields: What changes of the attempt, by field.
        """
        newest = self.newest.change(**fields)
        return self.change(newest=newest, status=self.status if status is None else status)


Found = TypeVar("Found", bound=EndedTask)


@dataclass(frozen=True, kw_only=True)
class TaskEntry(Generic[Found]):
    """
    A task in a list of several: it exists, also where nobody can make sense of its record.

    :param submission_id: The submission.
    :param task_id: The task within it.
    :param stored: Its record, as it is stored.
    :param task: Its record; ``None`` if that makes no sense.
    :param problem: Why it makes none.
    """

    submission_id: str
    task_id: str
    stored: Mapping[str, JsonValue]
    task: Found | None
    problem: str | None = None

    @classmethod
    def parse(cls, stored: Mapping[str, JsonValue], model: type[Found]) -> TaskEntry[Found]:
        """Return a stored record of a list, whether or not it makes sense."""
        submission_id, task_id = str(stored["submission_id"]), str(stored["task_id"])
        task: Found | None = None
        problem: str | None = None
        try:
            task = model.load(stored)
        except RecordUnreadable as error:
            problem = str(error)
        return TaskEntry(
            submission_id=submission_id, task_id=task_id, stored=stored, task=task, problem=problem
        )

    def read(self) -> Found:
        """
        Return the record.

        :raises RecordUnreadable: If it makes no sense. Nobody may act then as if there were no
            such task, or as if it had ended.
        """
        if self.task is None:
            raise RecordUnreadable(str(self.problem))
        return self.task

    @property
    def key(self) -> TaskKey:
        """Return the submission's id and the task's."""
        return self.submission_id, self.task_id

    @property
    def name(self) -> str:
        """Return the task as people write it."""
        return f"{self.submission_id}/{self.task_id}"

    def list_refs(self) -> list[AttemptRef]:
        """Return the reference of the newest attempt, also of an odd record, if there is any."""
        names = ("submission_id", "task_id", "attempt", "fence")
        try:
            return [AttemptRef.model_validate({name: self.stored.get(name) for name in names})]
        except ValidationError:
            return []

    def may_be_on(self, server: str) -> bool:
        """Tell whether a server may have the task's newest attempt, also of one that is odd."""
        told = self.stored.get("server")
        return told == server or not (told is None or isinstance(told, str))
