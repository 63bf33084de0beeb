"""What may be told of an attempt on private data: phases, codes and words of fixed lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import ValidationError

from touchstone_agent.protocol.facts import ExitFacts, PreparedFacts, RunnerVerdict
from touchstone_agent.protocol.messages import AttemptPhase, PhaseChanged, Refusal
from touchstone_agent.protocol.private import ServerJudged

CLASSES: Final = frozenset(
    {
        *("ok", "config", "submission", "contract", "limit", "diverged"),
        *("data", "device", "temporary", "oom", "aborted"),
    }
)
"""Kinds of failure that are told; any other word is ``unknown``."""

EXIT_CODES: Final = frozenset({0, 2, 3, 4, 10, 75, 137, 143})
"""Codes that mean something by the contract; any other one is 1."""

LOST: Final = "lost at the server that holds its data; that server's log says why"


def withhold(event: PhaseChanged) -> PhaseChanged:
    """
    Return what is told of a phase of an attempt on private data.

    Everything is left out but what is named here: whatever a runner, a trainer or submitted code
    has written may hold prices.

    :param event: The phase with all that its agent knows.
    """
    details = event.details
    match event.phase:
        case AttemptPhase.ACCEPTED:
            return event.model_copy(update={"reason": None, "details": {}})
        case AttemptPhase.PREPARING:
            return event.model_copy(update={"reason": None, "details": _pick_prepared(details)})
        case AttemptPhase.RUNNING:
            kept = {key: details[key] for key in ("container", "runtime") if key in details}
            return event.model_copy(update={"reason": None, "details": kept})
        case AttemptPhase.EXITED:
            return event.model_copy(update={"reason": None, "details": _pick_exit(details)})
        case AttemptPhase.UPLOADED:
            told = _pick_exit(details) | _pick_judged(details)
            return event.model_copy(update={"reason": None, "details": told})
        case AttemptPhase.LOST:
            refusal = details.get("refusal")
            if refusal in set(Refusal):
                # What this server lacks, found before anything ran.
                return event.model_copy(update={"details": {"refusal": refusal}})
            return event.model_copy(update={"reason": LOST, "details": {}})
        case AttemptPhase.REJECTED | AttemptPhase.CANCELLED:
            # The words are the agent's own, or those of somebody who cancelled it.
            refusal = {key: details[key] for key in ("refusal",) if key in details}
            return event.model_copy(update={"details": refusal})


def tell_failure(failure_class: str) -> str:
    """Return what a submitter is told of a failure on private data."""
    return (
        f"it failed ({failure_class}) at the server that holds its data, where all that it wrote "
        "stays; ask that server's owner, or try it on data that are not private"
    )


def _pick_prepared(details: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return PreparedFacts.model_validate(details).model_dump(mode="json")
    except ValidationError:
        return {}


def _pick_exit(details: Mapping[str, Any]) -> dict[str, Any]:
    try:
        said = ExitFacts.model_validate(details)
    except ValidationError:
        said = ExitFacts(exit_code=1)
    exit_code = said.exit_code
    if exit_code is not None and exit_code not in EXIT_CODES:
        exit_code = 1
    verdict = said.verdict and _reduce(said.verdict, exit_code)
    # Which files there are, and how large, submitted code decides.
    told = ExitFacts(exit_code=exit_code, oom_killed=said.oom_killed, verdict=verdict)
    return told.dump()


def _reduce(verdict: RunnerVerdict, exit_code: int | None) -> RunnerVerdict:
    failure_class = verdict.failure_class
    if failure_class is not None and failure_class not in CLASSES:
        failure_class = "unknown"
    is_success = verdict.outcome == "succeeded"
    return RunnerVerdict(
        exit_code=exit_code,
        outcome=verdict.outcome,
        failure_class=failure_class,
        reason=None if is_success else tell_failure(failure_class or "unknown"),
    )


def _pick_judged(details: Mapping[str, Any]) -> dict[str, Any]:
    if details.get("judged") is None:
        return {}
    try:
        judged = ServerJudged.model_validate(details["judged"])
    except ValidationError:
        return {}
    return {"judged": judged.model_dump(mode="json")}
