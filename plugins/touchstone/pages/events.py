"""The pages of events: all of them, and one with its leaderboard."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from touchstone.client.answers import EventList, Leaderboard, ShownEvent
from touchstone.client.beside import list_columns, list_notes
from touchstone.core.events import check_event_name
from touchstone.pages.rendering import Frame, render
from touchstone.pages.whiskers import build_whiskers
from touchstone.services.events import show_event as show
from touchstone.ui.dependencies import CallerDep, ClockDep
from touchstone.ui.routes import events as api
from touchstone.ui.routes.events import KeeperDep

router = APIRouter()

PAGE_SIZE: Final = api.BOARD_ROWS
"""Rows of a leaderboard on a page: a thousand take a browser seconds."""


@router.get("/events")
def list_events(
    request: Request, caller: CallerDep, keeper: KeeperDep, clock: ClockDep
) -> HTMLResponse:
    """Show all events."""
    found = EventList.model_validate(api.list_events(keeper))
    frame = Frame(caller=caller, now=clock(), area="events")
    return render(
        request, "events.html", frame, {"events": found.events, "unreadable": found.unreadable}
    )


@router.get("/events/{name}")
def show_event(
    request: Request,
    caller: CallerDep,
    keeper: KeeperDep,
    clock: ClockDep,
    name: str,
    first: Annotated[int, Query(ge=1, le=api.MAX_ROW)] = 1,
) -> HTMLResponse:
    """
    Show an event and its leaderboard, best first.

    :param first: The row that the page begins with.
    """
    found = keeper.store.get_event(check_event_name(name))
    event = ShownEvent.model_validate(show(found))
    board = Leaderboard.model_validate(api.show_board(keeper, found, first=first, limit=PAGE_SIZE))
    rows = board.rows
    frame = Frame(caller=caller, now=clock(), area="events")
    return render(
        request,
        "event.html",
        frame,
        {
            "event": event,
            "board": board,
            "rows": rows,
            "count": board.count,
            "first": first,
            "size": PAGE_SIZE,
            "columns": list_columns(rows),
            "notes": list_notes(rows),
            "whiskers": build_whiskers([(row.low, row.difference, row.high) for row in rows]),
        },
    )
