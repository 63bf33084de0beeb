"""Events, their leaderboards, and what was said of submissions in them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.core.answers.acts import Closing
from touchstone.core.documents import MAX_CHARACTERS
from touchstone.core.events import MAX_NAME, check_event_name, parse_event
from touchstone.core.names import is_submission_id
from touchstone.core.records.events import EventRecord
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.submissions import Submission
from touchstone.core.schedule import DEFAULT_EVENT, MAX_ID
from touchstone.core.verdicts import build_board, rank_entries, show_history, show_row
from touchstone.services.events import EventKeeper, show_event
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    Key,
    RecordsDep,
    SettingsDep,
    require_admin,
    require_json,
)
from touchstone_agent.protocol.errors import ConfigurationError

router = APIRouter()

CHANGES = [Depends(require_admin), Depends(require_json)]
MAX_COMPARED = 20
BOARD_ROWS: Final = 100
MAX_BOARD_ROWS: Final = 500
"""Rows of a leaderboard at once; reading a thousand takes as long as a list may."""
MAX_ROW: Final = 1_000_000
CLOSING_DAG_ID: Final = "touchstone_close_event"


class EventBody(BaseModel):
    """
    An event's file.

    :param name: The event's: that of the file without ``.toml``.
    :param text: TOML.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=MAX_NAME)
    text: str = Field(max_length=MAX_CHARACTERS)


class BaselineBody(BaseModel):
    """
    What an event's submissions are to be compared with.

    :param baseline: A submission, or ``flat``.
    """

    model_config = ConfigDict(extra="forbid")

    baseline: str = Field(min_length=1, max_length=MAX_ID)


class CloseBody(BaseModel):
    """Body of a closing: an empty object."""

    model_config = ConfigDict(extra="forbid")


def _start_closing(run_id: str, conf: Mapping[str, JsonValue], by: str) -> None:
    from touchstone.airflow_db.starting import start_run

    start_run(run_id, conf, by=by, dag_id=CLOSING_DAG_ID)


def _find_closing(run_id: str, event: str) -> str | None:
    from touchstone.airflow_db.run_facts import find_run_facts

    run = find_run_facts(run_id, CLOSING_DAG_ID)
    return run.state if run is not None and run.conf == {"event": event} else None


@dataclass(frozen=True, kw_only=True)
class Closer:
    """
    Starts the runs that close events.

    :param start: Starts one: takes its id, its conf and who asks.
    :param find_state: Returns the state of one, by its id and event; ``None`` if there is none.
    """

    start: Callable[[str, Mapping[str, JsonValue], str], None] = _start_closing
    find_state: Callable[[str, str], str | None] = _find_closing


async def get_closer() -> Closer:
    """Return what starts the runs that close events."""
    return Closer()


async def get_event_keeper(
    records: RecordsDep, settings: SettingsDep, clock: ClockDep
) -> EventKeeper:
    """Return what keeps events."""
    return EventKeeper.build(records, settings, clock)


KeeperDep = Annotated[EventKeeper, Depends(get_event_keeper)]


@router.get("/events")
def list_events(keeper: KeeperDep) -> dict[str, object]:
    """Return all events, and why those that make no sense do not."""
    found = keeper.store.list_events()
    return {
        "events": [show_event(each) for each in found.records],
        "unreadable": {name: str(error) for name, error in found.unreadable.items()},
    }


@router.post("/events/apply", dependencies=CHANGES)
def apply_event(caller: CallerDep, keeper: KeeperDep, body: EventBody) -> dict[str, object]:
    """Write down what an event's file says; the same file again changes nothing."""
    event = parse_event(body.text, name=body.name)
    applied = keeper.apply(body.name, event, by=caller.name)
    return {**show_event(applied.event), "is_changed": applied.is_changed}


@router.get("/events/{name}")
def get_event(keeper: KeeperDep, name: str) -> dict[str, object]:
    """Return an event."""
    return show_event(keeper.store.get_event(check_event_name(name)))


@router.get("/events/{name}/objection")
def get_objection(caller: CallerDep, keeper: KeeperDep, name: str) -> dict[str, object]:
    """Say whether an event takes a submission of the caller now, and if not, from when on."""
    objection = keeper.find_objection(check_event_name(name), caller.name)
    return {"event": name, "objection": objection}


@router.post("/events/{name}/baseline", dependencies=CHANGES)
def set_baseline(
    caller: CallerDep, keeper: KeeperDep, name: str, body: BaselineBody
) -> dict[str, object]:
    """Set what an event's submissions are compared with from now on."""
    event = keeper.set_baseline(check_event_name(name), body.baseline, by=caller.name)
    return show_event(event)


@router.post("/events/{name}/close", status_code=202, dependencies=CHANGES)
def close_event(
    caller: CallerDep,
    keeper: KeeperDep,
    closer: Annotated[Closer, Depends(get_closer)],
    clock: ClockDep,
    name: str,
    body: CloseBody,  # noqa: ARG001 (checked to be empty)
    key: Key = None,
) -> Closing:
    """
    Start the run that closes an event: it judges all that has come by all that has come.

    With the same key it is the same run.

    :raises ConfigurationError: If the event has nothing to compare with.
    """
    event = keeper.store.get_event(check_event_name(name))
    if event.baseline is None:
        raise ConfigurationError(
            f"event: {name!r} has no baseline; `touchstone event baseline {name} ID` sets one"
        )
    told = f"{clock():%Y%m%d-%H%M%S-%f}"
    if key is not None:
        told = hashlib.sha256(f"{caller.name}\n{key}".encode()).hexdigest()[:32]
    run_id = f"close-{name}-{told}"
    closer.start(run_id, {"event": name}, caller.name)
    return Closing(event=name, run_id=run_id, state=closer.find_state(run_id, name) or "queued")


@router.get("/events/{name}/closings/{run_id}", dependencies=[Depends(require_admin)])
def get_closing(closer: Annotated[Closer, Depends(get_closer)], name: str, run_id: str) -> Closing:
    """
    Return how far the closing of an event is.

    :raises RecordNotFound: If no run of that id closes this event.
    """
    state = closer.find_state(run_id, check_event_name(name))
    if state is None:
        raise RecordNotFound(f"no run {run_id!r} closes the event {name!r}")
    return Closing(event=name, run_id=run_id, state=state)


@router.get("/events/{name}/leaderboard")
def get_leaderboard(
    keeper: KeeperDep,
    name: str,
    first: Annotated[int, Query(ge=1, le=MAX_ROW)] = 1,
    limit: Annotated[int, Query(ge=1, le=MAX_BOARD_ROWS)] = BOARD_ROWS,
) -> dict[str, object]:
    """
    Return rows of an event's leaderboard, best first; what has no score last, with why.

    ``first`` is the row to begin with, ``count`` how many there are, ``next`` the row that the
    next page begins with.
    """
    event = keeper.store.get_event(check_event_name(name))
    return show_board(keeper, event, first=first, limit=limit)


def show_board(
    keeper: EventKeeper, event: EventRecord, *, first: int, limit: int
) -> dict[str, object]:
    """
    Return rows of the leaderboard of an event that was read.

    Of all entries only what their places come from is read. One of the rows that makes no sense
    keeps its place, and is told apart.
    """
    found = keeper.store.list_places(event.name)
    places = rank_entries(event, found.records)
    shown = places[first - 1 : first - 1 + limit]
    entries = keeper.store.find_entries(event.name, [each.entry for each in shown if each.entry])
    following = first + limit
    return {
        **build_board(event, entries.records, shown),
        "count": len(places),
        "next": following if following <= len(places) else None,
        "unreadable": sorted({*found.unreadable, *entries.unreadable}),
    }


@router.get("/verdicts")
def compare(
    records: RecordsDep,
    keeper: KeeperDep,
    submission: Annotated[list[str], Query(min_length=1, max_length=MAX_COMPARED)],
) -> dict[str, object]:
    """Return what was said of some submissions, each with its whole history."""
    rows: list[dict[str, JsonValue]] = []
    missing: list[str] = []
    for submission_id in dict.fromkeys(submission):
        if not is_submission_id(submission_id):
            raise ConfigurationError("submission: is no submission's id")
        try:
            found = records.find_submission(submission_id)
        except RecordUnreadable:
            # The others are shown all the same.
            found = None
        entries = list_verdicts(keeper, submission_id, found)
        if not entries:
            # Others do not learn whether there is a submission that never entered.
            missing.append(submission_id)
        rows += entries
    return {"rows": rows, "missing": missing}


def list_verdicts(
    keeper: EventKeeper, submission_id: str, submission: Submission | None
) -> list[dict[str, JsonValue]]:
    """
    Return what was said of a submission, by its entries.

    :param submission: Its record, which names its event; ``None`` if it cannot be read.
    """
    schedule = submission.schedule if submission else None
    event = schedule.event if schedule else DEFAULT_EVENT
    entries = keeper.store.list_entries(event, submission_id=submission_id).records
    return [show_row(entry) | {"event": event, "history": show_history(entry)} for entry in entries]
