from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from fakes.api import NOW, FakeCancelService
from fakes.servers import store_server
from fakes.stores import FakeObjectStore, FakeRecordStore
from fakes.tasks import write_task
from touchstone.core.records.tasks import Published
from touchstone.core.results import split_published
from touchstone.settings import Settings
from touchstone.stores.parts import Parts

API = "/api/v1/submissions"


def ids(answer: Any) -> list[str]:
    return [item["submission_id"] for item in answer.json()["submissions"]]


def test_the_list_holds_own_submissions_newest_first(
    engineer: TestClient, make_submission: Callable[..., str]
) -> None:
    make_submission("old", created_at="2026-01-01T00:00:00+00:00")
    make_submission("new", created_at="2026-02-01T00:00:00+00:00")
    make_submission("foreign", submitted_by="other")
    answer = engineer.get(API)
    assert ids(answer) == ["new", "old"]
    assert answer.json()["next"] is None


def test_an_admin_lists_everybodys_and_may_pick_one_user(
    login: Callable[..., TestClient], make_submission: Callable[..., str]
) -> None:
    make_submission("s-1")
    make_submission("s-2", submitted_by="other")
    admin = login("chief", "admin")
    assert sorted(ids(admin.get(API))) == ["s-1", "s-2"]
    assert ids(admin.get(API, params={"user": "other"})) == ["s-2"]


def test_the_list_can_be_narrowed_to_a_status_and_cut_off(
    engineer: TestClient, make_submission: Callable[..., str]
) -> None:
    for number in range(3):
        make_submission(f"s-{number}", status="error")
    make_submission("s-9", status="success")
    query = {"status": "error", "limit": 2}
    first = engineer.get(API, params=query)
    assert ids(first) == ["s-2", "s-1"]
    second = engineer.get(API, params={**query, "cursor": first.json()["next"]})
    assert ids(second) == ["s-0"]
    assert second.json()["next"] is None


def test_nobody_lists_by_anothers_name(
    login: Callable[..., TestClient], make_submission: Callable[..., str]
) -> None:
    """Nor does a cursor lead there: it is a place in time, and no key."""
    for number in range(3):
        make_submission(f"foreign-{number}", submitted_by="other")
        make_submission(f"own-{number}")
    cursor = login("chief", "admin").get(API, params={"limit": 1}).json()["next"]
    engineer = login()
    assert ids(engineer.get(API, params={"user": "other"})) == []
    assert ids(engineer.get(API, params={"user": "other", "cursor": cursor})) == []
    found = ids(engineer.get(API, params={"cursor": cursor}))
    assert found
    assert all(each.startswith("own") for each in found)


def test_a_cursor_that_is_none_is_refused_by_name(engineer: TestClient) -> None:
    answer = engineer.get(API, params={"cursor": "../../s-1"})
    assert answer.status_code == 400
    assert answer.json()["field"] == "cursor"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"status": "done"}, "status"),
        ({"limit": "0"}, "limit"),
        ({"limit": "501"}, "limit"),
        ({"user": ""}, "user"),
        ({"cursor": "x" * 600}, "cursor"),
    ],
)
def test_a_bad_filter_is_refused_by_name(
    engineer: TestClient, query: dict[str, str], field: str
) -> None:
    answer = engineer.get(API, params=query)
    assert answer.status_code == 422
    assert answer.json()["field"] == field


def test_a_submission_comes_with_its_tasks_in_order(
    engineer: TestClient,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
) -> None:
    make_submission()
    make_task(task_id="i20", interval=20)
    make_task(task_id="i5", interval=5)
    make_task(task_id="validation", interval=None)
    body = engineer.get(f"{API}/s-1").json()
    assert body["submission"]["status"] == "running"
    assert [task["task_id"] for task in body["tasks"]] == ["validation", "i5", "i20"]
    assert "version" not in body["submission"]


def test_a_task_whose_record_makes_no_sense_is_shown_as_it_is_stored_and_hides_no_other(
    engineer: TestClient,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    records: FakeRecordStore,
) -> None:
    make_submission()
    make_task(task_id="i5", interval=5)
    make_task(task_id="i20", interval=20)
    write_task(records, ("s-1", "i5"), {"status": "dancing"})

    shown = {task["task_id"]: task for task in engineer.get(f"{API}/s-1").json()["tasks"]}

    assert (shown["i20"]["status"], shown["i5"]["status"]) == ("running", "dancing")
    assert engineer.get(f"{API}/s-1/tasks/i5").json()["status"] == "dancing"
    assert engineer.get(f"{API}/s-1/tasks/i7").status_code == 404


def test_a_training_tells_what_it_made_of_its_gpu(
    engineer: TestClient,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
) -> None:
    make_submission()
    make_task(task_id="i1", kind="training", gpus=0)
    make_task(
        task_id="i5",
        kind="training",
        gpus=1,
        intent_at=(NOW - timedelta(hours=1)).isoformat(),
        exited_at=NOW.isoformat(),
        verdict={"usage": {"gpu": {"mean_utilisation_percent": 3.0}}},
        placement={"gpu_price_per_hour": 0.3},
    )
    cpu, gpu = (task["gpu"] for task in engineer.get(f"{API}/s-1").json()["tasks"])
    assert cpu is None
    assert gpu["usd_per_useful_hour"] == "10.0000"
    assert gpu["note"] == (
        "used 3 % of its GPU in 1.00 h, $10.00 per useful hour: a CPU slot would do"
    )
    assert engineer.get(f"{API}/s-1/tasks/i5").json()["gpu"] == gpu


def test_a_task_that_is_not_there_is_a_404(
    engineer: TestClient, make_submission: Callable[..., str]
) -> None:
    make_submission()
    answer = engineer.get(f"{API}/s-1/tasks/i7")
    assert answer.status_code == 404
    assert "i7" in answer.json()["detail"]


def test_results_are_empty_lists_before_there_are_any(
    engineer: TestClient, make_submission: Callable[..., str]
) -> None:
    make_submission()
    body = engineer.get(f"{API}/s-1/results").json()
    assert (body["results"], body["chart_links"], body["score"]) == ([], [], None)


def test_results_are_shown_as_recorded(
    engineer: TestClient, make_submission: Callable[..., str]
) -> None:
    result = {
        "task_id": "i5",
        "interval": 5,
        "status": "success",
        "metrics": {"net_sharpe": 0.25, "total_return": 1},
    }
    result |= {"judged": "judged"}
    make_submission(results=[result], score=0.25, verdict="better")
    body = engineer.get(f"{API}/s-1/results").json()
    assert body["results"] == [result]
    assert (body["score"], body["verdict"]) == (0.25, "better")


def test_results_from_before_are_shown_as_reported(
    engineer: TestClient, make_submission: Callable[..., str]
) -> None:
    line = {"task_id": "i5", "status": "success", "metrics": {"net_sharpe": 0.25}}
    make_submission(results=[line], score=0.25)
    (shown,) = engineer.get(f"{API}/s-1/results").json()["results"]
    assert (shown["metrics"], shown["reported"]) == ({}, {"net_sharpe": 0.25})
    assert (shown["judged"], shown["judged_reason"]) == ("not judged", "trained before judging")


def test_results_that_are_too_large_for_the_record_are_shown_whole(
    engineer: TestClient,
    make_submission: Callable[..., str],
    objects: FakeObjectStore,
    settings: Settings,
) -> None:
    full = {
        "results": [
            {"task_id": "i5", "judged": "judged", "metrics": {"net_sharpe": 0.25, "odd": 1}}
        ],
        "chart_links": [{"task_id": "i5", "name": "equity", "url": "u"}],
    }
    part = Parts(objects, settings.content_bucket).put("results/s-1/", full)
    short = [{"task_id": "i5", "status": "success", "metrics": {"net_sharpe": 0.25}}]
    short[0] |= {"judged": "judged"}
    make_submission(results=short, results_part=part, score=0.25)

    body = engineer.get(f"{API}/s-1/results").json()
    assert (body["results"], body["chart_links"]) == (full["results"], full["chart_links"])

    objects.objects.clear()
    body = engineer.get(f"{API}/s-1/results").json()
    assert (body["results"], body["chart_links"]) == (short, [])


def test_of_a_training_that_is_held_back_no_figure_is_shown(
    engineer: TestClient,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    objects: FakeObjectStore,
    settings: Settings,
) -> None:
    make_submission()
    judged = {"status": "judged", "metrics": {"net_sharpe": 0.25}, "beta": 0.75}
    figures = {"metrics": {"net_sharpe": 0.25}, "metric_notes": {"auc_long": "0.25"}}
    chart = {"name": "equity", "url": "http://m/0.25"}
    parts = Parts(objects, settings.content_bucket)
    details = parts.put("results/s-1/i5/", figures | {"reported": {}, "charts": [chart]})
    published = {
        "metrics": {"net_sharpe": 0.25},
        "reported": {"x": 0.25},
        "judged": judged,
        "details": details.dump(),
        "mlflow_url": "http://m/r",
        "held_back": "winter",
    }
    make_task(published=published)

    for path in ("s-1", "s-1/tasks/i5"):
        body = engineer.get(f"{API}/{path}")
        assert body.status_code == 200
        assert "0.25" not in body.text
        assert "0.75" not in body.text
        assert "winter" in body.text


def test_a_task_is_shown_with_all_that_it_has_published(
    engineer: TestClient,
    make_submission: Callable[..., str],
    make_task: Callable[..., None],
    objects: FakeObjectStore,
    settings: Settings,
) -> None:
    published = {"metrics": {"net_sharpe": 0.25, "odd": 1}, "metric_notes": {}, "charts": []}
    published |= {"models": [{"strategy": "long"}], "judged": {"status": "judged"}, "reported": {}}
    kept, document = split_published(Published.load(published))
    parts = Parts(objects, settings.content_bucket)
    kept = kept.change(details=parts.put("results/s-1/i5/1-1/", document))
    make_submission()
    make_task(published=kept.dump())

    body = engineer.get(f"{API}/s-1/tasks/i5").json()
    assert body["published"] == published


def test_figures_that_no_judge_has_seen_are_shown_as_reported(
    engineer: TestClient, make_submission: Callable[..., str], make_task: Callable[..., None]
) -> None:
    make_submission()
    make_task(published={"metrics": {"net_sharpe": 0.25}})

    published = engineer.get(f"{API}/s-1/tasks/i5").json()["published"]

    assert (published["metrics"], published["reported"]) == ({}, {"net_sharpe": 0.25})
    assert published["judged"] == {"status": "not judged", "reason": "trained before judging"}


def test_cancelling_says_who_and_why(
    engineer: TestClient, make_submission: Callable[..., str], cancel_service: FakeCancelService
) -> None:
    make_submission()
    answer = engineer.post(f"{API}/s-1/cancel", json={"reason": "wrong branch"})
    assert answer.json() == {"cancelled_tasks": ["i5"], "ended_runs": ["s-1"]}
    assert cancel_service.calls == [("cancel", "s-1", "engineer", "wrong branch")]


def test_what_has_not_begun_is_cancelled_by_its_submitter_or_an_admin(
    login: Callable[..., TestClient], cancel_service: FakeCancelService
) -> None:
    cancel_service.unregistered = {"s-1": "engineer", "s-2": "somebody"}

    engineer = login()
    answer = engineer.post(f"{API}/s-1/cancel", json={})
    assert answer.json() == {"cancelled_tasks": [], "ended_runs": ["s-1"]}
    assert engineer.post(f"{API}/s-2/cancel", json={}).status_code == 404
    admin = login("boss", "admin")
    assert admin.post(f"{API}/s-2/cancel", json={}).json()["ended_runs"] == ["s-2"]
    assert admin.post(f"{API}/s-3/cancel", json={}).status_code == 404


def test_retracting_says_who(
    engineer: TestClient, make_submission: Callable[..., str], cancel_service: FakeCancelService
) -> None:
    make_submission()
    assert engineer.post(f"{API}/s-1/retract", json={}).status_code == 200
    assert cancel_service.calls == [("retract", "s-1", "engineer")]


def test_an_unknown_field_in_a_body_is_refused(
    engineer: TestClient, make_submission: Callable[..., str], cancel_service: FakeCancelService
) -> None:
    make_submission()
    answer = engineer.post(f"{API}/s-1/cancel", json={"because": "x"})
    assert answer.status_code == 422
    assert answer.json()["field"] == "because"
    assert cancel_service.calls == []


def test_an_admin_sees_servers(login: Callable[..., TestClient], records: FakeRecordStore) -> None:
    store_server(records, {"server": "local", "heartbeat_at": NOW.isoformat()})
    body = login("chief", "admin").get("/api/v1/servers").json()
    assert body == {"servers": [{"server": "local", "heartbeat_at": NOW.isoformat()}]}


def test_an_admin_sees_one_server(
    login: Callable[..., TestClient], records: FakeRecordStore
) -> None:
    for name in ("local", "other", "#control"):
        store_server(records, {"server": name})
    chief = login("chief", "admin")
    assert chief.get("/api/v1/servers/local").json() == {"server": {"server": "local"}}
    assert chief.get("/api/v1/servers/none").status_code == 404
    assert chief.get("/api/v1/servers/%23control").status_code == 400


def test_health_tells_what_the_caller_may_do(login: Callable[..., TestClient]) -> None:
    body = login("eve", "viewer").get("/api/v1/health").json()
    assert body == {
        "status": "ok",
        "env": "dev",
        "user": "eve",
        "is_admin": False,
        "may_submit": False,
    }


def test_an_admin_sees_a_server_whose_record_makes_no_sense_as_it_is(
    login: Callable[..., TestClient], records: FakeRecordStore
) -> None:
    odd = {"server": "local", "holds": 7, "of_a_newer_version": {"a": [1.5, None]}}
    store_server(records, odd)
    assert login("chief", "admin").get("/api/v1/servers").json() == {"servers": [odd]}
