"""Which STARTs are taken."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.agent_world import make_attempt, make_ref, make_start
from fakes.gpus import make_gpu, make_gpus
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


@pytest.mark.parametrize(
    ("pattern", "is_allowed"),
    [
        ("reg.example/trainer:*", True),
        ("reg.example/trainer:1", True),
        (f"reg.example/trainer:1@sha256:{'a' * 64}", True),
        (f"reg.example/trainer:1@sha256:{'b' * 64}", False),
        ("reg.example/trainer:2", False),
        ("reg.example/other:*", False),
    ],
)
def test_a_pinned_image_is_allowed_by_its_tag_or_by_its_content(
    pattern: str, is_allowed: bool
) -> None:
    image = f"reg.example/trainer:1@sha256:{'a' * 64}"
    assert replace(ONE, images_allowed=(pattern,)).allows(image) is is_allowed


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


def offer(count: int, **fields) -> Capacity:
    return Capacity(
        slots=9, validation_slots=0, images_allowed=None, gpus=make_gpus(count), **fields
    )


def hold(task_id: str, *gpu_ids: str, phase: AttemptPhase = AttemptPhase.RUNNING, **fields):
    return make_attempt(make_ref(task_id), phase, gpu_ids=gpu_ids, **fields)


def test_each_attempt_gets_gpus_of_its_own() -> None:
    attempts = [hold("i1", "GPU-0"), hold("i2", "GPU-1", phase=AttemptPhase.UPLOADED)]

    decision = decide(make_start(make_ref("i3"), gpus=2), attempts, capacity=offer(3))

    assert decision == Accept(gpu_ids=("GPU-1", "GPU-2"))


def test_more_gpus_than_are_free_are_refused() -> None:
    refusal = decide(make_start(make_ref("i2"), gpus=1), [hold("i1", "GPU-0")], capacity=offer(1))

    assert isinstance(refusal, Refuse)
    assert refusal.reason == "full: 1 GPUs wanted, 0 free"
    assert refusal.refusal is Refusal.FULL


def test_a_start_that_requires_a_gpu_gets_one_however_many_it_names() -> None:
    assert decide(make_start(requires_gpu=True), capacity=offer(1)) == Accept(gpu_ids=("GPU-0",))

    refusal = decide(make_start(requires_gpu=True), capacity=offer(0))

    assert isinstance(refusal, Refuse)
    assert refusal.refusal is Refusal.GPU


def fill(capacity: Capacity, starts: int) -> list[str]:
    """Start one training after the other; return what each got, or why it was refused."""
    attempts, got = [], []
    for number in range(starts):
        start = make_start(make_ref(f"i{number}"), gpus=1)
        decision = decide(start, attempts, capacity=capacity)
        if isinstance(decision, Accept):
            attempts.append(
                make_attempt(start=start, gpu_ids=decision.gpu_ids, gpu_shares=capacity.gpu_shares)
            )
        got.append(decision.gpu_ids[0] if isinstance(decision, Accept) else decision.refusal)
    return got


def test_three_trainings_on_two_gpus_are_one_too_many() -> None:
    assert fill(offer(2), 3) == ["GPU-0", "GPU-1", Refusal.FULL]


def test_a_gpu_is_shared_only_when_no_other_is_free() -> None:
    assert fill(offer(2, gpu_shares=2), 5) == ["GPU-0", "GPU-1", "GPU-0", "GPU-1", Refusal.FULL]


def test_slices_of_a_gpu_are_devices_of_their_own() -> None:
    slices = tuple(make_gpu(uuid=f"MIG-{n}", parent="GPU-0") for n in (1, 2))

    assert fill(replace(offer(0), gpus=slices), 3) == ["MIG-1", "MIG-2", Refusal.FULL]


def test_two_gpus_for_one_attempt_are_never_two_shares_of_one() -> None:
    decision = decide(make_start(gpus=2), capacity=offer(2, gpu_shares=4))

    assert decision == Accept(gpu_ids=("GPU-0", "GPU-1"))


def test_who_was_given_a_whole_gpu_keeps_it_when_it_may_be_shared_from_now_on() -> None:
    """It was told that all of the memory is its own."""
    whole = hold("i1", "GPU-0", gpu_shares=1)
    third = hold("i2", "GPU-1", gpu_shares=3)

    decision = decide(
        make_start(make_ref("i3"), gpus=1), [whole, third], capacity=offer(2, gpu_shares=2)
    )

    assert decision == Accept(gpu_ids=("GPU-1",))


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_gpu_that_the_version_before_handed_over_by_its_index_is_held(index: str) -> None:
    decision = decide(
        make_start(make_ref("i2"), gpus=1), [hold("i1", index)], capacity=offer(2, gpu_shares=2)
    )

    assert decision == Accept(gpu_ids=(f"GPU-{1 - int(index)}",))


def test_a_gpu_that_cannot_be_used_now_is_passed_over_for_another() -> None:
    start = make_start(gpus=1)

    decision = decide_start(
        start, attempts=(), mark=NEVER_SEEN, capacity=offer(2), unusable={"GPU-0": "it is lost"}
    )

    assert decision == Accept(gpu_ids=("GPU-1",))


def test_while_an_attempt_holds_the_gpu_that_can_be_used_its_server_is_full_and_not_broken() -> (
    None
):
    """It took nothing for up to half an hour, and that GPU was idle beside tasks that waited."""
    decision = decide_start(
        make_start(make_ref("i2"), gpus=1),
        attempts=[hold("i1", "GPU-1")],
        mark=NEVER_SEEN,
        capacity=offer(2),
        unusable={"GPU-0": "another process uses GPU 0 (pid 4711, 12000 MiB)"},
    )

    assert decision == Refuse(
        phase=AttemptPhase.REJECTED,
        reason="full: another process uses GPU 0 (pid 4711, 12000 MiB)",
        refusal=Refusal.FULL,
    )


def test_a_start_is_refused_with_the_reason_when_no_free_gpu_can_be_used() -> None:
    decision = decide_start(
        make_start(make_ref("i2"), gpus=1),
        attempts=[hold("i1", "GPU-1")],
        mark=NEVER_SEEN,
        capacity=offer(2),
        unusable={"GPU-0": "another process uses GPU 0 (pid 4711, 12000 MiB)", "GPU-1": "no"},
    )

    assert decision == Refuse(
        phase=AttemptPhase.REJECTED,
        reason="gpu: another process uses GPU 0 (pid 4711, 12000 MiB)",
        refusal=Refusal.GPU,
    )


@pytest.mark.parametrize(
    ("start", "capacity", "refusal"),
    [
        ({"gpus": 2}, {"gpus": make_gpus(1)}, Refusal.GPU),
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
