"""Asks the judge's statistics, which live in an environment of their own, for verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.confined.judge import NoAnswer, ask
from touchstone.confined.running import Bounds
from touchstone_agent.protocol.errors import PermanentError

_BOUNDS: Final = Bounds(
    seconds=900, cpu_seconds=600, memory_bytes=8 * 1024**3, file_bytes=64 * 1024**2
)
"""A thousand submissions take 17 CPU seconds at closing, and 0.9 GB."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Line = Annotated[str, Field(max_length=600)]


class NoVerdict(PermanentError):
    """The judge's program gave no answer; the message says why."""


class _Answered(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AnsweredEdge(_Answered):
    """The figures behind a verdict; see :class:`touchstone.core.records.events.Edge`."""

    difference: _Finite
    low: _Finite
    high: _Finite
    standard_error: _Finite
    p_own: _Finite
    p_adjusted: _Finite
    compared: int
    detectable: _Finite


class AnsweredVerdict(_Answered):
    """
    A verdict.

    :param outcome: Exactly one of the five.
    :param reason: Why it is not judged, or of what it is a duplicate.
    :param sentence: What an engineer can repeat; ``None`` where an earlier verdict stays.
    :param edge: The figures behind it; ``None`` where there are none.
    """

    outcome: Literal["better", "not distinguishable", "worse", "duplicate", "not judged"]
    reason: _Line = ""
    sentence: _Line | None = None
    edge: AnsweredEdge | None = None


class AnsweredFigure(_Answered):
    """A figure, or why there is none."""

    value: _Finite | None = None
    note: Annotated[str, Field(max_length=200)] = ""


class AnsweredBeside(_Answered):
    """What stands beside a verdict; see :class:`touchstone.core.records.beside.Beside`."""

    similarity: AnsweredFigure
    nearest: AnsweredFigure
    nearest_name: Annotated[str, Field(max_length=200)] | None = None
    contribution: AnsweredFigure
    baseline_correlation: AnsweredFigure
    contributivity: AnsweredFigure
    equal_share: _Finite | None = None
    deflated_sharpe: AnsweredFigure
    overfitting: AnsweredFigure
    leading: AnsweredFigure
    version: int = Field(ge=1)


class AnsweredFigures(_Answered):
    """
    What a series scores.

    :param score: Mean Sharpe ratio beyond the market.
    :param net_sharpe: The same with the market in.
    """

    score: _Finite
    net_sharpe: _Finite


class VerdictAnswer(_Answered):
    """
    What the judge says.

    :param rules_version: Version of its formulas.
    :param verdicts: By the names that were asked about.
    :param scores: By name, with ``#flat`` and ``#index``.
    :param beside: What stands beside each of the verdicts.
    """

    rules_version: int = Field(ge=1)
    verdicts: Mapping[str, AnsweredVerdict]
    scores: Mapping[str, AnsweredFigures]
    beside: Mapping[str, AnsweredBeside] = Field(default_factory=dict)


def ask_for_verdicts(python: Path, question: Mapping[str, JsonValue]) -> VerdictAnswer:
    """
    Ask the judge's statistics.

    :param python: The interpreter of the judge's environment.
    :param question: As ``touchstone_judge.judging.answer`` takes it.
    :raises NoVerdict: If it gives no answer that makes sense.
    :raises TransientError: If this process is to end.
    """
    try:
        return ask(python, "verdict", question, VerdictAnswer, bounds=_BOUNDS)
    except NoAnswer as error:
        raise NoVerdict(f"the judge gave no verdict ({error})") from error
