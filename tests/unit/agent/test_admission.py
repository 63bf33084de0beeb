"""Which STARTs are taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.agent_world import make_attempt, make_ref, make_start
from touchstone_agent.core.admission import (
    Accept,
    Capacity,
    FenceMark,
    Refuse,
    Repeat,
    decide_start,
)
from touchstone_agent.protocol.messages import AttemptPhase, Refusal, SlotClass

ONE = Capacity(slots=1, validation_slots=1, images_allowed=None)
NEVER_SEEN = FenceMark()


def decide(start, attempts=(), mark=NEVER_SEEN, capacity=ONE):
    return decide_start(start, attempts=attempts, mark=mark, capacity=capacity)


def test_a_start_is_taken_while_a_slot_is_free() -> None:
    assert decide(make_start()) == Accept()


def test_a_start_is_refused_when_all_slots_of_its_class_are_taken() -> None:
    running = make_attempt(make_ref("i1"))

    refusal = decide(make_start(make_ref("i2")), [running])

    assert refusal == Refuse(
        phase=AttemptPhase.REJECTED,
        reason="full: 1 of 1 training slots are taken",
        refusal=Refusal.FULL,
    )


def test_a_validation_is_taken_while_all_training_slots_are_taken() -> None:
    running = make_attempt(make_ref("i1"))
    start = make_start(make_ref("validation"), slot_class=SlotClass.VALIDATION)

    assert decide(start, [running]) == Accept()


@pytest.mark.parametrize("phase", [AttemptPhase.EXITED, AttemptPhase.UPLOADED, AttemptPhase.LOST])
def test_an_attempt_whose_container_has_ended_holds_no_slot(phase: AttemptPhase) -> None:
    ended = make_attempt(make_ref("i1"), phase)

    assert decide(make_start(make_ref("i2")), [ended]) == Accept()


def test_a_drained_server_says_so() -> None:
    refusal = decide(make_start(), capacity=replace(ONE, slots=0))

    assert isinstance(refusal, Refuse)
    assert refusal.reason == "this server takes no trainings"


def test_the_same_start_again_is_a_repeat_even_when_the_server_is_full() -> None:
    assert decide(make_start(), [make_attempt()]) == Repeat()


def test_a_higher_fence_takes_the_slot_of_the_attempt_it_supersedes() -> None:
    old, new = make_ref(fence=1), make_ref(attempt=2, fence=2)

    decision = decide(make_start(new), [make_attempt(old)], FenceMark(seen=1))

    assert decision == Accept(supersedes=(old,))


@pytest.mark.parametrize("fence", [1, 2])
def test_a_fence_that_was_seen_is_refused(fence: int) -> None:
    refusal = decide(make_start(make_ref(attempt=9, fence=fence)), mark=FenceMark(seen=2))

    assert isinstance(refusal, Refuse)
    assert refusal.phase is AttemptPhase.REJECTED


def test_what_was_cancelled_before_it_came_never_starts() -> None:
    refusal = decide(make_start(make_ref(fence=2)), mark=FenceMark(cancelled=2))

    assert refusal == Refuse(phase=AttemptPhase.CANCELLED, reason="cancelled before it was started")


def test_a_newer_attempt_than_the_cancelled_one_starts() -> None:
    assert decide(make_start(make_ref(fence=3)), mark=FenceMark(seen=2, cancelled=2)) == Accept()


@pytest.mark.parametrize(
    ("image", "is_allowed"),
    [("good/trainer:7", True), ("good/other:1", False), ("evil/good/trainer:1", False)],
)
def test_only_images_of_the_list_are_taken(image: str, is_allowed: bool) -> None:
    capacity = Capacity(slots=1, validation_slots=1, images_allowed=("good/trainer:*",))

    decision = decide(make_start(image=image), capacity=capacity)

    assert isinstance(decision, Accept) is is_allowed


def test_each_attempt_gets_gpus_of_its_own() -> None:
    capacity = Capacity(slots=4, validation_slots=0, images_allowed=None, gpu_ids=(0, 1, 2))
    running = make_attempt(make_ref("i1"), gpu_ids=(0,))
    ended = make_attempt(make_ref("i2"), AttemptPhase.UPLOADED, gpu_ids=(1,))

    decision = decide(make_start(make_ref("i3"), gpus=2), [running, ended], capacity=capacity)

    assert decision == Accept(gpu_ids=(1, 2))


def test_more_gpus_than_are_free_are_refused() -> None:
    capacity = Capacity(slots=4, validation_slots=0, images_allowed=None, gpu_ids=(0,))

    running = make_attempt(make_ref("i1"), gpu_ids=(0,))

    refusal = decide(make_start(make_ref("i2"), gpus=1), [running], capacity=capacity)

    assert isinstance(refusal, Refuse)
    assert refusal.reason == "full: 1 GPUs wanted, 0 free"
    assert refusal.refusal is Refusal.FULL


@pytest.mark.parametrize(
    ("start", "capacity", "refusal"),
    [
        ({"gpus": 2}, {"gpu_ids": (0,)}, Refusal.GPU),
        ({"image": "x"}, {"images_allowed": ("y",)}, Refusal.IMAGE),
        ({}, {"slots": 0}, Refusal.DRAINED),
        ({"ref": make_ref(fence=1)}, {}, Refusal.FENCE),
    ],
)
def test_what_a_server_refuses_for_good_is_told_from_what_is_full(start, capacity, refusal) -> None:
    """Placement asks a full server again soon, and leaves one alone that lacks what is wanted."""
    offered = {"slots": 4, "validation_slots": 1, "images_allowed": None, **capacity}
    ordered = {"ref": make_ref(fence=3), **start}

    refused = decide(
        make_start(ordered.pop("ref"), **ordered),
        mark=FenceMark(seen=2),
        capacity=Capacity(**offered),
    )

    assert isinstance(refused, Refuse)
    assert refused.refusal is refusal
