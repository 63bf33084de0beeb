"""The command ``tasks``, against the real API."""

from __future__ import annotations

import json

import pytest

from fakes.tasks import build_spec, build_task


@pytest.fixture(autouse=True)
def tasks(airflow):
    """Two of the engineer's, on two servers, and one of somebody else's."""
    owners = {"s-1": "engineer", "s-2": "other"}
    for submission_id, owner in owners.items():
        airflow.add_submission(submission_id, submitted_by=owner)
    for submission_id, task_id, fields in (
        ("s-1", "i5", {"status": "running", "server": "rio", "attempt": 1, "fence": 1}),
        ("s-1", "i20", {"status": "error", "reason": "diverged\x1b[2J"}),
        ("s-2", "i5", {"status": "error"}),
    ):
        spec = build_spec(
            submission_id=submission_id, task_id=task_id, submitted_by=owners[submission_id]
        )
        airflow.records.create_task(build_task(spec, **fields))


def list_rows(done):
    assert done.exit_code == 0, done.output
    lines = [line.split() for line in done.stdout.splitlines()]
    return sorted((words[0], words[1]) for words in lines if words[0].startswith("s-"))


def test_a_user_lists_his_own_and_an_admin_all(run):
    assert list_rows(run("tasks")) == [("s-1", "i20"), ("s-1", "i5")]
    assert list_rows(run("tasks", "--as", "admin")) == [
        ("s-1", "i20"),
        ("s-1", "i5"),
        ("s-2", "i5"),
    ]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--status", "error"), [("s-1", "i20"), ("s-2", "i5")]),
        (("--submission", "s-1"), [("s-1", "i20"), ("s-1", "i5")]),
        (("--user", "other"), [("s-2", "i5")]),
        (("--server", "rio"), [("s-1", "i5")]),
    ],
)
def test_tasks_are_filtered(run, options, found):
    assert list_rows(run("tasks", "--as", "admin", *options)) == found


def test_a_page_tells_where_the_next_one_begins(run):
    first = run("tasks", "--as", "admin", "--limit", "1", "--json")
    document = json.loads(first.stdout)

    assert len(document["tasks"]) == 1
    second = run("tasks", "--as", "admin", "--limit", "2", "--cursor", document["next"])
    assert len(list_rows(second)) == 2
    assert "older ones" not in second.stderr
    assert "older ones: --cursor " in run("tasks", "--as", "admin", "--limit", "1").stderr


def test_what_others_wrote_does_not_control_the_terminal(run):
    assert "\x1b" not in run("tasks").stdout


def test_without_any_it_says_so(run):
    done = run("tasks", "--status", "lost")

    assert (done.exit_code, done.stdout) == (0, "")
    assert "no tasks" in done.stderr


@pytest.mark.parametrize("options", [("--status", "odd"), ("--submission", "../x")])
def test_a_wrong_filter_is_named(run, options):
    refused = run("tasks", *options)

    assert refused.exit_code == 2, refused.output
