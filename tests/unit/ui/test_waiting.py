"""Where waiting tasks stand, who may see that, and what is said when nobody places."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from fakes.api import NOW
from touchstone.core.queue import QUEUE_KEY, PublishedServer, Queue, WaitingTask


@pytest.fixture
def publish(objects, settings):
    def put(*, at=NOW, **changes):
        waiting = tuple(
            WaitingTask(
                submission_id=submission_id,
                task_id=task_id,
                submitted_by="engineer" if submission_id == "s-1" else "other",
                position=position,
                of=3,
                reason="all slots are taken",
                since=NOW,
                p50=NOW + timedelta(minutes=5),
                p90=NOW + timedelta(minutes=9),
            )
            for position, (submission_id, task_id) in enumerate(
                [("s-9", "i1"), ("s-1", "i5"), ("s-1", "i20")], 1
            )
        )
        server = PublishedServer(
            name="rio",
            platform="on-prem",
            is_alive=True,
            slots=2,
            free=0,
            validation_slots=1,
            validation_free=1,
        )
        queue = Queue(at=at, dispatcher="host/1", waiting=waiting, servers=(server,), **changes)
        objects.put(settings.content_bucket, QUEUE_KEY, queue.model_dump_json().encode())

    return put


def test_a_waiting_task_tells_position_reason_and_estimate(
    engineer, make_submission, make_task, publish
):
    make_submission()
    make_task()
    publish()

    answer = engineer.get("/api/v1/submissions/s-1").json()

    assert answer["submission"]["queue_position"] == 2
    task = next(task for task in answer["tasks"] if task["task_id"] == "i5")
    assert task["waiting"]["position"] == 2
    assert task["waiting"]["of"] == 3
    assert task["waiting"]["reason"] == "all slots are taken"
    assert task["waiting"]["p90"] > task["waiting"]["p50"]


def test_the_list_tells_of_the_task_that_is_next(engineer, make_submission, publish):
    make_submission()
    publish()

    (found,) = engineer.get("/api/v1/submissions").json()["submissions"]

    assert (found["waiting"]["task_id"], found["waiting"]["tasks"]) == ("i5", 2)


def test_an_engineer_sees_the_own_part_of_the_queue_and_how_long_it_is(
    engineer, login, make_submission, publish
):
    make_submission()
    publish()

    own = engineer.get("/api/v1/queue").json()
    everything = login("chief", "admin").get("/api/v1/queue").json()

    assert {item["submission_id"] for item in own["waiting"]} == {"s-1"}
    assert "submitted_by" not in own["waiting"][0]
    assert own["total"] == 3
    assert len(everything["waiting"]) == 3
    assert own["servers"][0]["name"] == "rio"


@pytest.mark.parametrize("path", ["submissions", "submissions/s-1", "queue"])
@pytest.mark.parametrize(
    ("changes", "is_alive", "words"),
    [
        ({}, True, None),
        ({"is_paused": True}, True, "paused"),
        ({"at": NOW - timedelta(seconds=31)}, False, "no dispatcher is at work since"),
        (None, False, "no dispatcher has ever been"),
    ],
)
def test_everybody_is_told_when_nothing_will_be_placed(
    engineer, make_submission, publish, path, changes, is_alive, words
):
    make_submission()
    if changes is not None:
        publish(**changes)

    told = engineer.get(f"/api/v1/{path}").json()["dispatcher"]

    assert told["is_alive"] is is_alive
    assert words in told["warning"] if words else told["warning"] is None


def test_a_queue_that_nobody_can_read_is_as_good_as_none(engineer, objects, settings):
    objects.put(settings.content_bucket, QUEUE_KEY, b"not json")

    assert engineer.get("/api/v1/queue").json()["dispatcher"]["is_alive"] is False


def test_the_queue_is_told_without_reading_a_record(engineer, records, publish, monkeypatch):
    """An engineer's part of it was found by reading all submissions there ever were."""
    publish()
    for name in ("_scan", "_query", "_find", "_find_many", "_iterate_newest"):
        monkeypatch.setattr(records, name, lambda *_, **__: pytest.fail("a record was read"))

    assert len(engineer.get("/api/v1/queue").json()["waiting"]) == 2


def test_a_queue_of_a_dispatcher_that_does_not_say_whose_it_is_is_shown_to_admins(
    engineer, login, objects, settings, publish
):
    """While an installation is upgraded the API may be the newer one."""
    publish()
    plain = json.loads(objects.get(settings.content_bucket, QUEUE_KEY))
    for task in plain["waiting"]:
        del task["submitted_by"]
    objects.put(settings.content_bucket, QUEUE_KEY, json.dumps(plain).encode())

    assert engineer.get("/api/v1/queue").json()["waiting"] == []
    assert len(login("chief", "admin").get("/api/v1/queue").json()["waiting"]) == 3
