"""
What budgets and meters promise, whoever keeps them: one suite for the fake and for the real.

A module of tests gives the fixtures ``budgets`` and ``meter``, empty each time, and takes these
classes in.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from touchstone.core.meter import EntryKind, Rental, sum_all
from touchstone.core.money import BudgetState, Reservation, Scope
from touchstone.stores.money import OverBudget, ReservationOpen, ReservationSettled

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
USD = 1_000_000


def build_scopes(submission=None, user=None, month=None):
    limits = {"submission:s-1": submission, "user:ann:2026-11": user, "month:2026-11": month}
    return tuple(Scope(id=name, limit=limit) for name, limit in limits.items())


def build_rental(pod="touchstone-dev-s-1-i5-1-1", pod_id="abc", **changes):
    facts = {
        "pod": pod,
        "pod_id": pod_id,
        "submission_id": "s-1",
        "task_id": "i5",
        "attempt": 1,
        "fence": 1,
        "user": "ann",
        "month": "2026-11",
        "gpu": "NVIDIA L4",
        "cloud": "SECURE",
        "data_center": None,
        "price_per_hour": Decimal("0.36"),
        "started_at": NOW,
    }
    return Rental(**{**facts, **changes})


def read_amounts(budgets, scopes=None):
    """Return (reserved, spent) of each budget."""
    return [(state.reserved, state.spent) for state in budgets.read(scopes or build_scopes())]


class BudgetPromises:
    def test_a_worst_case_is_taken_out_of_all_budgets_at_once(self, budgets) -> None:
        scopes = build_scopes(submission=10 * USD, month=100 * USD)
        budgets.reserve("p", 4 * USD, scopes)
        assert budgets.read(scopes) == [
            BudgetState(scope=scope, reserved=4 * USD, spent=0) for scope in scopes
        ]
        assert [state.left for state in budgets.read(scopes)] == [6 * USD, None, 96 * USD]

    def test_a_budget_that_nobody_used_is_whole(self, budgets) -> None:
        [state, *_] = budgets.read(build_scopes(submission=10 * USD))
        assert (state.left, state.reserved, state.spent) == (10 * USD, 0, 0)

    def test_a_budget_is_used_up_to_the_last_micro_dollar_and_no_further(self, budgets) -> None:
        scopes = build_scopes(month=10)
        budgets.reserve("p", 9, scopes)
        budgets.reserve("q", 1, scopes)
        with pytest.raises(OverBudget):
            budgets.reserve("r", 1, scopes)
        assert budgets.read(scopes)[2].left == 0

    def test_what_one_budget_refuses_is_taken_out_of_none(self, budgets) -> None:
        scopes = build_scopes(submission=100 * USD, user=3_200_000)
        with pytest.raises(OverBudget) as caught:
            budgets.reserve("p", 8_276_544, scopes)
        assert str(caught.value) == (
            "budget of ann for November 2026: $3.20 left, this pod may cost up to $8.28"
        )
        assert caught.value.scope == "user:ann:2026-11"
        assert (caught.value.left, caught.value.needed) == (3_200_000, 8_276_544)
        assert read_amounts(budgets) == [(0, 0)] * 3
        assert budgets.find_reservation("p") is None

    def test_a_refusal_says_what_is_left(self, budgets) -> None:
        scopes = build_scopes(submission=10 * USD)
        budgets.reserve("p", 7 * USD, scopes)
        with pytest.raises(OverBudget, match=r"submission s-1: \$3.00 left, .* up to \$4.00$"):
            budgets.reserve("q", 4 * USD, scopes)

    def test_reserving_again_changes_nothing(self, budgets) -> None:
        scopes = build_scopes(submission=10)
        first = budgets.reserve("p", 10, scopes)
        assert budgets.reserve("p", 10, scopes) == first
        assert read_amounts(budgets) == [(10, 0)] * 3

    def test_another_offer_changes_the_reservation_to_its_amount(self, budgets) -> None:
        scopes = build_scopes(submission=10)
        budgets.reserve("p", 4, scopes)
        budgets.reserve("p", 9, scopes)
        assert read_amounts(budgets) == [(9, 0)] * 3
        budgets.reserve("p", 2, scopes)
        assert read_amounts(budgets) == [(2, 0)] * 3

    def test_an_offer_that_is_too_dear_leaves_the_one_before_reserved(self, budgets) -> None:
        scopes = build_scopes(submission=10)
        budgets.reserve("p", 4, scopes)
        budgets.reserve("other", 5, scopes)
        with pytest.raises(OverBudget) as caught:
            budgets.reserve("p", 6, scopes)
        assert (caught.value.left, caught.value.needed) == (5, 6), "its own 4 are left for it"
        assert budgets.find_reservation("p").reserved == 4

    def test_a_launch_that_goes_on_in_the_next_month_moves_there(self, budgets) -> None:
        november, december = (Scope(id=f"month:2026-{m}", limit=10) for m in (11, 12))
        budgets.reserve("p", 8, [november])
        budgets.reserve("p", 9, [december])
        assert read_amounts(budgets, [november, december]) == [(0, 0), (9, 0)]

    def test_settling_gives_back_what_was_not_used(self, budgets) -> None:
        scopes = build_scopes(submission=10)
        budgets.reserve("p", 10, scopes)
        budgets.settle("p", 3)
        assert read_amounts(budgets) == [(0, 3)] * 3
        budgets.reserve("q", 7, scopes)
        assert read_amounts(budgets) == [(7, 3)] * 3

    def test_settling_twice_is_settling_once_and_the_first_amount_holds(self, budgets) -> None:
        budgets.reserve("p", 10, build_scopes())
        first = budgets.settle("p", 3)
        assert budgets.settle("p", 4) == first
        assert read_amounts(budgets) == [(0, 3)] * 3

    def test_more_than_was_reserved_is_told_truthfully(self, budgets) -> None:
        scopes = build_scopes(submission=10)
        budgets.reserve("p", 10, scopes)
        budgets.settle("p", 12)
        assert budgets.read(scopes)[0].left == -2
        with pytest.raises(OverBudget, match=r"-\$0.01 left"):
            budgets.reserve("q", 1, scopes)

    def test_a_bill_corrects_what_was_settled(self, budgets) -> None:
        scopes = build_scopes(submission=10)
        budgets.reserve("p", 10, scopes)
        budgets.settle("p", 3)
        for amount in (5, 5, 2, 0, 4):
            budgets.correct("p", amount)
            assert read_amounts(budgets) == [(0, amount)] * 3

    def test_a_bill_of_a_pod_that_may_go_on_corrects_nothing(self, budgets) -> None:
        budgets.reserve("p", 10, build_scopes())
        for name in ("p", "unknown"):
            with pytest.raises(ReservationOpen, match=name):
                budgets.correct(name, 1)
        assert read_amounts(budgets) == [(10, 0)] * 3

    def test_nothing_is_reserved_for_an_attempt_that_is_over(self, budgets) -> None:
        """Its driver was stopped between two steps, and goes on when all is settled."""
        budgets.reserve("p", 10, build_scopes())
        budgets.settle("p", 0)
        budgets.settle("q", 0)
        for name in ("p", "q"):
            with pytest.raises(ReservationSettled, match=name):
                budgets.reserve(name, 1, build_scopes())
        assert read_amounts(budgets) == [(0, 0)] * 3

    def test_what_was_never_reserved_is_settled_and_corrected_on_its_own(self, budgets) -> None:
        assert budgets.settle("p", 5) == Reservation(pod="p", scopes=(), reserved=0, spent=5)
        assert budgets.correct("p", 6).spent == 6

    def test_a_lower_limit_holds_for_the_next_launch(self, budgets) -> None:
        budgets.reserve("p", 8, build_scopes(month=10))
        lower = build_scopes(month=5)
        assert budgets.read(lower)[2].left == -3
        with pytest.raises(OverBudget):
            budgets.reserve("q", 1, lower)
        assert budgets.reserve("p", 8, lower), "what is reserved stays reserved"
        assert budgets.reserve("p", 7, lower), "less is always allowed"

    def test_a_higher_limit_holds_for_the_next_launch(self, budgets) -> None:
        budgets.reserve("p", 8, build_scopes(month=10))
        budgets.reserve("q", 12, build_scopes(month=20))
        with pytest.raises(OverBudget):
            budgets.reserve("r", 1, build_scopes(month=20))

    def test_what_was_spent_without_a_limit_counts_when_there_is_one(self, budgets) -> None:
        budgets.reserve("p", 8, build_scopes())
        budgets.settle("p", 6)
        with pytest.raises(OverBudget):
            budgets.reserve("q", 5, build_scopes(month=10))
        assert budgets.reserve("q", 4, build_scopes(month=10))

    def test_a_limit_of_nothing_refuses_the_first_launch(self, budgets) -> None:
        with pytest.raises(OverBudget, match=r"\$0.00 left"):
            budgets.reserve("p", 1, build_scopes(submission=0))

    def test_what_is_not_settled_is_listed(self, budgets) -> None:
        for name in ("c", "a", "b"):
            budgets.reserve(name, 1, build_scopes())
        budgets.reserve("c", 2, build_scopes())
        budgets.settle("b", 1)
        found = budgets.list_open()
        assert [(each.pod, each.reserved) for each in found] == [("a", 1), ("c", 2)]
        assert found[0] == budgets.find_reservation("a")

    def test_two_who_book_for_the_same_pod_book_once(self, budgets) -> None:
        scopes = build_scopes(submission=1000)
        start = threading.Barrier(8)

        def drive() -> None:
            start.wait()
            budgets.reserve("p", 10, scopes)
            budgets.reserve("p", 20, scopes)

        def finish() -> None:
            start.wait()
            budgets.settle("p", 7)
            budgets.correct("p", 5)

        for work, amounts in ((drive, (20, 0)), (finish, (0, 5))):
            threads = [threading.Thread(target=work) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            if work is drive:
                # Some may have come back to 10 after others were at 20; that is what they said.
                budgets.reserve("p", 20, scopes)
            assert read_amounts(budgets) == [amounts] * 3


class MeterPromises:
    def test_a_meter_tells_a_pod_from_its_start_to_its_bill(self, meter) -> None:
        rental = build_rental()
        gone_at = NOW + timedelta(seconds=99.2)
        written = [
            meter.open(rental),
            meter.close(rental, at=gone_at, is_useful=True),
            meter.bill(rental, at=gone_at, micros=10_500),
        ]
        assert meter.list_pod(rental.pod) == written
        assert [(each.kind, each.seconds, each.micros, each.is_useful) for each in written] == [
            (EntryKind.OPENED, None, None, None),
            (EntryKind.CLOSED, 100, 10_000, True),
            (EntryKind.BILLED, None, 10_500, None),
        ]
        assert all(each.rental == rental for each in written)

    def test_what_is_written_twice_is_there_as_it_was_first(self, meter) -> None:
        rental = build_rental()
        first = meter.close(rental, at=NOW + timedelta(seconds=5), is_useful=True)
        later = meter.close(rental, at=NOW + timedelta(seconds=9), is_useful=False)
        assert later == first, "who is late learns what stands"
        meter.open(rental)
        assert meter.open(rental) == rental.open()
        assert meter.list_pod(rental.pod) == [rental.open(), first]

    def test_a_later_bill_of_another_amount_takes_the_place_of_an_earlier_one(self, meter) -> None:
        rental = build_rental()
        meter.bill(rental, at=NOW, micros=10)
        newer = meter.bill(rental, at=NOW + timedelta(hours=1), micros=20)
        assert meter.list_pod(rental.pod) == [newer]
        assert meter.bill(rental, at=NOW, micros=10) == newer, "it came late"
        assert meter.bill(rental, at=NOW + timedelta(hours=2), micros=20) == newer
        assert meter.list_pod(rental.pod) == [newer]

    def test_two_pods_of_one_name_have_a_meter_each(self, meter) -> None:
        first, second = build_rental(pod_id="a"), build_rental(pod_id="b")
        for rental in (second, first):
            meter.open(rental)
        meter.close(second, at=NOW, is_useful=False)
        found = meter.list_pod(first.pod)
        assert [each.id for each in found] == ["1-opened#a", "1-opened#b", "2-closed#b"]

    def test_meters_are_found_by_month_and_by_submission(self, meter) -> None:
        for number in range(4):
            rental = build_rental(
                pod=f"p{number}",
                month=f"2026-1{number % 2 + 1}",
                submission_id=f"s-{number // 2}",
            )
            meter.open(rental)
            meter.close(rental, at=NOW + timedelta(seconds=10), is_useful=True)
        assert {each.rental.pod for each in meter.list_month("2026-11")} == {"p0", "p2"}
        assert {each.rental.pod for each in meter.list_submission("s-1")} == {"p2", "p3"}
        assert sum_all(meter.list_month("2026-12"), now=NOW).useful_micros == 2000
        assert meter.list_month("2025-01") == meter.list_pod("p9") == []

    def test_a_pod_waits_for_its_bill_from_its_end_until_that_is_booked(self, meter) -> None:
        for number in range(4):
            rental = build_rental(pod=f"p{number}", pod_id=f"id{number}")
            meter.open(rental)
            if number:
                meter.close(rental, at=NOW - timedelta(hours=number), is_useful=True)
        assert [each.rental.pod for each in meter.list_unbilled(NOW - timedelta(days=1))] == [
            *("p3", "p2", "p1")
        ]
        assert [e.rental.pod for e in meter.list_unbilled(NOW - timedelta(hours=2))] == ["p2", "p1"]
        second = meter.list_unbilled(NOW - timedelta(days=1))[1]

        meter.bill(second.rental, at=NOW, micros=5)
        assert len(meter.list_unbilled(NOW - timedelta(days=1))) == 3, "it is not booked yet"
        meter.note_billed(second)
        meter.note_billed(second)

        left = meter.list_unbilled(NOW - timedelta(days=1))
        assert [each.rental.pod for each in left] == ["p3", "p1"]
        kinds = [each.kind for each in meter.list_pod("p2")]
        assert kinds == [EntryKind.OPENED, EntryKind.CLOSED, EntryKind.BILLED], "nothing is lost"

    def test_closing_again_brings_no_bill_back(self, meter) -> None:
        rental = build_rental()
        closed = meter.close(rental, at=NOW, is_useful=True)
        meter.note_billed(closed)
        assert meter.close(rental, at=NOW, is_useful=True) == closed
        assert meter.list_unbilled(NOW - timedelta(days=1)) == []
        meter.note_unbilled(closed)
        assert meter.list_unbilled(NOW - timedelta(days=1)) == [closed]

    def test_what_was_never_closed_cannot_wait_for_a_bill(self, meter) -> None:
        meter.note_unbilled(build_rental().close(NOW, is_useful=True))
        assert meter.list_unbilled(NOW - timedelta(days=1)) == []
        assert meter.list_pod(build_rental().pod) == []
