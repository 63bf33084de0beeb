"""Budgets: what a pod may cost, out of what, and what is booked."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.money import (
    BudgetLimits,
    Move,
    Reservation,
    Scope,
    build_month,
    build_scopes,
    compute_worst_case,
    describe_refusal,
    describe_scope,
    plan_correction,
    plan_reservation,
    plan_settlement,
    to_micros,
    to_usd,
)

AT = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("usd", "micros"),
    [("0", 0), ("1", 1_000_000), ("0.000001", 1), ("0.0000001", 1), ("8.2765430001", 8_276_544)],
)
def test_a_begun_micro_dollar_counts(usd: str, micros: int) -> None:
    assert to_micros(Decimal(usd)) == micros


@given(st.integers(min_value=-(10**15), max_value=10**15))
def test_micro_dollars_are_usd_and_back(micros: int) -> None:
    assert to_micros(to_usd(micros)) == micros


def test_the_worst_case_is_boot_and_whole_life() -> None:
    assert compute_worst_case(Decimal("0.69"), boot_seconds=1200, life_seconds=42_000) == 8_280_000
    assert compute_worst_case(Decimal("0.36"), boot_seconds=0.5, life_seconds=0) == 100


def test_a_launch_counts_for_the_month_that_it_is_in_greenwich() -> None:
    tokyo = timezone(timedelta(hours=9))
    assert build_month(datetime(2026, 12, 1, 8, 59, tzinfo=tokyo)) == "2026-11"
    assert build_month(datetime(2026, 12, 1, 9, 0, tzinfo=tokyo)) == "2026-12"


def scopes_of(limits: BudgetLimits, budget: str | None = None) -> dict[str, int | None]:
    scopes = build_scopes(
        limits,
        submission_id="s-1",
        user="ann",
        at=AT,
        budget=None if budget is None else Decimal(budget),
    )
    return {scope.id: scope.limit for scope in scopes}


def test_a_launch_comes_out_of_three_budgets_also_where_there_is_no_limit() -> None:
    assert scopes_of(BudgetLimits()) == {
        "submission:s-1": None,
        "user:ann:2026-11": None,
        "month:2026-11": None,
    }


def test_limits_are_those_of_the_installation() -> None:
    limits = BudgetLimits(
        submission=Decimal(5), user_month=Decimal("20.5"), month=Decimal("1000.000001")
    )
    assert list(scopes_of(limits).values()) == [5_000_000, 20_500_000, 1_000_000_001]


@pytest.mark.parametrize(
    ("installation", "own", "limit"),
    [(None, "3", 3_000_000), ("5", "3", 3_000_000), ("2", "3", 2_000_000), ("5", None, 5_000_000)],
)
def test_of_a_submissions_two_budgets_the_lower_one_holds(installation, own, limit) -> None:
    limits = BudgetLimits(submission=None if installation is None else Decimal(installation))
    assert scopes_of(limits, own)["submission:s-1"] == limit


@pytest.mark.parametrize(
    ("scope", "text"),
    [
        ("submission:s-1", "budget of submission s-1"),
        ("user:ann:2026-11", "budget of ann for November 2026"),
        ("user:corp:ann:2027-01", "budget of corp:ann for January 2027"),
        ("month:2026-12", "budget of all pods for December 2026"),
    ],
)
def test_a_budget_has_a_name_for_people(scope: str, text: str) -> None:
    assert describe_scope(scope) == text


@pytest.mark.parametrize(
    ("left", "needed", "text"),
    [
        (3_200_000, 8_276_544, "$3.20 left, this pod may cost up to $8.28"),
        (8_276_543, 8_276_544, "$8.27 left, this pod may cost up to $8.28"),
        (0, 1, "$0.00 left, this pod may cost up to $0.01"),
        (-1_500_000, 2_000_000, "-$1.50 left, this pod may cost up to $2.00"),
    ],
)
def test_a_refusal_never_looks_as_if_it_would_fit(left: int, needed: int, text: str) -> None:
    assert describe_refusal("month:2026-11", left=left, needed=needed).endswith(f": {text}")


def test_a_first_reservation_may_not_pass_the_limit() -> None:
    posting = plan_reservation(None, "p", 4, [Scope(id="a", limit=10), Scope(id="b", limit=None)])
    assert posting.after == Reservation(pod="p", scopes=("a", "b"), reserved=4)
    assert posting.moves == (Move(scope="a", used=4, ceiling=6), Move(scope="b", used=4))


def test_what_is_reserved_already_needs_no_posting() -> None:
    scopes = [Scope(id="a", limit=10)]
    known = plan_reservation(None, "p", 4, scopes).after
    assert plan_reservation(known, "p", 4, scopes).is_done
    assert not plan_reservation(known, "p", 3, scopes).is_done


@pytest.mark.parametrize("amount", [-1, -(10**9)])
def test_a_pod_cannot_earn_money(amount: int) -> None:
    known = Reservation(pod="p", scopes=("a",), reserved=5)
    with pytest.raises(ValueError, match="less than nothing"):
        plan_reservation(None, "p", amount, [])
    with pytest.raises(ValueError, match="less than nothing"):
        plan_settlement(known, "p", amount)


STEPS = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, 50), st.sets(st.sampled_from("abc"))),
    st.tuples(st.sampled_from(["settle", "correct"]), st.integers(0, 80), st.just(set())),
)


@given(st.lists(st.tuples(st.sampled_from(["p", "q", "r"]), STEPS), max_size=40))
def test_a_budget_is_the_sum_of_its_reservations_whatever_happens(steps) -> None:
    limit = 60
    known: dict[str, Reservation] = {}
    used = dict.fromkeys("abc", 0)
    spent = dict.fromkeys("abc", 0)
    for pod, (what, amount, names) in steps:
        before = known.get(pod)
        is_settled = before is not None and before.is_settled
        if what == "reserve" and not is_settled:
            scopes = [Scope(id=name, limit=limit) for name in sorted(names)]
            posting = plan_reservation(before, pod, amount, scopes)
        elif what == "settle":
            posting = plan_settlement(before, pod, amount)
        elif what == "correct" and is_settled:
            posting = plan_correction(before, amount)
        else:
            continue
        if any(m.ceiling is not None and used[m.scope] > m.ceiling for m in posting.moves):
            assert any(used[name] + amount > limit for name in names)
            continue
        for move in posting.moves:
            used[move.scope] += move.used
            spent[move.scope] += move.spent
            assert move.used <= 0 or what != "reserve" or used[move.scope] <= limit
        assert posting.after.version == (before.version if before else 0) + (not posting.is_done)
        known[pod] = posting.after
        for name in "abc":
            mine = [each for each in known.values() if name in each.scopes]
            assert used[name] == sum(each.used for each in mine)
            assert spent[name] == sum(each.spent or 0 for each in mine)
