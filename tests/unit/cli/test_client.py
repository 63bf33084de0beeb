from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from fakes.api import PASSWORDS, URL, FakeAirflow
from touchstone.client.access import Access, get_access
from touchstone.client.api import Client
from touchstone.client.errors import (
    Forbidden,
    LoginRefused,
    NotFound,
    NotInstalled,
    Refused,
    RunExists,
    Unreachable,
)

ACCESS = Access(url="http://touchstone.test", user="engineer", password="secret")
Handler = Callable[[httpx.Request], httpx.Response]


def make_client(handler: Handler, access: Access = ACCESS, sleeps: Any = None) -> Client:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        return handler(request)

    sleep = (lambda seconds: None) if sleeps is None else sleeps.append
    return Client(access, transport=httpx.MockTransport(handle), sleep=sleep)


def answer(status: int, body: Any) -> Handler:
    return lambda request: httpx.Response(status, json=body)


def test_reading_is_tried_again_when_the_connection_breaks() -> None:
    calls, sleeps = [], []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) < 3:
            raise httpx.ReadError("reset", request=request)
        return httpx.Response(200, json={"submissions": [], "next": None})

    make_client(handler, sleeps=sleeps).list_submissions()
    assert len(calls) == 3
    assert sleeps == sorted(sleeps)


def break_after(calls: list[httpx.Request], *answers: httpx.Response) -> Handler:
    """Break the first connection, then give the answers."""

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) == 1 or not answers:
            raise httpx.ReadError("reset", request=request)
        return answers[len(calls) - 2]

    return handler


def test_a_change_that_has_no_name_is_never_sent_twice() -> None:
    calls: list[httpx.Request] = []

    with pytest.raises(Unreachable, match="touchstone list"):
        make_client(break_after(calls)).cancel("s-1", None)
    assert len(calls) == 1


def test_a_submission_is_sent_again_because_its_id_makes_that_harmless() -> None:
    calls: list[httpx.Request] = []
    body = {"submission_id": "s-1", "run_id": "s-1", "is_new": False}
    started = httpx.Response(200, json=body)

    sent = make_client(break_after(calls, started)).submit_as("s-1", {"source": "x"}).value

    assert (sent.run_id, sent.is_new) == ("s-1", False)
    assert [(call.method, call.url.path) for call in calls] == [
        ("PUT", "/touchstone/api/v1/submissions/s-1")
    ] * 2


def test_an_id_that_is_taken_is_told_apart_from_what_else_is_refused() -> None:
    taken = {"detail": "id: 's-1' is taken; choose another one", "field": "id"}

    with pytest.raises(RunExists, match="is taken"):
        make_client(answer(409, taken)).submit_as("s-1", {})
    with pytest.raises(Refused) as caught:
        make_client(answer(400, {"detail": "bad", "field": "ref"})).submit_as("s-1", {})
    assert not isinstance(caught.value, RunExists)


@pytest.mark.parametrize(
    ("status", "body", "kind", "field", "message"),
    [
        (404, {"detail": "there is no submission 's-1'"}, NotFound, None, "no submission 's-1'"),
        (403, {"detail": "Forbidden"}, Forbidden, None, "Forbidden"),
        (409, {"detail": "s-1 is running"}, Refused, None, "s-1 is running"),
        (422, {"detail": "bad", "field": "limit"}, Refused, "limit", "limit: bad"),
        (
            422,
            {"detail": [{"loc": ["body", "conf"], "msg": "not a dictionary", "type": "x"}]},
            Refused,
            "conf",
            "conf: not a dictionary",
        ),
        (400, ["odd"], Refused, None, "answers 400"),
        (503, {"detail": "try again"}, Unreachable, None, "503: try again"),
        (500, "boom", Unreachable, None, "answers 500"),
    ],
)
def test_answers_become_errors(
    status: int, body: Any, kind: type[Exception], field: str | None, message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        make_client(answer(status, body)).get_submission("s-1")
    assert getattr(caught.value, "field", None) == field


def test_a_page_in_place_of_json_means_that_the_plugin_is_missing() -> None:
    page = httpx.Response(200, html="<html></html>")
    with pytest.raises(NotInstalled, match="importErrors"):
        make_client(lambda request: page).list_submissions()


def test_a_refused_password_names_the_user_and_not_the_password() -> None:
    client = Client(ACCESS, transport=httpx.MockTransport(answer(401, {"detail": "no"})))
    with pytest.raises(LoginRefused, match="'engineer'") as caught:
        client.list_submissions()
    assert "secret" not in str(caught.value)


def test_a_refused_token_says_which_variable_to_set() -> None:
    access = Access(url="http://touchstone.test", user="engineer", token="old")
    with pytest.raises(LoginRefused, match="TOUCHSTONE_TOKEN"):
        make_client(answer(401, {"detail": "no"}), access).list_submissions()


def test_a_token_is_sent_and_nobody_logs_in() -> None:
    paths = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append((request.url.path, request.headers["Authorization"]))
        return httpx.Response(200, json={"submissions": []})

    access = Access(url="http://touchstone.test", user="engineer", token="abc")
    Client(access, transport=httpx.MockTransport(handler)).list_submissions()
    assert paths == [("/touchstone/api/v1/submissions", "Bearer abc")]


def test_an_installation_below_a_path_is_reached_there() -> None:
    paths = []

    def handler(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(200, json={"run_id": "s-1", "state": "queued"})

    access = Access(url="http://touchstone.test/airflow", user="engineer", token="abc")
    Client(access, transport=httpx.MockTransport(handler)).get_run("s-1")
    assert paths == ["/airflow/touchstone/api/v1/runs/s-1"]


def test_secrets_are_not_shown_with_the_access() -> None:
    assert "secret" not in repr(ACCESS)


def test_an_upload_waits_while_as_many_are_under_way_as_may_be() -> None:
    busy = httpx.Response(429, json={"detail": "content: 2 uploads", "field": "content"})
    taken = httpx.Response(201, json={"sha256": "a", "size": 1, "source": "upload:a"})
    answers, sleeps = iter([busy, busy, taken]), []

    client = make_client(lambda request: next(answers), sleeps=sleeps)

    assert client.upload(b"x") == "upload:a"
    assert sleeps == [1.0, 2.0]


def test_an_upload_that_is_never_let_in_is_refused_with_the_reason() -> None:
    body = {"detail": "content: 2 uploads of yours are under way", "field": "content"}

    with pytest.raises(Refused, match="uploads of yours are under way"):
        make_client(answer(429, body)).upload(b"x")


def test_what_a_newer_server_adds_is_ignored_and_printed() -> None:
    document = {"submissions": [{"submission_id": "s-1", "new": {"x": 1}}], "next": None, "new": 2}

    found = make_client(answer(200, document)).list_submissions()

    assert found.document == document
    assert found.value.submissions[0].submission_id == "s-1"


@pytest.mark.parametrize("body", [{}, {"submissions": 5}, {"submissions": [{}]}])
def test_an_answer_of_another_form_names_the_field(body: object) -> None:
    with pytest.raises(NotInstalled, match=r"something else than Touchstone.*submissions"):
        make_client(answer(200, body)).list_submissions()


def test_an_odd_field_of_one_task_hides_nothing_else() -> None:
    odd = {"task_id": "i5", "status": 7, "percent": "x", "pod": [], "cost": {"usd": None}}
    document = {"submission": {"submission_id": "s-1"}, "tasks": [odd, {"task_id": "i20"}]}

    first, second = make_client(answer(200, document)).get_submission("s-1").value.tasks

    assert (first.status, first.percent, first.pod, first.cost) == ("7", None, None, None)
    assert second.task_id == "i20"


def test_the_address_may_have_a_path(airflow: FakeAirflow) -> None:
    airflow.add_submission()
    environ = {
        "TOUCHSTONE_URL": f"{URL}/airflow/",
        "TOUCHSTONE_USER": "engineer",
        "TOUCHSTONE_PASSWORD": PASSWORDS["engineer"],
    }
    transport = TestClient(airflow.build("/airflow"))._transport

    with Client(get_access(environ), transport=transport) as client:
        found = client.get_submission("s-1").value
        page = client.build_page_address("s-1")

    assert found.submission.submission_id == "s-1"
    assert page == f"{URL}/airflow/touchstone/pages/submissions/s-1"
