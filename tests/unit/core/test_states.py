"""The tables of legal moves."""

from __future__ import annotations

import pytest

from touchstone.core.states import (
    SUBMISSION_MOVES,
    TASK_MOVES,
    TASK_TERMINAL,
    IllegalMove,
    SubmissionStatus,
    TaskStatus,
    check_submission_move,
    is_task_move,
)


def test_every_status_has_its_line_in_the_table():
    assert set(SUBMISSION_MOVES) == set(SubmissionStatus)
    assert set(TASK_MOVES) == set(TaskStatus)


def test_an_ended_task_leaves_its_status_only_by_being_queued_again():
    for status in TASK_TERMINAL:
        assert TASK_MOVES[status] == {TaskStatus.QUEUED}
        assert is_task_move(status, status)


def test_nothing_leads_out_of_retracted():
    for status in SubmissionStatus:
        if status is not SubmissionStatus.RETRACTED:
            with pytest.raises(IllegalMove, match="s-1 is retracted and cannot become"):
                check_submission_move("s-1", SubmissionStatus.RETRACTED, status)


def test_a_rejected_submission_cannot_be_scheduled():
    with pytest.raises(IllegalMove):
        check_submission_move("s-1", SubmissionStatus.REJECTED, SubmissionStatus.QUEUED)
