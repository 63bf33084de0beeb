import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone_judge.comparison import Edge
from touchstone_judge.verdict import (
    Outcome,
    Verdict,
    find_duplicates,
    find_too_few,
    judge_arrival,
    judge_closing,
    tell,
)


def make_edge(**fields):
    edge = {
        "name": "sub-1",
        "difference": 0.314,
        "low": -0.2,
        "high": 0.84,
        "standard_error": 0.27,
        "p_own": 0.12,
        "p_adjusted": 0.21,
        "compared": 14,
        "detectable": 0.91,
    }
    return Edge(**{**edge, **fields})


def test_a_sentence_that_an_engineer_can_repeat():
    assert tell(judge_arrival(make_edge(), arrivals=100), "ref") == (
        "Not distinguishable from `ref`: +0.31 Sharpe, 95 % -0.20 to +0.84, p 0.21 counting "
        "14 submissions; a difference of 0.9 would be seen in 8 of 10 cases."
    )


def test_who_is_better_or_worse_needs_no_power():
    better = make_edge(low=0.4, high=2.1, difference=1.2, p_own=1e-4, p_adjusted=0.002, compared=1)
    assert tell(judge_arrival(better, arrivals=100), "ref") == (
        "Better than `ref`: +1.20 Sharpe, 95 % +0.40 to +2.10, p 0.002 counting 1 submission."
    )
    worse = make_edge(low=-2, high=-0.1, difference=-1.05, p_own=0.98, p_adjusted=1.0)
    assert tell(judge_arrival(worse, arrivals=100), "ref").startswith("Worse than `ref`: -1.05")


@pytest.mark.parametrize(
    ("p", "told"), [(0.21, "0.21"), (0.05, "0.050"), (0.0123, "0.012"), (0.0004, "0.0004")]
)
def test_a_p_is_told_with_the_digits_that_matter(p, told):
    assert f"p {told} counting" in tell(judge_arrival(make_edge(p_adjusted=p), arrivals=1), "ref")


def test_an_arrival_is_better_only_below_its_part_of_five_percent():
    assert judge_arrival(make_edge(p_own=0.0004), arrivals=100).outcome is Outcome.BETTER
    assert judge_arrival(make_edge(p_own=0.0005), arrivals=100).outcome is not Outcome.BETTER
    assert judge_arrival(make_edge(p_own=0.0004), arrivals=200).outcome is not Outcome.BETTER


def test_closing_counts_everybody():
    closing = judge_closing([make_edge(p_own=0.001, p_adjusted=0.049)], {})
    assert closing["sub-1"].outcome is Outcome.BETTER
    closing = judge_closing([make_edge(p_own=0.001, p_adjusted=0.051)], {})
    assert closing["sub-1"].outcome is Outcome.NOT_DISTINGUISHABLE


def test_closing_never_takes_a_verdict_back():
    better = judge_arrival(make_edge(p_own=1e-4), arrivals=100)
    now = judge_closing([make_edge(p_adjusted=0.2)], {"sub-1": better})["sub-1"]
    assert now == better
    even = judge_arrival(make_edge(), arrivals=100)
    now = judge_closing([make_edge(high=-0.01, p_adjusted=1.0)], {"sub-1": even})["sub-1"]
    assert now.outcome is Outcome.NOT_DISTINGUISHABLE
    worse = judge_arrival(make_edge(high=-0.01), arrivals=100)
    now = judge_closing([make_edge(p_adjusted=0.01)], {"sub-1": worse})["sub-1"]
    assert now.outcome is Outcome.BETTER


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-2, 2), st.floats(-2, 2))
def test_a_verdict_is_one_of_three_and_closing_never_lowers_it(own, adjusted, first, last):
    rank = [Outcome.WORSE, Outcome.NOT_DISTINGUISHABLE, Outcome.BETTER]
    before = judge_arrival(make_edge(p_own=own, high=first), arrivals=100)
    after = judge_closing([make_edge(p_adjusted=adjusted, high=last)], {"sub-1": before})["sub-1"]
    assert rank.index(after.outcome) >= rank.index(before.outcome)


def test_what_was_not_judged_stays_so():
    refused = Verdict(outcome=Outcome.NOT_JUDGED, reason="other rows")
    assert judge_closing([make_edge(p_adjusted=0.0)], {"sub-1": refused})["sub-1"] == refused
    assert tell(refused, "ref") == "Not judged: other rows."


def test_a_second_seed_is_no_second_idea():
    contents = [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x")]
    assert find_duplicates(contents) == {"c": "a", "d": "a"}
    duplicate = Verdict(outcome=Outcome.DUPLICATE, reason="a")
    assert tell(duplicate, "ref") == "A duplicate of `a`: the same content and configuration."


def test_few_rows_are_not_judged():
    assert find_too_few(249, 1) == "too few rows: 249, at least 250 are needed"
    assert find_too_few(250, 1) is None
    assert find_too_few(1257, 60) is None
    assert find_too_few(1257, 120) == (
        "too few rows: 1257 are 10 blocks for an interval of 120 rows, at least 20 are needed"
    )
