"""What trainings amount to."""

from __future__ import annotations

import copy

import pytest

from touchstone.core.results import (
    ResultRefused,
    build_evaluations,
    check_result,
    judge_submission,
)
from touchstone_agent.protocol.messages import AttemptRef

FILES = [{"path": f"models/{name}.h5", "sha256": name, "size": 1} for name in ("long", "short")]
RESULT = {
    "contract": 1,
    "submission_id": "s-1",
    "task_id": "i5",
    "prediction_interval": 5,
    "metrics": {"net_sharpe": 0.25, "auc_long": None},
    "files": FILES,
}


def make_result(**changes):
    return copy.deepcopy(RESULT) | changes


def check(result):
    return check_result(result, submission_id="s-1", task_id="i5")


def make_task(interval, sharpe=1.0, **changes):
    return {
        "task_id": f"i{interval}",
        "interval": interval,
        "status": "success",
        "outcome": "succeeded",
        "published": {
            "metrics": {"net_sharpe": sharpe},
            "charts": [{"name": "equity", "url": "u"}],
        },
    } | changes


def test_a_result_of_the_contract_is_taken_as_it_is():
    assert check(make_result()) == RESULT


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([], "not a result"),
        (make_result(contract=2), "not a result"),
        (make_result(submission_id="s-2"), "is of s-2/i5"),
        (make_result(metrics={}), "has no metrics"),
        (make_result(metrics={"x": "1"}), "'x' is '1'"),
        (make_result(metrics={"x": True}), "'x' is True"),
        (make_result(metrics={"x": float("nan")}), "'x' is not finite"),
        (make_result(metrics={"x": 1e200}), "'x' is not finite"),
        (make_result(metrics={"x": 10**130}), "'x' is not finite"),
        (make_result(metrics={"x\ny": 1}), "no name for a metric"),
        (make_result(metrics={f"m{n}": n for n in range(201)}), "more than 200"),
        (make_result(params={f"p{n}": n for n in range(91)}), "at most 90"),
        (make_result(files=FILES[:1]), "models/short.h5"),
        (make_result(files=[None, 3]), "models/long.h5"),
    ],
)
def test_a_result_that_breaks_the_contract_is_refused(result, message):
    with pytest.raises(ResultRefused, match=message):
        check(result)


def test_each_model_of_a_pair_has_its_row():
    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=2)
    models = [
        {"strategy": "long", "key": "l", "sha256": "long", "may_carry_code": False},
        {"strategy": "short", "key": "s", "sha256": "short", "may_carry_code": True},
    ]
    models = [{"code_reason": "layer 2 is a 'Lambda'", **model} for model in models]
    rows = build_evaluations(
        RESULT, ref, models=models, mlflow={"run_id": "r", "url": "u"}, now="2026"
    )

    assert [row["model_id"] for row in rows] == ["s-1/i5/long", "s-1/i5/short"]
    assert {row["model_group_id"] for row in rows} == {"s-1"}
    assert [row["model_sha256"] for row in rows] == ["long", "short"]
    assert [row["may_carry_code"] for row in rows] == [False, True]
    assert all(row["metrics"] == RESULT["metrics"] for row in rows)


def test_the_score_is_the_mean_over_the_intervals():
    judged = judge_submission([make_task(1, 0.2), make_task(5, 0.4), make_task(20, -0.3)])

    assert judged["status"] == "success"
    assert judged["score"] == pytest.approx(0.1)
    assert [link["task_id"] for link in judged["chart_links"]] == ["i1", "i5", "i20"]


def test_with_an_interval_missing_there_is_no_score():
    broken = make_task(5, status="error", outcome="failed(user)", reason="diverged", published=None)
    judged = judge_submission([make_task(1), broken])

    assert judged["status"] == "error"
    assert judged["score"] is None
    assert judged["reason"] == "i5: diverged"


def test_an_undefined_sharpe_gives_no_score_but_no_error_either():
    judged = judge_submission([make_task(1, None), make_task(5)])

    assert (judged["status"], judged["score"]) == ("success", None)


def test_a_submission_is_cancelled_when_nothing_but_cancels_kept_it_from_ending():
    cancelled = make_task(5, status="cancelled", outcome="cancelled", reason="asked")
    failed = make_task(20, status="error", outcome="failed(user)", reason="bad")

    assert judge_submission([make_task(1), cancelled])["status"] == "cancelled"
    assert judge_submission([failed, cancelled])["reason"] == "i20: bad"
    assert judge_submission([failed, cancelled])["status"] == "error"


def test_a_wish_to_cancel_counts_before_its_agent_has_answered():
    ending = make_task(
        5, status="running", outcome=None, cancel={"reason": "asked"}, published=None
    )

    judged = judge_submission([make_task(1), ending])

    assert (judged["status"], judged["reason"]) == ("cancelled", "i5: asked")


def test_a_task_that_failed_before_the_wish_to_cancel_is_a_failure():
    broken = make_task(5, status="lost", outcome="lost", reason="gone", cancel={"reason": "asked"})

    assert judge_submission([broken])["status"] == "error"


def test_a_schedule_without_tasks_is_an_error():
    assert judge_submission([])["status"] == "error"
