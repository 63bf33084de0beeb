"""What the end of an attempt means: whose failure it was, and whether to try again."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from touchstone_agent.protocol.facts import ExitFacts


class Outcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED_USER = "failed(user)"
    FAILED_INFRASTRUCTURE = "failed(infrastructure)"
    CANCELLED = "cancelled"
    LOST = "lost"


DETERMINISTIC_EXIT_CODES = frozenset({2, 3, 4})
"""Configuration, submission, diverged: the same input gives the same failure."""

INFRASTRUCTURE_EXIT_CODES = frozenset({10, 75, 137, 143})
"""Data source, temporary, out of memory, aborted: another host may do better."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """
    The end of an attempt.

    :param outcome: How it ended.
    :param failure_class: The runner's class of the failure (``oom``, ``limit`` ...); ``ok`` for
        success.
    :param reason: One line for the submitter; ``None`` for success.
    :param is_retriable: Whether another attempt may end differently.
    """

    outcome: Outcome
    failure_class: str
    reason: str | None
    is_retriable: bool


def judge_exit(facts: ExitFacts) -> Ending:
    """
    Say what a container's end means.

    :param facts: How it ended. No exit code is a failure, never a zero.
    :return: The ending. Exit 0 without a verdict is the user's contract failure.
    """
    exit_code, verdict = facts.exit_code, facts.verdict
    failure_class = (verdict and verdict.failure_class) or "unknown"
    reason = (verdict and verdict.reason) or None
    if exit_code == 0 and verdict is not None and verdict.outcome == "succeeded":
        return Ending(
            outcome=Outcome.SUCCEEDED, failure_class="ok", reason=None, is_retriable=False
        )
    if exit_code == 0:
        return Ending(
            outcome=Outcome.FAILED_USER,
            failure_class="contract",
            reason=reason or f"contract: exited 0 but wrote no verdict of success{_explain(facts)}",
            is_retriable=False,
        )
    if facts.oom_killed:
        return Ending(
            outcome=Outcome.FAILED_INFRASTRUCTURE,
            failure_class="oom",
            reason=reason or "out of memory: ended by the engine",
            is_retriable=True,
        )
    told = f"the trainer exited with code {exit_code}{_explain(facts)}"
    if exit_code in DETERMINISTIC_EXIT_CODES:
        return Ending(
            outcome=Outcome.FAILED_USER,
            failure_class=failure_class,
            reason=reason or told,
            is_retriable=False,
        )
    if exit_code is None or exit_code in INFRASTRUCTURE_EXIT_CODES:
        return Ending(
            outcome=Outcome.FAILED_INFRASTRUCTURE,
            failure_class=failure_class,
            reason=reason or told,
            is_retriable=True,
        )
    return Ending(
        outcome=Outcome.FAILED_USER,
        failure_class=failure_class,
        reason=reason or told,
        is_retriable=True,
    )


def _explain(facts: ExitFacts) -> str:
    return f" ({facts.no_verdict})" if facts.no_verdict else ""
