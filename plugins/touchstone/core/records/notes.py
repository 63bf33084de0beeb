"""
What the control plane notes for itself beside the servers' records: a model for each note.

All their fields have defaults: a note that nobody has written yet reads as those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import ConfigDict, Field

from touchstone.core.records.actions import Action
from touchstone.core.records.kept import KeptRecord, Part
from touchstone.core.records.servers import Number
from touchstone.core.records.stored import Time, Usd


class Note(KeptRecord):
    """
    A note.

    :cvar NAME: What it is called; its key in the servers' table is this behind a ``#``, which
        begins no server's name.
    """

    NAME: ClassVar[str]


class ChangedPriority(Part):
    """
    Another priority than the schedule's, by an admin's word.

    :param submission_id: Of which submission.
    :param task_id: Of which task; ``None`` for all of the submission's.
    :param priority: The priority that placement goes by.
    :param by: Who changed it.
    :param at: When.
    """

    submission_id: str
    task_id: str | None = None
    priority: int
    by: str
    at: Time


class Control(Note):
    """
    What holds for the whole installation.

    :param is_paused: Whether nothing new may start.
    :param by: Who paused or resumed last.
    :param at: When.
    :param reason: Why, in their words.
    :param weights: Share of each submitter relative to the others', from the fleet file.
    :param priorities: What waits by another priority than its schedule's; the newest last.
    :param actions: Who did what, when; the newest last.
    """

    model_config = ConfigDict(populate_by_name=True)

    NAME = "control"

    is_paused: bool = Field(default=False, alias="placements_paused")
    by: str | None = None
    at: Time | None = None
    reason: str | None = None
    weights: Mapping[str, Number] = Field(default_factory=dict)
    priorities: tuple[ChangedPriority, ...] = ()
    actions: tuple[Action, ...] = ()


class Cursor(Note):
    """
    How far Airflow's log was read.

    :param after: Id of the last entry that is on record; ``None`` before the first look.
    """

    NAME = "acts"

    after: int | None = None


class Letters(Note):
    """
    What is known of dead letters.

    :param queues: How many there are, by the queue that they were meant for.
    :param told: How many the admins were told of.
    :param changed_at: When either changed.
    """

    NAME = "letters"

    queues: Mapping[str, int] = Field(default_factory=dict)
    told: Mapping[str, int] = Field(default_factory=dict)
    changed_at: Time | None = None


class TaskWeeks(Note):
    """
    From when on the index of tasks by status and week has all tasks.

    :param first: The first week of which it has all, as its Monday. Programs of a version before
        may have put tasks of earlier weeks on record, without their week. ``None`` for no week.
    """

    NAME = "task_weeks"

    first: str | None = None


class RentalNote(Note):
    """
    How RunPod was when a dispatcher looked last, for pages and commands.

    :param is_connected: Whether there is an account.
    :param balance_usd: Its money.
    :param spend_per_hour: What runs costs an hour, USD.
    :param is_low: Whether the money is less than the connection warns of.
    :param is_told: Whether the admins were told so.
    :param block: Why nothing may be rented now; ``None`` if it may.
    :param checked_at: When that was.
    """

    NAME = "rental"

    is_connected: bool = False
    balance_usd: Usd | None = None
    spend_per_hour: Usd | None = None
    is_low: bool = False
    is_told: bool = False
    block: str | None = None
    checked_at: Time | None = None


class Doubt(Part):
    """
    A pod that looked as if no record needed it.

    :param since: Since when.
    :param strikes: In how many lists in a row.
    """

    since: Time
    strikes: int


class Sightings(Part):
    """
    What the reaper remembers from one list of all pods to the next.

    :param at: When the last list was read; the same list twice proves nothing more.
    :param doubts: By pod id.
    :param absences: By a recorded pod's name and id, in how many lists in a row that was missing.
    """

    at: Time | None = None
    doubts: Mapping[str, Doubt] = Field(default_factory=dict)
    absences: Mapping[str, int] = Field(default_factory=dict)


class ProofTermination(Part):
    """
    A pod that a look has ended, or would have.

    :param pod: Its id.
    :param name: Its name.
    :param reason: Why.
    """

    pod: str
    name: str
    reason: str


class Proof(Part):
    """
    What one look at all pods has shown.

    :param at: When the list was read.
    :param seen: Pods of the account.
    :param ours: Those of this environment.
    :param foreign: The others, which nobody touches.
    :param unknown: Ours with nothing on record.
    :param terminated: What was ended, or would have been.
    :param missing: Attempts whose pod is not in the list.
    :param is_dry_run: Whether nothing was ended.
    :param has_failed: Whether the list was none: nothing was decided.
    """

    at: Time | None = None
    seen: int = 0
    ours: int = 0
    foreign: int = 0
    unknown: int = 0
    terminated: tuple[ProofTermination, ...] = ()
    missing: tuple[str, ...] = ()
    is_dry_run: bool = False
    has_failed: bool = False


class ReaperNote(Note):
    """
    What the reaper remembers.

    :param looked_at: When some dispatcher has begun to look last.
    :param sightings: What the last look has seen.
    :param proof: What it has shown.
    """

    NAME = "reaper"

    looked_at: Time | None = None
    sightings: Sightings | None = None
    proof: Proof | None = None


class BillingNote(Note):
    """
    What is remembered of the search for pods that wait for their bills.

    :param searches: How often all meters were looked through.
    :param searched_at: When that was done last.
    """

    NAME = "billing"

    searches: int = 0
    searched_at: Time | None = None
