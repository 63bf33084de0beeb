"""Touchstone's own application: its routes, its errors, its headers."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from touchstone.core.answers.common import Problem
from touchstone.core.states import IllegalMove
from touchstone.services.fleet import SlotsChanged
from touchstone.services.looking import LooksBusy
from touchstone.services.planning import PlansBusy
from touchstone.services.requests import KeyTaken
from touchstone.services.sending import RunTaken
from touchstone.stores.objects import ObjectNotFound
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.archives import UploadsBusy, UploadTooLarge, UploadTooSlow
from touchstone.ui.conditional import Conditional
from touchstone.ui.dependencies import require_user
from touchstone.ui.routes import (
    audit,
    comparison,
    content,
    costs,
    data_sets,
    description,
    events,
    files,
    fleet,
    gpus,
    health,
    logs,
    plans,
    queue,
    runs,
    sending,
    servers,
    sources,
    streams,
    submissions,
    tasks,
)
from touchstone.ui.routes.streams import StreamsBusy
from touchstone_agent.protocol.errors import (
    ConfigurationError,
    PermanentError,
    TouchstoneError,
    TransientError,
)

log = logging.getLogger(__name__)

API_PREFIX = "/api/v1"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; font-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    # Everything here depends on who asks and on when.
    "Cache-Control": "no-store",
}
"""On every answer. The session's cookie can be read by scripts, so none but our own may run."""

_STATUS_BY_ERROR: tuple[tuple[type[TouchstoneError], int], ...] = (
    (RecordNotFound, 404),
    (ObjectNotFound, 404),
    (IllegalMove, 409),
    (UploadTooLarge, 413),
    (UploadTooSlow, 408),
    (RunTaken, 409),
    (KeyTaken, 409),
    (SlotsChanged, 409),
    (ConfigurationError, 400),
    (UploadsBusy, 429),
    (PlansBusy, 429),
    (LooksBusy, 429),
    (StreamsBusy, 429),
    (TransientError, 503),
)


_BUSY = (UploadsBusy, PlansBusy, LooksBusy, StreamsBusy)
"""Errors whose own words reach the caller, who tries again."""

Explain = Callable[[Request, str], Response]
"""Returns the answer in place of one that failed: takes the request, and what to say."""


class ProblemResponse(JSONResponse):
    """
    Why a request was not done, as RFC 9457 has it.

    :param detail: What is wrong and the way out.
    :param field: The field that it is about; ``None`` for none.
    """

    media_type = description.PROBLEM_TYPE

    def __init__(
        self,
        detail: str,
        *,
        status: int,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        told = Problem(
            title=HTTPStatus(status).phrase, status=status, detail=detail, field=field
        ).model_dump(exclude_none=True)
        super().__init__(told, status_code=status, headers=headers)


def _explain_fault(_request: Request, detail: str) -> Response:
    return ProblemResponse(detail, status=500)


class Boundary:
    """
    The outermost layer: our headers on every answer, and no exception past it.

    :param app: The application inside.
    :param explain: Makes the answer in place of one that failed.
    """

    def __init__(self, app: ASGIApp, explain: Explain = _explain_fault) -> None:
        self._app = app
        self._explain = explain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            reference = secrets.token_hex(4)
            log.exception("%s %s failed (%s)", scope["method"], scope["path"], reference)
            if started:
                raise
            detail = f"internal error {reference}: the api-server's log has the details"
            answer = self._explain(Request(scope), detail)
            await answer(scope, receive, send_with_headers)


def build_app() -> FastAPI:
    """Return the application; every route of it needs a user whom Airflow knows."""
    # FastAPI's own description and its pages would be the only routes open without a login.
    app = FastAPI(title="Touchstone", openapi_url=None, docs_url=None, redoc_url=None)
    for module in (
        *(health, content, submissions, sending, logs, queue, gpus, servers, fleet, events),
        *(
            data_sets,
            plans,
            costs,
            audit,
            comparison,
            description,
            sources,
            tasks,
            runs,
            streams,
            files,
        ),
    ):
        app.include_router(
            module.router,
            prefix=API_PREFIX,
            dependencies=[Depends(require_user)],
            responses=description.PROBLEMS,
        )
    app.add_middleware(Conditional)
    app.add_middleware(Boundary)
    app.add_exception_handler(HTTPException, _explain_http)
    app.add_exception_handler(RequestValidationError, _explain_validation)
    for error in (TransientError, PermanentError):
        app.add_exception_handler(error, _explain_touchstone)
    return app


@lru_cache(maxsize=1)
def get_app() -> FastAPI:
    """Return this process's application, built once."""
    return build_app()


def _explain_http(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    return ProblemResponse(error.detail, status=error.status_code, headers=error.headers)


def _explain_validation(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return ProblemResponse(first["msg"], status=422, field=field)


def find_status(error: Exception) -> int | None:
    """Return the HTTP status of an error; ``None`` if users have no part in it."""
    return next((code for kind, code in _STATUS_BY_ERROR if isinstance(error, kind)), None)


def _explain_touchstone(request: Request, error: Exception) -> JSONResponse:
    status = find_status(error)
    if status is None:
        # A store refused what we asked of it: our fault, and its words are not for users.
        raise error
    detail, field, headers = str(error), None, {}
    if isinstance(error, TransientError):
        headers["Retry-After"] = str(max(1, round(error.retry_after or 1)))
        if not isinstance(error, _BUSY):
            log.warning("%s %s: %s", request.method, request.url.path, error)
            detail = "a store does not answer right now; try again"
    if isinstance(error, UploadTooSlow):
        # What is still on its way is not waited for.
        headers["Connection"] = "close"
    if isinstance(error, (ConfigurationError, *_BUSY)):
        field = find_field(str(error))
    return ProblemResponse(detail, status=status, field=field, headers=headers)


def find_field(message: str) -> str | None:
    """Return the field that an error of :func:`~touchstone.core.conf.parse_conf` begins with."""
    name, colon, _ = message.partition(":")
    return name if colon and re.fullmatch(r"[\w.-]+", name, re.ASCII) else None
