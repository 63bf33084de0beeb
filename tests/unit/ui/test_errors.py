from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from touchstone.core.states import IllegalMove
from touchstone.ui import dependencies
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TransientError


class FailingRecords:
    """A store whose every read fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def through(self, _door: object) -> FailingRecords:
        return self

    def list_submissions(self, **_: object) -> None:
        raise self._error


@pytest.fixture
def fail_with(app: FastAPI, engineer: TestClient) -> Callable[[Exception], TestClient]:
    def make(error: Exception) -> TestClient:
        app.dependency_overrides[dependencies.get_records] = lambda: FailingRecords(error)
        return engineer

    return make


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (
            TransientError("s3://secret"),
            503,
            {"detail": "a store does not answer right now; try again"},
        ),
        (IllegalMove("s-1 is running"), 409, {"detail": "s-1 is running"}),
        (
            ConfigurationError("ref: is wrong"),
            400,
            {"detail": "ref: is wrong", "field": "ref"},
        ),
        (ConfigurationError("something is wrong"), 400, {"detail": "something is wrong"}),
    ],
)
def test_errors_become_answers(
    fail_with: Callable[[Exception], TestClient],
    error: Exception,
    status: int,
    body: dict[str, str],
) -> None:
    answer = fail_with(error).get("/api/v1/submissions")
    assert answer.status_code == status
    told = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status}
    assert answer.json() == told | body


def test_a_store_that_is_busy_says_when_to_come_back(
    fail_with: Callable[[Exception], TestClient],
) -> None:
    answer = fail_with(TransientError("slow down", retry_after=7)).get("/api/v1/submissions")
    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize("error", [PermanentError("arn:secret"), RuntimeError("arn:secret")])
def test_an_unexpected_error_is_logged_and_not_shown(
    fail_with: Callable[[Exception], TestClient],
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    with caplog.at_level(logging.ERROR, "touchstone.ui.app"):
        answer = fail_with(error).get("/api/v1/submissions")
    assert answer.status_code == 500
    assert "secret" not in answer.text
    reference = answer.json()["detail"].split()[2].rstrip(":")
    assert reference in caplog.text
    assert "arn:secret" in caplog.text


@pytest.mark.parametrize("path", ["/api/v1/health", "/api/v1/nothing", "/docs", "/openapi.json"])
def test_every_answer_carries_the_strict_headers(engineer: TestClient, path: str) -> None:
    headers = engineer.get(path).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"


def test_a_crash_carries_the_strict_headers_too(
    fail_with: Callable[[Exception], TestClient],
) -> None:
    answer = fail_with(RuntimeError("x")).get("/api/v1/submissions")
    assert "Content-Security-Policy" in answer.headers


def test_an_unknown_path_is_json_too(engineer: TestClient) -> None:
    answer = engineer.get("/api/v1/nothing")
    assert (answer.status_code, answer.json()["detail"]) == (404, "Not Found")
