"""Forward scores: which are wanted, what a run of one works on, and what is written of it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from pydantic import JsonValue

from touchstone.core import forward
from touchstone.core.authority import UNKNOWN_USER, Run
from touchstone.core.conf import DATA_VERSION, Replay
from touchstone.core.records.data_sets import DataRecord
from touchstone.core.records.forward import ForwardScore
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.submissions import Submission
from touchstone.core.records.tasks import Task
from touchstone.core.states import SubmissionStatus
from touchstone.services.checks import may_schedule
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError

if TYPE_CHECKING:
    # Each of Airflow's tasks loads this: nothing here opens a store.
    from touchstone.core.tasks import Replayed
    from touchstone.stores.data_sets import DataStore
    from touchstone.stores.records import RecordStore

log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 20
"""Scorings that one look wants at most: the next look goes on."""
_PAGE: Final = 200


@dataclass(frozen=True, kw_only=True)
class WantedRun:
    """
    A run that computes a forward score.

    :param run_id: Its id, which only the record knows.
    :param conf: Its conf, flat.
    """

    run_id: str
    conf: dict[str, JsonValue]


def want_scores(
    records: RecordStore, data: DataStore, now: datetime, *, most: int = MOST_AT_ONCE
) -> list[WantedRun]:
    """
    Write down which forward scores are wanted, and return the runs that are to compute them.

    Doing it again returns the runs of before that nothing has come of yet: a caller that died
    before they were started starts them then, and one that has started them starts none twice.

    :param most: Runs that are returned at most.
    """
    versions = data.list_data_sets().records
    if len({each.name for each in versions}) == len(versions):
        return []
    runs: list[WantedRun] = []
    for submission_id in _list_trained(records):
        try:
            runs += _want_of(records, submission_id, versions, now, most=most - len(runs))
        except PermanentError as error:
            # One bad record keeps nobody else waiting.
            log.error("%s: no forward score: %s", submission_id, error)
        if len(runs) >= most:
            log.info("%s forward scores at once are enough; the others wait", most)
            break
    return runs


def _list_trained(records: RecordStore) -> Iterator[str]:
    from touchstone.core.records.submissions import SubmissionSummary

    before = None
    while True:
        page = records.list_submissions(
            limit=_PAGE, status=SubmissionStatus.SUCCESS, before=before, model=SubmissionSummary
        )
        yield from (each.submission_id for each in page.records if each.replay_of is None)
        if page.next is None:
            return
        before = page.next


def _want_of(
    records: RecordStore,
    submission_id: str,
    versions: Sequence[DataRecord],
    now: datetime,
    *,
    most: int,
) -> list[WantedRun]:
    submission = records.get_submission(submission_id)
    if forward.find_objection(submission) is not None or submission.data is None:
        return []
    newer = forward.find_newer(submission.data, versions)
    if newer is None and not any(each.is_open for each in submission.forward):
        return []
    tasks = [each.task for each in records.list_tasks(submission_id) if each.task is not None]
    # Once, so that a decision that is taken again names the same runs.
    names = [f"forward-{secrets.token_hex(16)}" for _ in range(most)]

    def decide(found: Submission) -> Submission | None:
        known = forward.settle_old(found.forward, now)
        due = [] if newer is None else list(forward.find_due(found, tasks, newer))
        wanted = [
            each.change(run_id=name, wanted_at=now) for each, name in zip(due, names, strict=False)
        ]
        scores = forward.add_scores(known, wanted)
        return None if scores == found.forward else found.change(forward=scores)

    changed = records.change_submission(submission_id, decide)
    return [_build_run(submission_id, each) for each in changed.forward if each.is_open][:most]


def _build_run(submission_id: str, score: ForwardScore) -> WantedRun:
    return WantedRun(
        run_id=str(score.run_id),
        conf={
            "replay": f"{submission_id}/{score.task_id}",
            DATA_VERSION: score.data.rpartition(" ")[2],
        },
    )


def find_wanted_by(records: RecordStore, replay: Replay, run: Run) -> ForwardScore | None:
    """
    Return the forward score that the record wants of a run.

    :param replay: What the run asks for.
    :param run: The run: without a user, or of a user who may schedule the submission.
    :return: ``None`` if it wants none of that run.
    """
    if replay.data_version is None:
        return None
    try:
        found = records.find_submission(replay.submission_id)
    except RecordUnreadable:
        return None
    if found is None or not (run.user == UNKNOWN_USER or may_schedule(found, run.user)):
        return None
    return forward.find_wanted(
        found, task_id=replay.task_id, version=replay.data_version, run_id=run.run_id
    )


def find_newer_data(
    data: DataStore, submission: Submission, task: Task, version: str
) -> DataRecord:
    """
    Return the version of a data set on which the models of a training are to be scored.

    :raises ConfigurationError: If they cannot be, or that is no newer version of their data.
    """
    objection = forward.find_objection(submission) or forward.find_task_objection(task)
    if objection is not None or task.spec.data is None:
        raise ConfigurationError(f"{DATA_VERSION}: {task.name}: {objection}")
    from touchstone.stores.tables import RecordNotFound

    label = task.spec.data.label
    try:
        newer = data.get_data_set(task.spec.data.name, version)
        before = data.get_data_set(task.spec.data.name, task.spec.data.version)
    except RecordNotFound as error:
        raise ConfigurationError(f"{DATA_VERSION}: {error}") from error
    if not newer.is_complete or newer.is_private or newer.added_at <= before.added_at:
        raise ConfigurationError(
            f"{DATA_VERSION}: {version!r} was not added after {label}, on which {task.name} was "
            "trained; name a version that was"
        )
    return newer


def write_score(records: RecordStore, replayed: Replayed, score: ForwardScore) -> None:
    """
    Write down what has come of a forward score, with the submission whose models were scored.

    What is of other models than those that are there now is dropped.

    :param replayed: Whose models they are.
    """
    task = records.find_task(replayed.submission_id, replayed.task_id)
    if task is None or task.fence != replayed.fence:
        log.warning("%s was trained again meanwhile: its forward score is dropped", replayed.key)
        return

    def decide(found: Submission) -> Submission | None:
        known = next((each for each in found.forward if each.task_id == score.task_id), None)
        if found.status is not SubmissionStatus.SUCCESS or _is_better(known, score):
            return None
        return found.change(forward=forward.add_scores(found.forward, [score]))

    records.change_submission(replayed.submission_id, decide)


def _is_better(known: ForwardScore | None, score: ForwardScore) -> bool:
    """Tell whether what is on record of the same models stays in place of another score."""
    if known is None or known.fence != score.fence:
        return False
    if known.data != score.data and known.is_open:
        # It is being scored on newer data, or somebody asked for older ones by hand.
        return True
    if known.last is None:
        return False
    return score.last is None or score.last < known.last
