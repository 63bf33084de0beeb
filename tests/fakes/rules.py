"""Who may use which route, of the API and of the pages; a route without a rule fails a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute


class Rule(Enum):
    """Who a route is for; nobody is a stranger."""

    EVERYBODY = "who has logged in"
    SUBMITTERS = "who may submit"
    OWNERS = "whose submission it is, and admins"
    OWNING_SUBMITTERS = "whose submission it is and who may submit, and admins"
    ADMINS = "admins"


OWNED = frozenset({Rule.OWNERS, Rule.OWNING_SUBMITTERS})

SUBMISSION = "/submissions/{submission_id}"
TASK = f"{SUBMISSION}/tasks/{{task_id}}"

API_RULES = {
    "GET /health": Rule.EVERYBODY,
    "GET /submissions": Rule.EVERYBODY,
    "GET /queue": Rule.EVERYBODY,
    "GET /gpus": Rule.EVERYBODY,
    "GET /events": Rule.EVERYBODY,
    "GET /events/{name}": Rule.EVERYBODY,
    "GET /events/{name}/objection": Rule.EVERYBODY,
    "GET /events/{name}/leaderboard": Rule.EVERYBODY,
    "GET /verdicts": Rule.EVERYBODY,
    "GET /data": Rule.EVERYBODY,
    "GET /data/{name}": Rule.EVERYBODY,
    "GET /costs": Rule.EVERYBODY,
    "GET /tasks": Rule.EVERYBODY,
    "GET /comparison": Rule.EVERYBODY,
    "GET /comparison.csv": Rule.EVERYBODY,
    "GET /openapi.json": Rule.EVERYBODY,
    "POST /content": Rule.SUBMITTERS,
    "POST /submissions": Rule.SUBMITTERS,
    # Whose an id is that somebody else has is not told.
    f"PUT {SUBMISSION}": Rule.SUBMITTERS,
    "POST /plans": Rule.SUBMITTERS,
    "POST /sources/look": Rule.SUBMITTERS,
    "GET /runs/{run_id}": Rule.OWNERS,
    f"GET {SUBMISSION}": Rule.OWNERS,
    f"GET {SUBMISSION}/results": Rule.OWNERS,
    f"GET {SUBMISSION}/audit": Rule.OWNERS,
    f"GET {TASK}": Rule.OWNERS,
    f"GET {TASK}/charts": Rule.OWNERS,
    f"GET {TASK}/log": Rule.OWNERS,
    f"GET {TASK}/log/events": Rule.OWNERS,
    f"GET {TASK}/files": Rule.OWNERS,
    f"GET {SUBMISSION}/events": Rule.OWNERS,
    f"POST {SUBMISSION}/cancel": Rule.OWNING_SUBMITTERS,
    f"POST {SUBMISSION}/retract": Rule.OWNING_SUBMITTERS,
    f"POST {SUBMISSION}/schedule": Rule.OWNING_SUBMITTERS,
    "POST /queue/priority": Rule.ADMINS,
    "GET /servers": Rule.ADMINS,
    "GET /servers/{name}": Rule.ADMINS,
    "POST /servers/{name}/drain": Rule.ADMINS,
    "POST /servers/{name}/attach": Rule.ADMINS,
    "GET /servers/{name}/work": Rule.ADMINS,
    "POST /servers/{name}/slots": Rule.ADMINS,
    "GET /fleet": Rule.ADMINS,
    "POST /fleet/check": Rule.ADMINS,
    "POST /fleet/apply": Rule.ADMINS,
    "POST /fleet/reload": Rule.ADMINS,
    "POST /placements/pause": Rule.ADMINS,
    "POST /placements/resume": Rule.ADMINS,
    "POST /events/apply": Rule.ADMINS,
    "POST /events/{name}/baseline": Rule.ADMINS,
    "POST /events/{name}/close": Rule.ADMINS,
    "GET /events/{name}/closings/{run_id}": Rule.ADMINS,
    "POST /data": Rule.ADMINS,
    "POST /data/private": Rule.ADMINS,
    "GET /audit": Rule.ADMINS,
}

PAGE_RULES = {
    "GET /": Rule.EVERYBODY,
    "GET /submissions": Rule.EVERYBODY,
    "GET /compare": Rule.EVERYBODY,
    "GET /compare.csv": Rule.EVERYBODY,
    "GET /compare.json": Rule.EVERYBODY,
    "GET /queue": Rule.EVERYBODY,
    "GET /tasks": Rule.EVERYBODY,
    "GET /events": Rule.EVERYBODY,
    "GET /events/{name}": Rule.EVERYBODY,
    "GET /costs": Rule.EVERYBODY,
    "GET /run": Rule.EVERYBODY,
    "GET /home.json": Rule.EVERYBODY,
    "GET /api": Rule.EVERYBODY,
    "GET /api.json": Rule.EVERYBODY,
    "GET /new": Rule.SUBMITTERS,
    "POST /new": Rule.SUBMITTERS,
    "POST /new/check": Rule.SUBMITTERS,
    "GET /end": Rule.SUBMITTERS,
    "POST /end": Rule.SUBMITTERS,
    "GET /schedule": Rule.SUBMITTERS,
    "POST /schedule/plan": Rule.SUBMITTERS,
    "POST /schedule/start": Rule.SUBMITTERS,
    f"GET {SUBMISSION}": Rule.OWNERS,
    f"GET {SUBMISSION}/audit": Rule.OWNERS,
    f"GET {TASK}/charts.json": Rule.OWNERS,
    f"GET {TASK}/log": Rule.OWNERS,
    f"GET {TASK}/log.txt": Rule.OWNERS,
    f"POST {SUBMISSION}/cancel": Rule.OWNING_SUBMITTERS,
    f"POST {SUBMISSION}/retract": Rule.OWNING_SUBMITTERS,
    "POST /queue/move": Rule.ADMINS,
    "GET /fleet": Rule.ADMINS,
    "POST /fleet/servers/{name}/drain": Rule.ADMINS,
    "POST /fleet/servers/{name}/attach": Rule.ADMINS,
    "GET /fleet/servers/{name}": Rule.ADMINS,
    "POST /fleet/servers/{name}/slots": Rule.ADMINS,
    "GET /fleet/pause": Rule.ADMINS,
    "POST /fleet/pause": Rule.ADMINS,
    "POST /fleet/resume": Rule.ADMINS,
    "GET /audit": Rule.ADMINS,
}

MISSING = {401, 403, 404}
"""Answers of a route that somebody may not use."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """
    A request to a route, of the submission ``s-1`` and its task ``i5``.

    :param route: Method and path as the rules name them.
    :param method: The method.
    :param path: The path, filled in.
    :param options: What a client sends with it.
    """

    route: str
    method: str
    path: str
    options: dict[str, Any]


def list_asked(app: FastAPI, *, prefix: str = "", is_page: bool = False) -> Iterator[Asked]:
    """Yield a request to each route of an application, by the routes that it has."""
    values = {"submission_id": "s-1", "task_id": "i5", "run_id": "s-1"}
    for route in app.routes:
        if not isinstance(route, APIRoute):
            continue
        path = re.sub(r"\{(\w+)\}", lambda part: values.get(part[1], "x-1"), route.path)
        for method in sorted(route.methods):
            options: dict[str, Any] = {}
            if method != "GET":
                options = (
                    {"data": {}, "headers": {"Sec-Fetch-Site": "same-origin"}}
                    if is_page
                    else {"json": {}}
                )
            yield Asked(
                route=f"{method} {route.path.removeprefix(prefix)}",
                method=method,
                path=path,
                options=options,
            )


def find_expected(rule: Rule, *, is_admin: bool, may_submit: bool, is_owner: bool) -> int | None:
    """Return the status that somebody gets who may not use a route; ``None`` if they may."""
    if rule is Rule.ADMINS:
        return None if is_admin else 403
    if rule in {Rule.SUBMITTERS, Rule.OWNING_SUBMITTERS} and not may_submit:
        return 403
    if rule in OWNED and not (is_admin or is_owner):
        return 404
    return None


def check(asked: Asked, rule: Rule, status: int, expected: int | None) -> None:
    """Check an answer's status against what is expected."""
    if expected is not None:
        assert status == expected, f"{asked.route} ({rule.value}): {status}, not {expected}"
        return
    is_owned = rule in OWNED
    refused = MISSING if is_owned else MISSING - {404}
    assert status not in refused | {500}, f"{asked.route} ({rule.value}): {status}"
