from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.throttling import EarlyRun, decide_throttling


def queue(submitter, *pks, **state):
    return [EarlyRun(pk=pk, submitter=submitter, **state) for pk in pks]


def test_somebodys_hundreds_leave_room_for_the_first_of_another():
    runs = [*queue("crowd", *range(300)), *queue("guest", 300)]

    throttling = decide_throttling(runs, limit=8)

    assert throttling.throttle == tuple(range(8, 300))
    assert throttling.release == ()


def test_what_was_held_goes_on_in_the_order_of_its_arrival():
    runs = [
        *queue("crowd", 1, 2, has_begun=True),
        *queue("crowd", 5, 3, 4, is_throttled=True),
        *queue("crowd", 6),
    ]

    throttling = decide_throttling(runs, limit=4)

    assert (throttling.release, throttling.throttle) == ((3, 4), (6,))


def test_who_has_begun_enough_begins_nothing_more():
    runs = [*queue("crowd", 1, 2, 3, has_begun=True), *queue("crowd", 4)]

    assert decide_throttling(runs, limit=2).throttle == (4,)


RUNS = st.lists(
    st.builds(
        EarlyRun,
        pk=st.integers(0, 10_000),
        submitter=st.sampled_from(["ann", "bo", "cy"]),
        has_begun=st.booleans(),
        is_throttled=st.booleans(),
    ),
    unique_by=lambda run: run.pk,
    max_size=60,
)


@given(runs=RUNS, limit=st.integers(1, 10), shuffle=st.randoms())
def test_nobody_begins_more_than_may_and_nobody_waits_with_room(runs, limit, shuffle):
    throttling = decide_throttling(runs, limit=limit)

    throttle, release = set(throttling.throttle), set(throttling.release)
    held = {run.pk for run in runs if run.is_throttled and not run.has_begun}
    after = (held | throttle) - release
    begun = Counter(run.submitter for run in runs if run.has_begun)
    free = Counter(run.submitter for run in runs if not run.has_begun and run.pk not in after)
    for run in runs:
        if not run.has_begun:
            has_room = begun[run.submitter] + free[run.submitter] < limit
            assert not (has_room and run.pk in after), "it waits, and there is room"
            assert begun[run.submitter] + free[run.submitter] <= max(limit, begun[run.submitter])
    mixed = list(runs)
    shuffle.shuffle(mixed)
    assert decide_throttling(mixed, limit=limit) == throttling
    settled = [
        run
        if run.has_begun
        else EarlyRun(pk=run.pk, submitter=run.submitter, is_throttled=run.pk in after)
        for run in runs
    ]
    assert (
        decide_throttling(settled, limit=limit).throttle
        == decide_throttling(settled, limit=limit).release
        == ()
    )
