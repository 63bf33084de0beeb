"""What a server has refused, and until when it is left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from touchstone.core.holds import (
    find_refusal,
    hold_blind,
    hold_server,
    list_holds,
    mark_told,
    release_blind,
    release_renewed,
    release_server,
)
from touchstone.core.records.servers import Server
from touchstone_agent.protocol.messages import AttemptPhase, Refusal, SlotClass

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
BARE = Server(server="rio")


def refuse(server, refusal, *, at=NOW, kind="training", image="trainer", reason="because"):
    return hold_server(
        server, refusal=refusal, reason=reason, kind=SlotClass(kind), image=image, now=at
    )


def the(server):
    (hold,) = list_holds(server)
    return hold


@pytest.mark.parametrize(
    ("refusal", "kind", "image"),
    [
        (Refusal.DISK, None, None),
        (Refusal.GPU, "training", None),
        (Refusal.IMAGE, None, "trainer"),
        (Refusal.FULL, "validation", None),
        (Refusal.DRAINED, "validation", None),
        (None, "validation", None),
    ],
)
def test_what_is_held_follows_from_what_was_refused(refusal, kind, image):
    hold = the(refuse(BARE, refusal, kind=kind or "validation"))

    assert (hold.refusal, hold.kind, hold.image) == (refusal, kind, image)
    assert hold.until > NOW


@pytest.mark.parametrize("refusal", [Refusal.FENCE, Refusal.NAME])
def test_what_is_wrong_with_a_start_is_held_against_no_server(refusal):
    assert refuse(BARE, refusal) is None


@pytest.mark.parametrize(
    ("refusal", "first", "longest"),
    [(Refusal.DISK, 60, 1800), (Refusal.FULL, 20, 300), (None, 20, 300)],
)
def test_a_hold_grows_with_each_refusal_after_it_and_is_bounded_at_any_count(
    refusal, first, longest
):
    server, at, waits = BARE, NOW, []
    for _ in range(200):
        server = refuse(server, refusal, at=at)
        waits.append((the(server).until - at).total_seconds())
        at = the(server).until

    assert waits[0] <= first * 1.5
    assert waits[1] > waits[0] * 1.2
    assert max(waits) <= longest * 1.5
    assert waits[-1] >= longest / 2


def test_what_was_sent_before_a_hold_makes_it_no_longer():
    """Four tasks in four slots are refused within a second, and that is one reason, not four."""
    server = refuse(BARE, Refusal.DISK)

    assert refuse(server, Refusal.DISK, at=NOW + timedelta(seconds=1)) is None


@pytest.mark.parametrize(
    ("refusal", "phase", "gpus", "is_released"),
    [
        (Refusal.DISK, AttemptPhase.ACCEPTED, 0, True),
        (Refusal.FULL, AttemptPhase.ACCEPTED, 0, True),
        (None, AttemptPhase.ACCEPTED, 0, True),
        (Refusal.IMAGE, AttemptPhase.ACCEPTED, 0, False),
        (Refusal.IMAGE, AttemptPhase.RUNNING, 0, True),
        (Refusal.GPU, AttemptPhase.RUNNING, 0, False),
        (Refusal.GPU, AttemptPhase.RUNNING, 1, True),
    ],
)
def test_a_server_is_asked_again_as_soon_as_it_takes_the_like(refusal, phase, gpus, is_released):
    server = refuse(BARE, refusal)

    released = release_server(
        server, phase=phase, kind=SlotClass.TRAINING, image="trainer", gpus=gpus
    )

    assert (released and released.holds) == ({} if is_released else None)


def test_a_training_that_was_taken_says_nothing_of_validations_and_other_images():
    server = refuse(BARE, Refusal.FULL, kind="validation")
    server = refuse(server, Refusal.IMAGE, image="other")

    for phase in (AttemptPhase.ACCEPTED, AttemptPhase.RUNNING):
        assert (
            release_server(server, phase=phase, kind=SlotClass.TRAINING, image="trainer", gpus=0)
            is None
        )


def test_an_agent_that_was_started_anew_is_asked_again():
    server = refuse(BARE, Refusal.DISK).change(epoch="one")

    assert release_renewed(server, epoch="one", gpus=0, old_gpus=0) is None
    assert release_renewed(server, epoch="two", gpus=0, old_gpus=0).holds == {}


def test_a_gpu_that_is_seen_again_lifts_the_hold_for_it():
    server = refuse(BARE, Refusal.GPU).change(epoch="one")

    assert release_renewed(server, epoch="one", gpus=1, old_gpus=1) is None
    assert release_renewed(server, epoch="one", gpus=2, old_gpus=1).holds == {}


def test_the_admins_are_told_once_of_a_hold_that_grows():
    server = refuse(BARE, Refusal.DISK)
    server = mark_told(server, {"disk"})
    server = refuse(server, Refusal.DISK, at=NOW + timedelta(hours=1))

    assert the(server).is_told
    assert the(server).times == 2
    assert mark_told(server, {"disk"}) is None


@pytest.mark.parametrize("details", [{}, {"refusal": "of a newer agent"}, {"refusal": ["disk"]}])
def test_a_class_that_nobody_knows_is_none(details):
    assert find_refusal(details) is None


@pytest.mark.parametrize(
    "odd", [None, 7, {"until": "now", "reason": "x"}, {"reason": "x"}, {"until": None}]
)
def test_a_hold_that_makes_no_sense_hides_no_other(odd):
    server = refuse(BARE, Refusal.DISK)
    stored = server.dump()
    stored["holds"]["odd"] = odd

    found = Server.load(stored)

    assert the(found).refusal is Refusal.DISK
    told = mark_told(found, {"disk"})
    assert told.dump()["holds"]["odd"] == odd, "what another version wrote stays"


def test_a_server_keeps_few_holds_whatever_images_there_are():
    server = BARE
    for number in range(100):
        server = refuse(server, Refusal.IMAGE, image=f"image-{number}")

    assert len(list(list_holds(server))) == 20


# --- a GPU that trainings do not see ------------------------------------------------------------


def see_nothing(server, user, *, at=NOW):
    found = hold_blind(server, label=f"user:{user}", reason="the driver is too old", now=at)
    return found or server


def held(server, at=NOW):
    """Return for whom trainings are held; ``None`` is everybody."""
    return {hold.label for hold in list_holds(server) if hold.until > at}


def test_one_submitters_word_keeps_only_that_submitters_trainings_away():
    """It is written in the container: else submitted code could put a server out of service."""
    server, at = BARE, NOW
    for _ in range(50):
        server = see_nothing(server, "ann", at=at)
        at = the(server).until

    hold = the(server)
    assert (hold.label, hold.kind, hold.refusal) == ("user:ann", SlotClass.TRAINING, None)
    assert hold.reason == "a training saw no GPU: the driver is too old"
    assert (at - NOW) > timedelta(hours=20), "less and less often"


def test_a_second_submitters_word_makes_it_the_servers_fault():
    server = see_nothing(see_nothing(BARE, "ann"), "bob", at=NOW + timedelta(minutes=5))

    everybodys = next(hold for hold in list_holds(server) if hold.label is None)
    assert (everybodys.refusal, everybodys.kind) == (Refusal.GPU, SlotClass.TRAINING)
    assert everybodys.reason == "gpu: trainings of 2 submitters saw none"


def test_a_word_of_long_ago_bears_out_nobodys():
    server = see_nothing(see_nothing(BARE, "ann"), "bob", at=NOW + timedelta(hours=2))

    assert held(server, NOW + timedelta(hours=2)) == {"user:bob"}


def test_several_trainings_that_see_nothing_at_once_are_one_reason():
    server = see_nothing(BARE, "ann")

    again = hold_blind(server, label="user:ann", reason="x", now=NOW + timedelta(seconds=1))

    assert again is None


def test_a_training_that_sees_its_gpu_lifts_all_of_it_and_nothing_else():
    server = see_nothing(see_nothing(refuse(BARE, Refusal.DISK), "ann"), "bob")
    assert held(server) == {None, "user:ann", "user:bob"}

    server = release_blind(server)

    assert the(server).refusal is Refusal.DISK
    assert release_blind(server) is None


def test_a_gpu_more_or_another_agent_lifts_it_too():
    server = see_nothing(BARE, "ann").change(epoch="one")

    assert release_renewed(server, epoch="one", gpus=1, old_gpus=1) is None
    assert release_renewed(server, epoch="one", gpus=2, old_gpus=1).holds == {}
    assert release_renewed(server, epoch="two", gpus=1, old_gpus=1).holds == {}


def test_a_training_that_only_begins_lifts_nothing():
    """It is given its GPU, and sees nothing of it."""
    server = see_nothing(see_nothing(BARE, "ann"), "bob")

    for phase in (AttemptPhase.ACCEPTED, AttemptPhase.RUNNING):
        found = release_server(
            server, phase=phase, kind=SlotClass.TRAINING, image="trainer", gpus=1
        )
        assert found is None
