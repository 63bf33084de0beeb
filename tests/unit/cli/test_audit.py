"""The command about the audit, against the real API."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from fakes.api import NOW
from fakes.submissions import build_submission


@pytest.fixture
def acts(airflow):
    """Return a function that writes some acts on a submission of the engineer."""
    told = {"status": "running", "submitted_by": "engineer", "created_at": NOW.isoformat()}
    airflow.records.create_submission(build_submission("s-1", **told))

    def write(count, **changes):
        for number in range(count):
            fields = {"by": "engineer", "action": f"act {number}"} | changes
            at = NOW + timedelta(seconds=number)
            airflow.records.change_submission(
                "s-1", lambda found, at=at, fields=fields: found.note_action(at=at, **fields)
            )

    return write


def test_a_user_sees_who_did_what_to_his_submission(run, acts):
    acts(2)

    done = run("audit", "s-1")

    lines = done.output.splitlines()
    assert done.exit_code == 0
    assert lines[0].split() == ["When", "(UTC)", "Who", "From", "What", "Did"]
    assert lines[1].split() == [
        *("2026-03-01", "12:00:01", "engineer", "control", "plane", "s-1", "act", "1"),
    ]


def test_all_acts_are_for_admins(run, acts):
    acts(1)

    assert "act 0" in run("audit").output
    refused = run("audit", "--as", "engineer")
    assert (refused.exit_code, "admins only" in refused.output) == (1, True)


def test_what_the_command_line_does_came_in_there(run, acts):
    run("pause", "--reason", "moving")

    (found,) = json.loads(run("audit", "--json").output)["acts"]

    assert (found["by"], found["door"], found["action"]) == ("admin", "CLI", "pause: moving")


def test_pages_follow_each_other(run, acts):
    acts(3)

    first = run("audit", "--limit", "2")
    cursor = first.output.rpartition("--cursor ")[2].strip()
    second = run("audit", "--limit", "2", "--cursor", cursor)

    assert ("act 2" in first.output, "act 0" in first.output) == (True, False)
    assert ("act 2" in second.output, "act 0" in second.output) == (False, True)


def test_an_empty_audit_says_so(run):
    assert "no acts yet" in run("audit").output


@pytest.mark.parametrize(
    ("arguments", "field"),
    [(("No Id",), "id"), (("--cursor", "nonsense"), "cursor"), (("--limit", "0"), "limit")],
)
def test_a_wrong_argument_is_named(run, arguments, field):
    done = run("audit", *arguments)

    assert done.exit_code == 2
    assert field in done.output


def test_another_users_submission_is_as_if_it_did_not_exist(run, airflow):
    told = {"submitted_by": "other", "created_at": NOW.isoformat()}
    airflow.records.create_submission(build_submission("s-9", **told))

    done = run("audit", "s-9")

    assert done.exit_code == 1
    assert "there is no submission 's-9'" in done.output


def test_what_others_have_written_moves_no_cursor(run, acts):
    acts(1, action="\x1b[2Jx\nfake line", by="\x1b]0;y\x07z")

    done = run("audit", "s-1")

    assert "\x1b" not in done.output
    assert not any(line.startswith("fake line") for line in done.output.splitlines())
