"""The page of the API: what programs can ask for, and where."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from pydantic import JsonValue

from touchstone.pages.rendering import Frame, render
from touchstone.ui.app import get_app
from touchstone.ui.dependencies import CallerDep, ClockDep
from touchstone.ui.routes.description import Description, describe, find_address

router = APIRouter()


@router.get("/api")
def show_api(request: Request, caller: CallerDep, clock: ClockDep) -> HTMLResponse:
    """Show each route of the API."""
    address = find_address(request)
    found = Description.model_validate(describe(get_app(), address))
    operations = [
        (path, method.upper(), operation)
        for path, known in sorted(found.paths.items())
        for method, operation in sorted(known.items())
    ]
    frame = Frame(caller=caller, now=clock(), area="api")
    values = {"operations": operations, "address": address}
    return render(request, "api.html", frame, values)


@router.get("/api.json")
def download_api(request: Request) -> dict[str, JsonValue]:
    """Return the API's description as an OpenAPI document, for the browser."""
    return describe(get_app(), find_address(request))
