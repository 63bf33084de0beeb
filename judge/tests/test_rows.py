"""Whatever stands in a predictions.csv, it is the expected rows or one line of why not."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from touchstone_judge.backtest import Scale, find_scale, hold
from touchstone_judge.data import MarketData, load_market_data
from touchstone_judge.errors import JudgeFault, NotJudged
from touchstone_judge.metrics import (
    Outcomes,
    compute_metrics,
    hit_rates,
    rank,
    roc_area,
    sharpe,
    sharpe_interval,
)
from touchstone_judge.rows import find_rows, read_predictions
from touchstone_judge.rules import Rules
from trainings import SHA256

DAYS = tuple(date(2020, 1, 1) + timedelta(days=number) for number in range(400))
TIMES = tuple(datetime.combine(day, time(), tzinfo=UTC) for day in DAYS)
DATA = MarketData(
    name="d",
    sha256="0" * 64,
    times=TIMES,
    close=np.linspace(100.0, 140.0, 400),
    bars_per_year=252,
)
RULES = Rules(
    version=1,
    data_name="d",
    data_sha256="0" * 64,
    validation_from=date(2020, 5, 1),
    test_from=date(2020, 9, 1),
    test_to=None,
    cost_bps=1.0,
    bars_per_year=252,
    resamples=100,
)
ROWS = find_rows(DATA, RULES, 5)
LINES = [
    *(f"{TIMES[row].isoformat()},validation,0.5,0.25" for row in ROWS.validation),
    *(f"{TIMES[row].isoformat()},test,0.5,0.25" for row in ROWS.test),
]
HEADER = "time,part,score_long,score_short"


def read(lines, header=HEADER):
    return read_predictions("\n".join([header, *lines]).encode(), DATA, ROWS)


def try_to_read(lines):
    """Return the predictions and no reason, or none and why."""
    try:
        return read(lines), ""
    except NotJudged as refused:
        return None, refused.reason


def test_a_row_belongs_to_a_part_if_its_outcome_does():
    days = [DAYS[row] for row in ROWS.validation]

    assert days[0] == RULES.validation_from
    assert DAYS[ROWS.validation[-1] + 5] == RULES.test_from - timedelta(days=1)
    assert DAYS[ROWS.test[0]] == RULES.test_from
    assert ROWS.test[-1] + 5 == len(DAYS) - 1
    assert DAYS[ROWS.train_until] == RULES.validation_from - timedelta(days=6)


def test_too_few_rows_are_the_rules_fault():
    with pytest.raises(JudgeFault, match="too few rows"):
        find_rows(DATA, RULES, 100)


def test_the_expected_rows_are_read():
    found = read(LINES)

    assert len(found.validation) == len(ROWS.validation)
    assert len(found.long) == len(found.short) == len(ROWS.test)
    assert set(found.validation) == {0.25}


@settings(deadline=None)
@given(st.data())
def test_rows_in_any_other_order_number_or_part_are_refused(data):
    lines = list(LINES)
    kind = data.draw(st.sampled_from(["drop", "double", "swap", "move"]))
    place = data.draw(st.integers(0, len(lines) - 1))
    other = data.draw(st.integers(0, len(lines) - 1).filter(lambda n: n != place))
    if kind == "drop":
        del lines[place]
    elif kind == "double":
        lines[other] = lines[place]
    elif kind == "swap":
        lines[place], lines[other] = lines[other], lines[place]
    else:
        lines.insert(other, lines.pop(place))

    with pytest.raises(NotJudged, match="other rows"):
        read(lines)


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_one_printable_line(content):
    with pytest.raises(NotJudged) as refused:
        read_predictions(content, DATA, ROWS)
    assert refused.value.reason.isprintable()


@settings(deadline=None)
@given(st.integers(0, len(LINES) - 1), st.text(max_size=40))
def test_any_text_in_place_of_a_score_is_a_probability_or_refused(place, text):
    lines = list(LINES)
    lines[place] = f"{lines[place].rpartition(',')[0]},{text}"
    found, reason = try_to_read(lines)

    assert reason.isprintable()
    assert found is None or 0 <= min(found.short) <= max(found.short) <= 1


@settings(deadline=None)
@given(st.integers(0, len(LINES) - 1), st.text(max_size=40))
def test_any_text_in_place_of_a_time_is_that_time_or_refused(place, text):
    lines = list(LINES)
    stamp, _, rest = lines[place].partition(",")
    lines[place] = f"{text},{rest}"
    found, reason = try_to_read(lines)

    assert reason.isprintable()
    if found is not None:
        assert datetime.fromisoformat(text).astimezone(UTC) == datetime.fromisoformat(stamp)


# --- positions and figures ----------------------------------------------------------------------

SCORES = st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=60).map(np.array)


@settings(deadline=None)
@given(SCORES, st.integers(1, 30), st.floats(0, 1))
def test_positions_stay_within_one_and_nothing_is_gained_without_a_market(scores, interval, cost):
    still = np.zeros(len(scores))

    found = hold(scores, still, find_scale(scores), interval=interval, cost_bps=cost)

    assert np.abs(found.position).max() <= 1 + 1e-12
    assert (found.net <= 0).all()
    assert np.allclose(found.net, -cost / 1e4 * found.changes)


@settings(deadline=None)
@given(SCORES, st.integers(1, 30))
def test_a_position_knows_nothing_of_later_scores(scores, interval):
    scale = Scale(mean=0.1, std=0.5)
    market = np.full(len(scores), 0.01)
    whole = hold(scores, market, scale, interval=interval, cost_bps=1)

    for rows in range(1, len(scores)):
        part = hold(scores[:rows], market[:rows], scale, interval=interval, cost_bps=1)
        assert np.array_equal(part.net, whole.net[:rows])


def test_a_model_with_one_opinion_holds_its_sign():
    found = hold(
        np.full(4, 0.3), np.full(4, 0.01), Scale(mean=0.3, std=0.0), interval=2, cost_bps=0
    )

    assert found.position.tolist() == [0.5, 1, 1, 1]


@settings(deadline=None)
@given(SCORES, st.data())
def test_the_roc_area_is_the_share_of_pairs_in_the_right_order(scores, data):
    flags = data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    outcome = np.array(flags)
    found = roc_area(scores, outcome)
    if found.value is None:
        assert outcome.all() or not outcome.any() or len(set(scores)) == 1
        return
    pairs = [(a, b) for a in scores[outcome] for b in scores[~outcome]]
    right = sum((a > b) + 0.5 * (a == b) for a, b in pairs)
    assert found.value == pytest.approx(right / len(pairs), abs=1e-12)


@settings(deadline=None)
@given(SCORES)
def test_ranks_are_scipys(values):
    assert np.array_equal(rank(values), rankdata(values))


def test_rows_without_a_move_count_for_no_hit_rate():
    found = hit_rates(np.array([1.0, -1.0, 0.0, 1.0]), np.array([0.1, -0.1, 0.1, 0.0]))

    assert found["hit_rate"].value == pytest.approx(2 / 3)
    assert found["hit_rate_base"].value == pytest.approx(2 / 3)
    assert hit_rates(np.ones(3), np.zeros(3))["hit_rate"].note == "no row has a move"


def test_returns_without_spread_have_no_sharpe_ratio_and_no_interval():
    assert sharpe(np.full(300, 0.01), 252).note == "zero variance of returns"
    low, high = sharpe_interval(np.full(300, 0.01), 5, 252, 100)
    assert low.note == high.note == "zero variance of returns"


def test_few_rows_have_no_interval():
    low, _ = sharpe_interval(np.sin(np.arange(249.0)), 1, 252, 100)

    assert low.note.startswith("too few rows")


def test_returns_of_a_whole_loss_give_figures_or_reasons_and_never_an_infinity():
    rows = np.array([0.5, -1.0, 0.5])
    outcomes = Outcomes(long=rows, short=-rows, target=rows, threshold=0.0)
    returns = hold(np.ones(3), rows, Scale(mean=0, std=0), interval=1, cost_bps=0)

    found = compute_metrics(outcomes, returns, interval=1, bars_per_year=252, resamples=10)

    assert found["max_drawdown"].value == -1
    assert all(figure.value is None or np.isfinite(figure.value) for figure in found.values())
    assert all(figure.note for figure in found.values() if figure.value is None)


# --- the data -----------------------------------------------------------------------------------


def test_the_market_data_are_those_that_the_trainer_names():
    data = load_market_data()

    assert (data.sha256, len(data.times)) == (SHA256, 5031)
    assert (data.show(0), data.show(5030)) == ("1999-01-04", "2018-12-31")


def test_market_data_that_are_damaged_are_the_judges_fault(tmp_path, monkeypatch):
    path = tmp_path / "x.csv.gz"
    path.write_bytes(b"not gzip")
    monkeypatch.setattr("touchstone_judge.data._find_file", lambda name: path)

    with pytest.raises(JudgeFault, match="sp500 cannot be read"):
        load_market_data()
