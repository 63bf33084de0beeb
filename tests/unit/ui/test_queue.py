"""Admins change the order of what waits; nobody else does, and each change is an act."""

from __future__ import annotations

import pytest

from fakes.api import NOW
from touchstone.core.priorities import find_priority, index_changed
from touchstone.core.queue import QUEUE_KEY, Queue
from touchstone.services.control import read_control


@pytest.fixture
def chief(login):
    return login("chief", "admin")


@pytest.fixture
def waiting(objects, settings, make_submission, make_task):
    """Two submissions that wait: ``s-1`` with two tasks, behind ``s-9``."""
    for submission_id, task_id in (("s-1", "i5"), ("s-1", "i20"), ("s-9", "i5")):
        if task_id == "i5":
            make_submission(submission_id, status="queued")
        make_task(submission_id, task_id)
    tasks = [
        {
            "submission_id": submission_id,
            "task_id": task_id,
            "submitted_by": "engineer",
            "position": place,
            "of": 3,
            "reason": "all slots are taken",
            "since": NOW.isoformat(),
        }
        for place, (submission_id, task_id) in enumerate(
            [("s-9", "i5"), ("s-1", "i5"), ("s-1", "i20")], 1
        )
    ]
    document = {"dispatcher": "d-1", "at": NOW.isoformat(), "waiting": tasks}
    text = Queue.model_validate(document).model_dump_json().encode()
    objects.put_new(settings.content_bucket, QUEUE_KEY, text)


@pytest.fixture
def priority(records):
    """Return the priority that placement goes by, of a task whose schedule says 0."""

    def find(submission_id, task_id):
        changed = index_changed(read_control(records).priorities)
        return find_priority(submission_id, task_id, 0, changed)

    return find


def order(client, submission_id="s-1", **body):
    return client.post(
        "/api/v1/queue/priority", json={"submission_id": submission_id, "task_id": None, **body}
    )


def test_a_task_is_moved_before_the_others(chief, waiting, priority):
    answer = order(chief, task_id="i20", move="first")

    assert answer.status_code == 200, answer.text
    assert answer.json() == {
        "submission_id": "s-1",
        "task_id": "i20",
        "priority": 1,
        "is_changed": True,
    }
    assert (priority("s-1", "i20"), priority("s-1", "i5")) == (1, 0)


def test_a_submission_gets_a_priority_and_its_own_again(chief, waiting, priority):
    assert order(chief, priority=-7).json()["priority"] == -7
    assert (priority("s-1", "i20"), priority("s-9", "i5")) == (-7, 0)

    assert order(chief, priority=None).json()["priority"] is None
    assert priority("s-1", "i20") == 0


def test_who_is_there_already_stays_and_nothing_is_noted(chief, waiting, records):
    answer = order(chief, "s-9", task_id="i5", move="up")

    assert answer.json()["is_changed"] is False
    assert read_control(records).priorities == ()
    assert records.get_submission("s-9").actions == ()


def test_what_has_its_schedules_own_keeps_it_and_nothing_is_noted(chief, waiting, records):
    answer = order(chief, priority=None)

    assert (answer.status_code, answer.json()["is_changed"]) == (200, False)
    assert records.get_submission("s-1").actions == ()


def test_each_change_is_an_act_on_the_submission(chief, waiting):
    order(chief, task_id="i5", move="first")
    order(chief, priority=3)
    order(chief, priority=None)

    acts = chief.get("/api/v1/submissions/s-1/audit").json()["acts"]

    assert {act["action"] for act in acts} == {
        "priority of i5: 1",
        "priority of its tasks: 3",
        "priority of its tasks: the schedule's own again",
    }
    assert {(act["by"], act["door"]) for act in acts} == {("chief", "API")}


@pytest.mark.parametrize("role", ["viewer", "user"])
def test_the_order_is_the_admins(login, waiting, priority, role):
    for body in ({"move": "first"}, {"priority": 5}, {}):
        assert order(login("engineer", role), **body).status_code == 403
    assert priority("s-1", "i5") == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "give one of priority and move"),
        ({"move": "first", "priority": 1}, "give one of priority and move"),
        ({"priority": 101}, "less than or equal to 100"),
        ({"priority": "5"}, "valid integer"),
        ({"priority": True}, "valid integer"),
        ({"move": "sideways"}, "'first', 'up', 'down' or 'last'"),
        ({"move": "up", "x": 1}, "Extra inputs"),
        ({"move": "up", "task_id": "i" * 49}, "at most 48 characters"),
    ],
)
def test_what_makes_no_sense_is_refused(chief, waiting, priority, body, said):
    answer = order(chief, **body)

    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert priority("s-1", "i5") == 0


def test_what_does_not_wait_has_no_place(chief, waiting, make_submission, make_task, priority):
    make_submission("s-2", status="success")
    make_submission("s-3", status="running")
    make_task("s-3", "i5")

    ended = order(chief, "s-2", priority=5)
    running = order(chief, "s-3", move="first")

    assert (ended.status_code, running.status_code) == (409, 409)
    assert ended.json()["detail"] == "s-2 is success: nothing of it waits"
    assert "s-3: nothing of it waits for a slot" in running.json()["detail"]
    assert order(chief, "s-7", move="first").status_code == 404
    assert order(chief, "s-7", priority=1).status_code == 404
    unknown = order(chief, task_id="i9", priority=1)
    assert (unknown.status_code, unknown.json()["field"]) == (400, "task_id")


def test_without_a_dispatcher_there_is_no_place_but_a_priority(
    chief, make_submission, make_task, priority
):
    make_submission("s-1", status="queued")
    make_task()

    assert order(chief, move="first").status_code == 409
    assert order(chief, priority=4).status_code == 200
    assert priority("s-1", "i5") == 4


def test_the_queue_tells_priorities(chief, waiting):
    task = chief.get("/api/v1/queue").json()["waiting"][0]

    assert (task["priority"], task["is_validation"], task["submitted_by"]) == (0, False, "engineer")
