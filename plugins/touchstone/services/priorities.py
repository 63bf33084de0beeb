"""Changes the order of what waits, and says what it has become."""

from __future__ import annotations

from datetime import datetime

from touchstone.core.answers.acts import Reordered
from touchstone.core.priorities import Move, change_priority, find_target, list_chosen
from touchstone.core.queue import Queue
from touchstone.core.records.notes import Control
from touchstone.core.records.submissions import Submission
from touchstone.core.states import SUBMISSION_OPEN, IllegalMove
from touchstone.services.control import read_control
from touchstone.stores.records import RecordStore
from touchstone_agent.protocol.errors import ConfigurationError


def move_waiting(
    records: RecordStore,
    queue: Queue | None,
    submission_id: str,
    *,
    task_id: str | None,
    move: Move,
    by: str,
    now: datetime,
) -> Reordered:
    """
    Move what waits of a submission by a priority of its own.

    :param records: The records.
    :param queue: What a dispatcher published last; ``None`` if none ever did.
    :param task_id: The task; ``None`` for all that waits of the submission.
    :param move: Where to.
    :param by: Who asks.
    :param now: The time, UTC.
    :raises RecordNotFound: If there is no such submission.
    :raises IllegalMove: If nothing of it waits.
    :raises ConfigurationError: If there is no priority left on that side.
    """
    records.get_submission(submission_id)
    chosen = list_chosen(queue, submission_id, task_id) if queue else []
    if queue is None or not chosen:
        name = submission_id if task_id is None else f"{submission_id} {task_id}"
        raise IllegalMove(f"{name}: nothing of it waits for a slot, so it has no place to leave")
    target = find_target(queue, chosen, move)
    if all(task.priority == target for task in chosen):
        return Reordered(
            submission_id=submission_id, task_id=task_id, priority=target, is_changed=False
        )
    return set_priority(
        records, queue, submission_id, task_id=task_id, priority=target, by=by, now=now
    )


def set_priority(
    records: RecordStore,
    queue: Queue | None,
    submission_id: str,
    *,
    task_id: str | None,
    priority: int | None,
    by: str,
    now: datetime,
) -> Reordered:
    """
    Give a submission, or one task of it, a priority instead of its schedule's.

    What runs goes on. The act is noted with the submission before placement goes by it.

    :param records: The records.
    :param queue: What a dispatcher published last; ``None`` if none ever did.
    :param task_id: The task; ``None`` for all of the submission's.
    :param priority: The new one; ``None`` for the schedule's own again.
    :param by: Who asks.
    :param now: The time, UTC.
    :raises RecordNotFound: If there is no such submission, or no such task of it.
    :raises IllegalMove: If the submission has ended.
    :raises ConfigurationError: If too many of those that wait have a priority of their own.
    """
    submission = records.get_submission(submission_id)
    if submission.status not in SUBMISSION_OPEN:
        raise IllegalMove(f"{submission_id} is {submission.status}: nothing of it waits")
    if task_id is not None and records.find_task(submission_id, task_id) is None:
        raise ConfigurationError(f"task_id: {submission_id} has no task {task_id!r}")
    waiting = {task.submission_id for task in queue.waiting} if queue else set[str]()

    def decide(found: Control) -> Control | None:
        priorities = change_priority(
            found.priorities,
            (submission_id, task_id),
            priority,
            by=by,
            at=now,
            waiting=waiting,
        )
        return found.change(priorities=priorities)

    # What would be refused, or changes nothing, is not noted.
    before = read_control(records)
    after = decide(before)
    if after is not None and after.priorities == before.priorities:
        return Reordered(
            submission_id=submission_id, task_id=task_id, priority=priority, is_changed=False
        )
    what = "its tasks" if task_id is None else task_id
    action = (
        f"priority of {what}: the schedule's own again"
        if priority is None
        else f"priority of {what}: {priority}"
    )

    def note(found: Submission) -> Submission:
        return found.note_action(at=now, by=by, action=action)

    records.change_submission(submission_id, note)
    records.change_note(Control, decide)
    return Reordered(
        submission_id=submission_id, task_id=task_id, priority=priority, is_changed=True
    )
