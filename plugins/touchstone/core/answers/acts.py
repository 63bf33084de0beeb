"""What the API answers to what changes something."""

from __future__ import annotations

from pydantic import AwareDatetime, JsonValue

from touchstone.core.answers.common import Answer


class Ended(Answer):
    """
    What was at work on a submission until it was cancelled.

    :param cancelled_tasks: Ids of its tasks that had not ended.
    :param ended_runs: Its DAG runs that had not ended.
    """

    cancelled_tasks: tuple[str, ...] = ()
    ended_runs: tuple[str, ...] = ()


class Sent(Answer):
    """
    A run that was asked for.

    :param submission_id: The submission that it is of.
    :param run_id: The run; of a new submission, the submission's id.
    :param is_new: Whether this request has started it; ``False`` if an earlier one had.
    """

    submission_id: str
    run_id: str
    is_new: bool


class ShownRun(Answer):
    """
    A run of the DAG.

    :param run_id: Its id.
    :param state: Airflow's word for how it is: ``queued``, ``running``, ``success`` or ``failed``.
    :param conf: Its conf, as it was given: anything at all.
    :param logical_date: The date it stands for, which it waits for; ``None`` for none.
    :param run_after: When it may begin.
    :param is_paused: Whether the DAG is paused, so that no run of it begins.
    :param failure: Why it failed, by the log of its first task that did; ``None`` if that says
        nothing, or it has not failed.
    """

    run_id: str
    state: str
    conf: JsonValue = None
    logical_date: AwareDatetime | None = None
    run_after: AwareDatetime | None = None
    is_paused: bool = False
    failure: str | None = None


class Closing(Answer):
    """
    A run that closes an event.

    :param event: The event.
    :param run_id: The run, of the DAG ``touchstone_close_event``.
    :param state: Airflow's word for how it is.
    """

    event: str
    run_id: str
    state: str


class Reordered(Answer):
    """
    What became of a change of the queue's order.

    :param submission_id: Of which submission.
    :param task_id: Of which task; ``None`` for all of the submission's.
    :param priority: The priority that it waits by now; ``None`` for its schedule's own.
    :param is_changed: Whether that is another one than before.
    """

    submission_id: str
    task_id: str | None = None
    priority: int | None = None
    is_changed: bool = True
