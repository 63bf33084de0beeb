"""What users of Airflow can do to each other's submissions on a real stack: nothing."""

from __future__ import annotations

import httpx
import pytest

from system.installation import EXAMPLES
from touchstone.core.records.notes import ReaperNote
from waiting import wait_for

DAG = "/dags/touchstone"
QUICK = ("--intervals", "1", "--override", "training.epochs=1")


@pytest.fixture(scope="module")
def engineer(installation):
    """Airflow's REST API, as an engineer."""
    url = installation.stack["urls"]["airflow"]
    login = {"username": "engineer", "password": installation.passwords["engineer"]}
    token = httpx.post(f"{url}/auth/token", json=login).raise_for_status().json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    return httpx.Client(base_url=f"{url}/api/v2", headers=headers, timeout=60)


@pytest.fixture(scope="module")
def admin(installation):
    return installation.airflow


@pytest.fixture(scope="module")
def own(installation):
    """An engineer's submission, trained."""
    submission = installation.submit(EXAMPLES / "momentum", *QUICK)
    found = installation.wait_for_submission(submission, "success", "error")
    assert found["status"] == "success", found.get("reason")
    assert installation.wait_for_run_end(submission) == "success"
    return submission


@pytest.fixture(scope="module")
def others(installation):
    """An admin's submission, accepted."""
    submission = installation.submit(EXAMPLES / "momentum", "--as", "admin")
    ends = ("accepted", "rejected", "error")
    found = installation.wait_for_submission(submission, *ends)
    assert (found["status"], found["submitted_by"]) == ("accepted", "admin")
    return submission


def trigger(client, conf, run_id=None):
    body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
    answer = client.post(f"{DAG}/dagRuns", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["dag_run_id"]


def everything(installation, submission):
    return installation.submission(submission), installation.tasks(submission)


def clear(client, run_id, *task_ids):
    body = {"dry_run": False, "dag_run_id": run_id, "task_ids": task_ids, "only_failed": False}
    return client.post(f"{DAG}/clearTaskInstances", json=body)


def set_xcom(client, run_id, task_id, value):
    path = f"{DAG}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
    return client.patch(path, json={"value": value})


def test_an_engineer_changes_nothing_by_airflows_own_api(engineer, own, others):
    for run in (own, others):
        path = f"{DAG}/dagRuns/{run}"
        answers = [
            engineer.patch(DAG, json={"is_paused": True}),
            engineer.patch(path, json={"state": "failed"}),
            engineer.delete(path),
            engineer.patch(f"{path}/taskInstances/register", json={"new_state": "failed"}),
            engineer.put(f"{path}/taskInstances/register/state-store/placement", json={"value": 1}),
            clear(engineer, run, "evaluate"),
            set_xcom(engineer, run, "register", others),
        ]
        assert [answer.status_code for answer in answers] == [403] * len(answers)


def test_a_strangers_run_changes_nothing_whatever_it_is_called_and_carries(
    installation, engineer, others
):
    before = everything(installation, others)
    source = {"source": f"file://{EXAMPLES.parents[1]}", "path": "include/examples/momentum"}
    schedule = {"submission_id": others, "intervals": "1"}
    runs = [
        trigger(engineer, source, f"{others}--2"),
        trigger(engineer, schedule, f"{others}--3"),
        trigger(engineer, schedule),
        trigger(engineer, {"submission_id": others}, f"{others}--4"),
        trigger(engineer, {"sauce": 1}, f"{others}--5"),
    ]

    ends = {installation.wait_for_run_end(run) for run in runs}
    assert ends == {"failed"}
    assert everything(installation, others) == before


def test_what_is_in_xcoms_is_no_authority_also_for_those_who_may_edit_them(
    installation, admin, own, others
):
    """By these two XComs a result was erased, and an image of the attacker's own run."""
    before, task = everything(installation, others), installation.task(own, "i1")
    forged = {"submission_id": others, "task_id": "i1", "interval": 1, "image": "attacker/any:1"}
    assert set_xcom(admin, own, "register", others).is_success
    assert set_xcom(admin, own, "plan", [forged]).is_success

    assert clear(admin, own, "train", "collect", "evaluate").is_success

    assert installation.wait_for_run_end(own) == "success"
    assert installation.submission(own)["status"] == "success"
    again = installation.task(own, "i1")
    assert again["fence"] > task["fence"]
    assert again["config"] == task["config"]
    assert everything(installation, others) == before


def test_what_an_admin_does_in_airflow_is_on_the_submissions_record(installation, admin, own):
    path = f"{DAG}/dagRuns/{own}"
    assert admin.patch(path, json={"note": "looked at"}).is_success

    def find():
        actions = installation.submission(own)["actions"]
        return [a for a in actions if a["action"] == "changed the run in Airflow"]

    (action,) = wait_for("it is on record", find)
    assert action["by"] == "admin"


def test_an_engineer_schedules_by_the_form_as_well(installation, engineer, own):
    """Its run has an id of Airflow's own: the trainings of such a run waited for ever."""
    run = trigger(engineer, {"submission_id": own, "intervals": "5", "seed": 2})

    assert installation.wait_for_run_end(run) == "success"
    assert installation.submission(own)["run_ids"][-1] == run
    assert installation.task(own, "i5")["run_id"] == run


def test_the_reaper_looks_while_every_dag_is_paused(installation):
    def look():
        proof = installation.records.find_note(ReaperNote).proof
        return proof and proof.at

    paused = [
        installation.airflow.patch(f"/dags/{dag}", json={"is_paused": True})
        for dag in ("touchstone", "touchstone_housekeeping")
    ]
    try:
        assert all(answer.is_success for answer in paused)
        before = look()
        wait_for("it has looked again", lambda: look() != before)
    finally:
        for dag in ("touchstone", "touchstone_housekeeping"):
            installation.airflow.patch(f"/dags/{dag}", json={"is_paused": False})
