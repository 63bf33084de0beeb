"""The steps about events: a schedule enters one, its verdict is reached, an event is closed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Unpack

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from touchstone.core.attempts import MAX_REASON
from touchstone.core.event_rules import build_try
from touchstone.core.events import check_event_name
from touchstone.core.records.events import build_entry_key
from touchstone.core.records.submissions import AFTER_CLOSING, NOT_JUDGED
from touchstone.core.records.tasks import cut
from touchstone.core.verdicts import find_beside
from touchstone.operators.authority import get_run, get_submission_of_run
from touchstone.operators.boards import publish_closing, publish_verdict
from touchstone.operators.preparing import connect_records
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import PermanentError, TouchstoneError, TransientError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from touchstone.core.authority import Run
    from touchstone.core.conf import RunConf
    from touchstone.core.data_sets import PinnedData
    from touchstone.core.records.events import VerdictRecord
    from touchstone.core.records.submissions import Submission
    from touchstone.core.results import SubmissionEnd
    from touchstone.stores.records import RecordStore

EVENT = "event"
"""The parameter of a run that closes an event: which."""

NO_VERDICT = "the judging has not come to an end; an admin may clear the task 'judge'"


def _now() -> datetime:
    return datetime.now(UTC)


def find_event_data(records: RecordStore, conf: RunConf) -> PinnedData | None:
    """Return what a run is trained on by its event; ``None`` for the built-in data set."""
    if conf.schedule is None:
        return None
    from touchstone.services.events import EventKeeper

    return EventKeeper.build(records, get_settings(), _now).find_data(conf.schedule.event)


def enter_event(
    records: RecordStore, conf: RunConf, submission_id: str, run: Run
) -> PinnedData | None:
    """
    Let a run's schedule enter its event, before anything is fetched; no schedule, no event.

    :return: What the event is trained on; ``None`` for the built-in data set.
    :raises EventRefused: If the event does not take it.
    """
    if conf.schedule is None:
        return None
    from touchstone.services.events import EventKeeper

    found = records.find_submission(submission_id) if conf.submission_id else None
    waived = conf.source.waived_columns if conf.source is not None else ()
    keeper = EventKeeper.build(records, get_settings(), _now)
    # First: one that is gone costs nobody a place in the quota.
    data = keeper.find_data(conf.schedule.event)
    keeper.enter(
        conf.schedule,
        submission_id=submission_id,
        run_id=run.run_id,
        # An admin who schedules for somebody takes that one's place, not one of his own.
        user=found.submitted_by if found is not None else run.user,
        waived=found.waived_columns if found is not None else waived,
    )
    return data


def judge_arrival(**context: Unpack[Context]) -> str | None:
    """
    Judge a submission whose trainings are collected, against its event's baseline.

    :param context: Airflow's, for the run; another run's submission is none of its business.
    :return: The verdict's sentence; ``None`` for a run that has trained nothing to compare.
    :raises AirflowFailException: If a record that is needed makes no sense.
    """
    from touchstone.services.events import EventKeeper
    from touchstone.services.judging import Judge

    records, run, settings = connect_records(), get_run(context), get_settings()
    submission = get_submission_of_run(records, run)
    schedule = submission.find_schedule(run.run_id)
    if schedule is None or submission.accepted_at is None or submission.replay_of:
        return None
    try:
        # One that was registered before there were events has not entered yet.
        entry = EventKeeper.build(records, settings, _now).put_entry(
            schedule,
            submission_id=submission.submission_id,
            run_id=run.run_id,
            user=submission.submitted_by,
            waived=submission.waived_columns,
        )
        tasks = [
            found.read()
            for found in records.list_tasks(submission.submission_id)
            if found.task_id in submission.tasks
        ]
        judged = Judge.connect(settings, records, _now).judge_arrival(
            entry, submission, [task for task in tasks if task.run_id == run.run_id]
        )
    except PermanentError as error:
        raise AirflowFailException(f"not judged: {error}") from error
    publish_verdict(records, judged)
    return judged.verdict.sentence if judged.verdict else None


def find_run_verdict(
    records: RecordStore, submission: Submission, run: Run
) -> VerdictRecord | None:
    """Return what was said of a run's schedule; ``None`` if nothing was."""
    schedule = submission.find_schedule(run.run_id)
    if schedule is None or submission.replay_of:
        return None
    from touchstone.services.judging import find_verdict
    from touchstone.stores.events import EventStore

    key = build_entry_key(submission.submission_id, build_try(run.run_id, schedule))
    events = EventStore(records, get_settings().events_table)
    return find_verdict(events, schedule.event, key)


def add_verdict(end: SubmissionEnd, verdict: VerdictRecord | None) -> SubmissionEnd:
    """
    Return a submission's end with its verdict.

    Of rows that are told after closing only, nothing of the trainings' figures is left.
    """
    if verdict is None:
        is_open = end.verdict == NOT_JUDGED and end.reason is None
        return replace(end, verdict_reason=NO_VERDICT) if is_open else end
    beside = find_beside(verdict)
    end = replace(
        end,
        verdict=verdict.outcome,
        verdict_reason=cut(verdict.sentence, MAX_REASON),
        similarity=beside.similarity.value,
        beside=beside,
    )
    if verdict.reason != AFTER_CLOSING:
        return end
    hidden = tuple(line.change(metrics={}, reported={}, metric_notes={}) for line in end.results)
    return replace(end, score=None, results=hidden, chart_links=())


class CloseEventOperator(BaseOperator):
    """
    Closes the event that a run names, and judges all that has entered it; doing it again is fine.

    :return: (XCom) Which entries were judged, which are better now, which are still at work.
    """

    def execute(self, context: Context) -> dict[str, object]:
        """
        Close it.

        :raises AirflowFailException: If it is not an admin's run, or no repetition would help.
        """
        from touchstone.services.judging import Judge

        user, settings = get_run(context).user, get_settings()
        if user not in settings.admins:
            raise AirflowFailException(
                f"nothing was done: {user} may close no event; an admin may (TOUCHSTONE_ADMINS)"
            )
        try:
            name, records = (
                check_event_name(str(context["params"].get(EVENT) or "")),
                connect_records(),
            )
            closed = Judge.connect(settings, records, _now).close(name, by=user)
        except TransientError as error:
            raise AirflowException(str(error)) from error
        except TouchstoneError as error:
            raise AirflowFailException(str(error)) from error
        if closed.judged:
            publish_closing(records, name, closed.baseline)
        if closed.waiting:
            self.log.warning("still at work, close again when they have ended: %s", closed.waiting)
        return {
            "event": name,
            "judged": list(closed.judged),
            "upgraded": list(closed.upgraded),
            "waiting": list(closed.waiting),
        }

    def on_kill(self) -> None:
        """End the judge's program."""
        from touchstone.confined.running import end_all

        end_all()
