"""What a task runs: its specification, and the START command built from it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from touchstone.core.conf import System
from touchstone.core.data_sets import PinnedData
from touchstone.core.folds import Fold, build_folds
from touchstone.core.judging_rules import build_rules
from touchstone.core.names import (
    VALIDATION_TASK_ID,
    build_content_key,
    build_data_key,
    build_output_key,
    build_task_id,
)
from touchstone.core.programs import Program, build_program_ids, build_program_user
from touchstone.core.records.judged import JudgingRules
from touchstone.core.schedule import MAX_ARGUMENT, SEED_COUNT_KEY, Schedule, Training
from touchstone.core.waivers import build_arguments
from touchstone_agent.contract import build_gpu_variables
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import (
    AttemptRef,
    Grant,
    Input,
    Limits,
    Preparation,
    SlotClass,
    Start,
)
from touchstone_agent.protocol.pods import PodStart
from touchstone_agent.protocol.private import HeldData, JudgeRules, PrivateData

CONTRACT_VERSION = "1"
CONTENT_FOLDER = "content"
CHECKOUT_FOLDER = "elnigma"
"""Where a commit of el-nigma lies beside the content, if the schedule names a branch."""
DATA_FOLDER = "data"
"""Where a data set lies, if it is not the one that every trainer has built in."""
MODELS_FOLDER = "models"
"""Where the models of a training lie that are scored on later rows; and where it has left them."""
PREPARATION = Preparation(argv=("prepare",), inputs=(CHECKOUT_FOLDER,))
"""What installs what such a commit requires: the commit is there, the content is not."""
RUNNER = ("elnigma-run",)
"""The entry point of every trainer image, for where it is not started as such."""
REFERENCE_FEATURE_SET = "elnigma.features.reference"
"""What a model structure is trained on: the trainer's own features, by dotted name."""


class Checkout(BaseModel):
    """
    A commit of el-nigma, packed, that is run instead of the image's own.

    :param commit: Its full id.
    :param sha256: Digest of the archive.
    :param size: The archive's size in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    commit: str
    sha256: str
    size: int


class ReplayedFile(BaseModel):
    """
    A file of the outcome that a replay is compared with.

    :param sha256: Its digest.
    :param size: Its size in bytes.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: str
    size: int


class ForwardModel(ReplayedFile):
    """
    A model that is scored on later rows.

    :param name: Its file's name, without ``.h5``.
    """

    name: str


class Forwarded(BaseModel):
    """
    What is scored on rows that came after its models, in place of a training that is run again.

    :param models: The models, as they were published.
    :param data: What they were trained on; the specification names the newer version.
    :param rules: By which their training was judged.
    :param saved_at: When they were there for good.
    :param added_at: When the newer version was added.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    models: tuple[ForwardModel, ...]
    data: PinnedData
    rules: JudgingRules
    saved_at: datetime
    added_at: datetime


class Replayed(BaseModel):
    """
    The outcome that a replay is compared with.

    :param submission_id: The submission that it is of.
    :param task_id: The training within it.
    :param key: Both, as people write them.
    :param attempt: The attempt that came to it.
    :param fence: Its fence.
    :param image_digest: The image that it ran in; ``None`` if nobody knows.
    :param result: Its result.json.
    :param predictions: Its predictions.csv.
    :param forward: What is scored instead of being run again; ``None`` for a replay proper.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    submission_id: str
    task_id: str
    key: str
    attempt: int
    fence: int
    image_digest: str | None = None
    result: ReplayedFile
    predictions: ReplayedFile
    forward: Forwarded | None = None

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        if self.forward is None:
            written.pop("forward", None)
        return written

    @property
    def ref(self) -> AttemptRef:
        """Return the reference of the attempt that came to it."""
        return AttemptRef(
            submission_id=self.submission_id,
            task_id=self.task_id,
            attempt=self.attempt,
            fence=self.fence,
        )


def read_flat_schedule(stored: Mapping[str, object]) -> Mapping[str, object]:
    """
    Return the schedule of a specification that the version before this one has written.

    It had the further arguments split already, and what concerns pods in a table of its own.

    :param stored: The specification, as plain JSON values.
    """
    known = {name: stored[name] for name in Training.model_fields if stored.get(name) is not None}
    pods = stored.get("pods")
    if isinstance(pods, Mapping):
        known |= {name: each for name, each in pods.items() if each is not None}
    if stored.get("overrides"):
        known["config_overrides"] = stored["overrides"]
    passthrough = stored.get("passthrough")
    # What is no list is handed on, to be refused by its name.
    if isinstance(passthrough, (list, tuple)):
        passthrough = list(_join_words(map(str, passthrough)))
    if passthrough:
        known["passthrough_args"] = passthrough
    return known


def _join_words(words: Iterable[str]) -> Iterator[str]:
    """Yield lines that are split into these words again, each as long as one may be."""
    line = ""
    for word in map(shlex.quote, words):
        if line and len(line) + 1 + len(word) > MAX_ARGUMENT:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
    yield line


class TaskSpec(BaseModel):
    """
    Everything that decides what a task computes; shown as the task's configuration.

    :param submission_id: The submission.
    :param task_id: ``validation``, ``i<interval>``, or ``i<interval>-f<fold>``.
    :param kind: Which slots it takes, and which of el-nigma's commands it runs.
    :param system: What the content is.
    :param image: Container image of the trainer.
    :param image_cuda: The one for where a GPU is handed over; ``None`` where ``image`` is taken as
        it is.
    :param image_pod: The one of pods; ``None`` where the installation has none of their own.
    :param content_sha256: Digest of the content archive.
    :param content_size: Its size in bytes.
    :param limits: What an attempt may use.
    :param interval: Prediction interval in bars; ``None`` for a validation.
    :param schedule: How it is trained, and where it may run; all defaults for a validation.
    :param elnigma: The el-nigma that is run; ``None`` for the image's own.
    :param submitted_by: Whose it is: submitters share what is free.
    :param replay: What its outcome is compared with; ``None`` for what is no replay.
    :param data: What it is trained on; ``None`` for the built-in data set.
    :param waived_columns: Columns against which the trainer holds no look-ahead.
    :param fold: On which rows of it; ``None`` for those of the data set, or of its event.
    :param program: What is run, of a task of somebody's own DAG; there is no content then, and
        ``system`` says nothing. ``None`` for a task of a submission.
    """

    # Written to records and read by the version before or after this one.
    model_config = ConfigDict(frozen=True, extra="ignore")

    submission_id: str
    task_id: str
    kind: SlotClass
    system: System
    image: str
    image_cuda: str | None = None
    image_pod: str | None = None
    content_sha256: str
    content_size: int
    limits: Limits
    interval: int | None = None
    schedule: Training = Training()
    elnigma: Checkout | None = None
    submitted_by: str = "unknown"
    replay: Replayed | None = None
    data: PinnedData | None = None
    waived_columns: tuple[str, ...] = ()
    fold: Fold | None = None
    program: Program | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_program(cls, stored: object) -> object:
        if isinstance(stored, Mapping) and stored.get("program") and not stored.get("system"):
            return {**stored, "system": System.FEATURE_SET}
        return stored

    @model_validator(mode="before")
    @classmethod
    def _read_flat(cls, stored: object) -> object:
        """Read a specification of the version before, which had each field for itself."""
        if not isinstance(stored, Mapping) or "schedule" in stored:
            return stored
        return {**stored, "schedule": read_flat_schedule(stored)}

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        # The version before would take the defaults for what it does not find in its own place. It
        # refuses a specification without this, instead of training something else.
        written = {**write(self), "pods": None}
        if self.data is None:
            written.pop("data", None)
        if not self.waived_columns:
            written.pop("waived_columns", None)
        if self.fold is None:
            written.pop("fold", None)
        if self.program is None:
            written.pop("program", None)
        else:
            # Nor would it know a program: it refuses what is of no system.
            written["system"] = None
        return written


def build_validation_spec(
    submission_id: str,
    *,
    system: System,
    image: str,
    content_sha256: str,
    content_size: int,
    limits: Limits,
    submitted_by: str = "unknown",
    image_pod: str | None = None,
    data: PinnedData | None = None,
    waived_columns: tuple[str, ...] = (),
) -> TaskSpec:
    """Return the validation of a submission's content."""
    return TaskSpec(
        submission_id=submission_id,
        task_id=VALIDATION_TASK_ID,
        kind=SlotClass.VALIDATION,
        system=system,
        image=image,
        content_sha256=content_sha256,
        content_size=content_size,
        limits=limits,
        submitted_by=submitted_by,
        image_pod=image_pod,
        data=data,
        waived_columns=waived_columns,
    )


def build_training_specs(
    validation: TaskSpec,
    schedule: Schedule,
    *,
    limits: Limits,
    image_cuda: str | None = None,
    elnigma: Checkout | None = None,
) -> list[TaskSpec]:
    """
    Return one training per prediction interval and fold, of the content that was validated.

    :param validation: The submission's validation; names content, system, image and data set.
    :param schedule: The engineer's decision.
    :param limits: What each attempt may use; the schedule may ask for less time.
    :param image_cuda: Image for where a GPU is handed over; ``None`` for the validation's.
    :param elnigma: What the schedule's branch stood at, if it names one.
    """
    if schedule.max_hours is not None:
        wall_seconds = min(limits.wall_seconds, max(1, round(schedule.max_hours * 3600)))
        limits = limits.model_copy(update={"wall_seconds": wall_seconds})
    training = Training.model_validate(schedule.model_dump(exclude={"intervals"}))
    rules = build_rules(validation.data)
    folds = build_folds(
        schedule.folds,
        validation_from=rules.validation_from,
        test_from=rules.test_from,
        test_to=rules.test_to,
    )
    return [
        validation.model_copy(
            update={
                "task_id": build_task_id(interval, number),
                "kind": SlotClass.TRAINING,
                "interval": interval,
                "fold": None if number is None else folds[number],
                "limits": limits,
                "image_cuda": image_cuda,
                "schedule": training,
                "elnigma": elnigma,
            }
        )
        for interval, number in schedule.trainings
    ]


def build_program_spec(
    program: Program,
    *,
    run_id: str,
    map_index: int,
    image: str,
    limits: Limits,
    schedule: Training,
) -> TaskSpec:
    """
    Return a task of somebody's own DAG.

    :param run_id: The DAG run.
    :param map_index: Index of the task instance, -1 for a single one.
    :param image: What it runs in, on a server and in a pod.
    :param schedule: Where it may run, and what a pod may cost.
    """
    submission_id, task_id = build_program_ids(program.dag_id, run_id, program.task_id, map_index)
    return TaskSpec(
        submission_id=submission_id,
        task_id=task_id,
        kind=SlotClass.TRAINING,
        system=System.FEATURE_SET,
        image=image,
        image_pod=image,
        content_sha256="",
        content_size=0,
        limits=limits,
        schedule=schedule,
        submitted_by=build_program_user(program.dag_id),
        program=program,
    )


def choose_image(image: str, image_cuda: str | None, *, gpus: int) -> str:
    """
    Return the container image that an attempt runs in, by what it is given.

    :param image: The task's image.
    :param image_cuda: Its image for where a GPU is handed over, if it has one.
    :param gpus: GPUs that are handed over; a pod's own count as well.
    """
    return image_cuda if gpus and image_cuda else image


def build_argv(spec: TaskSpec) -> tuple[str, ...]:
    """Return the arguments for el-nigma, every value of the schedule verbatim."""
    if spec.program is not None:
        return spec.program.command
    content = f"{{in}}/{CONTENT_FOLDER}"
    # An image that does not know these refuses them.
    waived = build_arguments(spec.waived_columns)
    if spec.kind is SlotClass.VALIDATION:
        argv = ["validate", "--system", spec.system, "--module", content, "--out", "{out}"]
        return (*argv, *waived)
    is_feature_set = spec.system is System.FEATURE_SET
    argv = ["train"]
    if find_forward(spec) is not None:
        argv = ["score", "--models", f"{{in}}/{MODELS_FOLDER}"]
    argv += ["--config", spec.schedule.config_file]
    argv += ["--feature-set", content if is_feature_set else REFERENCE_FEATURE_SET]
    if not is_feature_set:
        argv += ["--model-structure", content]
    argv += ["--prediction-interval", str(spec.interval)]
    if spec.schedule.fetched_data_end_to is not None:
        argv += ["--fetched-data-end-to", spec.schedule.fetched_data_end_to.isoformat()]
    argv += ["--out", "{out}", *waived]
    if spec.schedule.seed_count > 1:
        # An image that does not know the key refuses it; one seed needs no word of it.
        argv += ["--config_override", f"{SEED_COUNT_KEY}={spec.schedule.seed_count}"]
    for override in (*_list_rows(spec), *spec.schedule.config_overrides):
        argv += ["--config_override", override]
    if passthrough := spec.schedule.passthrough_argv:
        argv += ["--", *passthrough]
    return tuple(argv)


def _list_rows(spec: TaskSpec) -> Iterator[str]:
    """
    Yield what tells a trainer the rows of a fold, or of an event.

    What a schedule overrides comes behind.
    """
    rows = spec.fold or spec.data
    if rows is None:
        return
    yield f"split.validation_from={rows.validation_from.isoformat()}"
    yield f"split.test_from={rows.test_from.isoformat()}"
    if rows.test_to is not None:
        yield f"split.test_to={rows.test_to.isoformat()}"


def build_environment(spec: TaskSpec, ref: AttemptRef) -> dict[str, str]:
    """Return the contract's environment variables; no credential is ever among them."""
    environment = {
        "TOUCHSTONE_CONTRACT": CONTRACT_VERSION,
        "TOUCHSTONE_SUBMISSION_ID": spec.submission_id,
        "TOUCHSTONE_TASK_ID": spec.task_id,
        "TOUCHSTONE_ATTEMPT": f"{ref.attempt}-{ref.fence}",
        "TOUCHSTONE_MODEL_GROUP_ID": spec.submission_id,
        "TOUCHSTONE_SEED": str(spec.schedule.seed),
        "TOUCHSTONE_THREADS": str(max(1, int(spec.limits.cpus))),
    }
    if spec.elnigma:
        environment["TOUCHSTONE_ELNIGMA_COMMIT"] = spec.elnigma.commit
    if spec.program is not None and spec.program.executable is not None:
        environment["TOUCHSTONE_TRAINER"] = spec.program.executable
    return environment


@dataclass(frozen=True, kw_only=True)
class TaskInput:
    """
    A file that a task is given.

    :param key: Where it is in the content bucket.
    :param sha256: Its digest.
    :param size: Its size in bytes.
    :param is_archive: Whether it is an archive that is unpacked.
    """

    key: str
    sha256: str
    size: int
    is_archive: bool = True


def list_inputs(spec: TaskSpec) -> dict[str, TaskInput]:
    """Return what a task is given, by its path below the input folder."""
    if spec.program is not None:
        return {}
    content_key = build_content_key(spec.content_sha256)
    inputs = {
        CONTENT_FOLDER: TaskInput(
            key=content_key, sha256=spec.content_sha256, size=spec.content_size
        )
    }
    if spec.elnigma:
        sha256 = spec.elnigma.sha256
        inputs[CHECKOUT_FOLDER] = TaskInput(
            key=build_content_key(sha256), sha256=sha256, size=spec.elnigma.size
        )
    if spec.data and not spec.data.is_private:
        sha256 = spec.data.sha256
        inputs[DATA_FOLDER] = TaskInput(
            key=build_data_key(sha256), sha256=sha256, size=spec.data.size
        )
    forward = find_forward(spec)
    if spec.replay is not None and forward is not None:
        for model in forward.models:
            path = f"{MODELS_FOLDER}/{model.name}.h5"
            inputs[path] = TaskInput(
                key=build_output_key(spec.replay.ref, path),
                sha256=model.sha256,
                size=model.size,
                is_archive=False,
            )
    return inputs


def find_forward(spec: TaskSpec) -> Forwarded | None:
    """Return what a task scores on later rows; ``None`` if it validates, trains or replays."""
    return spec.replay.forward if spec.replay is not None else None


def build_start(
    spec: TaskSpec, ref: AttemptRef, grants: Mapping[str, Grant], *, gpus: int = 0
) -> Start:
    """
    Return the command that starts an attempt.

    It never has the network. What a branch requires beyond the image is installed before, where no
    submitted code is.

    :param grants: Leave to read each of the task's inputs, by its path.
    :param gpus: GPUs to hand over.
    """
    return Start(
        ref=ref,
        slot_class=spec.kind,
        image=choose_image(spec.image, spec.image_cuda, gpus=gpus),
        argv=build_argv(spec),
        environment=build_environment(spec, ref),
        inputs=tuple(
            Input(
                path=path,
                grant=grants[path],
                sha256=each.sha256,
                size=each.size,
                unpack=each.is_archive,
            )
            for path, each in list_inputs(spec).items()
        ),
        limits=spec.limits,
        gpus=gpus,
        prepare=None if spec.elnigma is None else PREPARATION,
        requires_gpu=spec.schedule.require_cuda,
        private_data=build_private_data(spec),
    )


def find_held_data(spec: TaskSpec) -> HeldData | None:
    """Return the data set that a server must hold to run a task; ``None`` if it need hold none."""
    return find_held(spec.data)


def find_held(data: PinnedData | None) -> HeldData | None:
    """Return the data set that a server must hold for something; ``None`` if it need hold none."""
    if data is None or not data.is_private:
        return None
    return HeldData(name=data.name, version=data.version, digest=data.digest)


def build_private_data(spec: TaskSpec) -> PrivateData | None:
    """Return what a server is told of a task's private data; ``None`` where there are none."""
    held = find_held_data(spec)
    if held is None:
        return None
    rules = JudgeRules.model_validate(build_rules(spec.data).model_dump())
    return PrivateData(**held.model_dump(), interval=spec.interval, rules=rules)


def build_pod_start(spec: TaskSpec, ref: AttemptRef, grants: Mapping[str, Grant]) -> PodStart:
    """
    Return what a pod runs: the same as a server, but for what a pod is by itself.

    :raises PermanentError: If it is on private data, which no pod has or gets.
    """
    if find_held_data(spec) is not None:
        raise PermanentError("private data stay at their servers; no pod is rented for them")
    start = build_start(spec, ref, grants)
    # What is rented for a training has a GPU of its own, and for a validation none. Servers say
    # that themselves, who know what they have handed over.
    gpu = build_gpu_variables(
        requires_gpu=spec.schedule.require_cuda, gpus=int(spec.kind is SlotClass.TRAINING)
    )
    return PodStart(
        ref=ref,
        command=RUNNER,
        argv=start.argv,
        environment={**start.environment, **gpu},
        inputs=start.inputs,
        limits=start.limits,
        prepare=start.prepare,
    )
