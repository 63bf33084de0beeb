"""What the judge found of a training, on rows and prices that it holds itself."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from touchstone.core.records.kept import Part, StoredPart
from touchstone.core.records.stored import RecordUnreadable, Time
from touchstone_agent.protocol.words import describe_refusal

BEFORE_JUDGING: Final = "trained before judging"
"""Why a training is not judged whose record says nothing of a judge."""

MAX_ROWS: Final = 100_000
"""Most rows of a series: four centuries of trading days."""


class JudgedStatus(StrEnum):
    """Whether the figures of a training are the judge's own."""

    JUDGED = "judged"
    NOT_JUDGED = "not judged"


class JudgingRules(BaseModel):
    """
    Which rows are judged, and what they cost: the judge's own, whatever a submission says.

    :param version: Of the formulas that the judge computes by.
    :param data_name: The market data.
    :param data_sha256: Their digest.
    :param validation_from: First day of the validation rows, which scale positions.
    :param test_from: First day of the rows that are judged.
    :param test_to: Last one; ``None`` for all there are.
    :param cost_bps: What changing the position by one costs, basis points.
    :param bars_per_year: To annualise with.
    :param resamples: Resamples of the Sharpe ratio's interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = Field(ge=1)
    data_name: str
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    validation_from: date
    test_from: date
    test_to: date | None = None
    cost_bps: float = Field(ge=0, le=1000, allow_inf_nan=False)
    bars_per_year: int = Field(ge=1)
    resamples: int = Field(ge=100, le=100_000)

    @property
    def sha256(self) -> str:
        """Return a digest that is the same for the same rules, and for no others."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class RulesUsed(Part):
    """
    The rules that a training was judged by.

    :param version: Of the formulas.
    :param sha256: Digest of all of them: figures of different digests are not comparable.
    """

    version: int
    sha256: str


class JudgedThere(Part):
    """
    That a training was judged where it ran, by the judge of the server that holds its data.

    :param server: The server: its figures are its word, and nobody else can compute them.
    :param judge: Version of its judge.
    :param active_sharpe: Sharpe ratio of the net returns without the market.
    :param models: Digest of each model, which stays there.
    """

    server: str
    judge: str
    active_sharpe: int | float | None = None
    models: Mapping[str, str] = Field(default_factory=dict)


class Judged(Part):
    """
    What the judge found of a training.

    :param status: Whether the figures are the judge's own.
    :param reason: Why they are not, in one line.
    :param metrics: The judge's figures by name; ``None`` for one that is undefined; empty where
        the training is not judged.
    :param metric_notes: Why a figure is undefined, by its name.
    :param rules: By which rules.
    :param rows: How many rows were judged.
    :param first: The first of them.
    :param last: The last one.
    :param rows_digest: SHA-256 of the rows' times, ISO 8601 in UTC, joined by line feeds: where it
        is the same, the rows are.
    :param beta: Slope of the net returns on the market's.
    :param series: Where :class:`JudgedSeries` is.
    :param there: Who has judged it where its data are; ``None`` for what the control plane's own
        judge has judged.
    """

    status: JudgedStatus
    reason: str | None = None
    metrics: Mapping[str, int | float | None] = Field(default_factory=dict)
    metric_notes: Mapping[str, str] = Field(default_factory=dict)
    rules: RulesUsed | None = None
    rows: int = 0
    first: Time | None = None
    last: Time | None = None
    rows_digest: str | None = None
    beta: int | float | None = None
    series: StoredPart | None = None
    there: JudgedThere | None = None

    @property
    def is_judged(self) -> bool:
        """Tell whether the figures are the judge's own."""
        return self.status is JudgedStatus.JUDGED


def _check_finite(values: tuple[float, ...]) -> tuple[float, ...]:
    if not all(map(math.isfinite, values)):
        raise ValueError("holds what is not finite")
    return values


_Floats = Annotated[tuple[float, ...], AfterValidator(_check_finite), Field(max_length=MAX_ROWS)]


class JudgedSeries(BaseModel):
    """
    The judged rows of a training, in time order; all fields are of the same length.

    :param time: When, ISO 8601 in UTC; the texts whose digest is ``rows_digest``.
    :param net: Return after cost, from the row's close to the next one.
    :param market: Return of the instrument over the same bar.
    :param score: Long minus short score.
    :param target: Return over the prediction interval; ``None`` in series from before.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    time: tuple[str, ...] = Field(max_length=MAX_ROWS)
    net: _Floats
    market: _Floats
    score: _Floats
    target: _Floats | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        told = (self.net, self.market, self.score, self.target)
        if any(each is not None and len(each) != len(self.time) for each in told):
            raise ValueError("is not as long in all its fields")
        return self

    @property
    def rows_digest(self) -> str:
        """Return the digest of the rows' times, as in :attr:`Judged.rows_digest`."""
        return hashlib.sha256("\n".join(self.time).encode()).hexdigest()

    @classmethod
    def load(cls, stored: object) -> Self:
        """
        Parse a stored series.

        :raises RecordUnreadable: If it makes no sense.
        """
        try:
            return cls.model_validate(stored)
        except ValidationError as error:
            raise RecordUnreadable(f"judged series: {describe_refusal(error)}") from error
