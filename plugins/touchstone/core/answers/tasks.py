"""What the API answers about tasks, their logs and their files."""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime

from touchstone.core.answers.common import Answer


class LogPage(Answer):
    """
    A piece of a console.

    :param attempt: ``<try>-<fence>``; ``None`` if there has been no attempt yet.
    :param offset: Byte at which the text begins.
    :param next_offset: Where to go on.
    :param line_offset: Where the last line begins if it may go on; else ``next_offset``.
    :param text: The text; whole characters only.
    :param complete: Whether nothing follows, ever.
    :param state: What the attempt is doing, in a few words.
    """

    attempt: str | None
    offset: int
    next_offset: int
    line_offset: int | None = None
    text: str
    complete: bool
    state: str


class TaskFile(Answer):
    """
    A file that a training has left.

    :param path: Its path below the output folder.
    :param size: Its size in bytes.
    :param sha256: Its digest.
    :param url: Where it can be read without a login; a secret as long as it is good.
    :param expires_at: Until when the address is good.
    """

    path: str
    size: int
    sha256: str
    url: str
    expires_at: AwareDatetime


class TaskFiles(Answer):
    """
    The files of a training.

    :param submission_id: The submission.
    :param task_id: The task.
    :param files: By path.
    :param note: Why there are none, or not all of them; ``None`` if there is nothing to say.
    """

    submission_id: str
    task_id: str
    files: tuple[TaskFile, ...] = ()
    note: str | None = None


class ListedTask(Answer):
    """
    A task in a list.

    :param submission_id: The submission; of another DAG's program, its run.
    :param task_id: The task.
    :param submitted_by: Whose it is.
    :param interval: Prediction interval; ``None`` for a validation.
    :param status: Where it is.
    :param server: The server of its newest attempt; ``None`` for none, and for a pod.
    :param percent: How far it is.
    :param reason: Why it ended like that.
    :param created_at: When it was put on record.
    :param running_at: When its newest attempt began to run.
    :param ended_at: When that was over.
    """

    submission_id: str
    task_id: str
    submitted_by: str
    interval: int | None = None
    status: str
    server: str | None = None
    percent: float = 0.0
    reason: str | None = None
    created_at: datetime
    running_at: datetime | None = None
    ended_at: datetime | None = None


class TaskList(Answer):
    """
    Some tasks, newest first.

    :param tasks: The tasks; a page may have few, or none, and others follow.
    :param next: The cursor of the next page; ``None`` on the last one.
    """

    tasks: tuple[ListedTask, ...]
    next: str | None = None
