"""Which priority moves a task past which others, and how many changes are kept."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.priorities import (
    MAX_CHANGED,
    Move,
    change_priority,
    find_priority,
    find_target,
    index_changed,
    list_chosen,
)
from touchstone.core.queue import Queue, WaitingTask
from touchstone_agent.protocol.errors import ConfigurationError

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def build_queue(*priorities, validations=()):
    """Return what waits: trainings ``s-1``, ``s-2`` ... in this order, validations likewise."""
    waiting = [
        WaitingTask(
            submission_id=f"{letter}-{place}",
            task_id="i5",
            priority=priority,
            is_validation=letter == "v",
            position=place,
            of=len(told),
            reason="all slots are taken",
            since=NOW,
        )
        for letter, told in (("s", priorities), ("v", validations))
        for place, priority in enumerate(told, 1)
    ]
    return Queue(at=NOW, dispatcher="d/1", waiting=tuple(waiting))


def target(queue, submission_id, move, task_id="i5"):
    return find_target(queue, list_chosen(queue, submission_id, task_id), move)


@pytest.mark.parametrize(
    ("move", "expected"),
    [(Move.FIRST, 6), (Move.UP, 1), (Move.DOWN, -3), (Move.LAST, -8)],
)
def test_a_move_passes_those_that_it_says(move, expected):
    # s-3 is moved: s-2 is next before it, s-4 behind it, s-1 the first, s-5 the last.
    assert target(build_queue(5, 0, 0, -2, -7), "s-3", move) == expected


@pytest.mark.parametrize("move", [Move.FIRST, Move.UP])
def test_who_is_first_stays_what_it_is(move):
    assert target(build_queue(3, 0), "s-1", move) == 3


@pytest.mark.parametrize("move", [Move.LAST, Move.DOWN])
def test_who_is_last_stays_what_it_is(move):
    assert target(build_queue(3, 0), "s-2", move) == 0


def test_who_waits_alone_is_not_moved():
    assert {target(build_queue(4), "s-1", move) for move in Move} == {4}


def test_validations_have_a_queue_of_their_own():
    queue = build_queue(9, 9, validations=(0, 0))

    assert target(queue, "v-2", Move.FIRST) == 1
    assert target(queue, "s-2", Move.LAST) == 8


def test_a_submission_is_moved_with_all_that_waits_of_it():
    queue = build_queue(4, 0, 0)
    second = queue.waiting[1].model_copy(update={"submission_id": "s-3"})
    queue = queue.model_copy(update={"waiting": (queue.waiting[0], second, queue.waiting[2])})

    assert target(queue, "s-3", Move.UP, task_id=None) == 5
    assert target(queue, "s-3", Move.LAST, task_id=None) == 0


@pytest.mark.parametrize(
    ("priorities", "moved", "move", "way"),
    [((100, 0), "s-2", Move.FIRST, "highest"), ((0, -100), "s-1", Move.LAST, "lowest")],
)
def test_where_no_priority_is_left_the_way_out_is_told(priorities, moved, move, way):
    with pytest.raises(ConfigurationError, match=f"the {way} priority, -?100; "):
        target(build_queue(*priorities), moved, move)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8), st.data())
def test_a_move_never_goes_the_wrong_way(priorities, data):
    queue = build_queue(*sorted(priorities, reverse=True))
    task = data.draw(st.sampled_from(queue.waiting))

    reached = {move: target(queue, task.submission_id, move) for move in Move}

    assert reached[Move.LAST] <= reached[Move.DOWN] <= task.priority
    assert task.priority <= reached[Move.UP] <= reached[Move.FIRST]


# --- what is kept ---------------------------------------------------------------------------------


def change(changed, key, priority, waiting=()):
    return change_priority(changed, key, priority, by="ann", at=NOW, waiting=waiting)


def test_a_tasks_own_change_outranks_its_submissions():
    changed = change(change((), ("s-1", None), 5), ("s-1", "i5"), 7)
    index = index_changed(changed)

    assert find_priority("s-1", "i5", 0, index) == 7
    assert find_priority("s-1", "i20", 0, index) == 5
    assert find_priority("s-2", "i5", 3, index) == 3


def test_a_change_of_the_whole_takes_the_place_of_the_parts():
    changed = change((), ("s-1", "i5"), 7)
    changed = change(change(changed, ("s-2", "i5"), 1), ("s-1", None), 2)

    assert dict(index_changed(changed)) == {("s-2", "i5"): 1, ("s-1", None): 2}


def test_the_schedules_own_comes_back():
    changed = change(change((), ("s-1", None), 5), ("s-1", "i5"), 7)

    assert dict(index_changed(change(changed, ("s-1", "i5"), None))) == {("s-1", None): 5}
    assert change(changed, ("s-1", None), None) == ()


def test_changes_of_what_waits_no_more_make_room():
    changed = ()
    for number in range(MAX_CHANGED):
        changed = change(changed, (f"s-{number}", None), 1)

    waiting = {f"s-{number}" for number in range(MAX_CHANGED)} - {"s-7"}
    changed = change(changed, ("s-new", None), 1, waiting)

    assert len(changed) == MAX_CHANGED
    assert ("s-7", None) not in index_changed(changed)
    assert ("s-new", None) in index_changed(changed)
    with pytest.raises(ConfigurationError, match="give one of them its own again"):
        change(changed, ("s-newer", None), 1, waiting | {"s-new"})
