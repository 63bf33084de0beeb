from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient

from fakes.api import FakeCancelService
from touchstone.ui.app import build_app

ROUTES = [
    (method, re.sub(r"\{(\w+)\}", "x-1", route.path))
    for route in build_app().routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods)
]
OF_A_SUBMISSION = [
    ("GET", "/api/v1/submissions/s-1"),
    ("GET", "/api/v1/submissions/s-1/results"),
    ("GET", "/api/v1/submissions/s-1/audit"),
    ("GET", "/api/v1/submissions/s-1/tasks/i5"),
    ("GET", "/api/v1/submissions/s-1/tasks/i5/charts"),
    ("GET", "/api/v1/submissions/s-1/tasks/i5/log"),
    ("POST", "/api/v1/submissions/s-1/cancel"),
    ("POST", "/api/v1/submissions/s-1/retract"),
]


def ask(client: TestClient, method: str, path: str) -> int:
    body = {"json": {}} if method == "POST" else {}
    return client.request(method, path, **body).status_code


def test_every_route_of_the_application_is_one_the_matrix_knows(app: FastAPI) -> None:
    assert len(ROUTES) == 54
    assert all(isinstance(route, APIRoute) for route in app.routes)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_answers_a_stranger(anonymous: TestClient, method: str, path: str) -> None:
    answer = anonymous.request(method, path, json={} if method == "POST" else None)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Unauthorized",
        "status": 401,
        "detail": "Not authenticated",
    }


@pytest.mark.parametrize(("method", "path"), OF_A_SUBMISSION)
def test_somebody_elses_submission_is_as_if_it_did_not_exist(
    login: Callable[..., TestClient],
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    cancel_service: FakeCancelService,
    method: str,
    path: str,
) -> None:
    make_submission()
    make_task()
    stranger = login("other")
    body = {"json": {}} if method == "POST" else {}
    foreign = stranger.request(method, path, **body)
    missing = stranger.request(method, path.replace("s-1", "s-2"), **body)
    assert foreign.status_code == missing.status_code == 404
    told = missing.json()["detail"].replace("s-2", "s-1")
    assert foreign.json() == missing.json() | {"detail": told}
    assert cancel_service.calls == []


@pytest.mark.parametrize(("method", "path"), OF_A_SUBMISSION)
@pytest.mark.parametrize(("name", "role"), [("engineer", "user"), ("chief", "admin")])
def test_the_owner_and_admins_may_use_every_route_of_a_submission(
    login: Callable[..., TestClient],
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    name: str,
    role: str,
    method: str,
    path: str,
) -> None:
    make_submission()
    make_task()
    assert ask(login(name, role), method, path) == 200


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("user", 403), ("op", 200)])
def test_servers_are_for_those_who_may_edit_pools(
    login: Callable[..., TestClient], role: str, status: int
) -> None:
    assert ask(login(role=role), "GET", "/api/v1/servers") == status
    # Whoever may not look is not told whether there is one.
    found = ask(login(role=role), "GET", "/api/v1/servers/none")
    assert found == (404 if status == 200 else status)


@pytest.mark.parametrize(
    "path",
    ["submissions/s-1/cancel", "submissions/s-1/retract", "content", "plans", "sources/look"],
)
def test_a_viewer_changes_nothing(
    login: Callable[..., TestClient],
    make_submission: Callable[..., str],
    cancel_service: FakeCancelService,
    path: str,
) -> None:
    make_submission()
    assert ask(login(role="viewer"), "POST", f"/api/v1/{path}") == 403
    assert cancel_service.calls == []


@pytest.mark.parametrize("action", ["cancel", "retract"])
@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_change_must_be_sent_as_json(
    engineer: TestClient,
    make_submission: Callable[..., str],
    cancel_service: FakeCancelService,
    action: str,
    kind: str,
) -> None:
    make_submission()
    answer = engineer.post(
        f"/api/v1/submissions/s-1/{action}", content=b"{}", headers={"Content-Type": kind}
    )
    assert answer.status_code == 415
    assert cancel_service.calls == []
