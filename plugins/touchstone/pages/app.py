"""The application that serves the pages: its routes, and what it shows in place of an error."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from touchstone.cache import KeptBytes
from touchstone.core.records.audit import Door
from touchstone.pages import (
    audit,
    bulk,
    comparison,
    costs,
    description,
    events,
    fleet,
    home,
    logs,
    queue,
    scheduling,
    submissions,
    submitting,
    tabs,
    tasks,
)
from touchstone.pages.open_pages import KEPT_SECONDS
from touchstone.pages.rendering import render_error
from touchstone.ui.app import Boundary, find_status
from touchstone.ui.conditional import KEPT_STEADY, Conditional
from touchstone.ui.dependencies import require_user
from touchstone_agent.protocol.errors import PermanentError, TransientError

STATIC = Path(__file__).with_name("static")

_INVALID = 422
_NO_LOGIN = "Invalid JWT token"
"""What Airflow says, with 403, of a session that it has signed but does not take any more."""


def build_app() -> FastAPI:
    """Return the application; every page of it needs a user whom Airflow knows."""
    app = FastAPI(title="Touchstone's pages", openapi_url=None, docs_url=None, redoc_url=None)
    app.state.door = Door.PAGE
    for module in (
        *(submissions, logs, submitting, scheduling, comparison, queue, events),
        *(costs, fleet, audit, tabs, home, description, tasks, bulk),
    ):
        app.include_router(module.router, dependencies=[Depends(require_user)])
    # The same for everybody, and needed by the page that asks for a login.
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    app.add_middleware(Conditional, kept=KeptBytes(KEPT_STEADY, seconds=KEPT_SECONDS))
    app.add_middleware(Boundary, explain=_explain_fault)
    app.add_exception_handler(HTTPException, _explain_http)
    app.add_exception_handler(RequestValidationError, _explain_validation)
    for error in (TransientError, PermanentError):
        app.add_exception_handler(error, _explain_touchstone)
    return app


@lru_cache(maxsize=1)
def get_app() -> FastAPI:
    """Return this process's application, built once."""
    return build_app()


def _explain_http(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    # Its user was deleted, or has logged out: who logs in again may go on.
    is_over = (error.status_code, error.detail) == (403, _NO_LOGIN)
    return render_error(request, 401 if is_over else error.status_code, str(error.detail))


def _explain_validation(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return render_error(request, _INVALID, f"{field}: {first['msg']}")


def _explain_touchstone(request: Request, error: Exception) -> Response:
    status = find_status(error)
    if status is None:
        # A store refused what was asked of it: its words are not for users.
        raise error
    told = str(error)
    if isinstance(error, TransientError):
        told = "a store does not answer right now; this page tries again by itself"
    return render_error(request, status, told)


def _explain_fault(request: Request, detail: str) -> Response:
    return render_error(request, 500, detail)
