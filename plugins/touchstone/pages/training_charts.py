"""The charts of trainings: of one with its baseline, or of several on one axis. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from touchstone.core.figures import Bin, ChartFigures, Curve
from touchstone.pages.plots import Band, Line, Plot, draw

Named = tuple[str, ChartFigures]
"""A training's name in the legend, and what its charts show."""

BASELINE: Final = "baseline"


def build_plots(trainings: Sequence[Named]) -> list[Plot]:
    """
    Return the charts of trainings of one interval: those that at least one of them has.

    :param trainings: One, or several to compare; each keeps its colour in all charts.
    """
    equity = [(name, each.equity) for name, each in trainings]
    drawdown = [(name, each.drawdown) for name, each in trainings]
    correlation = [(name, each.rank_correlation) for name, each in trainings]
    plots = [
        draw(
            title="Equity after cost",
            unit="of one unit",
            lines=[*_list_baselines(trainings), *_list_lines(equity)],
            bands=_list_bands(equity),
            rules=[1.0],
            note=_join_notes("equity", trainings, [each for _, each in equity]),
        ),
        draw(
            title="Drawdown",
            unit="below the highest so far",
            lines=_list_lines(drawdown),
            rules=[0.0],
            note=_join_notes("drawdown", trainings, [each for _, each in drawdown]),
        ),
        draw(
            title="Rank correlation with the outcome",
            unit="over 252 rows before",
            lines=_list_lines(correlation),
            bands=_list_noise(correlation),
            rules=[0.0],
            note=_join_notes("rank_correlation", trainings, [each for _, each in correlation]),
        ),
        *_draw_calibrations(trainings),
    ]
    return [plot for plot in plots if plot.lines or plot.note]


def _list_lines(curves: Iterable[tuple[str, Curve | None]]) -> list[Line]:
    return [
        Line(name=name, x=_list_places(curve), y=curve.value, style=str(number))
        for number, (name, curve) in enumerate(curves)
        if curve is not None
    ]


def _list_baselines(trainings: Sequence[Named]) -> list[Line]:
    """Return the equity of each baseline once, unless it is itself among the trainings."""
    known: set[str] = {name for name, _ in trainings}
    lines = []
    for _, figures in trainings:
        curve, name = figures.equity, figures.baseline
        if curve is None or curve.baseline is None or name is None or name in known:
            continue
        known.add(name)
        lines.append(
            Line(name=f"baseline {name}", x=_list_places(curve), y=curve.baseline, style=BASELINE)
        )
    return lines


def _list_bands(curves: Sequence[tuple[str, Curve | None]]) -> list[Band]:
    """Return the band of one training; of several they would hide each other."""
    if len(curves) != 1:
        return []
    curve = curves[0][1]
    if curve is None or curve.low is None or curve.high is None:
        return []
    name = "95 % of resampled histories"
    return [Band(name=name, x=_list_places(curve), low=curve.low, high=curve.high)]


def _list_noise(curves: Iterable[tuple[str, Curve | None]]) -> list[Band]:
    for _, curve in curves:
        # All are of one interval, which is what it follows from.
        if curve is not None and curve.noise is not None and curve.time:
            ends = (curve.time[0].timestamp(), curve.time[-1].timestamp())
            return [
                Band(
                    name="95 % of no skill",
                    x=ends,
                    low=(-curve.noise, -curve.noise),
                    high=(curve.noise, curve.noise),
                )
            ]
    return []


def _draw_calibrations(trainings: Sequence[Named]) -> list[Plot]:
    found = [(name, each.calibration) for name, each in trainings]
    note = _join_notes("calibration", trainings, [each for _, each in found])
    sides: Mapping[str, list[tuple[str, Sequence[Bin]]]] = {
        "long": [(name, each.long) for name, each in found if each],
        "short": [(name, each.short) for name, each in found if each],
    }
    if len(trainings) == 1:
        both = [(side, bins) for side, told in sides.items() for _, bins in told]
        return [_draw_bins("Calibration", both, note, has_spread=True)]
    return [_draw_bins(f"Calibration, {side}", told, note) for side, told in sides.items()]


def _draw_bins(
    title: str, told: Sequence[tuple[str, Sequence[Bin]]], note: str, *, has_spread: bool = False
) -> Plot:
    return draw(
        title=title,
        unit="share that moved so, by how likely it was said to be",
        lines=[
            Line(
                name=name,
                x=[each.said for each in bins],
                y=[each.share for each in bins],
                style=str(number),
                # Of several they would hide each other.
                spread=[(each.low, each.high) for each in bins] if has_spread else (),
            )
            for number, (name, bins) in enumerate(told)
        ],
        is_time=False,
        diagonal=True,
        note=note,
    )


def _list_places(curve: Curve) -> list[float]:
    return [when.timestamp() for when in curve.time]


def _join_notes(chart: str, trainings: Sequence[Named], figures: Sequence[object]) -> str:
    """Return what is missing of a chart, each training's once."""
    notes = []
    for (name, each), figure in zip(trainings, figures, strict=True):
        said = each.notes.get(chart) or getattr(figure, "note", "")
        if said:
            notes.append(said if len(trainings) == 1 else f"{name}: {said}")
    return "; ".join(notes)
