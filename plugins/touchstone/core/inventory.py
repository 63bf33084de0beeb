"""
What servers say that they run, compared with what the records say. Pure.

Ending a real training by mistake costs hours, running a stray one costs minutes, and both lists are
a moment old: what is judged here is looked at again with a later heartbeat before anything is done
that cannot be undone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from touchstone.core.names import VALIDATION_TASK_ID
from touchstone.core.programs import is_program_id
from touchstone.core.records.servers import Server
from touchstone.core.records.tasks import Task, TaskKey
from touchstone.core.schedule import Platform
from touchstone_agent.core.attempts import SLOT_PHASES
from touchstone_agent.protocol.messages import FINAL_PHASES, AttemptPhase, AttemptRef, SlotClass

Known = tuple[str, str, int]
"""An attempt by its submission, task and fence."""


@dataclass(frozen=True, kw_only=True)
class ReportedAttempt:
    """
    An attempt in a server's inventory.

    :param ref: Which.
    :param phase: Where it is, by the agent's word.
    """

    ref: AttemptRef
    phase: AttemptPhase

    @property
    def key(self) -> TaskKey:
        """Return the key of its task's record."""
        return self.ref.submission_id, self.ref.task_id

    @property
    def holds_slot(self) -> bool:
        """Tell whether a container of it may use the server."""
        return self.phase in SLOT_PHASES

    @property
    def kind(self) -> SlotClass:
        """Return which of the server's slots it takes."""
        is_validation = self.ref.task_id == VALIDATION_TASK_ID
        return SlotClass.VALIDATION if is_validation else SlotClass.TRAINING


def read_inventory(server: Server) -> Iterator[ReportedAttempt]:
    """Yield what a server's last heartbeat said that it runs; what makes no sense is left out."""
    for item in server.running or ():
        if isinstance(item, tuple):
            ref, phase = item
            yield ReportedAttempt(ref=ref, phase=phase)


class Stray(StrEnum):
    """Why an attempt that a server runs has to end; the words are told to its agent."""

    OUTRANKED = "a newer attempt has taken its place"
    ENDED = "it has ended on record"
    UNKNOWN = "no record knows of it"


def find_stray(held: ReportedAttempt, task: Task | None, server: str) -> Stray | None:
    """
    Say why an attempt should not be running where it runs; ``None`` if it should, or has exited.

    :param held: What the server says.
    :param task: The task; ``None`` if there is no record of it.
    :param server: The server.
    """
    if not held.holds_slot:
        return None  # its files may still come, and it holds nothing
    if task is None or held.ref.fence > task.fence:
        return Stray.UNKNOWN
    if held.ref.fence < task.fence:
        return Stray.OUTRANKED
    if task.newest.server != server or not task.has_attempt:
        return Stray.UNKNOWN
    return Stray.ENDED if task.is_ended else None


def is_expected(task: Task, server: str) -> bool:
    """Tell whether a server has told of an attempt, and should still have it."""
    newest = task.newest
    return (
        newest.server == server
        and newest.platform is not Platform.RUNPOD
        and task.has_attempt
        and not task.is_ended
        and newest.phase is not None
        and newest.phase not in FINAL_PHASES
    )


def is_missing(task: Task, server: str, running: Collection[Known], heard: datetime) -> bool:
    """
    Tell whether an attempt should be on a server and its inventory does not have it.

    :param task: The task.
    :param server: The server.
    :param running: What its inventory has, in any phase.
    :param heard: When that inventory was told; news of the attempt after that outweighs it.
    """
    if not is_expected(task, server) or identify(task.ref) in running:
        return False
    told = task.newest.last_event_at
    return told is None or told < heard


def identify(ref: AttemptRef) -> Known:
    """Return what identifies an attempt among all others."""
    return ref.submission_id, ref.task_id, ref.fence


def count_lingering(
    running: Iterable[ReportedAttempt],
    *,
    waited_for: Mapping[TaskKey, int],
    ended: Collection[Known],
    others: int = 0,
) -> Counter[SlotClass]:
    """
    Count the slots of a server that are held by attempts which nobody waits for any more.

    :param running: What the server says that it runs.
    :param waited_for: The least fence that the attempt of a task in one of the server's slots can
        have, by task: such attempts are counted where the slots are.
    :param ended: Attempts whose end was heard after the inventory, or may have been.
    :param others: Slots for trainings that tasks of other DAGs hold: so many programs of theirs
        are counted where the slots are, whichever they are.
    """
    lingering: Counter[SlotClass] = Counter()
    for held in running:
        if (
            not held.holds_slot
            or held.ref.fence >= waited_for.get(held.key, held.ref.fence + 1)
            or identify(held.ref) in ended
        ):
            continue
        if others > 0 and is_program_id(held.ref.submission_id):
            others -= 1
        else:
            lingering[held.kind] += 1
    return lingering
