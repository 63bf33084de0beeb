"""What an interval in folds comes to: all of them together, and each beside it."""

from __future__ import annotations

from datetime import date

import pytest

from fakes.tasks import build_spec, build_task
from touchstone.core.comparing import build_intervals
from touchstone.core.fold_results import (
    EACH_BY_ITSELF,
    Pooled,
    find_missing_fold,
    find_unpoolable,
    group_folds,
    tell_failed,
)
from touchstone.core.folds import Fold
from touchstone.core.records.judged import Judged
from touchstone.core.results import judge_submission, split_results

SERIES = {"key": "k", "sha256": "0" * 64, "size": 1}
JUDGED = Judged(status="judged", metrics={"net_sharpe": 0.2, "auc_long": 0.6}, series=SERIES)
UNJUDGED = Judged(status="not judged", reason="other rows")
POOLED = {5: Pooled(metrics={"net_sharpe": 0.7, "n_test_rows": 900.0})}


def make_fold(number, *, count=2, interval=5, judged=JUDGED, **changes):
    fold = Fold(
        number=number,
        count=count,
        validation_from=date(2004 + 3 * number, 1, 1),
        test_from=date(2005 + 3 * number, 1, 1),
        test_to=date(2007, 12, 31) if number == 0 else None,
    )
    published = {"judged": judged.dump(), "metrics": judged.metrics}
    told = {"status": "success", "outcome": "succeeded", "published": published} | changes
    spec = build_spec(task_id=f"i{interval}-f{number}", interval=interval, fold=fold)
    task = build_task(spec, **told)
    return task, task.newest.published


def make_plain(interval):
    published = {"judged": JUDGED.dump(), "metrics": JUDGED.metrics}
    spec = build_spec(task_id=f"i{interval}", interval=interval)
    task = build_task(spec, status="success", outcome="succeeded", published=published)
    return task, task.newest.published


def test_the_figures_of_an_interval_are_of_all_folds_and_the_score_is_theirs():
    end = judge_submission([make_fold(0), make_fold(1)], POOLED)

    assert end.score == 0.7
    assert [(line.task_id, line.fold, line.rows) for line in end.results] == [
        ("i5", None, None),
        ("i5-f0", 0, "2005-01-01 to 2007-12-31"),
        ("i5-f1", 1, "from 2008-01-01"),
    ]
    whole, first, _ = end.results
    assert (whole.judged, whole.metrics["n_test_rows"]) == ("judged", 900)
    assert whole.metric_notes["auc_long"] == EACH_BY_ITSELF
    assert first.metrics["net_sharpe"] == 0.2


def test_a_record_keeps_which_fold_a_line_is_of_and_of_no_fold_no_word():
    end, document = split_results(judge_submission([make_fold(0), make_fold(1)], POOLED))

    assert [line.fold for line in end.results] == [None, 0, 1]
    assert document["results"][1]["rows"] == "2005-01-01 to 2007-12-31"
    plain, _ = split_results(judge_submission([make_plain(5)]))
    assert not {"fold", "rows"} & plain.results[0].dump().keys()


@pytest.mark.parametrize(
    ("folds", "pooled", "told"),
    [
        ([make_fold(0), make_fold(1, judged=UNJUDGED)], POOLED, "i5-f1: other rows"),
        ([make_fold(0), make_fold(1)], {5: Pooled(reason="the judge is away")}, "i5: the judge"),
        ([make_fold(0), make_fold(1)], None, "i5: nobody has asked the judge"),
        (
            [make_fold(0), make_fold(1)],
            {5: Pooled(metrics={"net_sharpe": None}, notes={"net_sharpe": "zero variance"})},
            "an interval has no net_sharpe",
        ),
    ],
)
def test_where_a_fold_is_not_judged_there_is_no_score(folds, pooled, told):
    end = judge_submission(folds, pooled)

    assert (end.status, end.score) == ("success", None)
    assert end.verdict_reason.startswith(told)


def test_a_fold_that_has_failed_leaves_none_of_its_interval():
    failed = make_fold(1, status="error", outcome="failed(user)", reason="diverged", published=None)

    end = judge_submission([make_fold(0), failed, make_plain(20)], POOLED)

    assert (end.status, end.reason) == ("error", "i5-f1: diverged")
    assert end.verdict_reason == "1 of 2 intervals have no result (i5-f1)"
    whole = end.results[0]
    assert (whole.status, whole.reason, dict(whole.metrics)) == ("error", "i5-f1: diverged", {})


def test_what_an_event_holds_back_has_no_figures_of_all_folds_either():
    held = [
        (task, published.change(held_back="x")) for task, published in (make_fold(0), make_fold(1))
    ]

    end = judge_submission(held, POOLED)

    assert end.score is None
    assert dict(end.results[0].metrics) == {}
    assert all("net_sharpe" not in line.metrics for line in end.results)


def test_a_fold_that_is_on_no_record_is_missed():
    tasks = [make_fold(0, count=3), make_fold(2, count=3)]

    assert find_missing_fold([task for task, _ in tasks]) == "i5-f1"
    assert find_unpoolable(tasks) == "i5-f1 is not on record"
    assert find_unpoolable([make_fold(0), make_fold(1)]) is None
    assert find_unpoolable([make_fold(0), make_fold(1, judged=UNJUDGED)]) == "i5-f1 is not judged"


def test_folds_are_in_order_whatever_order_they_come_in():
    found = group_folds([make_fold(1), make_plain(20), make_fold(0)])

    assert [task.task_id for task, _ in found[5]] == ["i5-f0", "i5-f1"]
    assert list(found) == [5]


def test_a_comparison_has_the_line_of_all_folds_together():
    end = judge_submission([make_fold(0), make_fold(1), make_plain(20)], POOLED)

    found = build_intervals([line.dump() for line in end.results], [])

    assert [(line.interval, line.figures["net_sharpe"]) for line in found] == [(5, 0.7), (20, 0.2)]


def test_without_folds_failures_are_told_as_before_there_were_any():
    tasks = [make_plain(5)[0], make_plain(20)[0]]

    assert tell_failed(tasks, tasks[:1]) == "1 of 2 intervals have no result"
    assert tell_failed([], []) == "0 of 0 intervals have no result"
