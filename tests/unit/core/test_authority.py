"""Which runs may work on a submission."""

from __future__ import annotations

import pytest

from fakes.submissions import build_submission
from touchstone.core.authority import build_run, find_named_submission, find_objection, may_spend
from touchstone.core.names import build_submission_id

ADMINS = frozenset({"admin"})
SUBMISSION = build_submission(submitted_by="ann", run_ids=["s-1", "s-1--2"])


@pytest.mark.parametrize(
    ("run_id", "named", "expected"),
    [
        ("s-1", None, "s-1"),
        ("s-1--2", None, "s-1"),
        ("s-1--2", "", "s-1"),
        ("manual__1", "s-1", "s-1"),
        ("s-1--2", "other", "other"),
        ("manual__1", None, build_submission_id("manual__1")),
        ("S-1", None, build_submission_id("S-1")),
        ("s-1", "S-1", None),
        ("s-1", "s-1--2", None),
        ("s-1", " s-1", None),
        ("s-1", "../s-2", None),
        ("s-1", 5, None),
        ("s-1", ["s-1"], None),
        ("s-1", {"a": "s-1"}, None),
        ("s-1", "s" * 5000, None),
    ],
)
def test_a_run_asks_for_what_its_conf_names_and_else_for_what_its_id_stands_for(
    run_id, named, expected
):
    assert find_named_submission(run_id, named) == expected


@pytest.mark.parametrize("conf", [None, [], "s-2", 5, {}])
def test_a_conf_that_is_none_names_nothing(conf):
    assert build_run("s-1", conf=conf, user="ann").submission_id == "s-1"


@pytest.mark.parametrize(
    ("changes", "run_id", "user", "objection"),
    [
        ({}, "s-1--2", "ann", None),
        ({}, "s-1--2", "admin", None),
        ({}, "s-1--2", "eve", "no run of a submission that eve may work on"),
        ({}, "s-1--2", None, "no run of a submission that unknown may work on"),
        ({}, "s-1--3", "ann", "no run of a submission"),
        ({}, "s-1", "ann", "s-1--2 is; clear the task 'register'"),
        ({"status": "retracted"}, "s-1--2", "ann", "was retracted"),
        ({"run_ids": []}, "s-1--2", "ann", "no run of a submission"),
        ({"run_ids": None}, "s-1--2", "ann", "no run of a submission"),
        ({"submitted_by": ""}, "s-1--2", None, "no run of a submission"),
    ],
)
def test_a_run_works_on_what_names_it_and_is_its_users(changes, run_id, user, objection):
    run = build_run(run_id, conf={"submission_id": "s-1"}, user=user)

    found = find_objection(SUBMISSION.change(**changes), run, ADMINS)

    assert found is None if objection is None else objection in found


def test_a_run_of_what_is_not_there_may_not_work_on_it():
    run = build_run("s-9", conf={}, user="admin")

    assert "no run of a submission" in find_objection(None, run, ADMINS)


def test_a_submission_without_an_owner_is_nobodys():
    assert not may_spend("", "ann", ADMINS)
    assert may_spend("", "admin", ADMINS)
