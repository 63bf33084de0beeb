"""What trainings amount to."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.tasks import build_spec, build_task
from touchstone.core.records.judged import Judged
from touchstone.core.records.tasks import PublishedModel
from touchstone.core.results import (
    RESULT_BYTES,
    ResultRefused,
    TrainerResult,
    build_evaluations,
    check_result,
    judge_submission,
    list_models,
    read_result,
    split_published,
    split_results,
    tell_lines,
)
from touchstone.stores.tables import to_item
from touchstone_agent.protocol.messages import AttemptRef

FILES = [
    {"path": f"models/{name}.h5", "sha256": digit * 64, "size": 1}
    for name, digit in (("long", "1"), ("short", "2"))
]
NOT_KEPT = {"submission_id", "task_id", "scale", "files"}
RESULT = {
    "contract": 1,
    "submission_id": "s-1",
    "task_id": "i5",
    "prediction_interval": 5,
    "metrics": {"net_sharpe": 0.25, "auc_long": None},
    "metric_notes": {"auc_long": "too few rows"},
    "params": {"training.epochs": 15, "model.l2": 0.5, "model.structure": "mlp", "x": None},
    "versions": {"keras": "3.15"},
    "data": {"name": "sp500", "sha256": "0" * 64, "rows": 5031, "first": "1999-01-04"},
    "device": {"platform": "gpu", "name": "NVIDIA L4", "driver": "550.54", "determinism": "L4"},
    "seed": 7,
    "seed_count": 1,
    "waived_columns": ["target"],
    "predictions_sha256": "3" * 64,
    "scale": {"mean": 0.1, "std": 1.0},
    "files": FILES,
}
KEPT = {key: RESULT[key] for key in RESULT if key not in NOT_KEPT} | {"waived_columns": ("target",)}


def make_result(**changes):
    return copy.deepcopy(RESULT) | changes


def check(result):
    return check_result(result, submission_id="s-1", task_id="i5")


CANCEL = {"through_fence": 1, "by": "ann", "at": "2026-11-22T12:00:00Z", "reason": "asked"}


JUDGED = Judged(status="judged", metrics={"net_sharpe": 0.2}, metric_notes={"beta": "none"})
UNJUDGED = Judged(status="not judged", reason="other rows")


def make_task(interval, sharpe=1.0, *, device=None, judged=JUDGED, **changes):
    """Return a training, and what it has published."""
    published = {
        "judged": judged.dump() if judged else None,
        "metrics": {"net_sharpe": sharpe},
        "charts": [{"name": "equity", "url": "u"}],
        "device": device,
    }
    told = {"status": "success", "outcome": "succeeded", "published": published}
    spec = build_spec(task_id=f"i{interval}", interval=interval)
    task = build_task(spec, **(told | changes))
    return task, task.newest.published


def test_a_result_of_the_contract_is_taken_as_it_is():
    assert check(make_result()).model_dump() == KEPT


def test_of_the_second_contract_as_much_is_kept():
    look_ahead = {"cuts": 16, "blocks": 95, "leaks": 0}
    part = {"first": "2014-01-02T00:00:00+00:00", "last": "2018-12-21T00:00:00+00:00"}
    told = {"split": {"test": part}, "features": {"look_ahead": look_ahead}, "models": {}}

    assert check(make_result(contract=2, **told)).model_dump() == {**KEPT, "contract": 2}


def test_of_a_file_the_same_is_kept():
    text = json.dumps(make_result()).encode()

    found = read_result(text, submission_id="s-1", task_id="i5")
    assert found.model_dump() == KEPT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "result.json: is not JSON"),
        (b"\xff", "result.json: is not UTF-8"),
        (b"[" * 100_000, "result.json: is nested"),
        (b" " * (RESULT_BYTES + 1), "result.json: has more than"),
        (b'{"contract": 1, "x": 1' + b"0" * 50 + b"}", "result.json: holds an integer"),
        (b'{"contract": NaN}', "result.json: holds NaN"),
    ],
    ids=["cut", "bytes", "deep", "large", "digits", "nan"],
)
def test_a_file_that_is_no_result_is_refused(text, message):
    with pytest.raises(ResultRefused, match=message):
        read_result(text, submission_id="s-1", task_id="i5")


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([], "not a result"),
        (make_result(contract=3), "not a result of contract 1 or 2"),
        (make_result(submission_id="s-2"), "is of s-2/i5"),
        (make_result(metrics={}), "has no metrics"),
        (make_result(metrics={"x": "1"}), "'x' is '1'"),
        (make_result(metrics={"x": True}), "'x' is True"),
        (make_result(metrics={"x": float("nan")}), "'x' is not finite"),
        (make_result(metrics={"x": 1e200}), "'x' is not finite"),
        (make_result(metrics={"x": 10**130}), "'x' is not finite"),
        (make_result(metrics={"x\ny": 1}), "no name for a metric"),
        (make_result(metrics={f"m{n}": n for n in range(201)}), "more than 200"),
        (make_result(params={f"p{n}": n for n in range(91)}), "params: .*at most 90"),
        (make_result(files=FILES[:1]), "models/short.h5"),
        (make_result(files=[None, 3]), "models/long.h5"),
        (make_result(files=3), "models/long.h5"),
        (make_result(metrics={"a/../b": 1}), "no name for a metric"),
        (make_result(prediction_interval=7), "prediction_interval: is 7"),
        (make_result(prediction_interval="x"), "prediction_interval: "),
        (make_result(prediction_interval=10**51), "prediction_interval: "),
        (make_result(seed=10**51 + 1), "seed: "),
        (make_result(seed=[1]), "seed: "),
        (make_result(predictions_sha256="0"), "predictions_sha256: "),
        (make_result(params={"a": [1]}), "params.a: "),
        (make_result(params={"a": {"b": 1}}), "params.a: "),
        (make_result(params={"a": 1e200}), "params.a: "),
        (make_result(params={"a": float("nan")}), "params.a: "),
        (make_result(params={"a": 10**51 + 1}), "params.a: "),
        (make_result(params={"a\nb": 1}), "params.*is no name"),
        (make_result(params={"a//b": 1}), "params.*is no name"),
        (make_result(params={"x" * 201: 1}), "params.*is no name"),
        (make_result(params=[1]), "params: "),
        (make_result(versions={"keras": 3}), "versions.keras: "),
        (make_result(versions={f"v{n}": "1" for n in range(51)}), "versions: "),
        (make_result(data={"sha256": ["x"]}), "data.sha256: "),
        (make_result(data="x"), "data: "),
        (make_result(device={f"d{n}": "1" for n in range(13)}), "device: "),
        (make_result(device={"name": {"a": 1}}), "device.name: "),
        (make_result(device={"name": 1e200}), "device.name: "),
        (make_result(device={"a\nb": 1}), "device.*is no name"),
        (make_result(device=["NVIDIA L4"]), "device: "),
        (make_result(metric_notes={"auc_long": 5}), "metric_notes.auc_long: "),
        (make_result(metric_notes={f"m{n}": "n" for n in range(201)}), "metric_notes: "),
        (
            make_result(
                params={f"{n:0>199}_"[::-1]: "x" * 999 for n in range(90)},
                metric_notes={f"{n:0>199}_"[::-1]: "x" * 199 for n in range(200)},
                metrics={f"{n:0>199}_"[::-1]: 0.123456789 for n in range(200)},
            ),
            "bytes",
        ),
        (make_result(submission_id="x" * 10**6), "is of xxx"),
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
    models = [PublishedModel(code_reason="layer 2 is a 'Lambda'", **model) for model in models]
    rows = build_evaluations(
        TrainerResult(**KEPT),
        ref,
        judged=JUDGED,
        models=models,
        mlflow_run_id="r",
        mlflow_url="u",
        now=datetime.now(UTC),
    )

    assert [row.model_id for row in rows] == ["s-1/i5/long", "s-1/i5/short"]
    assert {row.model_group_id for row in rows} == {"s-1"}
    assert [row.model_sha256 for row in rows] == ["long", "short"]
    assert [row.may_carry_code for row in rows] == [False, True]
    assert {(row.mlflow_run_id, row.mlflow_url) for row in rows} == {("r", "u")}
    assert {(row.judged, row.metrics["net_sharpe"]) for row in rows} == {("judged", 0.2)}
    assert all((row.reported, row.metric_notes) == ({}, JUDGED.metric_notes) for row in rows)
    assert all(row.device == RESULT["device"] for row in rows)


def test_texts_are_made_one_line_and_cut():
    kept = check(make_result(params={"a": "x\x00y\n" + "z" * 2000}, versions={"keras": "3\n1"}))

    assert kept.params["a"].startswith("x y z")
    assert len(kept.params["a"]) == 1000
    assert kept.versions == {"keras": "3 1"}
    kept = check(make_result(device={"name": "N\x1b[2J\n" + "V" * 1000}))
    assert kept.device["name"].isprintable()
    assert len(kept.device["name"]) == 200


def test_a_result_of_a_trainer_that_tells_no_device_is_taken_as_ever():
    result = make_result()
    del result["device"]

    assert check(result).device is None


ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(RESULT)), ODD, max_size=3))
def test_whatever_a_trainer_writes_is_refused_or_fits_in_a_record(changes):
    try:
        kept = check(make_result(**changes)).model_dump()
    except ResultRefused as error:
        kept = {"reason": str(error)}
    to_item(kept)


def test_the_score_is_the_mean_over_the_intervals():
    judged = judge_submission([make_task(1, 0.2), make_task(5, 0.4), make_task(20, -0.3)])

    assert judged.status == "success"
    assert judged.score == pytest.approx(0.1)
    assert [link.task_id for link in judged.chart_links] == ["i1", "i5", "i20"]


def test_with_an_interval_missing_there_is_no_score():
    broken = make_task(5, status="error", outcome="failed(user)", reason="diverged", published=None)
    judged = judge_submission([make_task(1), broken])

    assert judged.status == "error"
    assert judged.score is None
    assert judged.reason == "i5: diverged"


def test_an_undefined_sharpe_gives_no_score_but_no_error_either():
    judged = judge_submission([make_task(1, None), make_task(5)])

    assert (judged.status, judged.score) == ("success", None)


def test_a_submission_is_cancelled_when_nothing_but_cancels_kept_it_from_ending():
    cancelled = make_task(5, status="cancelled", outcome="cancelled", reason="asked")
    failed = make_task(20, status="error", outcome="failed(user)", reason="bad")

    assert judge_submission([make_task(1), cancelled]).status == "cancelled"
    assert judge_submission([failed, cancelled]).reason == "i20: bad"
    assert judge_submission([failed, cancelled]).status == "error"


def test_a_wish_to_cancel_counts_before_its_agent_has_answered():
    ending = make_task(5, status="running", outcome=None, cancel=CANCEL, published=None)

    judged = judge_submission([make_task(1), ending])

    assert (judged.status, judged.reason) == ("cancelled", "i5: asked")


def test_a_task_that_failed_before_the_wish_to_cancel_is_a_failure():
    broken = make_task(5, status="lost", outcome="lost", reason="gone", cancel=CANCEL)

    assert judge_submission([broken]).status == "error"


def test_a_schedule_without_tasks_is_an_error():
    assert judge_submission([]).status == "error"


def test_the_device_is_told_with_the_results_and_stands_beside_the_record():
    task = make_task(5, device=RESULT["device"])

    kept, document = split_results(judge_submission([task, make_task(20)]))

    assert [line["device"] for line in document["results"]] == [RESULT["device"], {}]
    assert all("device" not in line.dump() for line in kept.results)


# --- whose figures they are ---------------------------------------------------------------------


def test_a_model_that_is_not_judged_has_reported_figures_and_the_reason_in_its_row():
    ref = AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=2)
    (row,) = build_evaluations(
        TrainerResult(**KEPT),
        ref,
        judged=UNJUDGED,
        models=[PublishedModel(strategy="long", key="l", sha256="long")],
        mlflow_run_id="r",
        mlflow_url="u",
        now=datetime.now(UTC),
    )

    assert (row.judged, row.judged_reason, row.metrics) == ("not judged", "other rows", {})
    assert (row.reported, row.metric_notes) == (RESULT["metrics"], RESULT["metric_notes"])


def test_one_interval_that_is_not_judged_leaves_no_score():
    end = judge_submission([make_task(1), make_task(5, judged=UNJUDGED)])

    assert (end.status, end.score, end.verdict) == ("success", None, "not judged")
    assert end.verdict_reason == "i5: other rows"
    assert [line.judged for line in end.results] == ["judged", "not judged"]


def test_a_training_from_before_has_reported_figures_only():
    end = judge_submission([make_task(5, 0.4, judged=None)])

    (line,) = end.results
    assert (line.judged, line.judged_reason) == ("not judged", "trained before judging")
    assert (line.metrics, line.reported) == ({}, {"net_sharpe": 0.4})
    assert (end.score, end.verdict_reason) == (None, "i5: trained before judging")


def test_reported_figures_stand_in_the_record_as_figures_do():
    _, published = make_task(5, judged=UNJUDGED)
    reported = {"net_sharpe": 0.1, "beauty": 1}

    kept, document = split_published(published.change(metrics={}, reported=reported))

    assert (kept.metrics, kept.reported) == ({}, {"net_sharpe": 0.1})
    assert document["reported"] == reported


def test_a_stored_line_from_before_is_shown_as_a_claim():
    line = {"task_id": "i5", "status": "success", "metrics": {"net_sharpe": 0.4}}

    (shown,) = tell_lines([line], is_replay=False)
    assert shown == {
        "task_id": "i5",
        "status": "success",
        "judged": "not judged",
        "judged_reason": "trained before judging",
        "metrics": {},
        "reported": {"net_sharpe": 0.4},
    }
    assert tell_lines([line], is_replay=True) == [line]
    for same in ({**line, "judged": "judged"}, {**line, "metrics": {}, "status": "error"}):
        assert tell_lines([same], is_replay=False) == [same]
    assert tell_lines(None, is_replay=False) == []


def list_files(count):
    names = [f"models/{model.name}.h5" for model in list_models(7, count)]
    return [{"path": name, "sha256": "1" * 64, "size": 1} for name in names]


def test_of_several_seeds_each_model_is_wanted_by_its_name():
    found = check(make_result(seed_count=3, files=list_files(3)))

    assert found.seed_count == 3
    assert [model.name for model in list_models(7, 2)] == ["long", "short", "long-2", "short-2"]
    with pytest.raises(ResultRefused, match=r"lists no models/long-3\.h5"):
        check(make_result(seed_count=3, files=list_files(2)))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed_count": 0}, "seed_count: "),
        ({"seed_count": 11}, "seed_count: "),
        ({"seed_count": "three"}, "seed_count: "),
        ({"seed_count": 2, "seed": None}, "seed: is missing, and seed_count is 2"),
    ],
)
def test_a_number_of_seeds_that_makes_no_sense_is_refused(changes, told):
    with pytest.raises(ResultRefused, match=told):
        check(make_result(files=list_files(2), **changes))


def test_each_model_of_several_seeds_has_a_row_of_its_own():
    result = check(make_result(seed_count=2, files=list_files(2)))
    models = [
        PublishedModel(
            strategy=each.strategy, name=each.name, seed=each.seed, key=each.name, sha256="1" * 64
        )
        for each in list_models(7, 2)
    ]

    rows = build_evaluations(
        result,
        AttemptRef(submission_id="s-1", task_id="i5", attempt=1, fence=1),
        judged=JUDGED,
        models=models,
        mlflow_run_id="r",
        mlflow_url="http://m/r",
        now=datetime(2026, 11, 22, tzinfo=UTC),
    )

    told = [(row.model_id, row.strategy, row.seed, row.seed_count) for row in rows]
    assert told == [
        ("s-1/i5/long", "long", 7, 2),
        ("s-1/i5/short", "short", 7, 2),
        ("s-1/i5/long-2", "long", 8, 2),
        ("s-1/i5/short-2", "short", 8, 2),
    ]
