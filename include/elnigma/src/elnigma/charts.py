"""Charts of one interval, as PNG files whose bytes depend on their content alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from elnigma.metrics import ScoredRows

ROLLING_ROWS = 252
MIN_BIN_ROWS = 30
INK, LONG, SHORT = "#22313f", "#1f77b4", "#d6604d"


def draw_charts(returns: pd.DataFrame, rows: ScoredRows, out: Path) -> list[str]:
    """
    Draw all charts and return their paths below ``out``.

    :param returns: Columns ``position``, ``gross`` and ``net`` by time.
    :param rows: Predictions and outcomes of the same rows.
    :param out: Output folder; ``charts`` exists in it.
    """
    figures = {
        "equity": _draw_equity(returns),
        "drawdown": _draw_drawdown(returns),
        "calibration": _draw_calibration(rows),
        "rolling_ic": _draw_rolling_ic(returns.index, rows),
    }
    paths = []
    for name, figure in figures.items():
        path = f"charts/{name}.png"
        # The version of the library in the file would be the only byte that differs.
        figure.savefig(out / path, dpi=100, metadata={"Software": None})
        paths.append(path)
    return paths


def _make_axes(title: str, ylabel: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", color=INK)
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw_equity(returns: pd.DataFrame) -> Figure:
    figure, axes = _make_axes("Equity", "growth of 1")
    for name, color in (("gross", "#999999"), ("net", LONG)):
        axes.plot(returns.index, (1 + returns[name]).cumprod(), color=color, label=name)
    axes.legend(frameon=False)
    return figure


def _draw_drawdown(returns: pd.DataFrame) -> Figure:
    figure, axes = _make_axes("Drawdown after cost", "below the peak, %")
    equity = (1 + returns["net"]).cumprod()
    drawdown = 100 * (equity / equity.cummax().clip(lower=1) - 1)
    axes.fill_between(returns.index, drawdown, 0, color=SHORT, alpha=0.5, linewidth=0)
    return figure


def _draw_calibration(rows: ScoredRows) -> Figure:
    figure, axes = _make_axes("Calibration", "observed frequency")
    axes.set_xlabel("predicted probability")
    for name, scores, outcome, color in (
        ("long", rows.score_long, rows.target > rows.threshold, LONG),
        ("short", rows.score_short, rows.target < -rows.threshold, SHORT),
    ):
        n_bins = max(min(10, len(scores) // MIN_BIN_ROWS), 1)
        bins = np.array_split(np.argsort(scores, kind="stable"), n_bins)
        predicted = [scores[part].mean() for part in bins]
        observed = [outcome[part].mean() for part in bins]
        axes.plot(predicted, observed, "o-", color=color, label=name)
    axes.axline((0.5, 0.5), slope=1, color=INK, linestyle=":", linewidth=1)
    axes.legend(frameon=False)
    return figure


def _draw_rolling_ic(index: pd.Index, rows: ScoredRows) -> Figure:
    figure, axes = _make_axes(f"Rank correlation, {ROLLING_ROWS} rows", "rank correlation")
    scores = pd.Series(rows.score_long - rows.score_short, index=index)
    target = pd.Series(rows.target, index=index)
    # Ranks within the whole window of rows drawn would need a rank per window; this is a picture.
    rolling = scores.rank().rolling(ROLLING_ROWS).corr(target.rank())
    axes.plot(index, rolling, color=LONG)
    axes.axhline(0, color=INK, linewidth=1)
    return figure
