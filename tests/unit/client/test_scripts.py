"""The client of people's scripts against Touchstone's real API, beside as much of Airflow's."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="touchstone-airflow-"))

import httpx
import pytest
from fastapi.testclient import TestClient

from fakes.api import NOW, PASSWORDS, URL, FakeAirflow, FakeCancelService
from fakes.outlook import join_rio, publish_outlook
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import build_task
from touchstone.client.access import Access
from touchstone.core.schedule import CloudChoice, Platform, Schedule
from touchstone.settings import Settings
from touchstone_client import (
    ConfigurationError,
    Forbidden,
    LoginRefused,
    NotFound,
    NotInstalled,
    Outcome,
    Refused,
    ScheduleFields,
    StillRunning,
    Touchstone,
    TouchstoneError,
    Unreachable,
    connect,
)

SOURCE = "https://example.org/models.git"


@pytest.fixture
def airflow() -> FakeAirflow:
    settings = Settings(content_bytes=200_000, git_hosts=["example.org"])
    return FakeAirflow(
        records=FakeRecordStore(settings),
        objects=FakeObjectStore(),
        cancel_service=FakeCancelService(),
        settings=settings,
    )


@pytest.fixture
def sleeps() -> list[float]:
    return []


@pytest.fixture
def touchstone(airflow: FakeAirflow, sleeps: list[float]) -> Touchstone:
    access = Access(url=URL, user="engineer", password=PASSWORDS["engineer"])
    transport = TestClient(airflow.build(), base_url=URL)._transport
    # Each pause is a second of this clock.
    return Touchstone(
        access, transport=transport, sleep=sleeps.append, clock=lambda: float(len(sleeps))
    )


def end(airflow: FakeAirflow, run_id: str, state: str, **fields: Any) -> Callable[[], None]:
    def step() -> None:
        airflow.runs[run_id]["state"] = state
        airflow.add_submission(run_id.partition(".")[0], run_ids=[run_id], **fields)

    return step


# --- how to get in -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        ({}, {"TOUCHSTONE_TOKEN": "t"}, ("engineer", None, "t")),
        ({}, {"TOUCHSTONE_USER": "ada", "TOUCHSTONE_PASSWORD": "x"}, ("ada", "x", None)),
        ({"token": "mine"}, {"TOUCHSTONE_PASSWORD": "x"}, ("engineer", None, "mine")),
        (
            {"user": "ada", "password": "y"},
            {"TOUCHSTONE_TOKEN": "t", "TOUCHSTONE_USER": "bob"},
            ("ada", "y", None),
        ),
    ],
)
def test_what_is_not_given_comes_from_the_environment(
    tmp_path: Path, given: dict[str, str], environ: dict[str, str], expected: tuple[Any, ...]
) -> None:
    known = {"TOUCHSTONE_URL": f"{URL}/", "TOUCHSTONE_STATE_DIR": str(tmp_path), **environ}

    access = connect(environ=known, **given)._client._access

    assert access.url == URL
    assert (access.user, access.password, access.token) == expected


def test_another_users_login_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    environ = {"TOUCHSTONE_STATE_DIR": str(tmp_path), "TOUCHSTONE_TOKEN": "t"}
    with pytest.raises(LoginRefused, match="'ada'"):
        connect(URL, user="ada", environ=environ)
    with pytest.raises(ConfigurationError, match="token: give a token"):
        connect(URL, token="t", password="x", environ=environ)
    with pytest.raises(NotInstalled, match="TOUCHSTONE_URL"):
        connect(token="t", environ={"TOUCHSTONE_STATE_DIR": str(tmp_path)})


# --- submitting --------------------------------------------------------------------------------


def test_a_folder_is_uploaded_and_submitted(
    touchstone: Touchstone, airflow: FakeAirflow, tmp_path: Path
) -> None:
    (tmp_path / "features.py").write_text("x = 1\n")

    sent = touchstone.submit(tmp_path, notes="first")

    assert (sent.run_id, sent.is_new, sent.is_scheduled) == (sent.submission_id, True, False)
    assert sent.page == f"{URL}/touchstone/pages/submissions/{sent.submission_id}"
    conf = airflow.runs[sent.run_id]["conf"]
    assert conf["notes"] == "first"
    digest = conf["source"].removeprefix("upload:")
    assert list(airflow.objects.objects) == [
        (airflow.settings.content_bucket, f"content/{digest}.tar.gz")
    ]


def test_one_key_is_one_submission(touchstone: Touchstone, airflow: FakeAirflow) -> None:
    first = touchstone.submit(SOURCE, ref="main", path="a", intervals=[1, 5], key="ci-1")
    again = touchstone.submit(SOURCE, ref="main", path="a", intervals=[1, 5], key="ci-1")

    assert (first.is_new, again.is_new) == (True, False)
    assert first.submission_id == again.submission_id
    assert list(airflow.runs) == [first.run_id]
    assert first.is_scheduled
    assert touchstone.submit(SOURCE).run_id != touchstone.submit(SOURCE).run_id


def test_a_key_of_another_request_is_refused_with_its_field(touchstone: Touchstone) -> None:
    touchstone.submit(SOURCE, key="ci-1")

    with pytest.raises(Refused, match="Idempotency-Key: stands for another request") as caught:
        touchstone.submit(SOURCE, ref="dev", key="ci-1")
    assert (caught.value.status, caught.value.field) == (409, "Idempotency-Key")


def test_a_wrong_field_is_named_and_nothing_is_sent(
    touchstone: Touchstone, airflow: FakeAirflow, tmp_path: Path
) -> None:
    (tmp_path / "features.py").write_text("x = 1\n")

    with pytest.raises(ConfigurationError, match=r"^intervals: '0' is not a list"):
        touchstone.submit(tmp_path, intervals="0")
    with pytest.raises(ConfigurationError, match=r"^epochs: unknown field"):
        touchstone.submit(tmp_path, intervals="1", epochs=3)  # type: ignore[call-arg]
    with pytest.raises(ConfigurationError, match=r"^ref: "):
        touchstone.submit(tmp_path, ref="main")
    with pytest.raises(ConfigurationError, match=r"^source: there is no"):
        touchstone.submit("nowhere")
    assert (airflow.logins, airflow.objects.objects, airflow.runs) == (0, {}, {})


def test_what_only_the_installation_knows_is_refused_there(touchstone: Touchstone) -> None:
    with pytest.raises(Refused, match=r"^source: ") as caught:
        touchstone.submit("https://elsewhere.test/models.git")
    assert (caught.value.status, caught.value.field) == (400, "source")


def break_first(breaks: int, answer: httpx.Response) -> tuple[Touchstone, list[httpx.Request]]:
    calls: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        if len(calls) <= breaks:
            raise httpx.ReadError("reset", request=request)
        return answer

    access = Access(url=URL, user="engineer", token="t")
    transport = httpx.MockTransport(handle)
    return Touchstone(access, transport=transport, sleep=lambda seconds: None), calls


def test_a_submission_that_was_not_heard_of_is_sent_again_by_the_same_key() -> None:
    body = {"submission_id": "s-1", "run_id": "s-1", "is_new": False}
    touchstone, calls = break_first(2, httpx.Response(200, json=body))

    assert touchstone.submit(SOURCE).submission_id == "s-1"
    keys = {call.headers["Idempotency-Key"] for call in calls}
    assert (len(calls), len(keys)) == (3, 1)


def test_after_some_silence_a_script_is_told() -> None:
    touchstone, calls = break_first(99, httpx.Response(500))

    with pytest.raises(Unreachable, match="the connection to") as caught:
        touchstone.submit(SOURCE)
    assert len(calls) == 4
    # Nothing to look for first: the same key makes the same submission.
    assert "touchstone list" not in str(caught.value)


def test_a_request_that_must_wait_for_its_turn_waits() -> None:
    body = {"submission_id": "s-1", "run_id": "s-1", "is_new": True}
    answers = [httpx.Response(429, json={"detail": "busy"}), httpx.Response(201, json=body)]
    access = Access(url=URL, user="engineer", token="t")
    sleeps: list[float] = []
    transport = httpx.MockTransport(lambda request: answers.pop(0))

    Touchstone(access, transport=transport, sleep=sleeps.append).schedule("s-1", intervals=[1])

    assert sleeps == [1.0]


# --- scheduling --------------------------------------------------------------------------------


def test_an_accepted_submission_is_scheduled_once_for_a_key(
    touchstone: Touchstone, airflow: FakeAirflow
) -> None:
    airflow.add_submission(accepted_at="2026-03-01T11:00:00+00:00", system="feature_set")
    join_rio(airflow.records)
    publish_outlook(airflow.objects, airflow.settings, at=NOW)

    sent = touchstone.schedule("s-1", intervals="1,5", priority=2, key="k")
    again = touchstone.schedule("s-1", intervals="1,5", priority=2, key="k")

    assert (sent.submission_id, sent.is_scheduled, sent.is_new) == ("s-1", True, True)
    assert (again.run_id, again.is_new) == (sent.run_id, False)
    conf = {"submission_id": "s-1", "intervals": "1,5", "priority": 2}
    assert airflow.runs[sent.run_id]["conf"] == conf


@pytest.mark.parametrize("submission_id", ["../fleet", "S-1", ""])
def test_what_is_no_id_is_not_sent(
    touchstone: Touchstone, airflow: FakeAirflow, submission_id: str
) -> None:
    for ask in (
        touchstone.get_submission,
        touchstone.get_results,
        touchstone.cancel,
        touchstone.read_log,
        touchstone.wait,
        lambda given: touchstone.schedule(given, intervals="1"),
    ):
        with pytest.raises(ConfigurationError, match="id: "):
            ask(submission_id)
    assert airflow.logins == 0


# --- waiting -----------------------------------------------------------------------------------


def test_a_training_is_waited_for_and_its_results_are_there(
    touchstone: Touchstone, airflow: FakeAirflow
) -> None:
    sent = touchstone.submit(SOURCE, intervals="5")
    result = {
        "task_id": "i5",
        "interval": 5,
        "status": "success",
        "judged": "judged",
        "metrics": {"net_sharpe": 0.5},
    }
    done = end(airflow, sent.run_id, "success", status="success", results=[result])
    airflow.steps += [lambda: None, done]
    seen: list[str] = []

    ending = touchstone.wait(sent, show=lambda snapshot: seen.append(snapshot.run_state))

    assert (ending.outcome, ending.status, ending.reason) == (Outcome.SUCCESS, "success", None)
    assert seen == ["queued"]
    found = touchstone.get_results(sent.submission_id)
    assert found.value.results[0].metrics == {"net_sharpe": 0.5}
    assert found.document["status"] == "success"


def test_a_module_that_is_refused_ends_with_the_reason(
    touchstone: Touchstone, airflow: FakeAirflow
) -> None:
    sent = touchstone.submit(SOURCE)
    reason = "features.py: no get_features()"
    airflow.steps.append(end(airflow, sent.run_id, "success", status="rejected", reason=reason))

    ending = touchstone.wait(sent)

    assert (ending.outcome, ending.status) == (Outcome.FAILURE, "rejected")
    assert ending.reason == reason


@pytest.mark.parametrize(("conf", "outcome"), [({}, "success"), ({"intervals": "1"}, "failure")])
def test_a_run_is_waited_for_by_its_submissions_id_alone(
    touchstone: Touchstone, airflow: FakeAirflow, conf: dict[str, str], outcome: str
) -> None:
    """A script that was started again has the id only; accepted is not enough for a training."""
    airflow.add_submission("s-1", run_ids=["s-1", "s-1.r2"])
    airflow.runs["s-1.r2"] = {"state": "success", "conf": conf}

    assert touchstone.wait("s-1").outcome == outcome


def test_waiting_ends_in_time_and_the_run_goes_on(
    touchstone: Touchstone, airflow: FakeAirflow, sleeps: list[float]
) -> None:
    sent = touchstone.submit(SOURCE)

    with pytest.raises(StillRunning, match=f"{sent.run_id} has not ended after 3 s and goes on"):
        touchstone.wait(sent, seconds=3)
    assert sleeps == [1.0, 1.0, 1.0]
    assert airflow.runs[sent.run_id]["state"] == "queued"


def test_there_is_nothing_to_wait_for(touchstone: Touchstone) -> None:
    with pytest.raises(NotFound):
        touchstone.wait("s-1")


# --- looking and ending ------------------------------------------------------------------------


def test_a_submission_is_found_listed_and_cancelled(
    touchstone: Touchstone, airflow: FakeAirflow
) -> None:
    airflow.add_submission(status="running")
    airflow.records.create_task(build_task(status="running", server="rio"))

    answer = touchstone.get_submission("s-1").value
    assert (answer.submission.status, answer.tasks[0].server) == ("running", "rio")
    listed = touchstone.list_submissions(status="running").value.submissions
    assert [each.submission_id for each in listed] == ["s-1"]
    assert touchstone.cancel("s-1", "wrong commit").cancelled_tasks == ("i5",)
    assert airflow.cancel_service.calls == [("cancel", "s-1", "engineer", "wrong commit")]


def test_anothers_submission_is_not_there(touchstone: Touchstone, airflow: FakeAirflow) -> None:
    airflow.add_submission(submitted_by="ada")

    for ask in (touchstone.get_submission, touchstone.get_results, touchstone.cancel):
        with pytest.raises(NotFound, match="s-1"):
            ask("s-1")


def test_a_console_is_read_and_followed_to_its_end(
    touchstone: Touchstone, airflow: FakeAirflow
) -> None:
    airflow.add_submission(status="success")
    airflow.runs["s-1"] = {"state": "success", "conf": {}}
    airflow.records.create_task(build_task(status="success", attempt=1, fence=1))

    assert touchstone.read_log("s-1", "i5") == ""
    pieces: list[str] = []
    touchstone.follow_log("s-1", "i5", write=pieces.append)
    assert "".join(pieces) == ""
    with pytest.raises(NotFound, match="its tasks are: i5"):
        touchstone.read_log("s-1", "i7")


def test_all_errors_are_of_one_kind() -> None:
    for kind in (ConfigurationError, Forbidden, LoginRefused, NotFound, Refused, StillRunning):
        assert issubclass(kind, TouchstoneError)


def test_what_has_not_changed_is_not_sent_again(airflow: FakeAirflow) -> None:
    airflow.add_submission(status="running")
    statuses: list[int] = []
    inner = TestClient(airflow.build(), base_url=URL)._transport

    class Counting(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            answer = inner.handle_request(request)
            statuses.append(answer.status_code)
            return answer

    access = Access(url=URL, user="engineer", token="engineer")
    touchstone = Touchstone(access, transport=Counting())

    first, second = (touchstone.get_submission("s-1") for _ in range(2))
    airflow.change_submission(status="success")
    third = touchstone.get_submission("s-1")

    assert statuses == [200, 304, 200]
    assert first == second
    assert third.value.submission.status == "success"


def test_a_few_answers_are_kept_and_no_more(airflow: FakeAirflow) -> None:
    access = Access(url=URL, user="engineer", token="engineer")
    transport = TestClient(airflow.build(), base_url=URL)._transport
    touchstone = Touchstone(access, transport=transport)
    for number in range(20):
        airflow.add_submission(f"s-{number}")
        touchstone.get_submission(f"s-{number}")

    assert [path.rpartition("/")[2] for path in touchstone._client._kept] == [
        f"s-{number}" for number in range(12, 20)
    ]


# --- the package -------------------------------------------------------------------------------


def test_the_fields_of_a_schedule_are_those_of_the_schedule() -> None:
    hints = get_type_hints(ScheduleFields)

    assert set(hints) == set(Schedule.model_fields)
    assert set(get_args(hints["platform"])) == {each.value for each in Platform}
    assert set(get_args(hints["cloud"])) == {each.value for each in CloudChoice}


def test_it_is_light_and_has_types() -> None:
    program = "import sys, touchstone_client; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    heavy = {"airflow", "boto3", "botocore", "docker", "fastapi", "mlflow", "sqlalchemy", "typer"}
    assert loaded & heavy == set()
    import touchstone_client

    assert Path(touchstone_client.__file__).with_name("py.typed").is_file()
    assert {name for name in touchstone_client.__all__ if not hasattr(touchstone_client, name)} == (
        set()
    )
