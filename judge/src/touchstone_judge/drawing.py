"""
Draws charts of the judge's own figures, as SVG.

The figures are numbers. The few names among them are cleaned and shortened here, are never read as
markup or formulas, and are escaped where the SVG is written.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from touchstone_judge.charts import compute_charts, read_rows

MAX_BYTES: Final = 256 * 1024
"""Of one chart; a larger one is left out, and told."""
MAX_BOARD: Final = 40
"""Lines of a board: the best ones, and the one that it is about."""

_MAX_NAME: Final = 48
_MAX_TIMES: Final = 100_000
_INK: Final = "#1f4e79"
_OTHER: Final = "#b35c00"
_FAINT: Final = "#8c8c8c"

_SETTINGS: Final[Any] = {
    # Text stays text, which is small and can be searched; the same figures give the same bytes.
    "svg.fonttype": "none",
    "svg.hashsalt": "touchstone",
    # A dollar sign in a name is none of a formula's.
    "text.parse_math": False,
    "text.usetex": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Draw what is asked for.

    :param question: ``kind``: ``training``, with what :func:`.charts.read_rows` reads and
        ``baseline`` (a name, or null); or ``board``, with what :func:`draw_board` takes.
    :return: ``figures`` by the charts' names, ``charts`` by the same names as SVG, and ``notes``:
        why one is not there.
    :raises KeyError: If the question lacks something.
    :raises ValueError: If it makes no sense.
    """
    # Each text asks as it is made whether it may be a formula.
    with mpl.rc_context(_SETTINGS):
        return _draw(question)


def _draw(question: Mapping[str, Any]) -> dict[str, Any]:
    kind = question["kind"]
    if kind == "training":
        figures: dict[str, Any] = compute_charts(read_rows(question))
        baseline = question.get("baseline")
        drawn = {
            "equity": _draw_equity(figures["equity"], None if baseline is None else str(baseline)),
            "drawdown": _draw_drawdown(figures["drawdown"]),
            "calibration": _draw_calibration(figures["calibration"]),
            "rank_correlation": _draw_rank_correlation(figures["rank_correlation"]),
        }
    elif kind == "board":
        figures = {"board": find_board(question["rows"])}
        drawn = {"board": draw_board(figures["board"], baseline=str(question["baseline"]))}
    else:
        raise ValueError(f"there is no chart of the kind {kind!r:.40}")
    notes = {name: each["note"] for name, each in figures.items() if each["note"]}
    charts = {}
    for name, figure in drawn.items():
        text = write_svg(figure)
        if len(text.encode()) > MAX_BYTES:
            notes[name] = f"the chart has more than {MAX_BYTES} bytes"
        else:
            charts[name] = text
    return {"figures": figures, "charts": charts, "notes": notes}


def write_svg(figure: Figure) -> str:
    """Return a figure as SVG, without when and by what it was drawn."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def clean(name: str) -> str:
    """Return a name as one short line of printable ASCII, of which every font has the letters."""
    plain = re.sub(r"[^\x20-\x7e]", "?", name[: 2 * _MAX_NAME])
    return plain if len(plain) <= _MAX_NAME else f"{plain[: _MAX_NAME - 3]}..."


# --- a training -----------------------------------------------------------------------------------


def _draw_equity(shown: Mapping[str, Any], baseline: str | None) -> Figure:
    figure, axes = _begin("Equity after cost", "of one unit")
    times = _read_times(shown["time"])
    if shown["low"] is not None:
        label = "95 % of resampled histories"
        axes.fill_between(
            times, shown["low"], shown["high"], color=_INK, alpha=0.12, lw=0, label=label
        )
    if shown["baseline"] is not None:
        label = f"baseline {clean(baseline or '')}"
        axes.plot(times, shown["baseline"], color=_OTHER, lw=1, label=label)
    axes.plot(times, shown["value"], color=_INK, lw=1.2, label="this training")
    axes.axhline(1, color=_FAINT, lw=0.6)
    _end(axes, shown["note"])
    return figure


def _draw_drawdown(shown: Mapping[str, Any]) -> Figure:
    figure, axes = _begin("Drawdown", "below the highest so far")
    axes.fill_between(_read_times(shown["time"]), shown["value"], 0, color=_INK, alpha=0.4, lw=0)
    _end(axes, shown["note"])
    return figure


def _draw_calibration(shown: Mapping[str, Any]) -> Figure:
    figure, axes = _begin("Calibration", "share of rows that moved so")
    axes.plot([0, 1], [0, 1], color=_FAINT, lw=0.6)
    for side, colour in (("long", _INK), ("short", _OTHER)):
        bins = shown[side]
        said = [each["said"] for each in bins]
        share = np.array([each["share"] for each in bins])
        spread = [
            share - [each["low"] for each in bins],
            np.array([each["high"] for each in bins]) - share,
        ]
        axes.errorbar(
            said,
            share,
            yerr=np.maximum(spread, 0),
            color=colour,
            fmt="o-",
            ms=3,
            lw=0.8,
            label=side,
        )
    axes.set_xlabel("said to be likely, mean of a bin")
    _end(axes, shown["note"])
    return figure


def _draw_rank_correlation(shown: Mapping[str, Any]) -> Figure:
    figure, axes = _begin("Rank correlation with the outcome", "over 252 rows before")
    times = _read_times(shown["time"])
    axes.axhline(0, color=_FAINT, lw=0.6)
    if shown["noise"] is not None:
        axes.axhspan(
            -shown["noise"],
            shown["noise"],
            color=_FAINT,
            alpha=0.15,
            lw=0,
            label="95 % of no skill",
        )
    values = [np.nan if each is None else each for each in shown["value"]]
    axes.plot(times, values, color=_INK, lw=1, label="this training")
    _end(axes, shown["note"])
    return figure


# --- a board --------------------------------------------------------------------------------------


def find_board(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Return which entries a board's chart shows, best first.

    :param rows: ``name``, ``difference``, ``low``, ``high`` and ``is_own`` of each.
    :raises KeyError: If one lacks something.
    :raises ValueError: If one holds what is no number.
    """
    told: list[dict[str, Any]] = [
        {
            "name": clean(str(row["name"])),
            "difference": float(row["difference"]),
            "low": float(row["low"]),
            "high": float(row["high"]),
            "is_own": bool(row["is_own"]),
        }
        for row in rows
    ]
    if not all(np.isfinite([row["difference"], row["low"], row["high"]]).all() for row in told):
        raise ValueError("a difference is not finite")
    told.sort(key=lambda row: -row["difference"])
    shown = [row for place, row in enumerate(told) if place < MAX_BOARD or row["is_own"]]
    left = len(told) - len(shown)
    note = f"{left} more are not shown" if left else ""
    return {"rows": shown[: 2 * MAX_BOARD], "note": note if told else "nobody was compared yet"}


def draw_board(shown: Mapping[str, Any], *, baseline: str) -> Figure:
    """
    Draw each entry's difference from the baseline, with its 95 % interval.

    :param shown: What :func:`find_board` returns.
    :param baseline: The baseline's name.
    """
    rows = shown["rows"]
    height = 1.6 + 0.22 * len(rows)
    figure, axes = _begin("Score beyond the baseline", "", height=height)
    axes.axvline(0, color=_FAINT, lw=0.8)
    for place, row in enumerate(rows):
        colour = _OTHER if row["is_own"] else _INK
        axes.plot([row["low"], row["high"]], [place, place], color=colour, lw=1)
        axes.plot([row["difference"]], [place], "o", color=colour, ms=4)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"annual Sharpe ratio less that of {clean(baseline)}, 95 %")
    _end(axes, shown["note"])
    return figure


def _begin(title: str, label: str, *, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.2, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, loc="left")
    axes.set_ylabel(label)
    return figure, axes


def _end(axes: Axes, note: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)
    if note:
        axes.text(0.99, 0.01, note, transform=axes.transAxes, ha="right", va="bottom", fontsize=8)


def _read_times(times: Sequence[str]) -> npt.NDArray[np.datetime64]:
    if len(times) > _MAX_TIMES:
        raise ValueError("there are too many times")
    found = [datetime.fromisoformat(each).astimezone(UTC).replace(tzinfo=None) for each in times]
    return np.array(found, dtype="datetime64[s]")
