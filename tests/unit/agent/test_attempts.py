"""The table of an attempt's moves."""

from __future__ import annotations

import itertools

import pytest

from fakes.agent_world import NOW, make_attempt
from touchstone_agent.core.attempts import (
    LEGAL_MOVES,
    SLOT_PHASES,
    IllegalMove,
    build_phase_event,
    move,
)
from touchstone_agent.protocol.messages import FINAL_PHASES, AttemptPhase

P = AttemptPhase


def test_every_phase_has_its_row() -> None:
    assert set(LEGAL_MOVES) == set(AttemptPhase)


def test_nothing_leaves_a_final_phase_and_nothing_else_is_stuck() -> None:
    assert {phase for phase, moves in LEGAL_MOVES.items() if not moves} == FINAL_PHASES


@pytest.mark.parametrize("phase", sorted(SLOT_PHASES))
def test_whatever_holds_a_slot_can_be_cancelled_and_lost(phase: AttemptPhase) -> None:
    assert {P.CANCELLED, P.LOST} <= LEGAL_MOVES[phase]


def test_an_attempt_that_has_exited_can_only_be_uploaded() -> None:
    assert LEGAL_MOVES[P.EXITED] == {P.UPLOADED}


@pytest.mark.parametrize(
    ("old", "new"),
    [(o, n) for o, n in itertools.product(P, P) if n not in LEGAL_MOVES[o]],
)
def test_a_move_that_is_not_in_the_table_is_refused(old: AttemptPhase, new: AttemptPhase) -> None:
    with pytest.raises(IllegalMove):
        move(make_attempt(phase=old), new, at=NOW)


def test_the_event_of_a_phase_is_the_same_each_time_it_is_told() -> None:
    attempt = move(make_attempt(), P.EXITED, at=NOW, details={"exit_code": 0})

    assert build_phase_event(attempt) == build_phase_event(attempt)
    assert build_phase_event(attempt).details == {"exit_code": 0}
