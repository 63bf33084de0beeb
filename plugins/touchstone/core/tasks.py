"""What a task runs: its specification, and the START command built from it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from touchstone.core.conf import CloudChoice, Schedule, System
from touchstone.core.names import VALIDATION_TASK_ID, build_task_id
from touchstone_agent.contract import build_gpu_variables
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

CONTRACT_VERSION = "1"
CONTENT_FOLDER = "content"
CHECKOUT_FOLDER = "elnigma"
"""Where a commit of el-nigma lies beside the content, if the schedule names a branch."""
PREPARATION = Preparation(argv=("prepare",), inputs=(CHECKOUT_FOLDER,))
"""What installs what such a commit requires: the commit is there, the content is not."""
RUNNER = ("elnigma-run",)
"""The entry point of every trainer image, for where it is not started as such."""
REFERENCE_FEATURE_SET = "elnigma.features.reference"
"""What a model structure is trained on: the trainer's own features, by dotted name."""


class PodWishes(BaseModel):
    """
    What a schedule says of pods; nothing of it matters on-prem.

    :param gpu_models: GPU models, best first; empty for the installation's own list.
    :param cloud: Whose machines.
    :param max_price: Most USD per hour.
    :param budget: Most USD for all pods of the submission.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    gpu_models: tuple[str, ...] = ()
    cloud: CloudChoice = CloudChoice.ANY
    max_price: Decimal | None = None
    budget: Decimal | None = None


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


class TaskSpec(BaseModel):
    """
    Everything that decides what a task computes; shown as the task's configuration.

    :param submission_id: The submission.
    :param task_id: ``validation`` or ``i<interval>``.
    :param kind: Which slots it takes, and which of el-nigma's commands it runs.
    :param system: What the content is.
    :param image: Container image of the trainer.
    :param image_cuda: The one for where a GPU is handed over; ``None`` where ``image`` is taken as
        it is.
    :param content_sha256: Digest of the content archive.
    :param content_size: Its size in bytes.
    :param limits: What an attempt may use.
    :param interval: Prediction interval in days; ``None`` for a validation.
    :param config_file: El-nigma configuration.
    :param overrides: ``key.path=value`` each.
    :param passthrough: Further arguments, already split.
    :param fetched_data_end_to: Last day of data.
    :param elnigma: The el-nigma that is run; ``None`` for the image's own.
    :param seed: Seed of the training.
    :param platform: Where the schedule lets it run.
    :param submitted_by: Whose it is: submitters share what is free.
    :param priority: Higher is placed first.
    :param require_cuda: Run nowhere without a CUDA GPU.
    :param prefer_cuda: Wait for a CUDA GPU for a while.
    :param min_vram_gib: Least memory of the GPU, GiB.
    :param min_ram_gib: Least memory of the server, GiB.
    :param allowed_hosts: Servers it may run on; empty for any.
    :param job: Name of its job, for servers' allow and deny lists.
    :param pods: What kind of pod it may run in, and for how much.
    """

    # Written to records and read by the version before or after this one.
    model_config = ConfigDict(frozen=True, extra="ignore")

    submission_id: str
    task_id: str
    kind: SlotClass
    system: System
    image: str
    image_cuda: str | None = None
    content_sha256: str
    content_size: int
    limits: Limits
    interval: int | None = None
    config_file: str | None = None
    overrides: tuple[str, ...] = ()
    passthrough: tuple[str, ...] = ()
    fetched_data_end_to: dt.date | None = None
    elnigma: Checkout | None = None
    seed: int = 0
    platform: str = "any"
    submitted_by: str = "unknown"
    priority: int = 0
    require_cuda: bool = False
    prefer_cuda: bool = False
    min_vram_gib: float = 0
    min_ram_gib: float = 0
    allowed_hosts: tuple[str, ...] = ()
    job: str | None = None
    pods: PodWishes = PodWishes()


def build_validation_spec(
    submission_id: str,
    *,
    system: System,
    image: str,
    content_sha256: str,
    content_size: int,
    limits: Limits,
    submitted_by: str = "unknown",
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
    Return one training per prediction interval, of the content that was validated.

    :param validation: The submission's validation; names content, system and image.
    :param schedule: The engineer's decision.
    :param limits: What each attempt may use; the schedule may ask for less time.
    :param image_cuda: Image for where a GPU is handed over; ``None`` for the validation's.
    :param elnigma: What the schedule's branch stood at, if it names one.
    """
    if schedule.max_hours is not None:
        wall_seconds = min(limits.wall_seconds, max(1, round(schedule.max_hours * 3600)))
        limits = limits.model_copy(update={"wall_seconds": wall_seconds})
    pods = PodWishes(
        gpu_models=schedule.gpu_models,
        cloud=schedule.cloud,
        max_price=schedule.max_price,
        budget=schedule.budget,
    )
    return [
        validation.model_copy(
            update={
                "task_id": build_task_id(interval),
                "kind": SlotClass.TRAINING,
                "interval": interval,
                "limits": limits,
                "image_cuda": image_cuda,
                "config_file": schedule.config_file,
                "overrides": schedule.overrides,
                "passthrough": schedule.passthrough_argv,
                "fetched_data_end_to": schedule.fetched_data_end_to,
                "elnigma": elnigma,
                "seed": schedule.seed,
                "platform": schedule.platform.value,
                "priority": schedule.priority,
                "require_cuda": schedule.require_cuda,
                "prefer_cuda": schedule.prefer_cuda,
                "min_vram_gib": schedule.min_vram_gib,
                "min_ram_gib": schedule.min_ram_gib,
                "allowed_hosts": schedule.allowed_hosts,
                "job": schedule.job,
                "pods": pods,
            }
        )
        for interval in schedule.intervals
    ]


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
    content = f"{{in}}/{CONTENT_FOLDER}"
    if spec.kind is SlotClass.VALIDATION:
        return ("validate", "--system", spec.system, "--module", content, "--out", "{out}")
    is_feature_set = spec.system is System.FEATURE_SET
    argv = ["train", "--config", spec.config_file or "default.toml"]
    argv += ["--feature-set", content if is_feature_set else REFERENCE_FEATURE_SET]
    if not is_feature_set:
        argv += ["--model-structure", content]
    argv += ["--prediction-interval", str(spec.interval)]
    if spec.fetched_data_end_to is not None:
        argv += ["--fetched-data-end-to", spec.fetched_data_end_to.isoformat()]
    argv += ["--out", "{out}"]
    for override in spec.overrides:
        argv += ["--config_override", override]
    if spec.passthrough:
        argv += ["--", *spec.passthrough]
    return tuple(argv)


def build_environment(spec: TaskSpec, ref: AttemptRef) -> dict[str, str]:
    """Return the contract's environment variables; no credential is ever among them."""
    environment = {
        "TOUCHSTONE_CONTRACT": CONTRACT_VERSION,
        "TOUCHSTONE_SUBMISSION_ID": spec.submission_id,
        "TOUCHSTONE_TASK_ID": spec.task_id,
        "TOUCHSTONE_ATTEMPT": f"{ref.attempt}-{ref.fence}",
        "TOUCHSTONE_MODEL_GROUP_ID": spec.submission_id,
        "TOUCHSTONE_SEED": str(spec.seed),
        "TOUCHSTONE_THREADS": str(max(1, int(spec.limits.cpus))),
    }
    if spec.elnigma:
        environment["TOUCHSTONE_ELNIGMA_COMMIT"] = spec.elnigma.commit
    return environment


def list_archives(spec: TaskSpec) -> dict[str, tuple[str, int]]:
    """Return what is unpacked for a task: digest and size of the archive, by folder."""
    archives = {CONTENT_FOLDER: (spec.content_sha256, spec.content_size)}
    if spec.elnigma:
        archives[CHECKOUT_FOLDER] = (spec.elnigma.sha256, spec.elnigma.size)
    return archives


def build_start(
    spec: TaskSpec, ref: AttemptRef, grants: Mapping[str, Grant], *, gpus: int = 0
) -> Start:
    """
    Return the command that starts an attempt.

    It never has the network. What a branch requires beyond the image is installed before, where no
    submitted code is.

    :param grants: Leave to read each of the task's archives, by folder.
    :param gpus: GPUs to hand over.
    """
    return Start(
        ref=ref,
        slot_class=spec.kind,
        image=choose_image(spec.image, spec.image_cuda, gpus=gpus),
        argv=build_argv(spec),
        environment=build_environment(spec, ref),
        inputs=tuple(
            Input(path=folder, grant=grants[folder], sha256=sha256, size=size, unpack=True)
            for folder, (sha256, size) in list_archives(spec).items()
        ),
        limits=spec.limits,
        gpus=gpus,
        prepare=None if spec.elnigma is None else PREPARATION,
        requires_gpu=spec.require_cuda,
    )


def build_pod_start(spec: TaskSpec, ref: AttemptRef, grants: Mapping[str, Grant]) -> PodStart:
    """Return what a pod is told to run: the same as a server, but for what a pod is by itself."""
    start = build_start(spec, ref, grants)
    # What is rented for a training has a GPU of its own, and for a validation none. Servers say
    # that themselves, who know what they have handed over.
    gpu = build_gpu_variables(
        requires_gpu=spec.require_cuda, gpus=int(spec.kind is SlotClass.TRAINING)
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
