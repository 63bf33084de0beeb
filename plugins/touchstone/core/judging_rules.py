"""By which rules a training is judged, wherever its judge is. Pure."""

from __future__ import annotations

from datetime import date
from typing import Final

from touchstone.core.data_sets import PinnedData
from touchstone.core.folds import Fold
from touchstone.core.records.judged import JudgingRules

RULES: Final = JudgingRules(
    version=1,
    data_name="sp500+nasdaq daily",
    data_sha256="3e62ea89adb557b4b92e3d35a53ee7b443e9435efdbfee63e78d945ce361fc0c",
    validation_from=date(2011, 1, 1),
    test_from=date(2014, 1, 1),
    cost_bps=1.0,
    bars_per_year=252,
    resamples=1000,
)
"""The rules of all judging on the built-in data; the reference trainer uses the same unless
overridden."""


def build_rules(data: PinnedData | None, fold: Fold | None = None) -> JudgingRules:
    """
    Return what a training is judged by.

    :param data: What it was to be trained on, by its record; ``None`` for the built-in data set.
    :param fold: On which rows of it, likewise; ``None`` for the data set's, or its event's.
    """
    if fold is not None:
        return build_rules(data).model_copy(
            update={
                "validation_from": fold.validation_from,
                "test_from": fold.test_from,
                "test_to": fold.test_to,
            }
        )
    if data is None:
        return RULES
    return JudgingRules(
        version=RULES.version,
        data_name=data.label,
        data_sha256=data.digest,
        validation_from=data.validation_from,
        test_from=data.test_from,
        test_to=data.test_to,
        cost_bps=RULES.cost_bps,
        bars_per_year=data.bars_per_year,
        resamples=RULES.resamples,
    )
