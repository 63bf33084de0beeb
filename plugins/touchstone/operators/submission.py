"""The steps of a run that touch records only: accept, plan, evaluate."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Unpack

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from touchstone.core.authority import Run
from touchstone.core.fold_results import Pooled, build_question, find_unpoolable, group_folds
from touchstone.core.forward import keep_current
from touchstone.core.judging_rules import build_rules
from touchstone.core.names import VALIDATION_TASK_ID
from touchstone.core.outcomes import Outcome
from touchstone.core.records.submissions import Submission
from touchstone.core.records.tasks import Task
from touchstone.core.results import SubmissionEnd, judge_submission, split_results
from touchstone.core.states import SubmissionStatus, TaskStatus, check_submission_move
from touchstone.operators.authority import (
    change_submission_of_run,
    get_run,
    get_submission_of_run,
    name_training,
)
from touchstone.operators.forward import note_end
from touchstone.operators.judging import add_verdict, find_run_verdict
from touchstone.operators.preparing import build_trainings, connect_records, prepare_tasks
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import PermanentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from touchstone.core.records.events import VerdictRecord
    from touchstone.core.records.kept import StoredPart
    from touchstone.core.records.tasks import Published
    from touchstone.stores.parts import Parts
    from touchstone.stores.records import RecordStore


def _now() -> datetime:
    return datetime.now(UTC)


def accept_submission(**context: Unpack[Context]) -> bool:
    """
    Accept or reject a submission by its validation's record.

    :param context: Airflow's, for the run.
    :return: Whether the run carries a schedule, so that it goes on.
    :raises AirflowFailException: If it is rejected, with the first line of why.
    """
    records, run = connect_records(), get_run(context)
    submission = get_submission_of_run(records, run)
    if not submission.accepted_at:
        task = records.find_task(submission.submission_id, VALIDATION_TASK_ID)

        def decide(found: Submission) -> Submission:
            if reason := _find_rejection(found, task, run):
                return found.move(SubmissionStatus.REJECTED, reason=reason, ended_at=_now())
            goes_on = found.find_schedule(run.run_id) is not None
            status = SubmissionStatus.QUEUED if goes_on else SubmissionStatus.ACCEPTED
            return found.move(status, accepted_at=_now(), reason=None)

        submission = change_submission_of_run(records, run, decide)
        if not submission.accepted_at:
            raise AirflowFailException(f"rejected: {submission.reason}")
    return submission.find_schedule(run.run_id) is not None


def _find_rejection(submission: Submission, validation: Task | None, run: Run) -> str | None:
    """Say why a submission is rejected; ``None`` if its own content was validated well."""
    if (
        validation is None
        or validation.run_id != run.run_id
        or validation.spec.content_sha256 != submission.content_sha256
    ):
        return "what it brought was not validated"
    if validation.newest.outcome is Outcome.SUCCEEDED:
        return None
    return validation.newest.reason or "the validation has no verdict"


class PlanOperator(BaseOperator):
    """
    Turns a submission's schedule into one training per prediction interval and fold.

    :return: (XCom) The intervals, to be expanded over, of folds with which one; what each of them
        runs is on record.
    """

    def execute(self, context: Context) -> list[int | str]:
        """
        Write the tasks' records, move the submission to ``queued``, return what was planned.

        :raises AirflowFailException: If the run may not train the submission.
        """
        from touchstone.hooks.agent import AgentHook, cancel_tasks

        records, settings, run = connect_records(), get_settings(), get_run(context)
        submission = get_submission_of_run(records, run)
        submission_id = submission.submission_id
        planned = submission.find_schedule(run.run_id)
        if planned is None or not submission.accepted_at:
            raise AirflowFailException(
                f"nothing was planned: submission {submission_id} "
                + ("was never accepted" if planned else f"has no schedule of run {run.run_id}")
            )
        specs = build_trainings(submission, planned)
        check_submission_move(submission_id, submission.status, SubmissionStatus.QUEUED)
        # Cleared while its trainings run: their records are taken over, so they must end first.
        cancel_tasks(records, AgentHook(settings=settings), submission_id)
        prepare_tasks(records, specs, run)
        change_submission_of_run(
            records,
            run,
            lambda found: found.move(
                SubmissionStatus.QUEUED, tasks=tuple(spec.task_id for spec in specs)
            ),
        )
        return [name_training(spec) for spec in specs]


def evaluate_submission(**context: Unpack[Context]) -> None:
    """
    Close a scheduled submission: aggregate its model group, or say why there is nothing to.

    :param context: Airflow's, for the run; another run's submission is none of its business.
    :raises AirflowFailException: If it did not succeed, with the reason.
    """
    records, run = connect_records(), get_run(context)
    submission = get_submission_of_run(records, run)
    submission_id = submission.submission_id
    if submission.accepted_at is None:
        # Validation ended without a verdict, or nothing was accepted: nothing to aggregate.
        task = records.find_task(submission_id, VALIDATION_TASK_ID)
        validation = task if task is not None and task.run_id == run.run_id else None
        closed = change_submission_of_run(
            records, run, lambda found: _close_unvalidated(found, validation)
        )
        raise AirflowFailException(f"{closed.status}: {closed.reason}")
    if submission.find_schedule(run.run_id) is None:
        raise AirflowFailException(
            f"nothing was changed: submission {submission_id} has no schedule of run {run.run_id}"
        )
    # One whose record makes no sense may be one of them, and go on.
    wanted = [
        entry.read()
        for entry in records.list_tasks(submission_id)
        if entry.task_id in submission.tasks
    ]
    tasks = [_end_abandoned(records, task) for task in wanted if task.run_id == run.run_id]
    end, part = _judge(submission_id, tasks, find_run_verdict(records, submission, run))
    note_end(records, submission, run, [task.newest.published for task in tasks], end)
    change_submission_of_run(
        records,
        run,
        lambda found: found.move(
            end.status,
            ended_at=_now(),
            reason=end.reason,
            results=end.results,
            results_part=part,
            chart_links=end.chart_links,
            score=end.score,
            similarity=end.similarity,
            beside=end.beside,
            verdict=end.verdict,
            verdict_reason=end.verdict_reason,
            # Of models that were trained anew nothing is known yet.
            forward=keep_current(found.forward, tasks),
        ),
    )
    if end.status is not SubmissionStatus.SUCCESS:
        raise AirflowFailException(f"{end.status}: {end.reason}")


def _judge(
    submission_id: str, tasks: Sequence[Task], verdict: VerdictRecord | None
) -> tuple[SubmissionEnd, StoredPart]:
    """Return the trainings' results; parts too large for the record are stored beside it."""
    from touchstone.stores.parts import Parts, read_published

    parts = Parts.connect(get_settings())
    full = [(task, read_published(task, parts)) for task in tasks]
    pooled = {interval: _pool(folds, parts) for interval, folds in group_folds(full).items()}
    end, document = split_results(add_verdict(judge_submission(full, pooled), verdict))
    return end, parts.put(f"results/{submission_id}/", document)


def _pool(folds: Sequence[tuple[Task, Published | None]], parts: Parts) -> Pooled:
    """Return what an interval's folds come to together, or why nobody can say."""
    from touchstone.confined.judge import find_judge
    from touchstone.confined.pooling import ask_for_pooled
    from touchstone.stores.parts import read_series

    reason = find_unpoolable(folds)
    if reason is not None or any(published and published.held_back for _, published in folds):
        return Pooled(reason=reason or "")
    try:
        series = [
            read_series(parts, published.judged)
            for _, published in folds
            if published and published.judged
        ]
    except PermanentError as error:
        return Pooled(reason=str(error))
    first = folds[0][0]
    question = build_question(series, build_rules(first.spec.data), first.interval or 0)
    return ask_for_pooled(find_judge(get_settings()), question)


def _end_abandoned(records: RecordStore, task: Task) -> Task:
    """
    Cancel an attempt that goes on although its Airflow task is over, and return its task.

    Only a hand does that: somebody marked the task, and the trigger that ends the attempt has
    not been told yet. Every other end is on record before Airflow knows of it.
    """
    if task.is_ended or task.status is TaskStatus.UPLOADING:
        return task
    from touchstone.hooks.agent import AgentHook, cancel_task

    return cancel_task(
        records,
        AgentHook(),
        submission_id=task.submission_id,
        task_id=task.task_id,
        by="airflow",
        reason="its Airflow task was marked or has ended",
        only_fence=task.fence,
    )


def _close_unvalidated(found: Submission, validation: Task | None) -> Submission | None:
    if found.status in {SubmissionStatus.REJECTED, SubmissionStatus.CANCELLED}:
        return None
    if validation is None:
        return found.move(SubmissionStatus.ERROR, reason="it was never validated", ended_at=_now())
    is_cancelled = validation.newest.outcome is Outcome.CANCELLED
    return found.move(
        SubmissionStatus.CANCELLED if is_cancelled else SubmissionStatus.ERROR,
        reason=validation.newest.reason or "the validation ended without a verdict",
        ended_at=_now(),
    )
