"""What a run stores and puts on record before anything of it is placed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from touchstone.core.authority import Run
from touchstone.core.names import build_content_key
from touchstone.core.records.submissions import Submission
from touchstone.core.schedule import Schedule
from touchstone.core.tasks import Checkout, TaskSpec, build_training_specs, build_validation_spec
from touchstone.services.checks import fetch_branch
from touchstone.settings import get_settings
from touchstone_agent.protocol.messages import Limits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from touchstone.hooks.repository import Content
    from touchstone.stores.records import RecordStore


def connect_records() -> RecordStore:
    """Return the installation's records, for what runs of Airflow do."""
    # Connecting imports boto3, which DAG parsing must not pay for.
    from touchstone.core.records.audit import Door
    from touchstone.stores.records import RecordStore

    return RecordStore.connect(get_settings()).through(Door.AIRFLOW)


def _find_pinned(submission: Submission, image: str) -> str:
    """Return an image as a submission runs it: by content, where a registry has told that."""
    known = submission.images.get(image)
    return image if known is None else known.pinned or image


def prepare_tasks(records: RecordStore, specs: Iterable[TaskSpec], run: Run) -> None:
    """Put a run's tasks on record; a validation is waited for by a task of no index."""
    from touchstone.services.starts import prepare_task

    for index, spec in enumerate(specs):
        prepare_task(
            records,
            spec,
            run_id=run.run_id,
            map_index=-1 if spec.interval is None else index,
            now=datetime.now(UTC),
        )


def build_validation(submission: Submission) -> TaskSpec:
    """Return what the validation of a submission runs."""
    settings = get_settings()
    # All of them are on record before anything of a submission runs.
    assert submission.system is not None  # noqa: S101
    assert submission.content_sha256 is not None  # noqa: S101
    assert submission.content_size is not None  # noqa: S101
    return build_validation_spec(
        submission.submission_id,
        system=submission.system,
        image=_find_pinned(submission, settings.trainer_image),
        content_sha256=submission.content_sha256,
        content_size=submission.content_size,
        limits=settings.validation_limits,
        submitted_by=submission.submitted_by,
        image_pod=_find_pinned(submission, settings.runpod.image or "") or None,
        data=submission.data,
        waived_columns=submission.waived_columns,
    )


def build_trainings(submission: Submission, schedule: Schedule) -> list[TaskSpec]:
    """Return what each training of a schedule runs; of a replay, what its original ran."""
    if submission.replay_spec is not None:
        # What its original ran, whatever the settings say by now.
        return [submission.replay_spec]
    settings = get_settings()
    return build_training_specs(
        build_validation(submission),
        schedule,
        limits=Limits(
            cpus=settings.training_cpus,
            memory_mib=settings.training_memory_mib,
            wall_seconds=settings.training_wall_seconds,
            console_bytes=settings.console_bytes,
        ),
        image_cuda=_find_pinned(submission, settings.trainer_image_cuda) or None,
        elnigma=_find_checkout(submission, schedule),
    )


def store_content(content: Content) -> None:
    """Store content under its digest; what is there already stays."""
    from touchstone.stores.objects import ObjectStore

    settings = get_settings()
    ObjectStore.connect(settings).put_new(
        settings.content_bucket,
        build_content_key(content.sha256),
        content.archive,
        content_type="application/gzip",
    )


def _find_checkout(submission: Submission, schedule: Schedule) -> Checkout | None:
    if submission.elnigma is not None:
        return submission.elnigma.checkout
    # Only one that the version before has registered still has to be resolved.
    return store_branch(schedule)


def store_branch(schedule: Schedule) -> Checkout | None:
    """Store what a schedule's branch of el-nigma stands at now; ``None`` if it names none."""
    content = fetch_branch(get_settings(), schedule)
    if content is None:
        return None
    store_content(content)
    return Checkout(commit=str(content.commit), sha256=content.sha256, size=len(content.archive))
