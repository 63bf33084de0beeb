"""The schedule as a form: planned first, then given once, exactly as it was planned."""

from __future__ import annotations

import threading
from decimal import Decimal
from urllib.parse import urlencode

import pytest

from fakes.outline import assert_harmless, look
from touchstone.core.conf import parse_conf
from touchstone.core.eligibility import Resource
from touchstone.core.market import Market
from touchstone.core.offers import GpuOffer, Stock
from touchstone.core.pods import Cloud
from touchstone.core.schedule import FORMS, Platform, Schedule
from touchstone.pages.posted import MAX_FIELDS, MAX_FORM_BYTES, Posted
from touchstone.pages.schedule_form import (
    PREFIX,
    build_fieldsets,
    read_schedule,
    write_schedule,
    write_values,
)
from touchstone.services import planning
from touchstone.services.planning import MAX_PLANNED

OURS = {"Sec-Fetch-Site": "same-origin"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
XSS = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'javascript:"
FULL = Schedule.model_validate(
    {
        "intervals": "1,5,20",
        "platform": "on-prem",
        "config_file": "sets/fast.toml",
        "branch": "main",
        "fetched_data_end_to": "2018-06-30",
        "config_overrides": ["a.b=3", "c=x y"],
        "passthrough_args": ["--epochs '3 4'"],
        "seed": 7,
        "seed_count": 3,
        "baseline": "s-0",
        "event": "spring",
        "budget": "12.5",
        "max_hours": 1.25,
        "priority": -3,
        "job": "nightly",
        "require_cuda": True,
        "prefer_cuda": True,
        "min_vram_gib": 24,
        "min_ram_gib": 1.5,
        "min_disk_gib": 50,
        "allowed_hosts": ["a", "b"],
        "gpu_models": ["RTX 4090"],
        "cloud": "secure",
        "max_price": "0.8",
    }
)


def send(client, path, pairs, **options):
    sent = options.pop("headers", OURS)
    return client.post(path, content=urlencode(pairs), headers=FORM | sent, **options)


def plan(client, ids="s-1", **fields):
    told = {"intervals": "1,5"} | fields
    pairs = [("submissions", ids), *((PREFIX + name, value) for name, value in told.items())]
    return send(client, "/schedule/plan", pairs)


def start(client, planned, **options):
    pairs = look(planned).forms["/schedule/start"]
    return send(client, "/schedule/start", pairs, follow_redirects=False, **options)


# --- a schedule as a form, and back -------------------------------------------------------------


def as_posted(values):
    return Posted(values={PREFIX + name: [value] for name, value in values.items()})


# What says the last day of data is not given beside folds.
FOLDED = Schedule.model_validate(
    FULL.model_dump(exclude={"fetched_data_end_to"}) | {"folds": ["2005-01-01", "2010-01-01"]}
)


@pytest.mark.parametrize("schedule", [FULL, FOLDED], ids=["plain", "folds"])
def test_every_field_comes_back_from_the_form_as_it_went_in(schedule):
    told = [set(each.model_dump(exclude_defaults=True)) for each in (FULL, FOLDED)]
    assert set.union(*told) == set(Schedule.model_fields)

    fields = read_schedule(as_posted(write_schedule(schedule)))

    assert parse_conf({"submission_id": "s-1", **fields}).schedule == schedule


def test_what_is_as_by_default_is_left_out():
    assert read_schedule(as_posted(write_values({}))) == {}
    assert read_schedule(as_posted(write_values({"intervals": (5,)}))) == {"intervals": "5"}


def test_each_field_is_asked_for_once_with_title_help_and_bounds():
    inputs = [each for part in build_fieldsets({}, {}, is_needed=True) for each in part.inputs]

    assert [each.name for each in inputs] == [PREFIX + name for name in FORMS]
    by_name = {each.name.removeprefix(PREFIX): each for each in inputs}
    assert by_name["intervals"].attributes["required"]
    assert (by_name["seed"].attributes["min"], by_name["seed"].attributes["max"]) == (
        "0",
        str(2**31 - 1),
    )
    assert by_name["min_vram_gib"].attributes["step"] == "any"
    assert by_name["platform"].kind == "choice"
    assert by_name["fetched_data_end_to"].kind == "day"
    assert by_name["config_overrides"].kind == "lines"
    assert by_name["require_cuda"].kind == "check"
    assert all(each.help and each.title for each in inputs)


def test_a_section_is_open_if_it_says_something_or_is_wrong():
    plain = build_fieldsets({}, {}, is_needed=True)
    said = build_fieldsets({"min_vram_gib": "24"}, {"budget": "no"}, is_needed=True)

    assert [each.is_open for each in plain] == [True, False, False]
    assert [each.is_open for each in said] == [True, True, True]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("seed", "x"),
        ("seed", "1.5"),
        ("seed", "9" * 5000),
        ("min_vram_gib", "nan"),
        ("min_vram_gib", "1e999"),
        ("max_price", "-1"),
        ("max_hours", "inf"),
        ("fetched_data_end_to", "yesterday"),
        ("platform", "moon"),
        ("config_overrides", "nonsense"),
        ("intervals", "1;5"),
    ],
)
def test_what_makes_no_sense_is_refused_beside_its_field_and_stays_typed(
    engineer, accepted, see_fleet, name, text
):
    accepted()

    answer = plan(engineer, **{name: text})

    assert_harmless(answer, status=422)
    assert f'id="schedule-{name}-error"' in answer.text
    assert "/schedule/start" not in answer.text
    typed = dict(look(answer).forms["/schedule/plan"])
    # A choice can only hold what it offers.
    assert name == "platform" or typed[PREFIX + name] == text


# --- the form ------------------------------------------------------------------------------------


def test_the_form_holds_what_its_submission_was_trained_as_last(engineer, accepted):
    accepted(schedule=FULL.model_dump(mode="json"))

    answer = engineer.get("/schedule", params={"submission": "s-1"})

    assert_harmless(answer)
    held = {name: [value] for name, value in look(answer).forms["/schedule/plan"]}
    assert held["submissions"] == ["s-1"]
    fields = read_schedule(Posted(values=held))
    assert parse_conf({"submission_id": "s-1", **fields}).schedule == FULL


def test_another_submissions_schedule_may_fill_in_the_form(engineer, accepted):
    accepted()
    accepted("s-2", schedule={"intervals": [3], "seed": 9})

    answer = engineer.get("/schedule", params={"submission": "s-1", "like": "s-2"})

    held = dict(look(answer).forms["/schedule/plan"])
    assert (held["submissions"], held["schedule.intervals"], held["schedule.seed"]) == (
        "s-1",
        "3",
        "9",
    )


@pytest.mark.parametrize("query", [{"submission": "s-1"}, {"like": "s-1"}])
def test_a_form_of_somebody_elses_submission_is_not_there(login, accepted, query):
    accepted(schedule=FULL.model_dump(mode="json"))
    stranger = login("other")

    foreign = stranger.get("/schedule", params=query)
    missing = stranger.get("/schedule", params=dict.fromkeys(query, "s-2"))

    assert foreign.status_code == missing.status_code == 404
    assert foreign.text == missing.text.replace("s-2", "s-1")


def test_a_viewer_has_no_form_and_plans_and_starts_nothing(login, accepted, see_fleet, runs):
    accepted()
    planned = plan(login())
    viewer = login(role="viewer")

    assert viewer.get("/schedule").status_code == 403
    assert plan(viewer).status_code == 403
    assert start(viewer, planned).status_code == 403
    assert runs.runs == {}


def test_the_gpu_models_that_a_dispatcher_has_seen_stand_beside_the_fields(engineer, see_fleet):
    offer = GpuOffer(
        gpu="NVIDIA GeForce RTX 4090",
        name="RTX 4090" + XSS,
        memory_gb=24,
        cloud=Cloud.SECURE,
        price_per_hour=Decimal("0.69"),
        stock=Stock.LOW,
    )
    assert "GPU models at RunPod" not in engineer.get("/schedule").text
    see_fleet(Resource(name="runpod", platform=Platform.RUNPOD, market=Market(offers=(offer,))))

    answer = engineer.get("/schedule")

    assert_harmless(answer)
    for words in ("RTX 4090&lt;script", "24 GB", "$0.69/h", "low"):
        assert words in answer.text


# --- the plan, and what is done by it ------------------------------------------------------------


def test_a_plan_stands_beside_the_fields_and_starts_nothing(engineer, accepted, see_fleet, runs):
    accepted()

    answer = plan(engineer, intervals="1,5,20", seed="3")

    assert_harmless(answer)
    for words in ("rio", "at once", "waits, place 1", "rio is full", "n/a", "gives no GPU"):
        assert words in answer.text
    assert "Schedule 3 trainings" in answer.text
    assert runs.tries == 0
    typed = dict(look(answer).forms["/schedule/plan"])
    assert (typed["schedule.intervals"], typed["schedule.seed"]) == ("1,5,20", "3")


def test_exactly_what_was_planned_is_scheduled(engineer, accepted, see_fleet, runs):
    accepted()
    planned = plan(engineer, intervals="1, 5", seed="3", config_overrides="a.b=1\r\nc.d=x y\r\n")

    answer = start(engineer, planned)

    assert answer.status_code == 303
    assert answer.headers["location"] == "/submissions/s-1?run=s-1--2"
    (run_id,) = runs.runs
    assert run_id == "s-1--2"
    assert runs.runs[run_id].user == "engineer"
    assert runs.runs[run_id].conf == {
        "submission_id": "s-1",
        "intervals": "1, 5",
        "seed": 3,
        "config_overrides": ["a.b=1", "c.d=x y"],
    }
    assert parse_conf(runs.runs[run_id].conf).schedule.intervals == (1, 5)


def test_the_same_form_sent_again_schedules_once(engineer, accepted, see_fleet, runs, records):
    accepted()
    planned = plan(engineer)

    first, second = start(engineer, planned), start(engineer, planned)
    # By now its run has put it on record, and another could not be scheduled.
    records.change_submission(
        "s-1", lambda found: found.change(status="queued", run_ids=("s-1", "s-1--2"))
    )
    third = start(engineer, planned)

    assert [each.status_code for each in (first, second, third)] == [303, 303, 303]
    assert len({each.headers["location"] for each in (first, second, third)}) == 1
    assert list(runs.runs) == ["s-1--2"]


def test_what_was_scheduled_otherwise_in_the_meantime_is_not_scheduled_again(
    engineer, accepted, see_fleet, runs
):
    accepted()
    one, other = plan(engineer, seed="1"), plan(engineer, seed="2")
    assert start(engineer, one).status_code == 303

    answer = start(engineer, other)

    assert_harmless(answer, status=409)
    assert "started in the meantime" in answer.text
    assert list(runs.runs) == ["s-1--2"]
    assert runs.runs["s-1--2"].conf["seed"] == 1


def test_of_two_users_at_once_one_schedules(login, accepted, see_fleet, runs):
    accepted()
    planned = plan(login())
    runs.start("s-1--2", {"submission_id": "s-1", "intervals": "1,5"}, "chief")

    assert start(login(), planned).status_code == 409
    assert runs.runs["s-1--2"].user == "chief"


def test_an_id_that_a_refused_run_took_is_passed_over(engineer, accepted, see_fleet, runs):
    accepted()
    runs.start("s-1--2", {"nonsense": 1}, "engineer")

    assert start(engineer, plan(engineer)).headers["location"].endswith("run=s-1--3")


def test_what_has_changed_since_the_plan_is_refused(engineer, accepted, see_fleet, runs, records):
    accepted()
    planned = plan(engineer)
    records.change_submission("s-1", lambda found: found.change(status="retracted"))

    answer = start(engineer, planned)

    assert_harmless(answer, status=422)
    assert "retracted" in answer.text
    assert runs.runs == {}


def test_several_submissions_get_the_same_schedule(engineer, accepted, see_fleet, runs):
    for number in range(1, 4):
        accepted(f"s-{number}")

    planned = plan(engineer, "s-1, s-2\n s-3 s-1", intervals="5")
    answer = start(engineer, planned)

    assert "Schedule 3 trainings" in planned.text
    assert (answer.status_code, answer.headers["location"]) == (303, "/submissions")
    assert sorted(runs.runs) == ["s-1--2", "s-2--2", "s-3--2"]
    assert {run.conf["submission_id"] for run in runs.runs.values()} == {"s-1", "s-2", "s-3"}


def test_what_stops_one_of_several_stops_no_other_and_is_told_at_its_row(
    engineer, accepted, see_fleet, runs
):
    for number in range(1, 4):
        accepted(f"s-{number}")
    planned = plan(engineer, "s-1 s-2 s-3", intervals="5")
    # Somebody was faster with one of them.
    runs.start("s-2--2", {"submission_id": "s-2", "intervals": "20"}, "engineer")

    for _ in range(2):
        answer = start(engineer, planned)

        assert_harmless(answer)
        assert "2 were scheduled, 1 not" in answer.text
        assert "was started in the meantime" in answer.text
        assert "/schedule?submission=s-2&like=s-2" in look(answer).links()
        assert sorted(runs.runs) == ["s-1--2", "s-2--2", "s-3--2"]
        assert runs.runs["s-2--2"].conf["intervals"] == "20"


@pytest.mark.parametrize(
    ("ids", "status"),
    [
        ("", 422),
        (" , ;", 422),
        ("x" * 5000, 422),
        (" ".join(f"s-{number}" for number in range(MAX_PLANNED + 1)), 422),
        ("gone-1", 404),
        ("theirs-1", 404),
        ("s-1 theirs-1", 404),
        ("busy-1", 422),
        (XSS, 404),
        ("../fleet", 404),
    ],
)
def test_submissions_that_cannot_be_scheduled_are_told_beside_their_field(
    engineer, accepted, see_fleet, runs, ids, status
):
    accepted()
    accepted("theirs-1", submitted_by="other")
    accepted("busy-1", status="running")

    answer = plan(engineer, ids)

    assert_harmless(answer, status=status)
    assert 'id="submissions-error"' in answer.text
    assert runs.runs == {}


@pytest.mark.parametrize(
    "run", ["", "s-1", "s-2--2", "s-1--999999", "s-1--02", "../x", XSS, "s-1--1"]
)
def test_a_form_chooses_no_run_of_another_kind(engineer, accepted, see_fleet, runs, run):
    accepted()
    pairs = [("submissions", "s-1"), ("run", run), ("schedule.intervals", "5")]

    answer = send(engineer, "/schedule/start", pairs)

    assert_harmless(answer, status=422)
    assert "the form is not whole" in answer.text
    assert runs.runs == {}


def test_a_plan_that_is_put_off_keeps_what_was_typed(
    engineer, accepted, see_fleet, runs, monkeypatch
):
    accepted()
    planned = plan(engineer)
    monkeypatch.setattr(planning, "_TURNS", threading.BoundedSemaphore(1))
    assert planning._TURNS.acquire(blocking=False)

    answer, started = plan(engineer, seed="7"), start(engineer, planned)

    for each in (answer, started):
        assert_harmless(each, status=429)
        assert "try again in a moment" in each.text
    assert dict(look(answer).forms["/schedule/plan"])["schedule.seed"] == "7"
    assert runs.runs == {}


def test_somebody_elses_submission_is_not_started(login, accepted, see_fleet, runs):
    accepted()
    pairs = [("submissions", "s-1"), ("run", "s-1--2"), ("schedule.intervals", "5")]

    assert send(login("other"), "/schedule/start", pairs).status_code == 404
    assert runs.runs == {}


@pytest.mark.parametrize("name", [*FORMS, "nonsense"])
def test_no_field_becomes_markup(engineer, accepted, see_fleet, name):
    accepted()

    answer = plan(engineer, **{name: XSS})

    assert answer.status_code in {200, 422}
    assert_harmless(answer, status=answer.status_code)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", FORM, 422),
        (b"{}", {"Content-Type": "application/json"}, 415),
        (b"x", {}, 415),
        (b"a=" + b"x" * MAX_FORM_BYTES, FORM, 413),
        ("&".join(f"a{n}=1" for n in range(MAX_FIELDS + 1)).encode(), FORM, 422),
        (b"\xff\xfe=%ff&schedule.intervals=%00", FORM, 422),
    ],
)
def test_a_body_that_is_no_form_of_ours_is_refused(engineer, runs, body, headers, status):
    for path in ("/schedule/plan", "/schedule/start"):
        answer = engineer.post(path, content=body, headers=OURS | headers)
        assert answer.status_code == status, path
    assert runs.runs == {}


# --- where it leads ---------------------------------------------------------------------------


def test_a_run_that_is_not_on_record_yet_is_told_and_waited_for(engineer, accepted):
    accepted()

    starting = engineer.get("/submissions/s-1", params={"run": "s-1--2"})
    known = engineer.get("/submissions/s-1", params={"run": "s-1"})

    assert "The run s-1--2 was started" in starting.text
    assert "data-live" in starting.text
    assert "was started" not in known.text
    assert "data-live" not in known.text


@pytest.mark.parametrize("run", ["s-2--2", XSS, "../x", "s-1--2<b>"])
def test_a_run_of_anything_else_is_not_told(engineer, accepted, run):
    accepted()

    answer = engineer.get("/submissions/s-1", params={"run": run})

    assert_harmless(answer)
    assert "was started" not in answer.text


@pytest.mark.parametrize(
    ("fields", "is_offered"),
    [
        ({"status": "accepted"}, True),
        ({"status": "success"}, True),
        ({"status": "running"}, False),
        ({"status": "rejected"}, False),
        ({"status": "error"}, False),
        ({"status": "retracted"}, False),
        ({"status": "success", "replay_of": "s-0/i5"}, False),
    ],
)
def test_what_may_be_scheduled_has_a_link_to_the_form(engineer, accepted, fields, is_offered):
    accepted(**fields)

    links = look(engineer.get("/submissions/s-1")).links()

    assert ("/schedule?submission=s-1" in links) is is_offered


def test_what_was_trained_before_it_failed_may_be_scheduled_again(engineer, accepted, make_task):
    accepted(status="error")
    make_task(task_id="i5", status="error")

    assert "/schedule?submission=s-1" in look(engineer.get("/submissions/s-1")).links()


def test_others_may_be_scheduled_as_it_was(engineer, accepted, make_task):
    accepted(schedule=FULL.model_dump(mode="json"))
    make_task(task_id="i5", status="success")

    assert "/schedule?like=s-1" in look(engineer.get("/submissions/s-1")).links()
    held = dict(look(engineer.get("/schedule?like=s-1")).forms["/schedule/plan"])
    assert (held["submissions"], held["schedule.seed"]) == ("", "7")


def test_a_viewer_is_offered_nothing(login, accepted):
    accepted()

    links = look(login(role="viewer").get("/submissions/s-1")).links()

    assert [link for link in links if "schedule" in link or "new" in link] == []


def test_a_plan_has_a_row_for_each_fold(engineer, accepted, see_fleet):
    accepted()

    page = plan(engineer, intervals="5", folds="2005-01-01\n2010-01-01").text

    assert "Judged on" in page
    for told in ("i5-f0", "2005-01-01 to 2009-12-31", "i5-f1", "from 2010-01-01", "2 trainings"):
        assert told in page
    assert "Judged on" not in plan(engineer, intervals="5").text


def test_folds_that_make_no_sense_are_told_at_their_field(engineer, accepted, see_fleet):
    accepted()

    page = plan(engineer, intervals="5", folds="2010-01-01\n2005-01-01").text

    assert "2005-01-01 does not come after 2010-01-01" in page
    assert_harmless(plan(engineer, intervals="5", folds=XSS), status=422)
