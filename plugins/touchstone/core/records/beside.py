"""What stands beside a verdict: how like others an entry is, and what it adds. Decides nothing."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from touchstone.core.records.kept import Part

BEFORE_BESIDE: Final = "judged before it was computed"
"""Why an older verdict has no such figures."""
NOT_COMPARED: Final = "it was compared with nothing"
"""Why one has none that was not judged."""


class BesideFigure(Part):
    """
    A figure, or why there is none.

    :param value: ``None`` if there is none: never a zero in its place.
    :param note: Why not.
    """

    value: float | int | None = None
    note: str = ""


def _tell_before() -> BesideFigure:
    return BesideFigure(note=BEFORE_BESIDE)


class Beside(Part):
    """
    Figures that are shown beside a verdict; what each means is in the judge's own ``Beside``.

    :param baseline: What it was compared with.
    :param similarity: To the baseline.
    :param nearest: To the most similar entry that came before.
    :param nearest_name: That entry's label.
    :param contribution: What it adds to the baseline's correlation with the outcome.
    :param baseline_correlation: That correlation itself.
    :param contributivity: Its share of the best mean of all entries; told at closing.
    :param equal_share: What each of as many equals would get.
    :param deflated_sharpe: Probability that its Sharpe ratio exceeds that of the best of as many
        entries without skill.
    :param overfitting: Probability that the best entry on half of the rows is below the median on
        the others.
    :param leading: Its p in the model confidence set; told at closing.
    :param version: Of the formulas.
    """

    baseline: str | None = None
    similarity: BesideFigure = Field(default_factory=BesideFigure)
    nearest: BesideFigure = Field(default_factory=BesideFigure)
    nearest_name: str | None = None
    contribution: BesideFigure = Field(default_factory=BesideFigure)
    baseline_correlation: BesideFigure = Field(default_factory=BesideFigure)
    contributivity: BesideFigure = Field(default_factory=BesideFigure)
    equal_share: float | int | None = None
    deflated_sharpe: BesideFigure = Field(default_factory=_tell_before)
    overfitting: BesideFigure = Field(default_factory=_tell_before)
    leading: BesideFigure = Field(default_factory=_tell_before)
    version: int = 0


def lack_beside(note: str) -> Beside:
    """Return what stands beside a verdict that has no such figures, each with why."""
    none = BesideFigure(value=None, note=note)
    return Beside(
        similarity=none,
        nearest=none,
        contribution=none,
        baseline_correlation=none,
        contributivity=none,
        deflated_sharpe=none,
        overfitting=none,
        leading=none,
    )
