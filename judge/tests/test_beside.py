"""What stands beside a verdict, against the same figures computed here from their definitions."""

from __future__ import annotations

import json
from statistics import NormalDist

import numpy as np
import purgedcv
import pytest

from test_judging import MARKET, ROWS, build_question, draw, encode
from touchstone_judge import beside as module
from touchstone_judge.beside import Predictions, find_beside
from touchstone_judge.judging import answer
from touchstone_judge.panel import Panel

INTERVALS = [1, 5]
RNG = np.random.default_rng(11)
TARGET = RNG.normal(0, 0.01, (ROWS, 2))


def predict(seed, skill=0.0):
    noise = np.random.default_rng(100 + seed).normal(size=(ROWS, 2))
    return noise + skill * TARGET / 0.01


BASE = predict(0, 0.1)


def ask(predictions, *, baseline=BASE, target=TARGET, closing=False, **others):
    series = {name: draw(20 + i) for i, name in enumerate(predictions)}
    question = build_question(series, **others)
    for each in question["series"]:
        found = predictions[each["name"]]
        each["prediction"] = None if found is None else encode(found)
    question["baseline_prediction"] = None if baseline is None else encode(baseline)
    question["target"] = None if target is None else encode(target)
    if closing:
        question["earlier"] = {}
    return answer(question)["beside"]


def draw_panel(names, rows):
    rng = np.random.default_rng(5)
    return Panel(
        names=("ref", *names),
        net=rng.normal(0, 0.01, (rows, 1 + len(names), 1)),
        market=rng.normal(0, 0.01, rows),
        longest_interval=1,
        bars_per_year=252,
    )


# --- the definitions once more, without any of the judge's code -----------------------------------


def rank(values):
    """Return Φ⁻¹((rank - ½)/n), standardised; equal values share their mean rank."""
    smaller = (values[:, None] > values[None, :]).sum(axis=1)
    equal = (values[:, None] == values[None, :]).sum(axis=1)
    place = smaller + (equal + 1) / 2
    normal = np.array([NormalDist().inv_cdf((each - 0.5) / len(values)) for each in place])
    return (normal - normal.mean()) / normal.std()


def mean_over_intervals(compute):
    return float(np.mean([compute(column) for column in range(len(INTERVALS))]))


def by_hand_similarity(one, other):
    return mean_over_intervals(
        lambda column: np.corrcoef(rank(one[:, column]), rank(other[:, column]))[0, 1]
    )


def by_hand_contribution(one, base):
    def compute(column):
        p, m, y = rank(one[:, column]), rank(base[:, column]), TARGET[:, column]
        slope = np.polyfit(m, p, 1)[0]
        standard = (y - y.mean()) / y.std()
        return np.mean((p - slope * m) * standard)

    return mean_over_intervals(compute)


def by_hand_shares(predictions):
    """Add whichever helps most, one at a time, by the plainest code there is."""
    shares = dict.fromkeys(predictions, 0.0)
    for column in range(len(INTERVALS)):
        ranked = {name: rank(each[:, column]) for name, each in predictions.items()}

        def score(names, ranked=ranked, column=column):
            mean = np.mean([ranked[name] for name in names], axis=0)
            return np.corrcoef(mean, TARGET[:, column])[0, 1]

        picks, best = [], -2.0
        while len(picks) < 80:
            name = max(ranked, key=lambda each: score([*picks, each]))
            if score([*picks, name]) <= best + 1e-9:
                break
            picks.append(name)
            best = score(picks)
        for name in picks:
            shares[name] += 1 / (len(picks) * len(INTERVALS))
    return shares


# --- the figures ---------------------------------------------------------------------------------


def test_similarity_and_contribution_are_those_computed_by_hand():
    found = ask({"a": predict(1, 0.05), "b": 0.5 * BASE + predict(2)})

    for name, each in (("a", predict(1, 0.05)), ("b", 0.5 * BASE + predict(2))):
        told = found[name]
        assert told["similarity"]["value"] == pytest.approx(
            by_hand_similarity(each, BASE), abs=1e-9
        )
        expected = by_hand_contribution(each, BASE)
        assert told["contribution"]["value"] == pytest.approx(expected, abs=1e-9)
        own = mean_over_intervals(
            lambda column: np.corrcoef(rank(BASE[:, column]), TARGET[:, column])[0, 1]
        )
        assert told["baseline_correlation"]["value"] == pytest.approx(own, abs=1e-9)
    assert found["b"]["similarity"]["value"] > 0.3


def test_the_nearest_is_the_most_similar_of_those_that_came_before():
    first, second = predict(1), predict(2)
    near = first + 0.2 * predict(3)
    found = ask({"first": first, "second": second, "near": near, "last": near})

    assert found["first"]["nearest"] == {"value": None, "note": module.FIRST}
    assert found["first"]["nearest_name"] is None
    assert found["near"]["nearest_name"] == "first"
    expected = by_hand_similarity(near, first)
    assert found["near"]["nearest"]["value"] == pytest.approx(expected, abs=1e-9)
    assert (found["last"]["nearest_name"], found["last"]["nearest"]["value"]) == (
        "near",
        pytest.approx(1),
    )


def test_of_equally_near_ones_the_earliest_is_named():
    same = predict(1)

    found = ask({"a": same, "b": same, "c": same})

    assert found["c"]["nearest_name"] == "a"


def test_one_that_arrives_is_compared_with_earlier_ones_only_also_if_others_are_not_judged():
    found = ask({"a": predict(1), "b": predict(2), "c": predict(2)}, judged=["b"])

    assert list(found) == ["b"]
    assert found["b"]["nearest_name"] == "a"
    assert found["b"]["contributivity"] == {"value": None, "note": module.AT_CLOSING}
    assert found["b"]["equal_share"] is None


def test_shares_of_a_closing_are_those_computed_by_hand_and_sum_to_one():
    entries = {f"s-{i}": predict(i, skill) for i, skill in enumerate((0.1, 0.0, 0.05, 0.0, 0.2), 1)}

    found = ask(entries, closing=True)

    shares = {name: each["contributivity"]["value"] for name, each in found.items()}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == pytest.approx(by_hand_shares(entries))
    assert {each["equal_share"] for each in found.values()} == {1 / 5}
    assert max(shares, key=shares.__getitem__) == "s-5"


def test_a_copy_shares_nothing_with_its_original():
    strong = predict(1, 0.3)

    found = ask({"first": strong, "copy": strong, "other": predict(2)}, closing=True)

    assert found["copy"]["contributivity"]["value"] == 0
    assert found["first"]["contributivity"]["value"] > 0.5


def test_a_copy_of_the_baseline_is_one_and_adds_nothing():
    found = ask({"copy": BASE})["copy"]

    assert found["similarity"]["value"] == pytest.approx(1)
    assert found["contribution"]["value"] == pytest.approx(0, abs=1e-12)
    assert found["baseline_correlation"]["value"] > 0.05


# --- where there is none, and why ----------------------------------------------------------------


def test_nothing_as_a_baseline_predicts_nothing():
    found = ask({"a": predict(1), "b": predict(2)}, baseline=None, baseline_net=None)["b"]

    for name in ("similarity", "contribution", "baseline_correlation"):
        assert found[name] == {"value": None, "note": module.FLAT_BASELINE}
    assert found["nearest"]["value"] is not None


def test_what_was_stored_without_predictions_is_told_so_and_the_others_are_compared():
    entries = {"old": None, "a": predict(1, 0.1), "b": predict(2)}

    found = ask(entries, closing=True)

    for name in ("similarity", "nearest", "contribution", "contributivity"):
        assert found["old"][name] == {"value": None, "note": module.NOT_KEPT}
    assert found["a"]["nearest"] == {"value": None, "note": module.NONE_COMPARABLE}
    assert found["b"]["nearest_name"] == "a"
    assert sum(found[name]["contributivity"]["value"] for name in "ab") == pytest.approx(1)
    assert found["a"]["equal_share"] == pytest.approx(0.5)


def test_a_question_of_before_has_no_figures_and_gets_its_verdict():
    question = build_question({"a": draw(2), "b": draw(3)})

    found = answer(question)

    assert found["verdicts"]["a"]["outcome"] == "not distinguishable"
    assert found["beside"]["a"]["similarity"]["note"] == module.NOT_KEPT


def test_a_baseline_and_outcomes_that_were_not_kept_are_told():
    found = ask({"a": predict(1)}, baseline=None)["a"]
    assert found["similarity"]["note"] == module.BASELINE_NOT_KEPT

    found = ask({"a": predict(1)}, target=None, closing=True)["a"]
    assert found["similarity"]["value"] is not None
    assert found["contribution"] == {"value": None, "note": module.NO_TARGET}
    assert found["contributivity"] == {"value": None, "note": module.NO_TARGET}


def test_one_constant_interval_leaves_no_figure_of_the_whole():
    flat = predict(1)
    flat[:, 1] = 0.25

    found = ask({"flat": flat, "b": predict(2)}, closing=True)

    reason = "interval 5: its prediction is a constant"
    for name in ("similarity", "contribution", "contributivity"):
        assert found["flat"][name] == {"value": None, "note": reason}
    assert found["b"]["nearest"]["note"] == module.NONE_COMPARABLE
    assert found["b"]["contributivity"]["value"] == pytest.approx(1)
    base = BASE.copy()
    base[:, 0] = 1
    told = ask({"b": predict(2)}, baseline=base)["b"]["similarity"]["note"]
    assert told == "interval 1: the baseline's prediction is a constant"


def test_a_market_that_stands_still_has_no_outcome_to_foresee():
    target = TARGET.copy()
    target[:, 0] = 0.0

    found = ask({"a": predict(1)}, target=target, closing=True)["a"]

    assert found["contribution"] == {"value": None, "note": module.STILL}
    assert found["contributivity"] == {"value": None, "note": module.STILL}


def test_predictions_that_are_not_numbers_or_of_another_shape_get_no_answer():
    wrong = predict(1)
    wrong[3, 1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        ask({"a": wrong})
    with pytest.raises(ValueError, match="cannot reshape"):
        ask({"a": predict(1)[:-1]})
    with pytest.raises(ValueError, match="not finite"):
        ask({"a": predict(1)}, target=np.full((ROWS, 2), np.inf))


def test_names_are_carried_and_never_looked_into():
    names = ["</text><script>", "$x$", "#flat", "a\n", "é" * 300]

    found = ask(dict.fromkeys(names, predict(1)), closing=True)

    assert list(json.loads(json.dumps(found))) == names
    assert found["#flat"]["nearest_name"] == names[0]


def test_opposites_that_cancel_each_other_out_are_no_best_mean():
    one = predict(1)
    found = find_beside(
        Predictions(
            names=("a", "b"),
            intervals=(1,),
            rows=ROWS,
            scores=[one[:, :1], -one[:, :1]],
            baseline=None,
            is_flat=True,
            target=TARGET[:, :1],
        ),
        draw_panel(("a", "b"), ROWS),
        ["a", "b"],
        is_closing=True,
    )

    assert sorted(each.contributivity.value for each in found.values()) == [0, 1]


def test_a_thousand_entries_share_one():
    """The shares of as many as an event may have; how long it takes is measured elsewhere."""
    rng = np.random.default_rng(3)
    rows, count = 300, 1_000
    found = find_beside(
        Predictions(
            names=tuple(f"s-{n}" for n in range(count)),
            intervals=(1,),
            rows=rows,
            scores=list(rng.normal(size=(count, rows, 1))),
            baseline=rng.normal(size=(rows, 1)),
            is_flat=False,
            target=rng.normal(size=(rows, 1)),
        ),
        draw_panel([f"s-{n}" for n in range(count)], rows),
        [f"s-{n}" for n in range(count)],
        is_closing=True,
    )

    assert sum(each.contributivity.value for each in found.values()) == pytest.approx(1)
    assert {each.equal_share for each in found.values()} == {1 / count}
    assert all(-1 <= each.similarity.value <= 1 for each in found.values())


# --- what choosing among many does ----------------------------------------------------------------


def take_out_by_hand(net, market):
    return np.stack(
        [
            column - np.polyfit(market, column, 1)[0] * market
            for column in net.reshape(len(net), -1).T
        ],
        axis=1,
    )


def test_a_deflated_ratio_counts_all_entries_on_the_mean_over_the_intervals():
    names = ("a", "b", "c", "d")
    found = ask({name: predict(i) for i, name in enumerate(names)})

    nets = np.stack([draw(20 + i).mean(axis=1) for i in range(len(names))], axis=1)
    active = take_out_by_hand(nets, MARKET)
    ratios = active.mean(axis=0) / active.std(axis=0, ddof=1)
    for i, name in enumerate(names):
        expected = purgedcv.deflated_sharpe_ratio(
            active[:, i], len(names), float(ratios.var(ddof=1))
        )
        assert found[name]["deflated_sharpe"]["value"] == pytest.approx(expected, abs=2e-3)


def test_overfitting_is_the_same_for_all_and_the_leading_group_is_told_at_closing():
    predictions = {name: predict(i) for i, name in enumerate("abc")}
    arrived, closed = ask(predictions), ask(predictions, closing=True)

    assert {each["overfitting"]["value"] for each in arrived.values()} == {
        closed["a"]["overfitting"]["value"]
    }
    assert 0 <= closed["a"]["overfitting"]["value"] <= 1
    assert arrived["a"]["leading"] == {"value": None, "note": module.AT_CLOSING}
    assert max(each["leading"]["value"] for each in closed.values()) > 0.1


def test_one_entry_was_chosen_among_none():
    found = ask({"a": predict(1)})["a"]

    for name in ("deflated_sharpe", "overfitting"):
        assert found[name] == {"value": None, "note": module.ONLY_ONE}


def test_an_entry_that_never_trades_has_no_ratio_to_deflate_and_spoils_no_other():
    question = build_question({"idle": np.zeros((ROWS, 2)), "busy": draw(2)}, earlier={})
    found = answer(question)["beside"]

    assert found["idle"]["deflated_sharpe"] == {"value": None, "note": module.NO_SPREAD}
    assert 0 <= found["busy"]["deflated_sharpe"]["value"] <= 1
    assert found["idle"]["leading"]["value"] is not None


def test_too_few_rows_lead_to_nothing():
    few = 30
    question = build_question(
        {"a": draw(2)[:few], "b": draw(3)[:few]},
        rows=few,
        market=encode(MARKET[:few]),
        baseline_net=encode(draw(1)[:few]),
        earlier={},
    )
    assert answer(question)["beside"]["a"]["leading"] == {
        "value": None,
        "note": module.TOO_FEW_ROWS,
    }
