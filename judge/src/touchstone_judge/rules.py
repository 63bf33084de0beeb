"""Which rows are judged, and what they cost: never a submission's to choose."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Final

from touchstone_judge.data import MarketData
from touchstone_judge.errors import JudgeFault

FORMULAS_VERSION: Final = 1
"""Of the formulas of :mod:`touchstone_judge.backtest` and :mod:`touchstone_judge.metrics`."""

MAX_INTERVAL: Final = 250


@dataclass(frozen=True, kw_only=True)
class Rules:
    """
    The rules of one judging.

    :param version: Of the formulas.
    :param data_name: The market data.
    :param data_sha256: Their digest.
    :param validation_from: First day of the validation rows, which scale positions.
    :param test_from: First day of the rows that are judged.
    :param test_to: Last one; ``None`` for all there are.
    :param cost_bps: What changing the position by one costs, basis points; what a move must exceed.
    :param bars_per_year: To annualise with.
    :param resamples: Resamples of the Sharpe ratio's interval.
    """

    version: int
    data_name: str
    data_sha256: str
    validation_from: date
    test_from: date
    test_to: date | None
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
            validation_from=date.fromisoformat(document["validation_from"]),
            test_from=date.fromisoformat(document["test_from"]),
            test_to=None if test_to is None else date.fromisoformat(test_to),
            cost_bps=float(document["cost_bps"]),
            bars_per_year=int(document["bars_per_year"]),
            resamples=int(document["resamples"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise JudgeFault(f"rules that make no sense: {error!r:.200}") from error
    is_sound = (
        rules.validation_from < rules.test_from
        and math.isfinite(rules.cost_bps)
        and rules.cost_bps >= 0
        and rules.bars_per_year >= 1
        and rules.resamples >= 1
    )
    if not is_sound:
        raise JudgeFault("rules that make no sense: an order of days, a cost or a count")
    return rules
