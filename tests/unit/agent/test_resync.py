"""What follows from a SYNC."""

from __future__ import annotations

from datetime import timedelta

from fakes.agent_world import NOW, make_attempt, make_ref
from touchstone_agent.core.resync import plan_sync
from touchstone_agent.protocol.messages import AttemptPhase

LATER = NOW + timedelta(seconds=60)


def test_what_is_expected_and_here_is_told_again() -> None:
    attempt = make_attempt()

    plan = plan_sync([attempt.ref], [attempt], asked_at=LATER)

    assert plan.expected == (attempt.ref,)
    assert plan.unexpected == plan.missing == ()


def test_what_is_expected_and_not_here_is_missing() -> None:
    plan = plan_sync([make_ref()], [], asked_at=LATER)

    assert plan.missing == (make_ref(),)


def test_what_runs_unexpected_is_quarantined() -> None:
    attempt = make_attempt()

    plan = plan_sync([], [attempt], asked_at=LATER)

    assert plan.unexpected == (attempt.ref,)


def test_what_was_accepted_after_the_list_was_written_cannot_be_in_it() -> None:
    young = make_attempt(accepted_at=LATER + timedelta(seconds=1))

    assert plan_sync([], [young], asked_at=LATER).unexpected == ()


def test_what_has_ended_is_never_quarantined() -> None:
    ended = make_attempt(phase=AttemptPhase.EXITED)

    assert plan_sync([], [ended], asked_at=LATER).unexpected == ()
