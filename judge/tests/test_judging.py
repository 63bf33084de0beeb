"""The program that answers questions about verdicts: plain JSON in, plain JSON out."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import numpy as np
import pytest

from touchstone_judge.judging import answer

ROWS = 1_500
RNG = np.random.default_rng(7)
MARKET = RNG.normal(0.0003, 0.01, ROWS)


def encode(values):
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f8").tobytes()).decode()


def draw(seed, edge=0.0):
    return np.random.default_rng(seed).normal(edge, 0.01, (ROWS, 2))


def build_question(series, **others):
    return {
        "baseline": "ref",
        "baseline_net": encode(draw(1)),
        "market": encode(MARKET),
        "series": [
            {"name": name, "net": encode(net), "content": name} for name, net in series.items()
        ],
        "rows": ROWS,
        "intervals": [1, 5],
        "bars_per_year": 252,
        "seed": 3,
        "arrivals": 100,
        "judged": list(series),
        **others,
    }


def test_an_edge_is_found_and_told_in_one_sentence():
    found = answer(build_question({"skilled": draw(2, 0.003), "lucky": draw(3)}))

    assert found["verdicts"]["skilled"]["outcome"] == "better"
    sentence = found["verdicts"]["skilled"]["sentence"]
    assert sentence.startswith("Better than `ref`: +")
    assert sentence.endswith("counting 2 submissions.")
    assert found["verdicts"]["skilled"]["edge"]["compared"] == 2
    assert found["verdicts"]["lucky"]["outcome"] == "not distinguishable"
    assert found["scores"]["skilled"]["score"] > found["scores"]["lucky"]["score"]


def test_one_that_always_loses_is_worse():
    found = answer(build_question({"loser": draw(2, -0.003)}))

    assert found["verdicts"]["loser"]["outcome"] == "worse"


def test_only_those_asked_about_are_judged_and_all_are_counted():
    found = answer(build_question({"a": draw(2), "b": draw(3)}, judged=["b"]))

    assert list(found["verdicts"]) == ["b"]
    assert found["verdicts"]["b"]["edge"]["compared"] == 2


def test_references_have_no_score_beyond_the_market():
    scores = answer(build_question({"a": draw(2)}))["scores"]

    assert scores["#flat"] == {"score": 0.0, "net_sharpe": 0.0}
    assert scores["#index"]["score"] == 0.0
    expected = np.sqrt(252) * MARKET.mean() / MARKET.std(ddof=1)
    assert scores["#index"]["net_sharpe"] == pytest.approx(expected, rel=1e-12)
    assert {"#baseline", "a"} <= scores.keys()


def test_a_submission_may_be_called_like_the_baseline_or_a_reference():
    found = answer(build_question({"ref": draw(2), "flat": draw(3), "index": draw(4)}))

    assert set(found["verdicts"]) == {"ref", "flat", "index"}


def test_nothing_is_a_baseline_as_well():
    found = answer(build_question({"skilled": draw(2, 0.003)}, baseline="flat", baseline_net=None))

    assert found["verdicts"]["skilled"]["outcome"] == "better"
    assert found["scores"]["#baseline"]["score"] == 0.0


def test_a_later_draw_of_one_idea_is_a_duplicate_and_counted():
    question = build_question({"first": draw(2), "again": draw(3), "other": draw(4)})
    question["series"][1]["content"] = "first"

    found = answer(question)["verdicts"]

    assert found["again"]["outcome"] == "duplicate"
    assert found["again"]["sentence"].startswith("A duplicate of `first`")
    assert found["other"]["edge"]["compared"] == 3


def test_too_few_rows_are_not_judged_with_why():
    question = build_question({"a": draw(2)[:100]}, rows=100)
    question |= {"baseline_net": encode(draw(1)[:100]), "market": encode(MARKET[:100])}

    assert answer(question)["verdicts"]["a"]["sentence"].startswith("Not judged: too few rows: 100")


def test_closing_raises_and_never_lowers():
    series = {"skilled": draw(2, 0.003), "lucky": draw(3)}
    question = build_question(series, earlier={"skilled": "not distinguishable", "lucky": "better"})

    found = answer(question)["verdicts"]

    assert found["skilled"]["outcome"] == "better"
    # It stays what it was, with the sentence that it had.
    assert found["lucky"] == {"outcome": "better", "reason": "", "sentence": None, "edge": None}


def test_a_market_that_stands_still_has_no_slope():
    """Its mean differs from each of its returns by rounding, and beta was a rounding's inverse."""
    net = draw(2)
    question = build_question({"a": net}, market=encode(np.full(ROWS, 0.1 / 3)))

    scores = answer(question)["scores"]

    assert scores["a"]["score"] == pytest.approx(scores["a"]["net_sharpe"], rel=1e-9)


def test_the_same_question_gets_the_same_answer():
    question = build_question({"a": draw(2), "b": draw(3)})

    assert answer(question) == answer(question)


@pytest.mark.parametrize(
    "wrong",
    [
        {"market": encode(MARKET[:-1])},
        {"market": "%"},
        {"baseline_net": encode(np.full((ROWS, 2), np.nan))},
        {"rows": -1},
        {"intervals": []},
        {"intervals": [0, 1]},
        {"arrivals": 0},
        {"judged": ["nobody"]},
    ],
)
def test_a_question_that_makes_no_sense_gets_no_answer(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 (numpy's, base64's and ours)
        answer(build_question({"a": draw(2)}, **wrong))


def ask(text, *arguments):
    command = [sys.executable, "-m", "touchstone_judge", *arguments]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def test_as_a_program_it_reads_and_prints_one_document():
    question = build_question({"a": draw(2)})

    done = ask(json.dumps(question), "verdict")

    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == answer(question)


@pytest.mark.parametrize(
    ("text", "arguments"), [("{}", ["verdict"]), ("no", ["verdict"]), ("[]", ["verdict"])]
)
def test_as_a_program_it_says_in_one_line_what_it_cannot_read(text, arguments):
    done = ask(text, *arguments)

    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
