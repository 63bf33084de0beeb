"""Figures of charts, against the same computed here by loops; and the charts as files."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import date, timedelta
from xml.etree import ElementTree

import numpy as np
import pytest

from touchstone_judge import drawing
from touchstone_judge.bootstrap import draw_rows, draw_weights
from touchstone_judge.charts import MAX_POINTS, Rows, choose_points, compute_charts, find_band

INTERVAL = 5
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "</text><script>alert(1)</script>",
    '"><image href="http://x/"/>',
    "<!-- --> ]]>",
    "&lt;b&gt; &amp;",
    r"$\frac{1}{0}$",
    "a\x00b\x1b[2J\nc",
    "\ud800",
    "日本" * 100,
]


def build_question(rows=600, **others):
    rng = np.random.default_rng(rows)
    days = [date(2014, 1, 1) + timedelta(days=day) for day in range(rows)]
    return {
        "kind": "training",
        "interval": INTERVAL,
        "time": [f"{day}T00:00:00+00:00" for day in days],
        "net": rng.normal(0.0005, 0.01, rows).tolist(),
        "long": rng.uniform(0, 1, rows).tolist(),
        "short": rng.uniform(0, 1, rows).tolist(),
        "target": rng.normal(0, 0.02, rows).tolist(),
        "threshold": 1e-4,
        "baseline": "ref",
        "baseline_net": rng.normal(0, 0.01, rows).tolist(),
        **others,
    }


def compute(question):
    return drawing.answer(question)["figures"]


def find_texts(svg):
    root = ElementTree.fromstring(svg)
    return [each.text or "" for each in root.iter(f"{SVG}text")]


# --- the figures, by loops ------------------------------------------------------------------------


def test_equity_and_drawdown_are_those_of_a_loop():
    question = build_question()

    found = compute(question)

    wealth, highest, equity, fallen = 1.0, 1.0, [], []
    for value in question["net"]:
        wealth *= 1 + value
        highest = max(highest, wealth)
        equity.append(wealth)
        fallen.append(wealth / highest - 1)
    places = [question["time"].index(each) for each in found["equity"]["time"]]
    assert found["equity"]["value"] == pytest.approx([equity[i] for i in places], rel=1e-12)
    assert found["drawdown"]["value"] == pytest.approx([fallen[i] for i in places], abs=1e-12)
    base = np.cumprod(1 + np.array(question["baseline_net"]))
    assert found["equity"]["baseline"] == pytest.approx([base[i] for i in places], rel=1e-12)
    assert found["equity"]["value"][-1] == pytest.approx(wealth)


def test_the_band_is_where_95_of_100_resamples_are():
    question = build_question()
    net, rows, block = question["net"], 600, 9  # the cube root of 600, rounded up
    rng = np.random.default_rng(0)
    histories = []
    for _ in range(10):
        for starts in rng.integers(0, rows - block + 1, size=(100, math.ceil(rows / block))):
            drawn = [start + i for start in starts for i in range(block)][:rows]
            histories.append(np.cumprod([1 + net[i] for i in drawn]))
    low, high = np.percentile(histories, [2.5, 97.5], axis=0)

    found = compute(question)["equity"]

    places = [question["time"].index(each) for each in found["time"]]
    assert found["low"] == pytest.approx(low[places].tolist(), rel=1e-9)
    assert found["high"] == pytest.approx(high[places].tolist(), rel=1e-9)
    assert all(a < b for a, b in zip(found["low"], found["high"], strict=True))


def test_resampled_rows_are_the_same_in_pieces_of_any_size_and_those_of_the_weights():
    whole = np.concatenate(list(draw_rows(300, 7, 250, 3, at_once=250)))
    pieces = np.concatenate(list(draw_rows(300, 7, 250, 3, at_once=33)))
    weights = np.concatenate(list(draw_weights(300, 7, 250, 3)))

    assert (whole == pieces).all()
    for line, weight in zip(whole, weights, strict=True):
        assert (np.bincount(line, minlength=300) / 300 == weight).all()


def test_calibration_is_that_of_a_loop():
    question = build_question(rows=613)

    found = compute(question)["calibration"]

    for side, sign in (("long", 1), ("short", -1)):
        pairs = sorted(
            zip(question[side], [sign * each > 1e-4 for each in question["target"]], strict=True)
        )
        sizes = [62, 62, 62, 61, 61, 61, 61, 61, 61, 61]
        assert [each["rows"] for each in found[side]] == sizes
        begin = 0
        for told, size in zip(found[side], sizes, strict=True):
            part = pairs[begin : begin + size]
            begin += size
            share = sum(came for _, came in part) / size
            assert told["said"] == pytest.approx(sum(said for said, _ in part) / size)
            assert told["share"] == pytest.approx(share)
            # Wilson's ends are where the share is 1.96 standard errors away.
            for end in (told["low"], told["high"]):
                error = math.sqrt(end * (1 - end) / size)
                assert abs(end - share) == pytest.approx(1.959963984540054 * error)


def rank(values):
    values = np.asarray(values)
    smaller = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    return smaller + (equal + 1) / 2


def test_the_rolling_rank_correlation_is_that_of_each_window():
    question = build_question(rows=300)
    question["target"][40:60] = [0.0] * 20

    found = compute(question)["rank_correlation"]

    assert len(found["time"]) == 49
    for place in (0, 17, 48):
        end = question["time"].index(found["time"][place]) + 1
        score = [
            a - b for a, b in zip(question["long"][:end], question["short"][:end], strict=True)
        ][-252:]
        expected = np.corrcoef(rank(score), rank(question["target"][:end][-252:]))[0, 1]
        assert found["value"][place] == pytest.approx(expected)
    assert found["noise"] == pytest.approx(1.959963984540054 * math.sqrt(5 / 252))


@pytest.mark.parametrize("rows", [1, 2, 399, 400, 401, 5000, 100_000])
def test_of_any_number_of_rows_the_first_the_last_and_no_more_than_400_are_shown(rows):
    points = choose_points(rows)

    assert (points[0], points[-1]) == (0, rows - 1)
    assert len(points) == len(set(points)) == min(rows, MAX_POINTS)


def test_a_band_of_a_long_history_is_found_a_few_resamples_at_a_time():
    net = np.random.default_rng(0).normal(0, 0.001, 20_000)

    low, high = find_band(net, 30, choose_points(20_000))

    assert (low < high).all()


# --- what there is none of ------------------------------------------------------------------------


def test_few_rows_have_no_band_and_no_rolling_figure_and_say_so():
    found = drawing.answer(build_question(rows=80))

    assert found["figures"]["equity"]["low"] is None
    assert found["notes"] == {
        "equity": "too few rows for a band (80, blocks of 5)",
        "rank_correlation": "too few rows (80, a window has 252)",
    }
    assert len(found["charts"]) == 4


def test_a_constant_prediction_has_one_bin_and_no_correlation():
    rows = 300
    found = drawing.answer(build_question(rows, long=[0.5] * rows, short=[0.5] * rows))

    assert [len(found["figures"]["calibration"][side]) for side in ("long", "short")] == [1, 1]
    assert set(found["figures"]["rank_correlation"]["value"]) == {None}
    assert found["notes"]["rank_correlation"] == "a constant prediction has none"


def test_without_a_baseline_none_is_drawn():
    found = drawing.answer(build_question(baseline=None, baseline_net=None))

    assert found["figures"]["equity"]["baseline"] is None
    assert not any("baseline" in text for text in find_texts(found["charts"]["equity"]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"net": [0.1]},
        {"net": [math.nan] * 600},
        {"baseline_net": [math.inf] * 600},
        {"long": ["x"] * 600},
        {"interval": 0},
        {"interval": 601},
        {"time": []},
        {"time": ["never"] * 600},
        {"kind": "portrait"},
    ],
)
def test_a_question_that_makes_no_sense_gets_no_answer(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 (numpy's, datetime's and ours)
        drawing.answer(build_question(**wrong))


# --- the files ------------------------------------------------------------------------------------


def test_charts_are_small_files_without_anything_that_runs_or_leads_elsewhere():
    found = drawing.answer(build_question(rows=5000))

    assert set(found["charts"]) == {"equity", "drawdown", "calibration", "rank_correlation"}
    for svg in found["charts"].values():
        assert len(svg.encode()) < drawing.MAX_BYTES / 2
        root = ElementTree.fromstring(svg)
        tags = {each.tag.removeprefix(SVG) for each in root.iter()}
        assert not tags & {"script", "image", "a", "foreignObject", "iframe"}
        links = [v for each in root.iter() for k, v in each.attrib.items() if k.endswith("href")]
        assert all(link.startswith("#") for link in links)
    assert len(json.dumps(found["figures"])) < 200_000


def test_the_same_figures_give_the_same_bytes():
    question = build_question()

    assert drawing.answer(question) == drawing.answer(question)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_text_and_nothing_else(name):
    svg = drawing.answer(build_question(baseline=name))["charts"]["equity"]

    root = ElementTree.fromstring(svg)
    tags = {each.tag.removeprefix(SVG) for each in root.iter()}
    assert not tags & {"script", "image", "b"}
    assert f"baseline {drawing.clean(name)}" in find_texts(svg)


def build_board(count, **own):
    rows = [
        {"name": f"s-{n}", "difference": -n / 100, "low": -n / 100 - 1, "high": 1, "is_own": False}
        for n in range(count)
    ]
    return {"kind": "board", "baseline": "ref", "rows": [*rows, *([own] if own else [])]}


def test_a_board_shows_each_difference_with_its_interval_and_marks_the_own_one():
    own = {"name": "mine", "difference": 0.5, "low": -0.2, "high": 1.3, "is_own": True}

    found = drawing.answer(build_board(3, **own))

    assert [row["name"] for row in found["figures"]["board"]["rows"]] == [
        "mine",
        "s-0",
        "s-1",
        "s-2",
    ]
    assert found["figures"]["board"]["rows"][0] == own
    assert {"mine", "s-0", "s-1", "s-2"} <= set(find_texts(found["charts"]["board"]))
    assert found["notes"] == {}


def test_a_board_of_a_thousand_shows_the_best_and_the_own_one_and_how_many_are_left_out():
    own = {"name": "mine", "difference": -50.0, "low": -51, "high": -49, "is_own": True}

    found = drawing.answer(build_board(1000, **own))

    shown = found["figures"]["board"]["rows"]
    assert (len(shown), shown[0]["name"], shown[-1]["name"]) == (41, "s-0", "mine")
    assert found["notes"] == {"board": "960 more are not shown"}
    assert len(found["charts"]["board"].encode()) < drawing.MAX_BYTES


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_hostile_names_on_a_board_are_text(name):
    own = {"name": name, "difference": 0.5, "low": 0, "high": 1, "is_own": True}

    svg = drawing.answer(build_board(1, **own) | {"baseline": name})["charts"]["board"]

    assert drawing.clean(name) in find_texts(svg)


def test_an_empty_board_says_so_and_an_odd_one_gets_no_answer():
    assert drawing.answer(build_board(0))["notes"] == {"board": "nobody was compared yet"}
    own = {"name": "x", "difference": math.inf, "low": 0, "high": 1, "is_own": True}
    with pytest.raises(ValueError, match="not finite"):
        drawing.answer(build_board(0, **own))
    with pytest.raises(KeyError):
        drawing.answer(build_board(0, name="x"))


def test_a_chart_that_is_too_large_is_left_out_and_told(monkeypatch):
    monkeypatch.setattr(drawing, "MAX_BYTES", 20_000)

    found = drawing.answer(build_question())

    assert "equity" not in found["charts"]
    assert found["notes"]["equity"] == "the chart has more than 20000 bytes"


def test_as_a_program_it_draws_and_says_in_one_line_what_it_cannot():
    def ask(text):
        command = [sys.executable, "-m", "touchstone_judge", "draw"]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    done = ask(json.dumps(build_question(rows=300)))
    assert done.returncode == 0
    assert set(json.loads(done.stdout)["charts"]) == set(compute_charts_of(300))
    refused = ask("{}")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1


def compute_charts_of(rows):
    question = build_question(rows)
    arrays = {
        name: np.array(question[name])
        for name in ("net", "long", "short", "target", "baseline_net")
    }
    return compute_charts(Rows(interval=INTERVAL, time=question["time"], threshold=1e-4, **arrays))
