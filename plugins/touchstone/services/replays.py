"""What may be replayed, and by whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from touchstone.core.replay import find_objection
from touchstone.core.states import SubmissionStatus
from touchstone.services.checks import may_schedule
from touchstone_agent.protocol.errors import ConfigurationError

if TYPE_CHECKING:
    # Each of Airflow's tasks loads this: nothing here opens a store.
    from touchstone.core.conf import Replay
    from touchstone.core.records.submissions import Submission
    from touchstone.core.records.tasks import Task
    from touchstone.stores.records import RecordStore


def find_original(
    records: RecordStore, wanted: Replay, *, user: str, is_wanted: bool = False
) -> tuple[Submission, Task]:
    """
    Return the submission and the training that are to be replayed.

    :param user: Who asks.
    :param is_wanted: Whether the submission's record wants it; nobody needs to ask then.
    :raises ConfigurationError: If there is no such training that they may replay.
    """
    original = records.find_submission(wanted.submission_id)
    task = records.find_task(wanted.submission_id, wanted.task_id)
    # No user may run another user's content, or learn that it exists.
    if original is None or task is None or not (is_wanted or may_schedule(original, user)):
        raise ConfigurationError(f"replay: there is no training {wanted.task!r}")
    check_not_retracted(original)
    objection = find_objection(task)
    if objection is not None:
        raise ConfigurationError(f"replay: {wanted.task}: {objection}")
    return original, task


def check_not_retracted(original: Submission | None) -> None:
    """
    Refuse the replay of what was withdrawn.

    :raises ConfigurationError: If it was.
    """
    if original is not None and original.status is SubmissionStatus.RETRACTED:
        raise ConfigurationError(f"replay: {original.submission_id} was retracted")
