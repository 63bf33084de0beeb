"""Runs are shown to those who started them, whose submission they are, and admins."""

from __future__ import annotations

import pytest

from fakes.sending import build_facts
from touchstone.ui.routes.runs import RunReader, get_run_reader

URL = "/api/v1/runs"


@pytest.fixture
def runs(app):
    found = {}
    reader = RunReader(find_run=found.get, find_failure=lambda run_id: f"ref: {run_id} has none")
    app.dependency_overrides[get_run_reader] = lambda: reader
    return found


def test_who_started_a_run_sees_it_before_there_is_a_record(engineer, runs):
    conf = {"source": "https://example.org/x.git"}
    runs["s-1"] = build_facts("s-1", conf=conf, is_paused=True)

    assert engineer.get(f"{URL}/s-1").json() == {
        "run_id": "s-1",
        "state": "queued",
        "conf": conf,
        "logical_date": None,
        "run_after": None,
        "is_paused": True,
        "failure": None,
    }


def test_why_a_run_failed_is_looked_up_for_those_that_did(engineer, runs):
    runs["s-1"] = build_facts("s-1", state="failed")
    runs["s-2"] = build_facts("s-2", state="success")

    assert engineer.get(f"{URL}/s-1").json()["failure"] == "ref: s-1 has none"
    assert engineer.get(f"{URL}/s-2").json()["failure"] is None


def test_an_admins_run_of_ones_own_submission_is_seen_and_others_are_not(
    engineer, runs, make_submission
):
    make_submission("s-1", run_ids=["s-1", "s-1--2"])
    make_submission("s-2", submitted_by="somebody")
    for run_id in ("s-1--2", "s-1--3", "s-2", "s-3"):
        runs[run_id] = build_facts(run_id, user="admin")

    assert engineer.get(f"{URL}/s-1--2").status_code == 200
    # Whoever is named by an id alone has no part in the run.
    for run_id in ("s-1--3", "s-2", "s-3", "none"):
        assert engineer.get(f"{URL}/{run_id}").status_code == 404, run_id


def test_an_admin_sees_every_run(login, runs):
    admin = login("admin", "admin")
    runs["s-9"] = build_facts("s-9", user="somebody")
    assert admin.get(f"{URL}/s-9").status_code == 200
    assert admin.get(f"{URL}/s-8").status_code == 404


def test_a_conf_that_is_no_json_is_left_out(engineer, runs):
    runs["s-1"] = build_facts("s-1", conf={1, 2})
    assert engineer.get(f"{URL}/s-1").json()["conf"] is None
