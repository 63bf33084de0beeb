"""Asks the judge, which lives in an environment of its own, for the figures of folds together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from touchstone.confined.judge import NoAnswer, ask
from touchstone.confined.running import Bounds
from touchstone.core.fold_results import Pooled

_BOUNDS: Final = Bounds(
    seconds=300, cpu_seconds=30, memory_bytes=2 * 1024**3, file_bytes=32 * 1024**2
)
_MAX_FIGURES: Final = 50

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Note = Annotated[str, Field(max_length=200)]


class PooledAnswer(BaseModel):
    """
    What the judge's program says of some folds together.

    :param metrics: Its figures by name; ``None`` for one that is undefined.
    :param notes: Why a figure is undefined, by its name.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    metrics: Annotated[Mapping[str, _Finite | None], Field(min_length=1, max_length=_MAX_FIGURES)]
    notes: Annotated[Mapping[str, _Note], Field(max_length=_MAX_FIGURES)] = Field(
        default_factory=dict
    )


def ask_for_pooled(python: Path, question: Mapping[str, JsonValue]) -> Pooled:
    """
    Return what an interval's folds come to together; why not, if the judge gives no answer.

    :param python: The interpreter of the judge's environment.
    :param question: As ``touchstone_judge.pooling.answer`` takes it.
    :raises TransientError: If this process is to end.
    """
    try:
        found = ask(python, "pool", question, PooledAnswer, bounds=_BOUNDS)
    except NoAnswer as error:
        return Pooled(reason=f"the judge could not run ({error})")
    return Pooled(metrics=found.metrics, notes=found.notes)
