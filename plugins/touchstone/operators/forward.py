"""The steps about forward scores: which are wanted, what one is of, and what came of it."""

from __future__ import annotations

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from touchstone.core import forward
from touchstone.core.authority import UNKNOWN_USER, Run
from touchstone.core.forward import NOT_SCORED, SCORED
from touchstone.core.names import build_output_key
from touchstone.core.records.tasks import Published, PublishedReplay, Task
from touchstone.core.replay import PREDICTIONS
from touchstone.core.results import ResultRefused
from touchstone.core.schedule import Platform
from touchstone.core.tasks import ReplayedFile, find_forward
from touchstone.operators.authority import get_run
from touchstone.operators.preparing import connect_records
from touchstone.services.forward import (
    find_newer_data,
    find_wanted_by,
    want_scores,
    write_score,
)
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.words import build_line

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context

    from touchstone.core.conf import Replay
    from touchstone.core.records.forward import ForwardScore
    from touchstone.core.records.submissions import Submission
    from touchstone.core.records.tasks import StoredFile
    from touchstone.core.results import SubmissionEnd
    from touchstone.core.tasks import TaskSpec
    from touchstone.stores.objects import ObjectStore
    from touchstone.stores.records import RecordStore
    from touchstone_agent.protocol.facts import UploadedFile

log = logging.getLogger(__name__)

MAX_PREDICTIONS_BYTES = 8 * 1024**2
"""As many as the judge reads."""


class WantForwardOperator(BaseOperator):
    """
    Writes down which models are to be scored on newer versions of their data sets.

    :return: (XCom) The runs that are to do it, as ``TriggerDagRunOperator`` takes them. What each
        of them may do stands in the records of the submissions, and not here.
    """

    def execute(self, context: Context) -> list[dict[str, object]]:
        """
        Look once.

        :raises AirflowFailException: If somebody has triggered the run who is no admin.
        """
        from touchstone.stores.data_sets import DataStore

        user, settings = get_run(context).user, get_settings()
        if user not in {UNKNOWN_USER, *settings.admins}:
            # What is started has the name of who triggered this one.
            raise AirflowFailException(
                f"nothing was done: {user} may not look for all; an admin may (TOUCHSTONE_ADMINS)"
            )
        records = connect_records()
        runs = want_scores(records, DataStore(records, settings.events_table), datetime.now(UTC))
        self.log.info("%s forward scores are wanted", len(runs))
        return [{"trigger_run_id": each.run_id, "conf": each.conf} for each in runs]


def is_wanted_by_record(records: RecordStore, replay: Replay | None, run: Run) -> bool:
    """
    Tell whether a run is one that the installation itself wants, by the submission's record.

    A user who has triggered one by name has his own rights alone: an admin who looks at once may
    do all of it, and somebody who has guessed its id none.
    """
    return replay is not None and find_wanted_by(records, replay, run) is not None


def turn_forward(
    records: RecordStore,
    original: Submission,
    task: Task,
    files: Sequence[StoredFile],
    spec: TaskSpec,
    version: str,
    *,
    is_wanted: bool,
) -> TaskSpec:
    """
    Return what scores the models of a training on a newer version of its data set.

    :param original: The submission that they are of.
    :param task: The training.
    :param files: What it has left.
    :param spec: What would train it again.
    :param version: Of the data set.
    :param is_wanted: Whether the installation itself wants it: it spends no money on pods then.
    :raises ConfigurationError: If they cannot be scored on that.
    """
    from touchstone.stores.data_sets import DataStore

    data = DataStore(records, get_settings().events_table)
    newer = find_newer_data(data, original, task, version)
    assert spec.replay is not None  # noqa: S101 - it is made of a replay's
    replayed = spec.replay.model_copy(
        update={"forward": forward.build_forwarded(task, files, newer)}
    )
    turned = forward.turn_to_later_rows(spec, replayed, newer)
    if not is_wanted:
        return turned
    schedule = turned.schedule.model_copy(update={"platform": Platform.ON_PREM})
    return turned.model_copy(update={"schedule": schedule})


def publish_forward(
    objects: ObjectStore, task: Task, files: Mapping[str, UploadedFile]
) -> Published:
    """
    Have the judge score what saved models have said of later rows.

    :param task: The task that let them predict.
    :param files: What its newest attempt has left, by path.
    :return: What is kept of it beside the task: no model, no evaluation, no run in MLflow.
    :raises PermanentError: If predictions are not there, or not as they were stored.
    :raises TransientError: If a store cannot be used now, or this process is to end.
    """
    replayed, now = task.spec.replay, datetime.now(UTC)
    assert replayed is not None  # noqa: S101 - callers have looked
    assert task.spec.data is not None  # noqa: S101 - what is scored has a data set
    if PREDICTIONS not in files:
        raise ResultRefused(f"{PREDICTIONS}: the scoring has left none")
    left = ReplayedFile(sha256=files[PREDICTIONS].sha256, size=files[PREDICTIONS].size)
    wanted = forward.build_score(replayed, task.interval, task.spec.data.label)
    wanted = wanted.change(run_id=task.run_id)
    score = _ask(objects, task, left, wanted, now)
    return Published(
        metrics=score.metrics,
        metric_notes=score.metric_notes,
        models=(),
        charts=(),
        replay=PublishedReplay(
            of=replayed.key,
            attempt=replayed.attempt,
            verdict=NOT_SCORED if score.reason else SCORED,
            reason=score.reason,
            forward=score,
        ),
        published_at=now,
    )


def _ask(
    objects: ObjectStore, task: Task, left: ReplayedFile, wanted: ForwardScore, now: datetime
) -> ForwardScore:
    from touchstone.confined.forward import ask_for_forward
    from touchstone.confined.judge import NoAnswer, find_judge
    from touchstone.services.data_sets import DataUnusable, fetch_data

    settings, replayed, asked = get_settings(), task.spec.replay, find_forward(task.spec)
    assert replayed is not None  # noqa: S101
    assert asked is not None  # noqa: S101
    with tempfile.TemporaryDirectory(prefix="touchstone-forward-") as name:
        before, after = Path(name, "before.csv"), Path(name, "after.csv")
        for ref, file, target in (
            (replayed.ref, replayed.predictions, before),
            (task.ref, left, after),
        ):
            if file.size > MAX_PREDICTIONS_BYTES:
                raise ResultRefused(f"{PREDICTIONS}: has more than {MAX_PREDICTIONS_BYTES} bytes")
            objects.fetch(
                settings.content_bucket,
                build_output_key(ref, PREDICTIONS),
                target,
                sha256=file.sha256,
                size=file.size,
            )
        try:
            question = forward.build_question(
                asked,
                interval=task.interval or 0,
                before=str(before),
                predictions=str(after),
                data_before=str(fetch_data(objects, settings, asked.data)),
                data_dir=str(fetch_data(objects, settings, task.spec.data)),
            )
            answer = ask_for_forward(find_judge(settings), question)
        except (NoAnswer, DataUnusable) as error:
            log.warning("%s: the judge could not run: %s", task.name, error)
            return wanted.change(reason=build_line(f"the judge could not run ({error})"))
    return forward.accept_answer(answer, wanted, now=now)


def note_end(
    records: RecordStore,
    submission: Submission,
    run: Run,
    published: Sequence[Published | None],
    end: SubmissionEnd,
) -> None:
    """
    Write what has come of a forward score where people look for it: with whose models it is of.

    Whatever is wrong with that record, the run ends as it would.

    :param submission: The submission that computed it, or any other: of those there is nothing.
    :param published: What its tasks have published.
    :param end: What it came to.
    """
    spec = submission.replay_spec
    if spec is None or spec.replay is None or find_forward(spec) is None or spec.data is None:
        return
    told = next((each for each in published if each is not None and each.replay), None)
    if told is not None and told.held_back:
        return
    score = told.replay.forward if told is not None and told.replay else None
    if score is None:
        wanted = forward.build_score(spec.replay, spec.interval, spec.data.label)
        reason = build_line(f"its run {run.run_id} failed: {end.reason}")
        score = wanted.change(run_id=run.run_id, reason=reason)
    try:
        write_score(records, spec.replay, score)
    except PermanentError as error:
        log.error("%s: its forward score was not written: %s", spec.replay.key, error)


def note_refusal(records: RecordStore, replay: Replay | None, run: Run, reason: str) -> None:
    """Write why a run of the installation's own was refused, where it was wanted."""
    if replay is None or not is_wanted_by_record(records, replay, run):
        return

    def decide(found: Submission) -> Submission | None:
        wanted = forward.find_wanted(
            found, task_id=replay.task_id, version=str(replay.data_version), run_id=run.run_id
        )
        if wanted is None or not wanted.is_open:
            return None
        refused = wanted.change(reason=build_line(reason))
        return found.change(forward=forward.add_scores(found.forward, [refused]))

    try:
        records.change_submission(replay.submission_id, decide)
    except PermanentError as error:
        log.error("%s: why it was refused was not written: %s", replay.task, error)
