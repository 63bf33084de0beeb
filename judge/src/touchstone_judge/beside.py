"""
What is shown beside verdicts: similarity, contribution, and what choosing among many does.

It decides nothing.

A figure of predictions is the mean over the intervals. An interval that has none leaves none of the
whole: a mean over those that are left would flatter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from touchstone_judge.contributivity import Fold, pick_models
from touchstone_judge.panel import FloatArray, Panel, sharpe_ratios
from touchstone_judge.shown import deflated_sharpe_ratio, leading_p, probability_of_overfitting
from touchstone_judge.similarity import add_to_correlation, correlate_with, gaussianise
from touchstone_judge.verdict import find_too_few

BESIDE_VERSION: Final = 2
"""Of these formulas; what is on record keeps the version that it was computed by."""

AT_CLOSING: Final = "it is told when the event is closed"
FLAT_BASELINE: Final = "the baseline holds nothing, so it predicts nothing"
NOT_KEPT: Final = "its rows were stored before predictions were kept with them"
BASELINE_NOT_KEPT: Final = "the baseline's rows were stored before predictions were kept with them"
NO_TARGET: Final = "the rows were stored before outcomes were kept with them"
STILL: Final = "the market did not move"
FIRST: Final = "no entry came before it"
NONE_COMPARABLE: Final = "no entry that came before it has predictions to compare"
ONLY_ONE: Final = "it is the only entry"
NO_SPREAD: Final = "its returns beyond the market have no spread"
TOO_FEW_ROWS: Final = "there are too few rows"

_LEAST_GAIN: Final = 1e-9
"""What a pick must gain: less is rounding, and would let a copy share with its original."""
_DIGITS: Final = 12


@dataclass(frozen=True, kw_only=True)
class Shown:
    """
    A figure, or why there is none.

    :param value: Finite; ``None`` if there is none.
    :param note: Why not.
    """

    value: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Beside:
    """
    What stands beside one entry's verdict.

    :param similarity: To the baseline.
    :param nearest: To the most similar entry that came before.
    :param nearest_name: That entry's name.
    :param contribution: What it adds to the baseline's correlation with the outcome.
    :param baseline_correlation: That correlation itself; the same for all.
    :param contributivity: Its share of the best mean of all entries' predictions.
    :param equal_share: What each of as many equals would get.
    :param deflated_sharpe: Probability that its Sharpe ratio beyond the market exceeds what the
        best of as many entries without skill has.
    :param overfitting: Probability that the best entry on half of the rows is below the median on
        the others; the same for all.
    :param leading: Its p in the model confidence set: above 0.1 no other is distinguishably better.
    :param version: Of the formulas.
    """

    similarity: Shown
    nearest: Shown
    nearest_name: str | None = None
    contribution: Shown
    baseline_correlation: Shown
    contributivity: Shown
    equal_share: float | None = None
    deflated_sharpe: Shown
    overfitting: Shown
    leading: Shown
    version: int = BESIDE_VERSION


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """
    The judged predictions of all entries on the same rows.

    :param names: The entries', the oldest first, without a repetition.
    :param intervals: Prediction intervals, in the order of the columns.
    :param rows: How many rows.
    :param folds: Rows of each fold, which are ranked by themselves: what one model says is ranked
        among what it says. Empty for none.
    :param scores: An entry's long minus short scores, of shape (rows, intervals); ``None`` where
        none were kept.
    :param baseline: The same of the baseline.
    :param is_flat: Whether the baseline holds nothing.
    :param target: Return over the interval, of shape (rows, intervals); ``None`` if it is unknown.
    """

    names: tuple[str, ...]
    intervals: tuple[int, ...]
    rows: int
    scores: Sequence[FloatArray | None]
    baseline: FloatArray | None
    is_flat: bool
    target: FloatArray | None
    folds: tuple[int, ...] = ()

    @cached_property
    def ranks(self) -> tuple[FloatArray, ...]:
        """Gaussianised ranks by interval, of shape (entries, rows); NaN where there are none."""
        found = []
        for column in range(len(self.intervals)):
            matrix = np.full((len(self.names), self.rows), np.nan)
            for line, scores in enumerate(self.scores):
                ranked = None if scores is None else self._rank(scores[:, column])
                if ranked is not None:
                    matrix[line] = ranked
            found.append(matrix)
        return tuple(found)

    @cached_property
    def baseline_ranks(self) -> tuple[FloatArray | None, ...]:
        """Gaussianised ranks of the baseline by interval; ``None`` where there are none."""
        if self.is_flat or self.baseline is None:
            return (None,) * len(self.intervals)
        return tuple(self._rank(column) for column in self.baseline.T)

    def _rank(self, column: FloatArray) -> FloatArray | None:
        """Return gaussianised ranks, fold by fold; ``None`` where one of them is a constant."""
        if not self.folds:
            return gaussianise(column)
        parts = [gaussianise(part) for part in np.split(column, np.cumsum(self.folds)[:-1])]
        told = [part for part in parts if part is not None]
        return np.concatenate(told) if len(told) == len(parts) else None


def find_beside(
    found: Predictions, panel: Panel, wanted: Sequence[str], *, is_closing: bool
) -> dict[str, Beside]:
    """
    Return what stands beside verdicts.

    :param found: Everybody's predictions.
    :param panel: Everybody's net returns, behind the baseline's.
    :param wanted: Whose verdicts.
    :param is_closing: Whether no more entries can come.
    """
    places = {name: line for line, name in enumerate(found.names)}
    lines = [places[name] for name in wanted]
    nearest = _find_nearest(found, lines)
    shares, equal = _share(found) if is_closing else ({}, None)
    correlation = _describe_baseline(found)
    overfitting = _find_overfitting(panel)
    leading = leading_p(panel) if is_closing and _has_rows(panel) else {}
    return {
        name: Beside(
            similarity=_compare_with_baseline(found, line),
            nearest=nearest[line][0],
            nearest_name=nearest[line][1],
            contribution=_find_contribution(found, line),
            baseline_correlation=correlation,
            contributivity=_tell_share(found, line, shares, is_closing=is_closing),
            equal_share=equal,
            deflated_sharpe=_deflate(panel, line),
            overfitting=overfitting,
            leading=_tell_leading(leading.get(name), is_closing=is_closing),
        )
        for name, line in zip(wanted, lines, strict=True)
    }


def show_beside(beside: Mapping[str, Beside]) -> dict[str, dict[str, Any]]:
    """Return it as plain JSON values."""
    return {name: asdict(each) for name, each in beside.items()}


def _compare_with_baseline(found: Predictions, line: int) -> Shown:
    reason = _find_gap(found, line) or _find_baseline_gap(found)
    if reason:
        return Shown(note=reason)
    return _mean(found, lambda column, m: float(found.ranks[column][line] @ m) / found.rows)


def _find_contribution(found: Predictions, line: int) -> Shown:
    reason = _find_gap(found, line) or _find_baseline_gap(found) or _find_target_gap(found)
    if reason:
        return Shown(note=reason)
    target = found.target
    assert target is not None  # noqa: S101 - it has no gap
    return _mean(
        found,
        lambda column, m: add_to_correlation(found.ranks[column][line], m, target[:, column]),
    )


def _describe_baseline(found: Predictions) -> Shown:
    reason = _find_baseline_gap(found) or _find_target_gap(found)
    if reason:
        return Shown(note=reason)
    target = found.target
    assert target is not None  # noqa: S101 - it has no gap
    return _mean(found, lambda column, m: correlate_with(m, target[:, column]))


def _mean(found: Predictions, compute: Callable[[int, FloatArray], float | None]) -> Shown:
    values = []
    for column, m in enumerate(found.baseline_ranks):
        value = None if m is None else compute(column, m)
        if value is None or not math.isfinite(value):
            return Shown(note=f"interval {found.intervals[column]}: not a finite number")
        values.append(value)
    return Shown(value=_clip(math.fsum(values) / len(values)))


def _clip(correlation: float) -> float:
    """Return a correlation without the rounding that takes it beyond 1."""
    return min(max(correlation, -1.0), 1.0)


def _find_nearest(found: Predictions, lines: Sequence[int]) -> dict[int, tuple[Shown, str | None]]:
    """Return the most similar earlier entry of each; of equals the earliest."""
    alike = np.zeros((len(lines), len(found.names)))
    for ranks in found.ranks:
        # Also of those that say nothing: NaN stays NaN, and is nearest to nothing.
        alike += ranks[lines] @ ranks.T / (found.rows * len(found.intervals))
    nearest: dict[int, tuple[Shown, str | None]] = {}
    for line, row in zip(lines, alike, strict=True):
        earlier = np.round(row[:line], _DIGITS)
        reason = _find_gap(found, line)
        if not reason and not line:
            reason = FIRST
        if not reason and np.isnan(earlier).all():
            reason = NONE_COMPARABLE
        if reason:
            nearest[line] = Shown(note=reason), None
        else:
            best = int(np.nanargmax(earlier))
            nearest[line] = Shown(value=_clip(float(row[best]))), found.names[best]
    return nearest


def _share(found: Predictions) -> tuple[dict[int, float], float | None]:
    """
    Return the shares of the best mean of predictions, by line, and what equals would get.

    An interval is a fold, and its score the correlation of the mean of gaussianised ranks with the
    outcome. Who says nothing in any interval takes no part.
    """
    if found.target is None:
        return {}, None
    taking = [line for line in range(len(found.names)) if not _find_gap(found, line)]
    folds = []
    for ranks, target in zip(found.ranks, found.target.T, strict=True):
        if taking and target.std() > 0:
            folds.append(Fold(predictions=ranks[taking], score=_build_score(target)))
    if len(folds) < len(found.intervals):
        return {}, None
    shares = dict.fromkeys(taking, 0.0)
    for fold in folds:
        picks = pick_models(fold, min_improvement=_LEAST_GAIN)
        for pick in picks:
            shares[taking[pick]] += 1 / (len(picks) * len(folds))
    return shares, 1 / len(taking)


def _build_score(target: FloatArray) -> Callable[[FloatArray], FloatArray]:
    standard = (target - target.mean()) / (target.std() * len(target))

    def score(means: FloatArray) -> FloatArray:
        # Ranks have the mean 0, so their means have it too.
        spreads = np.sqrt(np.einsum("ij,ij->i", means, means) / means.shape[1])
        products = means @ standard
        some = spreads > _LEAST_GAIN
        # A mean that has cancelled itself out says nothing.
        found = np.divide(products, spreads, out=np.full(len(means), -1.0), where=some)
        rounded: FloatArray = np.round(found, _DIGITS)
        return rounded

    return score


def _tell_share(
    found: Predictions, line: int, shares: Mapping[int, float], *, is_closing: bool
) -> Shown:
    if not is_closing:
        return Shown(note=AT_CLOSING)
    if line in shares:
        return Shown(value=shares[line])
    return Shown(note=_find_gap(found, line) or _find_target_gap(found) or NONE_COMPARABLE)


def _deflate(panel: Panel, line: int) -> Shown:
    series = panel.active[:, 1:, :].mean(axis=2)
    if series.shape[1] < 2:
        return Shown(note=ONLY_ONE)
    value = deflated_sharpe_ratio(series[:, line], sharpe_ratios(series, bars_per_year=1))
    return Shown(note=NO_SPREAD) if value is None else Shown(value=value)


def _find_overfitting(panel: Panel) -> Shown:
    if len(panel.submissions) < 2:
        return Shown(note=ONLY_ONE)
    value = probability_of_overfitting(panel)
    return Shown(note=TOO_FEW_ROWS) if value is None else Shown(value=value)


def _tell_leading(p: float | None, *, is_closing: bool) -> Shown:
    if p is not None:
        return Shown(value=p)
    return Shown(note=TOO_FEW_ROWS if is_closing else AT_CLOSING)


def _has_rows(panel: Panel) -> bool:
    return find_too_few(panel.rows, panel.longest_interval, panel.folds) is None


# --- why there is none --------------------------------------------------------------------------


def _find_gap(found: Predictions, line: int) -> str:
    if found.scores[line] is None:
        return NOT_KEPT
    for interval, ranks in zip(found.intervals, found.ranks, strict=True):
        if np.isnan(ranks[line, 0]):
            return f"interval {interval}: its prediction is a constant"
    return ""


def _find_baseline_gap(found: Predictions) -> str:
    if found.is_flat:
        return FLAT_BASELINE
    if found.baseline is None:
        return BASELINE_NOT_KEPT
    for interval, ranks in zip(found.intervals, found.baseline_ranks, strict=True):
        if ranks is None:
            return f"interval {interval}: the baseline's prediction is a constant"
    return ""


def _find_target_gap(found: Predictions) -> str:
    if found.target is None:
        return NO_TARGET
    return "" if (found.target.std(axis=0) > 0).all() else STILL
