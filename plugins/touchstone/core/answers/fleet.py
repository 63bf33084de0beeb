"""What the API answers about servers, RunPod and the dispatcher."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from touchstone.core.answers.common import Answer
from touchstone.core.queue import Trouble


class Placements(Answer):
    """
    Whether tasks may start.

    :param paused: Whether nothing new starts anywhere.
    :param by: Who said so.
    :param at: When, ISO 8601.
    :param reason: Why, in one line.
    """

    paused: bool
    by: str | None = None
    at: str | None = None
    reason: str | None = None


class DispatcherState(Answer):
    """
    Whether a dispatcher is at work.

    :param is_alive: Whether one is.
    :param is_paused: Whether placements are paused.
    :param seen_at: When one published the queue last, ISO 8601.
    :param warning: What to tell people if nothing is placed, one line; ``None`` if all is well.
    """

    is_alive: bool = False
    is_paused: bool = False
    seen_at: str | None = None
    warning: str | None = None


class Summary(Answer):
    """
    What waits and runs, in a few figures.

    :param waiting: Tasks that wait for a slot, of all users.
    :param own_waiting: Those of them that are the caller's.
    :param running: Slots for trainings that are in use on servers.
    :param slots: Slots for trainings that servers have.
    :param servers: Servers that there are.
    :param servers_alive: Those that are heard of.
    :param balance_usd: Money at RunPod, to the cent; ``None`` if unknown, or for admins only.
    :param dispatcher: Whether one is at work.
    """

    waiting: int
    own_waiting: int
    running: int
    slots: int
    servers: int
    servers_alive: int
    balance_usd: str | None
    dispatcher: DispatcherState


class DispatcherWork(DispatcherState):
    """
    What admins want to know of the dispatcher.

    :param troubles: What it leaves undone.
    :param lingering: By server the slots that are held by attempts which nobody waits for any more.
    """

    troubles: tuple[Trouble, ...] = ()
    lingering: Mapping[str, int] = {}


class FleetReport(Answer):
    """
    What came, or would come, of applying a fleet file.

    :param is_applied: Whether it was done, and not only looked at.
    :param created: Pools that were missing.
    :param declared: Servers whose records did not say yet what the file says.
    :param differences: Differences from the file, which stay.
    :param warnings: What lies idle by the installation's settings.
    :param refused: What of the file cannot be, each with its field; those servers are left alone.
    :param not_enrolled: Servers of the file that have no record: they get no pools yet.
    :param not_in_file: Enrolled servers that the file does not name.
    :param elsewhere: Servers of the file that belong to another environment.
    """

    is_applied: bool
    created: tuple[str, ...] = ()
    declared: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    not_enrolled: tuple[str, ...] = ()
    not_in_file: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()


class ServerTask(Answer):
    """
    A task at work on a server.

    :param submission_id: The submission; of another DAG's program, its run.
    :param task_id: The task.
    :param submitted_by: Whose it is.
    :param status: Where it is.
    :param percent: How far it is.
    :param running_at: Since when it runs; ``None`` if it does not yet.
    :param ends_at: When it ends by its own word; ``None`` if it does not say.
    """

    submission_id: str
    task_id: str
    submitted_by: str
    status: str
    percent: float = 0.0
    running_at: datetime | None = None
    ends_at: datetime | None = None


class ServerWork(Answer):
    """
    What a server does, and what draining or attaching it would change.

    :param server: The server.
    :param slots: Trainings at a time; ``None`` if it has no pool.
    :param validation_slots: Validations at a time; ``None`` if it has no pool.
    :param in_use: How many trainings hold a slot.
    :param validation_in_use: How many validations do.
    :param is_drained: Whether it is drained.
    :param drained_by: Who has drained it.
    :param kept_slots: Slots that an attach brings back; ``None`` if it is not drained.
    :param kept_validation_slots: The same for validations.
    :param tasks: What is at work there: a drain lets it go on to its end.
    :param left_out: How many more there are that are not shown.
    :param ends_p50: When its last training ends, as likely earlier as later; ``None`` if nobody can
        say.
    :param ends_p90: By when the last one ends in nine cases of ten.
    """

    server: str
    slots: int | None = None
    validation_slots: int | None = None
    in_use: int = 0
    validation_in_use: int = 0
    is_drained: bool = False
    drained_by: str | None = None
    kept_slots: int | None = None
    kept_validation_slots: int | None = None
    tasks: tuple[ServerTask, ...] = ()
    left_out: int = 0
    ends_p50: datetime | None = None
    ends_p90: datetime | None = None
