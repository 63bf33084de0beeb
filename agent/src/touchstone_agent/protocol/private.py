"""
Data sets that never leave the servers that hold them: what is asked of those, and what they tell.

All that is told of an attempt on such data is made of these models: figures that the judge has
computed there, rounded, and words of a fixed list.
"""

from __future__ import annotations

import hashlib
import json
from datetime import date
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import Field, model_validator

from touchstone_agent.protocol.facts import Wire
from touchstone_agent.protocol.words import Figure, Sha256, Word

DECIMALS: Final = 4
"""Of every figure that is told: each further one would tell more of the prices."""

MAX_FIGURES: Final = 50

DataName = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)]
DataVersion = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)]
FigureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
Strategy = Literal["long", "short"]

UnjudgedReason = Literal[
    "other rows",
    "other rules",
    "other data",
    "other figures than its predictions give",
    "files that cannot be judged",
    "the judge could not run",
]
"""Why a training is not judged; what the judge says beyond that stays at its server."""

UNJUDGED_REASONS: Final[tuple[UnjudgedReason, ...]] = get_args(UnjudgedReason)


class HeldData(Wire):
    """
    A version of a data set that a server holds.

    :param name: Its name.
    :param version: Its version.
    :param digest: Of ``data.toml`` and the data file, one after the other.
    """

    name: DataName
    version: DataVersion
    digest: Sha256


class JudgeRules(Wire):
    """
    By which rules the judge of a server judges; the fields are those of the judge's own rules.

    :param version: Of the formulas.
    :param data_name: Name and version of the data set.
    :param data_sha256: Its digest.
    :param validation_from: First day of the validation rows.
    :param test_from: First day of the rows that are judged.
    :param test_to: Last one; always ``None``: a server judges the data set's own rows alone.
    :param cost_bps: What changing the position by one costs, basis points.
    :param bars_per_year: To annualise with.
    :param resamples: Resamples of the Sharpe ratio's interval.
    """

    version: int = Field(ge=1, le=10**6)
    data_name: str = Field(max_length=100)
    data_sha256: Sha256
    validation_from: date
    test_from: date
    test_to: date | None = None
    cost_bps: float = Field(ge=0, le=1000, allow_inf_nan=False)
    bars_per_year: int = Field(ge=1, le=10**7)
    resamples: int = Field(ge=100, le=100_000)

    @property
    def sha256(self) -> str:
        """Return the digest that these rules have on record, too."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class PrivateData(HeldData):
    """
    The data set that an attempt is given from its server's own folders.

    :param interval: Prediction interval of a training; ``None`` for a validation.
    :param rules: By which its predictions are judged there.
    """

    interval: int | None = Field(default=None, ge=1, le=250)
    rules: JudgeRules

    @property
    def held(self) -> HeldData:
        """Return which data set that is."""
        return HeldData(name=self.name, version=self.version, digest=self.digest)


class ServerJudged(Wire):
    """
    What the judge of a server found of a training whose files stay there.

    :param status: Whether the figures are the judge's own.
    :param reason: Why they are not.
    :param metrics: Its figures by name, rounded; ``None`` for one that is undefined.
    :param beta: Slope of the net returns on the market's.
    :param active_sharpe: Sharpe ratio of the net returns without the market; ``None`` from a judge
        that does not tell it.
    :param rules_sha256: Digest of the rules.
    :param judge: Version of the judge.
    :param models: Digest of each model, which stays there.
    """

    status: Literal["judged", "not judged"]
    reason: UnjudgedReason | None = None
    metrics: dict[FigureName, Figure | None] = Field(default_factory=dict, max_length=MAX_FIGURES)
    beta: Figure | None = None
    active_sharpe: Figure | None = None
    rules_sha256: Sha256
    judge: Word
    models: dict[Strategy, Sha256] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _hangs_together(self) -> Self:
        is_judged = self.status == "judged"
        if is_judged is not bool(self.metrics) or is_judged is not (self.reason is None):
            raise ValueError("is judged without figures, or not judged without a reason")
        return self


def round_figure(value: float | None) -> float | None:
    """Return a figure as it may be told."""
    return None if value is None else round(value, DECIMALS)
