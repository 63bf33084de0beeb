from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.admission import EarlyRun, admit


def queue(submitter, *pks, **state):
    return [EarlyRun(pk=pk, submitter=submitter, **state) for pk in pks]


def test_somebodys_hundreds_leave_room_for_the_first_of_another():
    runs = [*queue("crowd", *range(300)), *queue("guest", 300)]

    admission = admit(runs, limit=8)

    assert admission.hold == tuple(range(8, 300))
    assert admission.release == ()


def test_what_was_held_goes_on_in_the_order_of_its_arrival():
    runs = [
        *queue("crowd", 1, 2, has_begun=True),
        *queue("crowd", 5, 3, 4, is_held=True),
        *queue("crowd", 6),
    ]

    admission = admit(runs, limit=4)

    assert (admission.release, admission.hold) == ((3, 4), (6,))


def test_who_has_begun_enough_begins_nothing_more():
    runs = [*queue("crowd", 1, 2, 3, has_begun=True), *queue("crowd", 4)]

    assert admit(runs, limit=2).hold == (4,)


RUNS = st.lists(
    st.builds(
        EarlyRun,
        pk=st.integers(0, 10_000),
        submitter=st.sampled_from(["ann", "bo", "cy"]),
        has_begun=st.booleans(),
        is_held=st.booleans(),
    ),
    unique_by=lambda run: run.pk,
    max_size=60,
)


@given(runs=RUNS, limit=st.integers(1, 10), shuffle=st.randoms())
def test_nobody_begins_more_than_may_and_nobody_waits_with_room(runs, limit, shuffle):
    admission = admit(runs, limit=limit)

    hold, release = set(admission.hold), set(admission.release)
    held = {run.pk for run in runs if run.is_held and not run.has_begun}
    after = (held | hold) - release
    begun = Counter(run.submitter for run in runs if run.has_begun)
    free = Counter(run.submitter for run in runs if not run.has_begun and run.pk not in after)
    for run in runs:
        if not run.has_begun:
            has_room = begun[run.submitter] + free[run.submitter] < limit
            assert not (has_room and run.pk in after), "it waits, and there is room"
            assert begun[run.submitter] + free[run.submitter] <= max(limit, begun[run.submitter])
    mixed = list(runs)
    shuffle.shuffle(mixed)
    assert admit(mixed, limit=limit) == admission
    settled = [
        run
        if run.has_begun
        else EarlyRun(pk=run.pk, submitter=run.submitter, is_held=run.pk in after)
        for run in runs
    ]
    assert admit(settled, limit=limit).hold == admit(settled, limit=limit).release == ()
