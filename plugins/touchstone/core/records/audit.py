"""Who did what when, and from which door: entries that are only ever added. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import UTC
from enum import StrEnum
from typing import Final

from pydantic import JsonValue

from touchstone.core.paging import Place
from touchstone.core.records.actions import Action
from touchstone.core.records.stored import StoredRecord, Time

AUDIT: Final = "#audit"
"""Part of the events' table that has all entries; no event has a name like it."""
CLI_AGENT: Final = "touchstone-cli"
"""What the command line calls itself when it asks the API."""
_DIGITS: Final = 16


class Door(StrEnum):
    """Where an act came in."""

    PAGE = "page"
    API = "API"
    CLI = "CLI"
    AIRFLOW = "Airflow"
    HOST = "control plane"
    """A command on the control plane's machine, or a process of Touchstone's own."""


class SubjectKind(StrEnum):
    """What an act changed."""

    SUBMISSION = "submission"
    SERVER = "server"
    EVENT = "event"
    INSTALLATION = "installation"


class AuditEntry(StoredRecord):
    """
    One act.

    :param event: The part that it stands in: that of all, or of its subject.
    :param entry: Its place there; texts of places sort like times.
    :param at: When.
    :param by: Who.
    :param door: Where it came in, as :class:`Door`.
    :param kind: What it changed, as :class:`SubjectKind`.
    :param name: Which one; empty for the installation.
    :param action: What was done, in words.
    """

    event: str
    entry: str
    at: Time
    by: str
    door: str
    kind: str
    name: str
    action: str


def build_part(kind: SubjectKind | None = None, name: str = "") -> str:
    """Return the part of the table with the acts on one subject; ``None`` for all acts."""
    return AUDIT if kind is None else f"{AUDIT}:{kind}:{name}"


def build_entries(
    kind: SubjectKind, name: str, actions: Sequence[Action], door: Door
) -> list[AuditEntry]:
    """
    Return the entries of some acts: two of each, for all acts and for those on their subject.

    The same act has the same entries, however often it is written.

    :param kind: What was changed.
    :param name: Which one.
    :param actions: What was done, as the record has it.
    :param door: Where the acts came in; those of Airflow's log came in there.
    """
    entries = []
    # One that is told twice is one act: a transaction takes each place once.
    for action in {build_place(kind, name, each): each for each in actions}.values():
        place = build_place(kind, name, action)
        entries += [
            AuditEntry(
                event=part,
                entry=" ".join(place),
                at=action.at,
                by=action.by,
                door=Door.AIRFLOW if action.act is not None else door,
                kind=kind,
                name=name,
                action=action.action,
            )
            for part in (build_part(), build_part(kind, name))
        ]
    return entries


def build_place(kind: SubjectKind, name: str, action: Action) -> Place:
    """Return where an act stands among all, by its time; its digest tells two of a time apart."""
    told = json.dumps([kind, name, action.by, action.action, action.act])
    digest = hashlib.sha256(told.encode()).hexdigest()[:_DIGITS]
    # Of one length, so that texts sort like times.
    return Place(action.at.astimezone(UTC).isoformat(timespec="microseconds"), digest)


def find_new_actions(before: JsonValue, after: JsonValue) -> list[Action]:
    """Return the acts that a record has now and had not before; both lists as they are stored."""
    known = _load(before)
    return [each for each in _load(after) if each not in known]


def _load(stored: JsonValue) -> list[Action]:
    # As models: a time may have been written in another way.
    return (
        [Action.load(each) for each in stored if isinstance(each, dict)]
        if isinstance(stored, list)
        else []
    )
