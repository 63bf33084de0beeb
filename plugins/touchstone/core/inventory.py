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
from typing import Any

from pydantic import ValidationError

from touchstone.core.attempts import get_ref, is_ended
from touchstone.core.conf import Platform
from touchstone.core.names import VALIDATION_TASK_ID
from touchstone.core.times import read_time
from touchstone_agent.core.attempts import SLOT_PHASES
from touchstone_agent.protocol.messages import FINAL_PHASES, AttemptPhase, AttemptRef, SlotClass

Record = dict[str, Any]
TaskKey = tuple[str, str]
Known = tuple[str, str, int]
"""An attempt by its submission, task and fence."""


@dataclass(frozen=True, kw_only=True)
class Held:
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


def read_inventory(server: Mapping[str, Any]) -> Iterator[Held]:
    """Yield what a server's last heartbeat said that it runs; what makes no sense is left out."""
    for item in server.get("running") or ():
        try:
            ref, phase = item
            yield Held(ref=AttemptRef.model_validate(ref), phase=AttemptPhase(phase))
        except (TypeError, ValueError, ValidationError):
            continue


class Stray(StrEnum):
    """Why an attempt that a server runs has to end; the words are told to its agent."""

    OUTRANKED = "a newer attempt has taken its place"
    ENDED = "it has ended on record"
    UNKNOWN = "no record knows of it"


def find_stray(held: Held, record: Record | None, server: str) -> Stray | None:
    """
    Say why an attempt should not be running where it runs; ``None`` if it should, or has exited.

    :param held: What the server says.
    :param record: The task's record; ``None`` if there is none.
    :param server: The server.
    """
    if not held.holds_slot:
        return None  # its files may still come, and it holds nothing
    if record is None or held.ref.fence > record["fence"]:
        return Stray.UNKNOWN
    if held.ref.fence < record["fence"]:
        return Stray.OUTRANKED
    if record.get("server") != server or not record.get("attempt"):
        return Stray.UNKNOWN
    return Stray.ENDED if is_ended(record) else None


def is_expected(record: Record, server: str) -> bool:
    """Tell whether a server has told of an attempt, and should still have it."""
    phase = record.get("phase")
    return bool(
        record.get("server") == server
        and record.get("platform") != Platform.RUNPOD
        and record.get("attempt")
        and not is_ended(record)
        and phase is not None
        and phase not in FINAL_PHASES
    )


def is_missing(record: Record, server: str, running: Collection[Known], heard: datetime) -> bool:
    """
    Tell whether an attempt should be on a server and its inventory does not have it.

    :param record: The task's record.
    :param server: The server.
    :param running: What its inventory has, in any phase.
    :param heard: When that inventory was told; news of the attempt after that outweighs it.
    """
    if not is_expected(record, server) or identify(get_ref(record)) in running:
        return False
    told = record.get("last_event_at")
    return not told or read_time(told) < heard


def identify(ref: AttemptRef) -> Known:
    """Return by what an attempt is told from all others."""
    return ref.submission_id, ref.task_id, ref.fence


def count_lingering(
    running: Iterable[Held], *, waited_for: Mapping[TaskKey, int], ended: Collection[Known]
) -> Counter[SlotClass]:
    """
    Count the slots of a server that are held by attempts which nobody waits for any more.

    :param running: What the server says that it runs.
    :param waited_for: The least fence that the attempt of a task in one of the server's slots can
        have, by task: such attempts are counted where the slots are.
    :param ended: Attempts whose end was heard after the inventory, or may have been.
    """
    return Counter(
        held.kind
        for held in running
        if held.holds_slot
        and held.ref.fence < waited_for.get(held.key, held.ref.fence + 1)
        and identify(held.ref) not in ended
    )
