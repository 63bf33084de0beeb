"""Waiting for a run to end, through restarts of the api-server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Protocol

from touchstone.client.answers import (
    Answer,
    ShownSubmission,
    ShownTask,
    SubmissionAnswer,
)
from touchstone.client.api import Client
from touchstone.client.errors import NotFound, NotRegistered, Refused, StillRunning, Unreachable
from touchstone.core.answers.acts import ShownRun
from touchstone.core.throttling import THROTTLED_UNTIL

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0
"""How long an api-server that does not answer is waited for."""

_PAUSED_AFTER_SECONDS = 5.0
_SETTLE_SECONDS = 10.0
"""How long after its run's end a submission may take to say how it ended."""

_OVER = frozenset({"success", "failed"})
_OPEN = frozenset({"submitted", "validating", "queued", "running"})
_BAD = frozenset({"rejected", "error", "cancelled", "retracted"})


class Outcome(StrEnum):
    """How a run that was waited for ended."""

    SUCCESS = "success"
    FAILURE = "failure"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """
    A snapshot of a run.

    :param run_state: Airflow's word for the run.
    :param submission: The submission; ``None`` before it is registered.
    :param tasks: Its tasks.
    :param hint: What the user should know beyond that; empty for nothing.
    """

    run_state: str
    submission: ShownSubmission | None
    tasks: tuple[ShownTask, ...]
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """
    How a run ended.

    :param outcome: Well or not.
    :param status: The submission's status; ``None`` if it was never registered.
    :param reason: Why, in one line; ``None`` if it ended well.
    :param snapshot: What was known at the end.
    """

    outcome: Outcome
    status: str | None
    reason: str | None
    snapshot: Snapshot


class View(Protocol):
    """Shows how far a run is."""

    def show(self, snapshot: Snapshot) -> None:
        """Show what is known now."""
        ...

    def show_silence(self, seconds: float) -> None:
        """Show that the api-server has not answered for so long."""
        ...


class Watcher:
    """
    Polls a run until it ends.

    :param client: Who asks.
    :param view: Shows how far it is.
    :param clock: Seconds that only go up.
    :param sleep: Waits that many seconds.
    """

    def __init__(
        self,
        client: Client,
        view: View,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._client = client
        self._view = view
        self._clock = clock
        self._sleep = sleep

    def wait(
        self, submission_id: str, run_id: str, *, is_scheduled: bool, seconds: float | None = None
    ) -> Ending:
        """
        Return how a run ended.

        :param is_scheduled: Whether the run trains; otherwise being accepted is its success.
        :param seconds: How long to wait at most; ``None`` for as long as it takes.
        :raises StillRunning: If the run has not ended by then.
        :raises Unreachable: If the api-server has not answered for :data:`PATIENCE_SECONDS`.
        """
        started = answered = self._clock()
        over_since: float | None = None
        while True:
            try:
                snapshot = self._look(submission_id, run_id, self._clock() - started)
                answered = self._clock()
                if snapshot.run_state in _OVER:
                    over_since = answered if over_since is None else over_since
                    submission = snapshot.submission
                    has_settled = submission is None or submission.status not in _OPEN
                    if has_settled or answered - over_since > _SETTLE_SECONDS:
                        return self._judge(run_id, snapshot, is_scheduled)
                self._view.show(snapshot)
            except Unreachable:
                silence = self._clock() - answered
                if silence > PATIENCE_SECONDS:
                    raise
                self._view.show_silence(silence)
            if seconds is not None and self._clock() - started >= seconds:
                raise StillRunning(
                    f"{run_id} has not ended after {seconds:g} s and goes on; wait again, "
                    "or cancel it"
                )
            self._sleep(POLL_SECONDS)

    def _look(self, submission_id: str, run_id: str, waited: float) -> Snapshot:
        # The run first: once it is over, so are the records that are read after it.
        run = self._client.get_run(run_id)
        found = self._client.find_submission(submission_id)
        tasks = found.tasks if found else ()
        hint = "waits for its logical date, which is to come" if is_to_come(run) else ""
        # With tasks on record it is the slots that it waits for, and those tell why.
        if run.state == "queued" and not tasks and waited > _PAUSED_AFTER_SECONDS:
            hint = "waits for Airflow to start the run"
            if run.is_paused:
                hint = "the DAG is paused in Airflow: its runs wait until somebody unpauses it"
        return Snapshot(
            run_state=run.state,
            submission=found.submission if found else None,
            tasks=tasks,
            hint=hint,
        )

    def _judge(self, run_id: str, snapshot: Snapshot, is_scheduled: bool) -> Ending:
        submission = snapshot.submission
        status = submission.status if submission else None
        good = {"success"} if is_scheduled else {"accepted", "success"}
        if snapshot.run_state == "success" and status in good:
            return Ending(outcome=Outcome.SUCCESS, status=status, reason=None, snapshot=snapshot)
        # A run that was refused has not touched the record, which still tells of an earlier one.
        is_its_own = submission is not None and run_id in submission.run_ids
        reason = submission.reason if submission and is_its_own and status in _BAD else None
        return Ending(
            outcome=Outcome.FAILURE,
            status=status,
            reason=reason or self._find_failure(run_id) or "no reason is on record",
            snapshot=snapshot,
        )

    def _find_failure(self, run_id: str) -> str | None:
        try:
            return self._client.get_run(run_id).failure
        except Refused:
            return None


def get_submission(client: Client, submission_id: str) -> Answer[SubmissionAnswer]:
    """
    Return a submission and its tasks, or say what became of the run that was to bring it.

    :raises NotRegistered: If its run has not come so far yet.
    :raises NotFound: If there is none, or its run was refused.
    """
    try:
        return client.get_submission(submission_id)
    except NotFound as error:
        try:
            run = client.get_run(submission_id)
        except Refused:
            raise error from None
        if run.state not in _OVER:
            message = f"{submission_id} is not registered yet: its run is {run.state}"
            if run.run_after == THROTTLED_UNTIL:
                message += ", behind others of its submitter's"
            elif is_to_come(run):
                message += (
                    f", and waits for its logical date, {run.logical_date:%Y-%m-%dT%H:%M:%SZ}; "
                    "delete it and trigger one with a logical date of null"
                )
            raise NotRegistered(message) from None
        if run.failure:
            raise NotFound(f"{submission_id} was refused: {run.failure}", status=404) from None
        message = f"{submission_id} was ended before it was registered"
        raise NotFound(message, status=404) from None


def is_to_come(run: ShownRun) -> bool:
    """Tell whether a run has a logical date to come, which Airflow waits for without a word."""
    return run.logical_date is not None and run.logical_date > datetime.now(UTC)


def is_at_work(client: Client, submission: ShownSubmission) -> bool:
    """
    Tell whether anything may still become of a submission by itself.

    A run that trains passes through ``accepted``, which is also where a submission waits.
    """
    if submission.status in _OPEN:
        return True
    run_ids = submission.run_ids
    try:
        return bool(run_ids) and client.get_run(run_ids[-1]).state not in _OVER
    except NotFound:
        return False
