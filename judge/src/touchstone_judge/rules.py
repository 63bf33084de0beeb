"""Which rows are judged, and what they cost: never a submission's to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from touchstone_judge.data import MarketData
from touchstone_judge.errors import JudgeFault

FORMULAS_VERSION: Final = 1
"""Of the formulas of :mod:`touchstone_judge.backtest` and :mod:`touchstone_judge.metrics`."""

MAX_INTERVAL: Final = 250


Border = date | datetime
"""A day, or a time with its zone."""


def read_border(text: str) -> Border:
    """
    Return the day or the time that a text names; without a zone, a time is UTC.

    :raises ValueError: If it names neither.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def find_start(border: Border) -> datetime:
    """Return a time, or the first one of a day."""
    if isinstance(border, datetime):
        return border
    return datetime.combine(border, time(), tzinfo=UTC)


def is_behind(moment: datetime, border: Border) -> bool:
    """Return whether a time is later than a last time, or than all of a last day."""
    if isinstance(border, datetime):
        return moment > border
    return moment >= find_start(border) + timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Rules:
    """
    The rules of one judging.

    :param version: Of the formulas.
    :param data_name: The market data.
    :param data_sha256: Their digest.
    :param validation_from: First day or time of the validation rows, which scale positions.
    :param test_from: First day or time of the rows that are judged.
    :param test_to: Last one, a day with all its bars; ``None`` for all there are.
    :param cost_bps: What changing the position by one costs, basis points; what a move must exceed.
    :param bars_per_year: To annualise with.
    :param resamples: Resamples of the Sharpe ratio's interval.
    """

    version: int
    data_name: str
    data_sha256: str
    validation_from: Border
    test_from: Border
    test_to: Border | None
    cost_bps: float
    bars_per_year: int
    resamples: int

    def check(self, data: MarketData) -> None:
        """
        Refuse rules that this judge cannot judge by.

        :raises JudgeFault: If they name other data or formulas than it has.
        """
        if self.version != FORMULAS_VERSION:
            raise JudgeFault(f"rules of version {self.version}, this judge has {FORMULAS_VERSION}")
        if (self.data_name, self.data_sha256) != (data.name, data.sha256):
            raise JudgeFault(
                f"rules for the data {self.data_name!r} of sha256 {self.data_sha256}, "
                f"this judge has {data.name!r} of {data.sha256}"
            )
        if self.bars_per_year != data.bars_per_year:
            raise JudgeFault(
                f"rules with {self.bars_per_year} bars a year, "
                f"the calendar of {data.name!r} gives {data.bars_per_year}"
            )


def read_rules(document: Mapping[str, Any]) -> Rules:
    """
    Return the rules that a question brings.

    :raises JudgeFault: If they are none.
    """
    try:
        test_to = document["test_to"]
        rules = Rules(
            version=int(document["version"]),
            data_name=str(document["data_name"]),
            data_sha256=str(document["data_sha256"]),
            validation_from=read_border(document["validation_from"]),
            test_from=read_border(document["test_from"]),
            test_to=None if test_to is None else read_border(test_to),
            cost_bps=float(document["cost_bps"]),
            bars_per_year=int(document["bars_per_year"]),
            resamples=int(document["resamples"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise JudgeFault(f"rules that make no sense: {error!r:.200}") from error
    is_sound = (
        find_start(rules.validation_from) < find_start(rules.test_from)
        and math.isfinite(rules.cost_bps)
        and rules.cost_bps >= 0
        and rules.bars_per_year >= 1
        and rules.resamples >= 1
    )
    if not is_sound:
        raise JudgeFault("rules that make no sense: an order of days, a cost or a count")
    return rules
