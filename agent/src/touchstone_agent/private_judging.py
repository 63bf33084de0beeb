"""Has a training on private data judged where it ran, and reduces what was found to figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from touchstone_agent.adapters.files import hash_file, open_below, remove_tree
from touchstone_agent.adapters.judge import JudgeFailed, ask_judge
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.context import AgentContext
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.private import (
    MAX_FIGURES,
    UNJUDGED_REASONS,
    PrivateData,
    ServerJudged,
    Strategy,
    UnjudgedReason,
    round_figure,
)
from touchstone_agent.protocol.words import describe_refusal

_FILES: Final[Mapping[str, int]] = {"result.json": 1024**2, "predictions.csv": 8 * 1024**2}
"""What the judge reads, and how much of it at most."""

_STRATEGIES: Final[tuple[Strategy, ...]] = ("long", "short")
_UNKNOWN: Final = "unknown"
_DEVIATION: Final = re.compile(r"[\w.]+: result\.json says ")
_Number = Annotated[float, Field(allow_inf_nan=False)]

log = Log("private")


class _Answer(BaseModel):
    """What is read of the judge's answer; the rows that it brings are not."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    judged: bool
    reason: str = ""
    metrics: dict[str, _Number | None] = Field(default={}, max_length=MAX_FIGURES)
    beta: _Number | None = None
    active_sharpe: _Number | None = None
    judge: str = _UNKNOWN


def judge_attempt(handle: AttemptHandle, context: AgentContext) -> ServerJudged | None:
    """
    Return what may be told of a training on private data that has ended well.

    :return: ``None`` for what is no training, or has failed: nobody has a figure of it.
    """
    start = handle.attempt.start
    wanted, verdict = start.private_data, handle.attempt.details.get("verdict")
    has_succeeded = isinstance(verdict, dict) and verdict.get("outcome") == "succeeded"
    if wanted is None or start.slot_class is not SlotClass.TRAINING or not has_succeeded:
        return None
    out = handle.folder / "out"
    models = {each: digest for each in _STRATEGIES if (digest := _hash(out, f"models/{each}.h5"))}
    try:
        answer = _ask(handle, context, wanted)
        found = _reduce(answer, wanted)
    except (PermanentError, OSError, ValidationError) as error:
        told = describe_refusal(error) if isinstance(error, ValidationError) else str(error)
        log.error("private.not_judged", attempt=handle.name, problem=told)
        found = _refuse("the judge could not run", wanted)
    return found.model_copy(update={"models": models})


def _ask(handle: AttemptHandle, context: AgentContext, wanted: PrivateData) -> _Answer:
    python = context.private.judge_python
    if python is None:
        raise JudgeFailed("this server has no judge")
    folder = handle.folder / "judge"
    remove_tree(folder)
    folder.mkdir(mode=0o700)
    try:
        paths = {name: _take(handle.folder / "out", name, folder) for name in _FILES}
        if paths["result.json"] is None:
            return _Answer(judged=False, reason="result.json: the training has left none")
        answer = ask_judge(
            python,
            {
                "rules": wanted.rules.model_dump(mode="json"),
                "interval": wanted.interval,
                "result": paths["result.json"],
                "predictions": paths["predictions.csv"],
                "data_dir": str(context.private.find_folder(wanted)),
            },
        )
    finally:
        remove_tree(folder)
    return _Answer.model_validate(answer)


def _take(out: Path, name: str, folder: Path) -> str | None:
    """Copy a file that submitted code may have made: a link of its is followed by nobody."""
    try:
        with open_below(out, name) as source:
            body = source.read(_FILES[name] + 1)
    except (FileNotFoundError, PermanentError):
        return None
    target = folder / name
    target.write_bytes(body)
    return str(target)


def _hash(out: Path, path: str) -> str | None:
    try:
        with open_below(out, path) as file:
            return hash_file(file)[0]
    except (FileNotFoundError, PermanentError):
        return None


def _reduce(answer: _Answer, wanted: PrivateData) -> ServerJudged:
    if not answer.judged:
        log.warning("private.other", problem=answer.reason)
        return _refuse(_classify(answer.reason), wanted, judge=answer.judge)
    return ServerJudged(
        status="judged",
        metrics={name: round_figure(value) for name, value in answer.metrics.items()},
        beta=round_figure(answer.beta),
        active_sharpe=round_figure(answer.active_sharpe),
        rules_sha256=wanted.rules.sha256,
        judge=answer.judge,
    )


def _refuse(reason: UnjudgedReason, wanted: PrivateData, judge: str = _UNKNOWN) -> ServerJudged:
    return ServerJudged(
        status="not judged", reason=reason, rules_sha256=wanted.rules.sha256, judge=judge
    )


def _classify(reason: str) -> UnjudgedReason:
    """Return the kind of a reason: its words name times and figures."""
    if _DEVIATION.match(reason):
        return "other figures than its predictions give"
    kinds = (each for each in UNJUDGED_REASONS if reason.startswith(f"{each} ("))
    return next(kinds, "files that cannot be judged")


def describe_judged(judged: ServerJudged) -> dict[str, Any]:
    """Return it as it is journalled and sent."""
    return judged.model_dump(mode="json")
