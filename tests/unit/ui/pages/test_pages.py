"""Who may see which page, and that no page trusts what it shows."""

from __future__ import annotations

import re
from urllib.parse import urlencode

import pytest
from fastapi.routing import APIRoute

from fakes.api import NOW
from fakes.events import EventWorld, FakeJudge, build_net
from fakes.outline import assert_harmless, look
from fakes.servers import store_server
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.pages import submissions
from touchstone.pages.app import build_app
from touchstone.services.control import read_control
from touchstone.stores.parts import Parts

FOUND = [
    (re.sub(r"\{(\w+)\}", "x-1", route.path), method)
    for route in build_app().routes
    if isinstance(route, APIRoute)
    for method in route.methods
]
ROUTES = [path for path, method in FOUND if method == "GET"]
FORMS = [path for path, method in FOUND if method != "GET"]
OURS = {"Sec-Fetch-Site": "same-origin"}
OF_A_SUBMISSION = [
    "/submissions/s-1",
    "/submissions/s-1/audit",
    "/submissions/s-1/tasks/i5/charts.json",
    "/submissions/s-1/tasks/i5/log",
    "/submissions/s-1/tasks/i5/log.txt",
]
XSS = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'javascript:"


@pytest.fixture
def queue(objects, settings):
    def publish(*waiting):
        document = {"dispatcher": "d-1", "at": NOW.isoformat(), "waiting": list(waiting)}
        text = Queue.model_validate(document).model_dump_json().encode()
        objects.put_new(settings.content_bucket, QUEUE_KEY, text)

    return publish


def build_waiting(submission_id="s-1", **fields):
    return {
        "submission_id": submission_id,
        "task_id": "i5",
        "submitted_by": "engineer",
        "position": 2,
        "of": 7,
        "reason": "all slots are in use",
        "since": NOW.isoformat(),
    } | fields


# --- who may see what ---------------------------------------------------------------------------


def test_every_page_is_one_that_the_matrix_knows():
    assert sorted(ROUTES) == [
        "/",
        "/api",
        "/api.json",
        "/audit",
        "/compare",
        "/compare.csv",
        "/compare.json",
        "/costs",
        "/end",
        "/events",
        "/events/x-1",
        "/fleet",
        "/fleet/pause",
        "/fleet/servers/x-1",
        "/home.json",
        "/new",
        "/queue",
        "/run",
        "/schedule",
        "/submissions",
        "/submissions/x-1",
        "/submissions/x-1/audit",
        "/submissions/x-1/tasks/x-1/charts.json",
        "/submissions/x-1/tasks/x-1/log",
        "/submissions/x-1/tasks/x-1/log.txt",
        "/tasks",
    ]

    assert sorted(FORMS) == [
        "/end",
        "/fleet/pause",
        "/fleet/resume",
        "/fleet/servers/x-1/attach",
        "/fleet/servers/x-1/drain",
        "/fleet/servers/x-1/slots",
        "/new",
        "/new/check",
        "/queue/move",
        "/schedule/plan",
        "/schedule/start",
        "/submissions/x-1/cancel",
        "/submissions/x-1/retract",
    ]
    assert {method for _, method in FOUND} == {"GET", "POST"}


@pytest.mark.parametrize("path", FORMS)
def test_a_stranger_changes_nothing(anonymous, make_submission, cancel_service, path):
    make_submission("x-1")

    assert anonymous.post(path, headers=OURS).status_code == 401
    assert cancel_service.calls == []


@pytest.mark.parametrize("path", FORMS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "http://["},
    ],
)
def test_a_form_of_another_site_changes_nothing(
    admin, make_submission, make_task, cancel_service, records, path, headers
):
    make_submission("x-1")
    before = records.get_submission("x-1")

    answer = admin.post(path, headers=headers, follow_redirects=False)

    assert answer.status_code == 403
    assert "another site" in answer.text
    assert cancel_service.calls == []
    assert records.get_submission("x-1") == before


@pytest.mark.parametrize("headers", [OURS, {"Origin": "http://testserver"}])
@pytest.mark.parametrize(("name", "role"), [("engineer", "user"), ("chief", "admin")])
def test_owner_and_admins_cancel_by_a_form(
    login, make_submission, cancel_service, name, role, headers
):
    make_submission("s-1")

    answer = login(name, role).post(
        "/submissions/s-1/cancel", headers=headers, follow_redirects=False
    )

    assert (answer.status_code, answer.headers["location"]) == (303, "/submissions/s-1")
    assert len(cancel_service.calls) == 1


@pytest.mark.parametrize("act", ["cancel", "retract"])
@pytest.mark.parametrize(
    ("name", "role", "status"), [("other", "user", 404), ("engineer", "viewer", 403)]
)
def test_nobody_else_ends_a_submission(
    login, make_submission, cancel_service, name, role, status, act
):
    make_submission("s-1")

    answer = login(name, role).post(f"/submissions/s-1/{act}", headers=OURS)

    assert answer.status_code == status
    assert cancel_service.calls == []


@pytest.mark.parametrize("path", [path for path in FORMS if path.startswith("/fleet")])
def test_the_fleet_is_changed_by_admins_alone(engineer, path):
    assert engineer.post(path, headers=OURS).status_code == 403


def test_an_admin_pauses_and_resumes_and_the_page_says_who_did(admin):
    assert "/fleet/pause" in look(admin.get("/fleet")).links()

    fields = {"reason": "a move <b>"}
    assert admin.post("/fleet/pause", data=fields, headers=OURS).status_code == 200
    shown = admin.get("/fleet")
    assert "paused by chief" in shown.text
    assert ": a move &lt;b&gt;." in shown.text
    assert_harmless(shown)
    assert "paused" not in admin.post("/fleet/resume", headers=OURS).text


def test_a_pause_is_told_first_with_what_runs_and_what_waits(admin, pools, records, queue):
    store_server(records, {"server": "rio"})
    for name, fields in {"rio": {"deferred": 2}, "rio_validation": {"running": 1}}.items():
        pools.create_pool(name, 3, "")
        pools.edit(name, **fields)
    queue(build_waiting())

    answer = admin.get("/fleet/pause")

    assert "3 of what runs go on to the end" in answer.text
    assert "1 of what waits waits until tasks may start" in answer.text
    assert "terminations, uploads and metering go on" in answer.text
    assert not read_control(records).is_paused, "looking changes nothing"
    assert dict(look(answer).forms["/fleet/pause"]) == {"reason": ""}


def test_a_pause_whose_reason_is_too_long_says_so_beside_it(admin, records):
    answer = admin.post("/fleet/pause", data={"reason": "x" * 501}, headers=OURS)

    assert_harmless(answer, status=422)
    assert 'id="reason-error"' in answer.text
    assert not read_control(records).is_paused


def test_who_would_pause_what_is_paused_sees_by_whom(admin):
    admin.post("/fleet/pause", data={"reason": ""}, headers=OURS)

    answer = admin.get("/fleet/pause", follow_redirects=False)

    assert (answer.status_code, answer.headers["location"]) == (303, "/fleet")


@pytest.mark.parametrize("path", ROUTES)
def test_a_stranger_is_asked_to_log_in_and_sees_nothing(anonymous, make_submission, path):
    make_submission("x-1")

    answer = anonymous.get(path, follow_redirects=False)

    assert answer.status_code == 401
    assert "Log in" in answer.text
    assert "x-1" not in re.sub(r'href="/api/v2/auth/login[^"]*"', "", answer.text)
    way = f"/api/v2/auth/login?{urlencode({'next': f'{path}?status=a%20b'})}"
    assert way in look(anonymous.get(f"{path}?status=a%20b")).links()


@pytest.mark.parametrize("path", OF_A_SUBMISSION)
def test_somebody_elses_submission_is_as_if_it_did_not_exist(
    login, make_submission, make_task, path
):
    make_submission()
    make_task()
    stranger = login("other")

    foreign, missing = stranger.get(path), stranger.get(path.replace("s-1", "s-2"))

    assert foreign.status_code == missing.status_code == 404
    assert foreign.text == missing.text.replace("s-2", "s-1")


@pytest.mark.parametrize("path", OF_A_SUBMISSION)
@pytest.mark.parametrize(("name", "role"), [("engineer", "user"), ("chief", "admin")])
def test_owner_and_admins_see_a_submission(login, make_submission, make_task, path, name, role):
    make_submission()
    make_task()

    assert login(name, role).get(path).status_code == 200


def test_the_fleet_is_for_admins_and_others_have_no_link_to_it(engineer, login):
    assert engineer.get("/fleet").status_code == 403
    assert "/fleet" not in look(engineer.get("/submissions")).links()
    chief = login("chief", "admin")
    assert chief.get("/fleet").status_code == 200
    assert "/fleet" in look(chief.get("/submissions")).links()


def test_a_user_lists_only_his_own(engineer, make_submission):
    make_submission("mine-1")
    make_submission("theirs-1", submitted_by="other")

    text = engineer.get("/submissions", params={"user": "other"}).text

    assert "theirs-1" not in text
    assert "theirs-1" not in engineer.get("/submissions").text
    assert "mine-1" in engineer.get("/submissions").text


@pytest.mark.parametrize("path", ["/", *ROUTES])
def test_every_answer_allows_our_own_scripts_alone(anonymous, path):
    headers = anonymous.get(path).headers

    assert "script-src 'self'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("touchstone.css", "text/css"),
        ("touchstone.js", "javascript"),
        ("icon.svg", "image/svg"),
        ("icon-dark.svg", "image/svg"),
    ],
)
def test_what_pages_load_needs_no_login_since_the_page_that_asks_for_one_does(
    anonymous, name, kind
):
    answer = anonymous.get(f"/static/{name}")

    assert answer.status_code == 200
    assert kind in answer.headers["content-type"]
    assert anonymous.get("/static/../app.py").status_code == 404


# --- nothing that is shown is trusted ------------------------------------------------------------


def test_no_field_of_a_submission_becomes_markup(admin, make_submission, make_task, queue):
    make_submission(
        notes=XSS, reason=XSS, source_url=XSS, source_ref=XSS, submitted_by=XSS, verdict=XSS
    )
    make_task(reason=XSS, progress_phase=XSS, server=XSS)
    queue(build_waiting(reason=XSS, submitted_by=XSS))

    for path in ("/submissions", "/submissions/s-1", "/queue", "/submissions/s-1/tasks/i5/log"):
        answer = admin.get(path)
        assert_harmless(answer)
    assert "&lt;script&gt;" in admin.get("/submissions").text


def test_a_link_of_a_result_leads_to_the_web_or_nowhere(admin, make_submission):
    lines = [
        {"task_id": "i5", "interval": 5, "status": "success", "mlflow_url": "javascript:alert(1)"},
        {
            "task_id": "i20",
            "interval": 20,
            "status": "success",
            "mlflow_url": "https://m.example/1",
        },
    ]
    make_submission(status="success", results=lines)

    links = look(admin.get("/submissions/s-1")).links()

    assert [link for link in links if "alert" in link] == []
    assert "https://m.example/1" in links


def test_charts_are_links_and_the_trainers_say_whose_they_are(admin, make_submission):
    charts = [
        {"task_id": "i5", "name": "equity", "url": "http://m.example/e.svg", "by": "judge"},
        {"task_id": "i5", "name": XSS, "url": "http://m.example/x.png", "by": "trainer"},
        {"task_id": "i5", "name": "bad", "url": "javascript:alert(1)", "by": "judge"},
    ]
    line = {"task_id": "i5", "interval": 5, "status": "success"}
    make_submission(status="success", results=[line], chart_links=charts)

    answer = admin.get("/submissions/s-1")

    assert_harmless(answer)
    links = look(answer).links()
    assert {"http://m.example/e.svg", "http://m.example/x.png"} <= set(links)
    assert answer.text.count("by the trainer") == 1


def test_filters_come_back_escaped_and_an_unknown_status_filters_nothing(admin, make_submission):
    make_submission()

    answer = admin.get("/submissions", params={"status": XSS[:20], "user": XSS})

    assert_harmless(answer)
    assert "Nothing matches" in answer.text
    assert "s-1" in admin.get("/submissions", params={"status": "nonsense"}).text


# --- what they show -------------------------------------------------------------------------------


def test_a_list_shows_what_a_user_looks_for(engineer, make_submission, queue):
    make_submission("s-1", status="queued")
    make_submission("s-2", status="success", score=0.51234, score_low=0.1, score_high=0.9)
    queue(build_waiting())

    text = engineer.get("/submissions").text

    assert "2 of 7" in text
    assert "all slots are in use" in text
    assert "0.5123" in text
    assert "[0.1, 0.9]" in text
    assert 'class="chip good">success' in text


def test_without_any_submission_a_page_says_how_to_send_one(engineer):
    text = engineer.get("/submissions").text

    assert "No submission yet" in text
    assert "touchstone submit" in text


def test_a_long_list_leads_from_page_to_page(engineer, make_submission, monkeypatch):
    monkeypatch.setattr(submissions, "PAGE_SIZE", 2)
    for number in range(3):
        make_submission(f"s-{number}", created_at=f"2026-11-0{number + 1}T00:00:00+00:00")

    first = engineer.get("/submissions")
    following = next(link for link in look(first).links() if "cursor=" in link)
    second = engineer.get(following)

    assert ("s-2" in first.text, "s-0" in first.text) == (True, False)
    assert ("s-2" in second.text, "s-0" in second.text) == (False, True)
    assert "data-live" in first.text
    assert "data-live" not in second.text, "an older page stays as it is"


def test_a_cursor_that_is_none_is_refused_in_words(engineer):
    answer = engineer.get("/submissions", params={"cursor": "nonsense"})

    assert answer.status_code == 400
    assert "cursor: is none" in answer.text


def test_a_submission_shows_tasks_results_and_the_log_of_what_failed(
    engineer, make_submission, make_task
):
    line = {
        "task_id": "i5",
        "interval": 5,
        "status": "success",
        "metrics": {"net_sharpe": 0.25, "net_sharpe_low": -0.1, "net_sharpe_high": 0.6},
        "judged": "judged",
    }
    make_submission(status="error", reason="i20: ended with 1", results=[line])
    make_task(task_id="i5", status="running", percent=42.4, eta_seconds=90)
    make_task(task_id="i20", status="error", reason="ended with 1")

    answer = engineer.get("/submissions/s-1")

    assert 'value="42.4"' in answer.text
    assert "1:30" in answer.text
    assert "[-0.1, 0.6]" in answer.text
    assert "/submissions/s-1/tasks/i20/log" in look(answer).links()
    assert "n/a" in answer.text, "a figure that is not there is not 0"


SCORE = {
    "task_id": "i5",
    "interval": 5,
    "fence": 1,
    "data": "eurusd-hourly 2018-03",
    "scored_at": "2026-11-22T12:00:00+00:00",
    "rows": 200,
    "first": "2018-02-08T00:00:00+00:00",
    "last": "2018-02-20T13:00:00+00:00",
    "metrics": {"net_sharpe": 0.5, "net_sharpe_low": -0.25, "net_sharpe_high": 1.25},
}
DATA = {
    "name": "eurusd-hourly",
    "version": "2018-02",
    "digest": "e" * 64,
    "sha256": "f" * 64,
    "size": 11,
    "validation_from": "2017-10-01",
    "test_from": "2017-12-01",
    "bars_per_year": 6240,
}


def test_what_models_earned_after_their_submission_stands_apart_from_results(
    engineer, make_submission
):
    make_submission(status="success", data=DATA, forward=[SCORE], verdict="worse")

    text = engineer.get("/submissions/s-1").text

    assert ">After submission</h2>" in text
    assert (
        "200 rows from 2018-02-08 to 2018-02-20 13:00, Sharpe +0.50, 95 % -0.25 to +1.25 "
        "(eurusd-hourly 2018-03)"
    ) in text
    assert "only these rows are beyond suspicion" in text
    assert "worse" in text


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({}, "n/a: it was trained on the built-in data, which gain no rows"),
        ({"data": DATA}, "n/a: no newer version of &#39;eurusd-hourly&#39; has been added since"),
        ({"data": {**DATA, "is_private": True}}, "n/a: its data stay at the server"),
        ({"data": DATA, "waived_columns": ["x"]}, "n/a: its waived columns may know later rows"),
        (
            {"data": DATA, "forward": [{**SCORE, "scored_at": None, "run_id": "forward-1"}]},
            "n/a: being scored on eurusd-hourly 2018-03, by the run forward-1",
        ),
        (
            {"data": DATA, "forward": [{**SCORE, "reason": "no rows yet (<b>)"}]},
            "n/a: no rows yet (&lt;b&gt;) (eurusd-hourly 2018-03)",
        ),
    ],
)
def test_why_there_is_no_score_after_submission_is_told(engineer, make_submission, fields, note):
    make_submission(status="success", **fields)
    assert note in engineer.get("/submissions/s-1").text


def test_what_goes_on_or_replays_explains_no_score_after_submission(engineer, make_submission):
    make_submission("s-1", status="running", data=DATA)
    make_submission("s-2", status="success", replay_of="s-1/i5")
    for name in ("s-1", "s-2"):
        assert "After submission" not in engineer.get(f"/submissions/{name}").text


def test_what_the_trainer_alone_says_is_shown_as_that(engineer, make_submission):
    line = {
        "task_id": "i5",
        "interval": 5,
        "status": "success",
        "metrics": {},
        "reported": {"net_sharpe": 12.0},
        "judged": "not judged",
        "judged_reason": "net_sharpe: result.json says 12.0, its predictions give 0.54",
    }
    make_submission(status="success", results=[line])

    text = engineer.get("/submissions/s-1").text

    assert "the trainer says 12" in text
    assert "not judged" in text


def test_a_page_renews_itself_while_something_may_change(engineer, make_submission):
    make_submission("s-1", status="running")
    make_submission("s-2", status="success")

    assert 'data-live="3"' in engineer.get("/submissions/s-1").text
    assert "data-live" not in engineer.get("/submissions/s-2").text


def test_the_queue_is_that_of_the_user_and_counts_the_others(engineer, queue):
    queue(build_waiting(), build_waiting("s-9", submitted_by="other", position=1))

    text = engineer.get("/queue").text

    assert "2 waiting in all" in text
    assert "s-1" in text
    assert "s-9" not in text


def test_an_admin_moves_a_task_by_a_button_and_comes_back_to_the_queue(
    login, make_submission, make_task, queue, records
):
    admin = login("chief", "admin")
    make_submission("s-1", status="queued")
    make_task()
    queue(build_waiting(), build_waiting("s-9", submitted_by="other", position=1, priority=4))
    fields = {"submission_id": "s-1", "task_id": "i5", "move": "up"}

    done = admin.post("/queue/move", data=fields, headers=OURS, follow_redirects=False)

    assert (done.status_code, done.headers["location"][-6:]) == (303, "/queue")
    assert [(p.task_id, p.priority, p.by) for p in read_control(records).priorities] == [
        ("i5", 5, "chief")
    ]
    assert 'aria-label="Move s-1 i5 before all others"' in admin.get("/queue").text
    assert "Move s-1" not in login("engineer").get("/queue").text


@pytest.mark.parametrize(
    "fields",
    [{"submission_id": "s-1"}, {"submission_id": "s-1", "move": "sideways"}],
)
def test_a_form_that_moves_nothing_is_refused(admin, make_submission, fields):
    make_submission("s-1", status="queued")

    refused = admin.post("/queue/move", data=fields, headers=OURS)

    assert refused.status_code == 400
    assert "the form names no task, or no place for it" in refused.text


def test_a_queue_without_anything_says_so(engineer):
    assert "Nothing waits" in engineer.get("/queue").text


def test_a_dispatcher_that_is_away_is_told_on_every_list(engineer):
    assert "no dispatcher has ever been at work here" in engineer.get("/submissions").text


def test_events_and_a_board_with_whiskers(admin, records, objects, settings):
    world = EventWorld(records, Parts(objects, settings.content_bucket), FakeJudge(), settings)
    world.keeper.set_baseline("default", "flat", by="chief")
    world.arrive("s-1", build_net(1, edge=0.002))

    assert "/events/default" in look(admin.get("/events")).links()
    answer = admin.get("/events/default")

    assert "/submissions/s-1" in look(answer).links()
    assert "svg" in look(answer).tags
    assert ">Similar</th>" in answer.text
    assert "flat" in answer.text
    assert "index" in answer.text


def test_an_event_that_does_not_exist_is_not_found_as_a_page(engineer):
    answer = engineer.get("/events/none")

    assert answer.status_code == 404
    assert "text/html" in answer.headers["content-type"]


def test_the_fleet_shows_servers_slots_and_what_is_to_be_done(admin, records):
    fields = {"server": "rio", "heartbeat_at": NOW.isoformat(), "inventory": {"slots": 2}}
    store_server(records, fields)

    text = admin.get("/fleet").text

    assert "rio" in text
    assert "alive" in text
    assert "no pool" in text


def test_a_fleet_without_servers_says_how_one_joins(admin):
    assert "touchstone agent enroll" in admin.get("/fleet").text


# --- the tabs in Airflow --------------------------------------------------------------------------


def follow(client, **query):
    return client.get("/run", params=query, follow_redirects=False)


def test_a_tab_leads_to_the_submission_that_the_run_works_on(engineer, make_submission, named):
    make_submission("s-1", run_ids=["s-1", "manual__2"])
    named["manual__2"] = "s-1"

    for run in ("s-1", "manual__2"):
        answer = follow(engineer, dag="touchstone", run=run)
        assert (answer.status_code, answer.headers["location"]) == (303, "/submissions/s-1")


def test_a_run_that_only_names_a_submission_leads_nowhere(engineer, make_submission, named):
    make_submission("s-1", run_ids=["s-1"])
    named["manual__2"] = "s-1"

    answer = follow(engineer, dag="touchstone", run="manual__2")

    assert answer.status_code == 200
    assert "No submission to show" in answer.text


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"dag": "other", "run": "s-1"},
        {"dag": XSS, "run": XSS},
        {"dag": "touchstone", "run": "../../x"},
    ],
)
def test_a_tab_of_anything_else_says_that_it_is_none_of_ours(admin, make_submission, query):
    make_submission("s-1", run_ids=["s-1"])

    answer = follow(admin, **query)

    assert_harmless(answer)
    assert "No submission to show" in answer.text


def test_somebody_elses_run_leads_nowhere(login, make_submission):
    make_submission("s-1", run_ids=["s-1"])

    assert follow(login("other"), dag="touchstone", run="s-1").status_code == 200


# --- waived columns ------------------------------------------------------------------------------


@pytest.fixture
def waived(records, objects, settings):
    """A submission with two columns that are waived, judged in the event without a file."""
    world = EventWorld(records, Parts(objects, settings.content_bucket), FakeJudge(), settings)
    world.keeper.set_baseline("default", "flat", by="chief")
    entry = world.arrive("s-1", build_net(1), user="engineer", waived=["target", XSS])
    world.arrive("s-2", build_net(2), user="engineer")
    world.judge.close("default", by="chief")
    return entry


def test_a_submissions_page_tells_its_waived_columns_with_each_verdict(engineer, waived):
    answer = engineer.get("/submissions/s-1")

    assert_harmless(answer)
    text = answer.text
    assert text.count("2 columns are waived from the checks for look-ahead.") == 2
    # Beside the verdict, with what was said before, and among what was sent.
    assert text.count("&#39;target&#39;, ") == 3
    assert "waived" not in engineer.get("/submissions/s-2").text


def test_a_board_marks_a_row_with_waived_columns_and_names_them(engineer, waived):
    answer = engineer.get("/events/default")

    assert_harmless(answer)
    assert answer.text.count('<span class="muted">waived columns</span>') == 1
    assert "s-1: waived columns: &#39;target&#39;, " in answer.text
    assert "waived columns are taken" in answer.text


def test_a_comparison_marks_and_names_them(engineer, waived):
    answer = engineer.get("/compare?submission=s-1&submission=s-2")

    assert_harmless(answer)
    assert answer.text.count('<span class="muted">waived columns</span>') == 1
    assert "s-1: waived columns: &#39;target&#39;, " in answer.text
