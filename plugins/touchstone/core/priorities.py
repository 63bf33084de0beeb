"""The order of what waits as admins change it: another priority than a schedule's. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Final

from touchstone.core.queue import Queue, WaitingTask
from touchstone.core.records.notes import ChangedPriority
from touchstone.core.schedule import HIGHEST_PRIORITY, LOWEST_PRIORITY
from touchstone_agent.protocol.errors import ConfigurationError

MAX_CHANGED: Final = 200
"""Changed priorities that are kept at a time: the dispatcher reads all of them in each round."""

PriorityKey = tuple[str, str | None]
"""Submission id, and task id or ``None`` for all tasks of the submission."""


class Move(StrEnum):
    """Where something that waits is put."""

    FIRST = "first"
    UP = "up"
    DOWN = "down"
    LAST = "last"


def index_changed(changed: Sequence[ChangedPriority]) -> Mapping[PriorityKey, int]:
    """Return changed priorities by what they are of."""
    return {(each.submission_id, each.task_id): each.priority for each in changed}


def find_priority(
    submission_id: str, task_id: str, own: int, changed: Mapping[PriorityKey, int]
) -> int:
    """
    Return a task's priority: its own change, its submission's, or its schedule's.

    :param own: Its schedule's.
    :param changed: What :func:`index_changed` returned.
    """
    for_all = changed.get((submission_id, None), own)
    return changed.get((submission_id, task_id), for_all)


def list_chosen(queue: Queue, submission_id: str, task_id: str | None) -> list[WaitingTask]:
    """Return what waits of a submission, the next first: one task, or all of them."""
    found = [
        task
        for task in queue.waiting
        if task.submission_id == submission_id and task_id in (None, task.task_id)
    ]
    return sorted(found, key=lambda task: task.position)


def find_target(queue: Queue, chosen: Sequence[WaitingTask], move: Move) -> int:
    """
    Return the priority that moves tasks.

    Inside a priority the shares of the submitters decide, so a task passes another one for good
    only by a priority of its own. It passes all others of that priority as well.

    :param queue: Everything that waits.
    :param chosen: What is moved, the next first; never empty.
    :param move: Where to.
    :raises ConfigurationError: If no priority is left on that side.
    """
    kinds = {task.is_validation for task in chosen}
    moved = {(task.submission_id, task.task_id) for task in chosen}
    others = [
        task
        for task in queue.waiting
        if task.is_validation in kinds and (task.submission_id, task.task_id) not in moved
    ]
    first, last = chosen[0], chosen[-1]
    if move is Move.FIRST:
        target = max([first.priority, *(task.priority + 1 for task in others)])
    elif move is Move.LAST:
        target = min([last.priority, *(task.priority - 1 for task in others)])
    elif move is Move.UP:
        ahead = [t for t in _list_beside(others, first) if t.position < first.position]
        nearest = max(ahead, key=lambda task: task.position, default=None)
        target = max(first.priority, nearest.priority + 1) if nearest else first.priority
    else:
        behind = [t for t in _list_beside(others, last) if t.position > last.position]
        nearest = min(behind, key=lambda task: task.position, default=None)
        target = min(last.priority, nearest.priority - 1) if nearest else last.priority
    if target > HIGHEST_PRIORITY:
        raise ConfigurationError(
            f"move: another task has the highest priority, {HIGHEST_PRIORITY}; lower that one first"
        )
    if target < LOWEST_PRIORITY:
        raise ConfigurationError(
            f"move: another task has the lowest priority, {LOWEST_PRIORITY}; raise that one first"
        )
    return target


def _list_beside(others: Collection[WaitingTask], task: WaitingTask) -> list[WaitingTask]:
    """Return those that a task's position is counted with: those of its kind."""
    return [each for each in others if each.is_validation == task.is_validation]


def change_priority(
    changed: Sequence[ChangedPriority],
    key: PriorityKey,
    priority: int | None,
    *,
    by: str,
    at: datetime,
    waiting: Collection[str],
) -> tuple[ChangedPriority, ...]:
    """
    Return the changed priorities with one more, or one less; the newest are kept.

    A change for a whole submission takes the place of its tasks' own ones.

    :param key: What it is of.
    :param priority: The new one; ``None`` for the schedule's own again.
    :param by: Who changes it.
    :param at: When.
    :param waiting: Ids of the submissions that wait; the changes of others may be forgotten.
    :raises ConfigurationError: If as many submissions as are kept still wait.
    """
    submission_id, task_id = key
    kept = [
        each
        for each in changed
        if each.submission_id != submission_id or task_id not in (None, each.task_id)
    ]
    if priority is not None:
        kept.append(
            ChangedPriority(
                submission_id=submission_id, task_id=task_id, priority=priority, by=by, at=at
            )
        )
    spare = [each for each in kept[:-1] if each.submission_id not in waiting]
    for each in spare[: max(0, len(kept) - MAX_CHANGED)]:
        kept.remove(each)
    if len(kept) > MAX_CHANGED:
        raise ConfigurationError(
            f"priority: {MAX_CHANGED} of those that wait have a changed priority already; "
            "give one of them its own again"
        )
    return tuple(kept)
