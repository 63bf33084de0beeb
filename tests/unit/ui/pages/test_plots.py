"""Charts stay inside their frame, their marks are round, and each curve is there."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from touchstone.core.figures import MAX_VALUE, build_document, read_figures
from touchstone.pages.plots import HEIGHT, WIDTH, Band, Line, choose_step, draw, list_ticks
from touchstone.pages.training_charts import build_plots

DAY = 86_400.0
FIRST = datetime(2014, 1, 2, tzinfo=UTC)
values = st.floats(-MAX_VALUE, MAX_VALUE)


def find_numbers(text):
    return [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


@given(
    st.lists(st.one_of(st.none(), values), min_size=1, max_size=30),
    st.lists(values, max_size=2),
    st.booleans(),
)
def test_nothing_is_drawn_outside(y, rules, is_time):
    line = Line(name="a", x=[DAY * each for each in range(len(y))], y=y, style="0")

    plot = draw(title="T", unit="u", lines=[line], rules=rules, is_time=is_time)

    if all(each is None for each in y):
        assert (plot.lines, plot.summary) == ((), "T: nothing to show")
        return
    for path in (plot.lines[0].path, plot.rules):
        for number in find_numbers(path):
            assert -0.1 <= number <= max(WIDTH, HEIGHT) + 0.1
    assert all(0 <= tick.at <= HEIGHT for tick in plot.up)
    assert all(0 <= tick.at <= WIDTH for tick in plot.across)
    assert len(plot.up) <= 8
    (told,) = json.loads(plot.points)
    assert [each is None for each in told["y"]] == [each is None for each in y]


@given(st.floats(1e-8, 1e13), st.integers(2, 10))
def test_marks_are_round_and_not_too_many(span, most):
    step = choose_step(span, most)

    assert span / step <= most * (1 + 1e-9)
    digits = f"{step:.6e}".partition("e")[0].rstrip("0").rstrip(".")
    assert digits in {"1", "2", "2.5", "5"}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-0.13, 0.02, [-0.125, -0.1, -0.075, -0.05, -0.025, 0.0]),
        (3.0, 3.0, [3.0]),
    ],
)
def test_marks_are_between_the_ends(low, high, expected):
    assert list_ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("days", "first"),
    [(0, "02 Jan"), (20, "02 Jan"), (100, "Feb 2014"), (700, "Jul 2014"), (5_000, "2015")],
)
def test_times_are_marked_at_the_beginning_of_months_and_years(days, first):
    x = [FIRST.timestamp() + DAY * each for each in (0, days)]

    plot = draw(title="T", unit="u", lines=[Line(name="a", x=x, y=[1, 2], style="0")])

    assert plot.across[0].label == first
    assert 1 <= len(plot.across) <= 7


def test_a_gap_is_a_gap_and_a_band_goes_around():
    x = [0.0, DAY, 2 * DAY, 3 * DAY]
    line = Line(name="a", x=x, y=[1.0, None, 2.0, 3.0], style="0")
    band = Band(name="b", x=x, low=[0.0, 0.0, None, 0.0], high=[4.0, 4.0, 4.0, 4.0])

    plot = draw(title="T", unit="u", lines=[line], bands=[band])

    assert plot.lines[0].path.count("M") == 2
    assert plot.lines[0].path.count("L") == 1
    assert plot.bands[0][1].count("L") == 5
    assert plot.bands[0][1].endswith("Z")
    assert plot.summary == "T (u): a from 1 to 3, lowest 1, highest 3"


# --- trainings ------------------------------------------------------------------------------------


def build_curve(*curve, **fields):
    time = [(FIRST + timedelta(days=number)).isoformat() for number in range(len(curve))]
    return {"time": time, "value": list(curve), "note": ""} | fields


def build_figures(baseline="ref", **changes):
    bins = [{"said": s, "share": s, "low": s / 2, "high": 1.0, "rows": 30} for s in (0.3, 0.6)]
    figures = {
        "equity": build_curve(
            1.0, 1.2, low=[0.9, 0.8], high=[1.1, 1.4], baseline=[1.0, 0.9], note=""
        ),
        "drawdown": build_curve(0.0, -0.1),
        "rank_correlation": build_curve(0.1, None, noise=0.3),
        "calibration": {"long": bins, "short": bins, "note": ""},
    }
    return read_figures(build_document(figures | changes, {}, baseline))


def test_one_training_has_four_charts_its_band_and_its_baseline():
    plots = build_plots([("this training", build_figures())])

    assert [plot.title for plot in plots] == [
        "Equity after cost",
        "Drawdown",
        "Rank correlation with the outcome",
        "Calibration",
    ]
    assert [line.name for line in plots[0].lines] == ["baseline ref", "this training"]
    assert [name for name, _ in plots[0].bands] == ["95 % of resampled histories"]
    assert [name for name, _ in plots[2].bands] == ["95 % of no skill"]
    assert [(line.name, bool(line.whiskers)) for line in plots[3].lines] == [
        ("long", True),
        ("short", True),
    ]


def test_several_share_an_axis_and_keep_their_colours():
    plots = build_plots(
        [("s-1", build_figures(equity=None)), ("s-2", build_figures()), ("ref", build_figures())]
    )

    equity, drawdown = plots[0], plots[1]
    # The baseline is one of them, so it is not drawn twice; bands would hide each other.
    assert [(line.name, line.style) for line in equity.lines] == [("s-2", "1"), ("ref", "2")]
    assert equity.bands == []
    assert equity.note == "s-1: what is stored of it makes no sense"
    assert [line.style for line in drawdown.lines] == ["0", "1", "2"]
    assert [plot.title for plot in plots[3:]] == ["Calibration, long", "Calibration, short"]


def test_what_a_chart_lacks_is_told_once():
    note = "too few rows for a band (90, blocks of 10)"
    equity = build_curve(1.0, 1.1, low=None, high=None, baseline=None, note=note)

    plots = build_plots([("s-1", build_figures(equity=equity, rank_correlation=None))])

    assert (plots[0].note, plots[0].bands) == (note, [])
    assert plots[2].note == "what is stored of it makes no sense"
    assert build_plots([("s-1", read_figures({}))]) == []
