"""Identifiers derived from what is there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.names import (
    build_console_key,
    build_model_key,
    build_output_key,
    build_run_id,
    build_submission_id,
    find_submission_of_run,
    is_submission_id,
)
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.names import build_container_name


@given(st.text(min_size=1, max_size=250))
def test_every_run_id_gives_a_submission_id_that_fits_in_a_container_name(run_id):
    submission_id = build_submission_id(run_id)

    assert is_submission_id(submission_id)
    assert build_container_name("dev", submission_id, "i1", 1, 1)


@given(st.text(min_size=1, max_size=100), st.text(min_size=1, max_size=100))
def test_two_runs_never_share_a_submission(one, other):
    if one != other:
        assert build_submission_id(one) != build_submission_id(other)


@pytest.mark.parametrize("number", [1, 2, 13])
def test_a_submissions_runs_lead_back_to_it(number):
    assert find_submission_of_run(build_run_id("20261122-abc", number)) == "20261122-abc"


def test_airflows_own_run_id_stays_readable():
    submission_id = build_submission_id("manual__2026-11-22T10:00:00.123456+00:00")

    assert submission_id.startswith("manual-2026-11-22t10-00")


@pytest.mark.parametrize("text", ["ab", "-abc", "abc-", "a--b", "ABC", "a_b", "a" * 49, "", "a/b"])
def test_what_cannot_be_in_a_name_is_no_submission_id(text):
    assert not is_submission_id(text)


def test_keys_carry_the_attempt_so_that_an_outranked_one_writes_elsewhere():
    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=2, fence=3)

    assert build_output_key(ref, "models/long.h5") == "attempts/s-1/i5/2-3/models/long.h5"
    assert build_console_key(ref, 4096) == "s-1/i5/2-3/000000004096.log"
    assert build_model_key(ref, "long") == "s-1/i5/2-3/long.h5"
