"""The API's own description, for programs that are made from it; behind the login like all else."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, Field, JsonValue

from touchstone.core.answers.common import Problem
from touchstone.ui.dependencies import find_airflow_path

router = APIRouter()

_MAKING = threading.Lock()

PROBLEMS: Final[Any] = {
    status.value: {"model": Problem, "description": status.phrase}
    for status in (
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.NOT_FOUND,
        HTTPStatus.REQUEST_TIMEOUT,
        HTTPStatus.CONFLICT,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    )
}
"""What any route may answer in place of what was asked for."""
PROBLEM_TYPE: Final = "application/problem+json"
"""How it is answered."""


class Parameter(BaseModel):
    """
    What a request may say beside its body.

    :param name: Its name.
    :param where: ``path``, ``query``, ``header`` or ``cookie``.
    :param is_needed: Whether it must be there.
    """

    name: str
    where: str = Field(alias="in")
    is_needed: bool = Field(default=False, alias="required")


class Operation(BaseModel):
    """
    What can be asked for at an address.

    :param summary: What it does, in a line.
    :param more: What else there is to say; empty for nothing.
    :param parameters: What a request may say beside its body.
    :param body: What its body is; ``None`` if it has none.
    """

    summary: str = ""
    more: str = Field(default="", alias="description")
    parameters: tuple[Parameter, ...] = ()
    body: JsonValue = Field(default=None, alias="requestBody")

    @property
    def told(self) -> list[Parameter]:
        """Return the parameters that a caller has to think of."""
        return [
            each
            for each in self.parameters
            if each.where in {"query", "header"} and each.name not in _UNTOLD
        ]


class Description(BaseModel):
    """
    What of an OpenAPI document a page shows.

    :param paths: Operations by address and method.
    """

    paths: Mapping[str, Mapping[str, Operation]]


_UNTOLD: Final = frozenset({"content-type", "user-agent", "If-None-Match"})
"""What every client sends anyway, or may send with every question."""

CONDITIONAL: Final = (
    "Each answer to a GET has a tag, in the header ETag. A caller that asks again and gives it in "
    "the header If-None-Match is answered 304, without a body, if nothing has changed since but "
    "when the dispatcher was seen last. Do so when you ask over and over."
)
"""What is said of all GETs, for it holds for each of them."""


@router.get("/openapi.json")
def get_description(request: Request) -> dict[str, JsonValue]:
    """Return what the API takes and answers, as an OpenAPI document."""
    return describe(request.app, find_address(request))


def find_address(request: Request) -> str:
    """Return the path that the addresses of the API begin with."""
    return f"{find_airflow_path(request)}/touchstone"


def describe(app: FastAPI, address: str) -> dict[str, JsonValue]:
    """
    Return the OpenAPI document of the application, made once.

    :param app: The API's application.
    :param address: The path that its addresses begin with.
    """
    # What is shortened twice has lost its first line.
    with _MAKING:
        if app.openapi_schema is None:
            document = app.openapi()
            document["info"]["description"] = CONDITIONAL
            for operations in document["paths"].values():
                for method, operation in operations.items():
                    _shorten(operation)
                    _tell_of_problems(operation)
                    if method == "get":
                        _tell_of_tags(operation)
        return {**(app.openapi_schema or {}), "servers": [{"url": address}]}


def _tell_of_problems(operation: Any) -> None:
    """Give problems the type that they have: the framework gives them the route's own."""
    for status, answer in operation["responses"].items():
        if int(status) >= HTTPStatus.BAD_REQUEST and "content" in answer:
            (described,) = answer["content"].values()
            answer["content"] = {PROBLEM_TYPE: described}


def _tell_of_tags(operation: Any) -> None:
    """Add what :class:`touchstone.ui.conditional.Conditional` does to a GET's operation."""
    text = {"type": "string"}
    parameters = operation.setdefault("parameters", [])
    parameters.append({"name": "If-None-Match", "in": "header", "required": False, "schema": text})
    operation["responses"]["304"] = {"description": HTTPStatus.NOT_MODIFIED.phrase}
    for status in ("200", "304"):
        if status in operation["responses"]:
            operation["responses"][status]["headers"] = {"ETag": {"schema": text}}


def _shorten(operation: Any) -> None:
    """Leave of a docstring what is said to callers: its arguments are the framework's."""
    text = str(operation.get("description", "")).partition("\n:")[0].strip()
    operation["summary"], _, operation["description"] = text.partition("\n\n")
