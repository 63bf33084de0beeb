"""Reading a task's console, to its end or for as long as it grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from touchstone.client.answers import Answer, ShownTask
from touchstone.client.api import Client
from touchstone.client.errors import NotFound, NotRegistered
from touchstone.client.watch import get_submission, is_at_work
from touchstone.core.answers.tasks import LogPage

POLL_SECONDS = 1.0

_LOOK_EVERY_POLLS = 10

_FAILED = frozenset({"error", "lost"})

Say = Callable[[str], object]


def choose_task(tasks: Sequence[ShownTask]) -> str | None:
    """Return the task whose console is wanted most: the first that failed, or the validation."""
    for task in tasks:
        if task.status in _FAILED:
            return task.task_id
    return tasks[0].task_id if tasks else None


def find_task(
    client: Client,
    submission_id: str,
    task_id: str | None,
    say: Say,
    sleep: Callable[[float], None] | None,
) -> str:
    """
    Return which task's console to read.

    :param task_id: The one that was asked for; ``None`` for the one wanted most.
    :param say: Takes lines that say what the command waits for.
    :param sleep: Waits for a task that is not there yet; ``None`` not to wait.
    :raises NotRegistered: If the submission is not registered yet.
    :raises Refused: If the submission has no such task.
    """
    said = ""
    while True:
        try:
            found = get_submission(client, submission_id).value
        except NotRegistered as error:
            if sleep is None:
                raise
            reason, may_come = str(error), True
        else:
            tasks, submission = found.tasks, found.submission
            chosen = task_id or choose_task(tasks)
            if any(task.task_id == chosen for task in tasks):
                return str(chosen)
            known = ", ".join(task.task_id for task in tasks) or "none"
            missing = f"no task {task_id}" if task_id else "no task yet"
            reason = f"{submission_id} is {submission.status} and has {missing}"
            reason += f"; its tasks are: {known}" if tasks else ""
            may_come = sleep is not None and is_at_work(client, submission)
        if sleep is None or not may_come:
            raise NotFound(reason, status=404)
        if reason != said:
            said = reason
            say(reason)
        sleep(POLL_SECONDS)


class Reader:
    """
    Reads one task's console.

    :param client: Who asks.
    :param submission_id: The submission.
    :param task_id: The task.
    :param attempt: ``<try>-<fence>``; ``None`` for the newest, and for those that follow it.
    :param sleep: Waits that many seconds.
    """

    def __init__(
        self,
        client: Client,
        submission_id: str,
        task_id: str,
        *,
        attempt: str | None,
        sleep: Callable[[float], None],
    ) -> None:
        self._client = client
        self._submission_id = submission_id
        self._task_id = task_id
        self._attempt = attempt
        self._sleep = sleep

    def read(self, write: Say, say: Say, *, follow: bool = False) -> Answer[LogPage]:
        """
        Hand on the console's text.

        :param write: Takes text of the console.
        :param say: Takes lines about it: that there is none yet, that another attempt began.
        :param follow: Whether to wait for more until the task has ended.
        :return: The last page that was read.
        """
        offset, attempt, said, idle = 0, self._attempt, "", 0
        while True:
            answer = self._client.get_log(
                self._submission_id, self._task_id, offset=offset, attempt=self._attempt
            )
            page = answer.value
            if page.attempt != attempt and offset:
                # This page was asked for at the end of the attempt before.
                say(f"--- attempt {page.attempt or 'to come'} ---")
                offset, attempt = 0, page.attempt
                continue
            attempt = page.attempt
            write(page.text)
            has_moved = page.next_offset > offset
            offset = page.next_offset
            if has_moved and not page.complete:
                idle = 0
                continue
            if page.complete and not (follow and self._will_go_on()):
                if not offset:
                    say(page.state)
                return answer
            if not offset and page.state.partition("(")[0] != said:
                said = page.state.partition("(")[0]
                say(page.state)
            idle += 1
            if not follow or (idle % _LOOK_EVERY_POLLS == 0 and not self._is_open()):
                return answer
            self._sleep(POLL_SECONDS)

    def _will_go_on(self) -> bool:
        """Tell whether a task that failed for no fault of its own is to be tried again."""
        if self._attempt is not None:
            return False
        found = self._client.get_submission(self._submission_id).value
        task = next(item for item in found.tasks if item.task_id == self._task_id)
        is_lost = bool(task.is_retriable) and task.status in _FAILED
        return is_lost and is_at_work(self._client, found.submission)

    def _is_open(self) -> bool:
        """Tell whether a run is at work on the submission; without one a task stays queued."""
        found = self._client.get_submission(self._submission_id).value
        return is_at_work(self._client, found.submission)
