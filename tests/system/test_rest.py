"""Runs triggered over REST, as CI does, and everything that is refused before it costs anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid

import httpx
import pytest

from campaigns import sample
from system.installation import EXAMPLES, REPOSITORY
from touchstone.core.names import find_submission_of_run

GIT = f"file://{REPOSITORY}"
PATH = "include/examples/momentum"


def make_run_id():
    return f"ci-{uuid.uuid4().hex[:8]}"


def curl(installation, conf, run_id=None):
    """Trigger a run with the command-line tool that CI systems have."""
    if shutil.which("curl") is None:
        pytest.skip("NO CURL (apt install curl): runs from CI were NOT tested")
    url = installation.stack["urls"]["airflow"]
    token = installation.airflow.headers["Authorization"]
    body = {"logical_date": None, "conf": conf} | ({"dag_run_id": run_id} if run_id else {})
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--config", "-"),
            *("--write-out", "\n%{http_code}", "--data", json.dumps(body)),
            f"{url}/api/v2/dags/touchstone/dagRuns",
        ],
        input=f'header = "Authorization: {token}"\nheader = "Content-Type: application/json"\n',
        capture_output=True,
        text=True,
        check=True,
    )
    text, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(text)


def test_a_run_from_curl_is_validated_like_one_from_the_command_line(installation, commit):
    run_id = make_run_id()
    conf = {"source": GIT, "path": PATH, "ref": commit, "system": "feature_set"}

    status, _ = curl(installation, conf, run_id)

    assert status == 200
    submission = installation.wait_for_submission(run_id, "accepted", "rejected", "error")
    assert submission["status"] == "accepted", submission.get("reason")
    assert submission["commit"] == commit
    assert installation.wait_for_run_end(run_id) == "success"

    repeated, _ = curl(installation, conf, run_id)
    assert repeated == 409
    assert installation.task(run_id, "validation")["fence"] == 1


def test_a_run_without_an_id_gets_a_submission_of_its_own(installation):
    status, run = curl(installation, {"source": GIT, "path": PATH})

    assert status == 200
    submission_id = find_submission_of_run(run["dag_run_id"])
    assert installation.wait_for_submission(submission_id, "accepted")["run_ids"] == [
        run["dag_run_id"]
    ]


@pytest.mark.parametrize(
    ("conf", "named"),
    [
        ({"source": 5}, "source"),
        ({"source": GIT, "system": "poem"}, "system"),
        ({"source": GIT, "intervals": ""}, "intervals"),
        ({"source": GIT, "intervals": []}, "intervals"),
        ({"source": GIT, "intervals": "1,x"}, "intervals"),
        ({"source": GIT, "intervals": "1", "seed": "three"}, "seed"),
        ({"source": GIT, "intervals": "1", "fetched_data_end_to": "soon"}, "fetched_data_end_to"),
        ({"source": GIT, "intervals": "1", "config_overrides": "a=1"}, "config_overrides"),
    ],
)
def test_a_wrong_type_is_refused_at_the_door(installation, conf, named):
    status, answer = curl(installation, conf, make_run_id())

    assert status == 400
    assert named in json.dumps(answer)


REFUSED = {
    str(conf): (conf, reason)
    for conf, reason in sample(
        [
            ({"source": GIT, "sauce": 1}, "sauce: unknown field"),
            ({"source": "file:///no/such/repository"}, "source: there is no git repository"),
            ({"source": "https://127.0.0.1:9/x.git"}, "source: its host cannot be connected to"),
            ({"source": GIT, "ref": "no-such-branch"}, "ref: "),
            ({"source": GIT, "path": "no/such/folder"}, "path: "),
            ({"source": "upload:" + "0" * 64}, "source: nothing was uploaded"),
            ({"source": GIT, "intervals": "1", "branch": "no-such-branch"}, "branch: "),
            (
                {"source": GIT, "intervals": "1", "platform": "on-prem", "require_cuda": True},
                "require_cuda: ",
            ),
            (
                {"source": GIT, "intervals": "1", "platform": "runpod", "gpu_models": ["0"]},
                "gpu_models: ",
            ),
            ({"source": GIT, "intervals": "1", "baseline": "nobody"}, "baseline: "),
        ],
        4,
    )
}


@pytest.fixture(scope="module")
def refused(installation):
    """All of them at once, each under a run id of its own."""
    run_ids = {case: make_run_id() for case in REFUSED}
    for case, (conf, _) in REFUSED.items():
        status, _ = curl(installation, conf, run_ids[case])
        assert status == 200
    return run_ids


@pytest.mark.parametrize("case", REFUSED)
def test_what_only_looking_can_tell_is_refused_before_any_container_starts(
    installation, refused, case
):
    submission = installation.wait_for_submission(refused[case], "rejected")

    assert submission["reason"].startswith(REFUSED[case][1])
    assert installation.wait_for_run_end(refused[case]) == "failed"
    assert installation.records.list_tasks(refused[case]) == []


def test_a_submission_that_was_never_accepted_cannot_be_scheduled(installation):
    refused = make_run_id()
    curl(installation, {"source": GIT, "ref": "no-such-branch"}, refused)
    installation.wait_for_submission(refused, "rejected")

    run_id = make_run_id()
    curl(installation, {"submission_id": refused, "intervals": "1"}, run_id)

    assert installation.wait_for_run_end(run_id) == "failed"
    assert installation.submission(refused)["status"] == "rejected"
    assert installation.records.list_tasks(refused) == []


def test_the_command_line_names_the_field_and_starts_nothing(installation):
    done = installation.run("submit", str(EXAMPLES / "momentum"), "--intervals", "1,x")

    assert done.returncode == 2
    assert "intervals" in done.stderr


def test_nobody_gets_in_without_a_login(installation):
    url = installation.stack["urls"]["airflow"]

    assert httpx.get(f"{url}/touchstone/api/v1/submissions").status_code == 401
    assert httpx.post(f"{url}/api/v2/dags/touchstone/dagRuns", json={}).status_code == 401
