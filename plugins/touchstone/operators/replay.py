"""A training that is run again: put on record as a submission of its own, and compared."""

from __future__ import annotations

import contextlib
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from touchstone.core.authority import Run
from touchstone.core.conf import RunConf, build_conf
from touchstone.core.names import build_output_key, find_submission_of_run
from touchstone.core.records.actions import add_action
from touchstone.core.records.stored import set_all
from touchstone.core.records.submissions import PinnedBranch, Submission
from touchstone.core.records.tasks import Published, PublishedReplay, Task
from touchstone.core.replay import (
    PREDICTIONS,
    RESULT,
    Side,
    build_replay_schedule,
    build_replay_spec,
    build_replayed,
    judge_replay,
)
from touchstone.core.results import RESULT_BYTES, ResultRefused, read_result
from touchstone.core.states import SubmissionStatus
from touchstone.core.tasks import ReplayedFile, TaskSpec
from touchstone.operators.forward import is_wanted_by_record, publish_forward, turn_forward
from touchstone.services.checks import check_branch, check_placeable, may_schedule
from touchstone.services.ownership import NotItsOwn
from touchstone.services.replays import check_not_retracted, find_original
from touchstone.settings import get_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from touchstone.stores.objects import ObjectStore
    from touchstone.stores.records import RecordStore
    from touchstone_agent.protocol.facts import UploadedFile
    from touchstone_agent.protocol.messages import AttemptRef


def register_replay(records: RecordStore, conf: RunConf, run: Run) -> Submission:
    """
    Record a replay: a submission of the user who asked, accepted like its original.

    What it runs and what it is compared with is decided here, once: whatever becomes of the
    original afterwards, a step that is repeated takes what it took before.

    :return: The replay's record.
    :raises NotItsOwn: If the run's id is taken.
    :raises ConfigurationError: If there is nothing that the run's user may replay.
    """
    from touchstone.stores.tables import RecordExists

    assert conf.replay is not None  # noqa: S101 - callers have looked
    submission_id = find_submission_of_run(run.run_id)
    found = records.find_submission(submission_id)
    is_wanted = is_wanted_by_record(records, conf.replay, run)
    if found is None:
        new = _build_submission(records, conf, run, submission_id, is_wanted=is_wanted)
        with contextlib.suppress(RecordExists):
            records.create_submission(new)
        found = records.get_submission(submission_id)
    _check_its_own(found, conf, run)
    # Also of a run that is cleared: what it replays may have been taken back since.
    check_not_retracted(records.find_submission(conf.replay.submission_id))
    assert found.replay_spec is not None  # noqa: S101 - every replay has one
    _check_where(records, conf, found.replay_spec, run, is_wanted=is_wanted)

    def decide(found: Submission) -> Submission:
        _check_its_own(found, conf, run)
        return found.move(
            SubmissionStatus.QUEUED,
            run_ids=found.take_up(run.run_id),
            cancel=None,
            reason=None,
            ended_at=None,
            verdict=None,
            verdict_reason=None,
        )

    return records.change_submission(submission_id, decide)


def _build_submission(
    records: RecordStore, conf: RunConf, run: Run, submission_id: str, *, is_wanted: bool
) -> Submission:
    from touchstone.stores.objects import ObjectStore
    from touchstone.stores.parts import Parts, find_files

    assert conf.replay is not None  # noqa: S101
    settings = get_settings()
    original, task = find_original(records, conf.replay, user=run.user, is_wanted=is_wanted)
    files = find_files(task.newest, Parts(ObjectStore.connect(settings), settings.content_bucket))
    spec = build_replay_spec(
        task,
        build_replayed(task, files),
        submission_id=submission_id,
        user=run.user,
        hosts=conf.replay.hosts,
    )
    action = f"replay of {conf.replay.task}"
    if conf.replay.data_version is not None:
        spec = turn_forward(
            records, original, task, files, spec, conf.replay.data_version, is_wanted=is_wanted
        )
        action = f"forward score of {conf.replay.task} on {conf.replay.data_version}"
    _check_where(records, conf, spec, run, is_wanted=is_wanted)
    now = datetime.now(UTC)
    checkout = spec.elnigma
    return Submission(
        submission_id=submission_id,
        # What a replay has from the submission that it replays.
        system=original.system,
        source_url=original.source_url,
        source_ref=original.source_ref,
        source_path=original.source_path,
        waived_columns=spec.waived_columns,
        commit=original.commit,
        content_sha256=original.content_sha256,
        content_size=original.content_size,
        replay_of=conf.replay.task,
        replay_spec=set_all(spec),
        # Its content was validated as the original's, and is the same to the digest.
        accepted_at=now,
        status=SubmissionStatus.QUEUED,
        submitted_by=run.user,
        created_at=now,
        notes=conf.notes,
        remarks=(),
        run_ids=(run.run_id,),
        conf=build_conf(conf),
        model_group_id=submission_id,
        baseline=None,
        schedule=set_all(build_replay_schedule(spec)),
        schedule_run_id=run.run_id,
        scheduled_by=run.user,
        queued_at=now,
        elnigma=PinnedBranch.pin(checkout, branch=checkout.commit, run_id=run.run_id)
        if checkout is not None
        else None,
        data=None if spec.data is None else set_all(spec.data),
        tasks=(),
        results=(),
        chart_links=(),
        actions=add_action((), at=now, by=run.user, action=action),
    )


def _check_where(
    records: RecordStore, conf: RunConf, spec: TaskSpec, run: Run, *, is_wanted: bool
) -> None:
    """Refuse what nothing there could run, or its user may not have run."""
    scheduled = conf.model_copy(update={"schedule": build_replay_schedule(spec)})
    if not is_wanted:
        # What the installation itself wants runs the commit that its submitter was allowed to.
        check_branch(get_settings(), scheduled.schedule, run.user)
    check_placeable(records, scheduled, run.user)


def _check_its_own(found: Submission, conf: RunConf, run: Run) -> None:
    assert conf.replay is not None  # noqa: S101
    if (
        run.run_id not in found.run_ids
        or not may_schedule(found, run.user)
        or found.replay_of != conf.replay.task
        or found.status is SubmissionStatus.RETRACTED
    ):
        raise NotItsOwn(
            f"run_id: submission {found.submission_id} exists already; choose another run id"
        )


# --- what it came to ----------------------------------------------------------------------------


def publish_replay(
    objects: ObjectStore, task: Task, files: Mapping[str, UploadedFile]
) -> Published:
    """
    Compare what a replay has left with what it replays.

    Nothing of it is published: no model, no evaluation, no run in MLflow.

    :param task: The replay's task.
    :param files: What its newest attempt has left, by path.
    :return: What is kept of it beside the task.
    :raises PermanentError: If either is not there, or not what the contract promises.
    :raises TransientError: If a store cannot be used now.
    """
    replayed, ref = task.spec.replay, task.ref
    assert replayed is not None  # noqa: S101 - callers have looked
    if replayed.forward is not None:
        return publish_forward(objects, task, files)
    left = {}
    for path in (RESULT, PREDICTIONS):
        if path not in files:
            raise ResultRefused(f"{path}: the replay has left none")
        left[path] = ReplayedFile(sha256=files[path].sha256, size=files[path].size)
    with tempfile.TemporaryDirectory(prefix="touchstone-replay-") as name:
        was = _read_side(
            objects,
            replayed.ref,
            {RESULT: replayed.result, PREDICTIONS: replayed.predictions},
            Path(name) / "was",
            replayed.image_digest,
        )
        now = _read_side(objects, ref, left, Path(name) / "now", task.newest.image_digest)
    judged = judge_replay(was, now)
    return Published(
        metrics=now.result.metrics,
        metric_notes=now.result.metric_notes or {},
        models=(),
        charts=(),
        device=now.result.device or {},
        replay=PublishedReplay.load(
            {"of": replayed.key, "attempt": replayed.attempt, **judged.dump()}
        ),
        published_at=datetime.now(UTC),
    )


def _read_side(
    objects: ObjectStore,
    ref: AttemptRef,
    files: Mapping[str, ReplayedFile],
    folder: Path,
    image_digest: str | None,
) -> Side:
    from touchstone.core.replay import MAX_PREDICTIONS_BYTES

    folder.mkdir()
    texts = {}
    for (path, file), most in zip(
        files.items(), (RESULT_BYTES, MAX_PREDICTIONS_BYTES), strict=True
    ):
        if file.size > most:
            raise ResultRefused(f"{path}: has more than {most} bytes")
        objects.fetch(
            get_settings().content_bucket,
            build_output_key(ref, path),
            folder / path,
            sha256=file.sha256,
            size=file.size,
        )
        texts[path] = (folder / path).read_bytes()
    return Side(
        result=read_result(texts[RESULT], submission_id=ref.submission_id, task_id=ref.task_id),
        predictions=texts[PREDICTIONS],
        predictions_sha256=files[PREDICTIONS].sha256,
        image_digest=image_digest,
    )
