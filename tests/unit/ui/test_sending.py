"""Programs submit and schedule by the API: once for a key, however often they send it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from fakes.sending import FakeRuns
from touchstone.core.names import is_submission_id
from touchstone.core.records.requests import MAX_KEY
from touchstone.ui.routes.sending import get_sender

SOURCE = {"source": "https://example.org/models.git", "system": "feature_set", "ref": "main"}


@pytest.fixture
def settings(settings):
    return settings.model_copy(update={"git_hosts": ["example.org"]})


@pytest.fixture
def runs(app):
    found = FakeRuns()
    app.dependency_overrides[get_sender] = found.build_sender
    return found


def submit(client, key=None, **body):
    headers = {} if key is None else {"Idempotency-Key": key}
    return client.post("/api/v1/submissions", json=SOURCE | body, headers=headers)


def schedule(client, key=None, submission_id="s-1", **body):
    headers = {} if key is None else {"Idempotency-Key": key}
    fields = {"intervals": "1,5"} | body
    return client.post(
        f"/api/v1/submissions/{submission_id}/schedule", json=fields, headers=headers
    )


def test_a_module_is_submitted(engineer, runs):
    answer = submit(engineer, notes="first")

    assert answer.status_code == 201, answer.text
    sent = answer.json()
    assert sent == {"submission_id": sent["run_id"], "run_id": sent["run_id"], "is_new": True}
    assert is_submission_id(sent["run_id"])
    (run,) = runs.runs.values()
    assert (run.user, run.conf) == ("engineer", SOURCE | {"notes": "first"})


def test_one_key_is_one_submission(engineer, runs):
    first, second = submit(engineer, "ci-1"), submit(engineer, "ci-1")

    assert (first.status_code, second.status_code) == (201, 200)
    assert second.json() == first.json() | {"is_new": False}
    assert len(runs.runs) == 1
    assert submit(engineer, "ci-2").json()["run_id"] != first.json()["run_id"]
    assert submit(engineer).status_code == 201
    assert len(runs.runs) == 3


def test_a_key_is_of_one_request(engineer, runs):
    first = submit(engineer, "ci-1").json()["run_id"]

    other = submit(engineer, "ci-1", ref="dev")

    assert other.status_code == 409
    assert other.json()["detail"] == (
        f"Idempotency-Key: stands for another request, which is the run {first}; "
        "give each request a key of its own"
    )
    assert len(runs.runs) == 1


def test_what_is_refused_takes_no_key(engineer, runs):
    """A wrong value is corrected, and the job runs again by the same key."""
    assert submit(engineer, "ci-1", intervals="0").status_code == 400

    assert submit(engineer, "ci-1", intervals="5").status_code == 201
    assert len(runs.runs) == 1


def test_the_order_of_fields_is_no_other_request(engineer, runs):
    headers = {"Idempotency-Key": "ci-1"}
    for body in (SOURCE, dict(reversed(SOURCE.items()))):
        engineer.post("/api/v1/submissions", json=body, headers=headers)

    assert len(runs.runs) == 1


def test_the_same_key_of_another_user_is_another_key(login, runs):
    first = submit(login("engineer"), "ci-1").json()["run_id"]
    second = submit(login("other"), "ci-1")

    assert second.status_code == 201
    assert second.json()["run_id"] != first


def test_of_many_at_once_one_is_started(engineer, runs):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(engineer, "ci-1"), range(16)))

    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert len(runs.runs) == 1


def test_who_died_before_the_run_began_sends_it_again(engineer, runs, app):
    """The key is written first: what was not started then is started now, as the same run."""

    class Died(BaseException):
        pass

    def die(*_):
        raise Died

    broken = runs.build_sender()
    object.__setattr__(broken, "start_run", die)
    app.dependency_overrides[get_sender] = lambda: broken
    with pytest.raises(Died):
        submit(engineer, "ci-1")
    assert runs.runs == {}

    app.dependency_overrides[get_sender] = runs.build_sender
    answer = submit(engineer, "ci-1")

    assert (answer.status_code, list(runs.runs)) == (201, [answer.json()["run_id"]])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"source": ""}, "source"),
        ({"source": "ftp://example.org/x"}, "source"),
        ({"source": "https://evil.example/x.git"}, "source"),
        ({"system": "other"}, "system"),
        ({"intervals": "0"}, "intervals"),
        ({"submission_id": "s-2"}, "submission_id"),
        ({"nonsense": 1}, "nonsense"),
        ({"ref": "-x"}, "ref"),
    ],
)
def test_what_register_would_refuse_is_refused_by_its_field(engineer, runs, body, field):
    answer = submit(engineer, "ci-1", **body)

    assert (answer.status_code, answer.json().get("field")) == (400, field)
    assert runs.runs == {}


@pytest.mark.parametrize("key", ["", " ", "x" * (MAX_KEY + 1), "a b", "ä".encode()])
def test_a_key_is_of_printable_letters(engineer, runs, key):
    assert submit(engineer, key).status_code == 422
    assert runs.runs == {}


def test_an_accepted_submission_is_scheduled_once_for_a_key(engineer, runs, accepted, see_fleet):
    accepted()

    first, second = schedule(engineer, "ci-1"), schedule(engineer, "ci-1")

    assert (first.status_code, second.status_code) == (201, 200), first.text
    assert second.json() == {"submission_id": "s-1", "run_id": "s-1--2", "is_new": False}
    assert runs.runs["s-1--2"].conf == {"submission_id": "s-1", "intervals": "1,5"}
    other = schedule(engineer, "ci-1", seed=4)
    assert other.status_code == 409
    assert schedule(engineer, "ci-2", seed=4).json()["run_id"] == "s-1--3"


def test_what_cannot_be_scheduled_is_refused(login, engineer, runs, accepted, see_fleet):
    accepted(status="running")

    busy = schedule(engineer)
    unknown = schedule(engineer, source="https://example.org/x.git")

    assert (busy.status_code, busy.json()["field"]) == (400, "submission_id")
    assert (unknown.status_code, unknown.json()["field"]) == (400, "source")
    assert schedule(login("other")).status_code == 404
    assert runs.runs == {}


def test_a_viewer_sends_nothing(login, runs):
    viewer = login(role="viewer")

    assert submit(viewer).status_code == 403
    assert schedule(viewer).status_code == 403
    assert runs.runs == {}


def test_a_form_of_another_site_is_no_request(engineer, runs):
    answer = engineer.post("/api/v1/submissions", data={"source": "x"})

    assert answer.status_code == 415
    assert runs.runs == {}


def put(client, submission_id="mine-1", **body):
    return client.put(f"/api/v1/submissions/{submission_id}", json=SOURCE | body)


def test_an_id_of_ones_own_is_one_submission_however_often_it_is_sent(engineer, runs):
    first, again = put(engineer), put(engineer)

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == {"submission_id": "mine-1", "run_id": "mine-1", "is_new": True}
    assert again.json() == first.json() | {"is_new": False}
    assert runs.runs["mine-1"].conf == SOURCE


def test_an_id_that_is_anothers_is_refused_and_says_nothing_of_theirs(
    engineer, runs, make_submission
):
    put(engineer)
    make_submission("theirs", submitted_by="somebody")
    runs.start("others", SOURCE, "somebody")

    for answer in (
        put(engineer, notes="other"),
        put(engineer, "theirs"),
        put(engineer, "others"),
    ):
        assert answer.status_code == 409, answer.text
        assert answer.json()["field"] == "id"
        assert "is taken; choose another one" in answer.json()["detail"]


@pytest.mark.parametrize("submission_id", ["A", "a b", "a--b", "x" * 49, "-a-"])
def test_what_can_be_no_id_is_refused(engineer, runs, submission_id):
    answer = put(engineer, submission_id)

    assert (answer.status_code, answer.json()["field"]) == (400, "id")
    assert runs.runs == {}


def test_a_training_is_replayed_only_by_who_may(engineer, runs, make_submission, make_task):
    make_submission("s-1", status="success")
    make_task(submission_id="s-1", status="success")
    make_submission("s-2", status="success", submitted_by="somebody")
    make_task(submission_id="s-2", status="success")

    def replay(task):
        return engineer.put("/api/v1/submissions/again", json={"replay": task})

    for task in ("s-2/i5", "s-1/i1", "none/i5"):
        assert replay(task).json()["detail"] == f"replay: there is no training {task!r}"
    assert runs.runs == {}
    assert replay("s-1/i5").status_code == 201
    assert runs.runs["again"].conf == {"replay": "s-1/i5"}
    # It was trained on the built-in data: no version of these is newer.
    newer = {"replay": "s-1/i5", "data_version": "2018-03"}
    answer = engineer.put("/api/v1/submissions/newer", json=newer)
    assert answer.status_code == 400
    assert "data_version: s-1/i5: " in answer.json()["detail"]
    assert "newer" not in runs.runs


def test_an_id_whose_run_is_gone_is_sent_to_be_known_again(engineer, runs, make_submission):
    """Runs are deleted in Airflow, by hand or by its own cleaning; records stay."""
    make_submission("mine-1", status="success", run_ids=["mine-1"])

    assert put(engineer).status_code == 201
    assert put(engineer).status_code == 200
    assert runs.runs["mine-1"].conf == SOURCE
