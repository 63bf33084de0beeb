"""What pods have cost, from their meters."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from fakes.money_promises import build_rental
from touchstone.core.meter import Entry, Rental, Spend, sum_all, sum_by

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def test_what_runs_is_counted_up_to_now() -> None:
    assert sum_all([build_rental().open()], now=after(99.5)) == Spend(
        pods=1, seconds=100, micros=10_000, open_micros=10_000
    )


def test_what_has_ended_is_counted_up_to_its_end() -> None:
    rental = build_rental()
    entries = [rental.open(), rental.close(after(50), is_useful=True)]
    assert sum_all(entries, now=after(9999)) == Spend(
        pods=1, seconds=50, micros=5_000, useful_micros=5_000
    )


def test_a_bill_outranks_our_own_clock_whichever_comes_first() -> None:
    rental = build_rental()
    entries = [rental.bill(after(60), 6_000), rental.close(after(50), is_useful=False)]
    expected = Spend(
        pods=1, seconds=50, micros=6_000, wasted_micros=6_000, billed_pods=1, billed_micros=6_000
    )
    assert sum_all(entries, now=after(99)) == expected
    assert sum_all(reversed(entries), now=after(99)) == expected


def test_a_bill_of_nothing_is_a_bill() -> None:
    rental = build_rental()
    entries = [rental.close(after(50), is_useful=True), rental.bill(after(60), 0)]
    spend = sum_all(entries, now=after(99))
    assert (spend.micros, spend.billed_pods) == (0, 1)


def test_a_pod_is_billed_and_not_known_to_be_gone() -> None:
    rental = build_rental()
    spend = sum_all([rental.open(), rental.bill(after(60), 6_000)], now=after(90))
    assert spend == Spend(
        pods=1, seconds=90, micros=6_000, open_micros=6_000, billed_pods=1, billed_micros=6_000
    )


def test_an_end_before_its_start_costs_nothing() -> None:
    """By a clock that was put back."""
    assert build_rental().close(after(-5), is_useful=True).micros == 0


def test_sums_are_by_whatever_a_pod_has() -> None:
    rentals = [
        build_rental(pod=f"p{i}", user=user, submission_id=submission, task_id=task)
        for i, (user, submission, task) in enumerate(
            [("ann", "s-1", "i5"), ("ann", "s-1", "i6"), ("ann", "s-2", "i5"), ("bob", "s-3", "i5")]
        )
    ]
    entries = [rental.close(after(100), is_useful=True) for rental in rentals]

    def count(key):
        return {name: spend.pods for name, spend in sum_by(entries, key, now=NOW).items()}

    assert count(lambda rental: rental.user) == {"ann": 3, "bob": 1}
    assert count(lambda rental: rental.submission_id) == {"s-1": 2, "s-2": 1, "s-3": 1}
    assert count(lambda rental: (rental.submission_id, rental.task_id))["s-1", "i6"] == 1
    assert count(lambda rental: (rental.user, rental.month))["ann", "2026-11"] == 3


def test_no_pods_cost_nothing() -> None:
    assert sum_all([], now=NOW) == Spend()


RENTALS = st.builds(
    build_rental,
    pod=st.sampled_from(["p", "q"]),
    pod_id=st.sampled_from(["a", "b"]),
    user=st.text(min_size=1, max_size=5),
    cloud=st.sampled_from(["SECURE", None]),
    price_per_hour=st.decimals("0", "10", places=4),
    started_at=st.integers(0, 10**6).map(after),
)
ENTRIES = st.one_of(
    RENTALS.map(Rental.open),
    st.builds(Rental.close, RENTALS, st.integers(0, 10**6).map(after), is_useful=st.booleans()),
    st.builds(Rental.bill, RENTALS, st.integers(0, 10**6).map(after), st.integers(0, 10**9)),
)


@given(ENTRIES)
def test_an_entry_is_the_same_after_it_was_a_record(entry: Entry) -> None:
    record = json.loads(json.dumps(entry.dump()))
    assert Entry.load(record) == entry
    assert Entry.load(record | {"added": "by a later version"}) == entry


@given(st.lists(ENTRIES, max_size=12))
def test_every_micro_dollar_is_useful_wasted_or_open_and_in_one_group(entries) -> None:
    total = sum_all(entries, now=after(10**6))
    assert total.micros == total.useful_micros + total.wasted_micros + total.open_micros
    groups = sum_by(entries, lambda rental: rental.pod_id, now=after(10**6))
    assert sum(groups.values(), Spend()) == total
    assert total.pods == len({(each.rental.pod, each.rental.pod_id) for each in entries})


def test_prices_keep_all_their_digits() -> None:
    entry = build_rental(price_per_hour=Decimal("0.123456789")).open()
    assert Entry.load(entry.dump()).rental.price_per_hour == Decimal("0.123456789")
