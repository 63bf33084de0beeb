"""The commands ``queue`` and ``priority``, against the real API."""

from __future__ import annotations

import json

import pytest

from fakes.api import NOW
from fakes.submissions import build_submission
from touchstone.core.queue import QUEUE_KEY, Queue, WaitingTask
from touchstone.services.control import read_control


@pytest.fixture
def waiting(airflow):
    """What waits: one of somebody else's, then one of the engineer's."""
    told = {"status": "queued", "submitted_by": "engineer", "created_at": NOW.isoformat()}
    airflow.records.create_submission(build_submission("s-1", **told))
    tasks = tuple(
        WaitingTask(
            submission_id=submission_id,
            task_id="i5",
            submitted_by=by,
            position=place,
            of=2,
            reason="all slots are taken",
            since=NOW,
        )
        for place, (submission_id, by) in enumerate([("s-9", "other"), ("s-1", "engineer")], 1)
    )
    queue = Queue(at=NOW, dispatcher="d/1", waiting=tasks)
    airflow.objects.put(
        airflow.settings.content_bucket, QUEUE_KEY, queue.model_dump_json().encode()
    )


def test_the_queue_is_a_table_in_its_order(run, waiting):
    lines = run("queue", "--as", "admin").output.splitlines()

    rows = [line.split()[:4] for line in lines if line.split()[0].startswith("s-")]
    assert rows == [["s-9", "i5", "other", "0"], ["s-1", "i5", "engineer", "0"]]


def test_a_user_sees_his_own_and_how_many_others_wait(run, waiting):
    output = run("queue").output

    assert "s-9" not in output
    assert "1 of other users wait as well" in output


def test_an_empty_queue_says_so(run):
    assert "nothing waits" in run("queue").output


@pytest.mark.parametrize(
    ("option", "reached"),
    [(("--first",), 1), (("--up",), 1), (("--to", "9"), 9)],
)
def test_a_submission_is_moved(run, waiting, airflow, option, reached):
    done = run("priority", "s-1", *option)

    assert done.exit_code == 0, done.output
    assert f"s-1: priority {reached}" in done.output
    assert [each.priority for each in read_control(airflow.records).priorities] == [reached]
    again = run("priority", "s-1", "--reset")
    assert "its schedule's own priority again" in again.output
    assert read_control(airflow.records).priorities == ()


def test_what_is_last_already_is_told(run, waiting):
    assert "it is there already, with priority 0" in run("priority", "s-1", "--down").output


def test_an_engineer_may_not(run, waiting):
    refused = run("priority", "s-1", "--first", "--as", "engineer")

    assert (refused.exit_code, "for admins only" in refused.output) == (1, True)


@pytest.mark.parametrize("options", [(), ("--first", "--last"), ("--reset", "--to", "1")])
def test_one_change_is_given(run, options):
    refused = run("priority", "s-1", *options)

    assert refused.exit_code == 2
    assert "give one of --to, --first, --up, --down, --last and --reset" in refused.output


def test_the_answer_is_a_document(run, waiting):
    document = json.loads(run("priority", "s-1", "--to", "4", "--json").output)

    assert document == {
        "submission_id": "s-1",
        "task_id": None,
        "priority": 4,
        "is_changed": True,
    }
