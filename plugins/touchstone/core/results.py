"""What trainings and a whole submission amount to: evaluations, aggregates, the verdict."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from touchstone.core.attempts import cut, is_storable
from touchstone.core.documents import shorten
from touchstone.core.outcomes import Outcome
from touchstone.core.states import SubmissionStatus, TaskStatus
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import AttemptRef

Record = dict[str, Any]

STRATEGIES = ("long", "short")
MAIN_METRIC = "net_sharpe"
MAIN_METRICS = (
    *(MAIN_METRIC, "net_sharpe_low", "net_sharpe_high", "hit_rate_minus_base", "max_drawdown"),
    *("total_return", "turnover", "auc_long", "auc_short"),
)
"""Those that are shown in lists, and so stand in the records themselves."""

MAX_METRICS = 200
MAX_FACTS_BYTES = 192 * 1024
"""All that a model's row repeats of a result.json, as JSON: a record has room for so much."""
MAX_PARAMS = 90
"""MLflow takes a hundred in one request, and ours are added."""

_METRIC_NAME = re.compile(r"[A-Za-z_][\w .:/-]{0,199}")


class ResultRefused(PermanentError):
    """A result.json breaks the contract; the message says where."""


def check_result(result: Any, *, submission_id: str, task_id: str) -> Record:
    """
    Check a trainer's result.json, which comes from a container that ran submitted code.

    :param result: The parsed document.
    :return: The same document.
    :raises ResultRefused: If it is not the result of this task, or lacks what is published.
    """
    if not isinstance(result, dict) or result.get("contract") != 1:
        raise ResultRefused("result.json: not a result of contract 1")
    if (result.get("submission_id"), result.get("task_id")) != (submission_id, task_id):
        raise ResultRefused(
            f"result.json: is of {result.get('submission_id')}/{result.get('task_id')}, "
            f"not of {submission_id}/{task_id}"
        )
    metrics = result.get("metrics")
    if not isinstance(metrics, dict) or not 0 < len(metrics) <= MAX_METRICS:
        raise ResultRefused(f"result.json: has no metrics, or more than {MAX_METRICS}")
    params = result.get("params") or {}
    if not isinstance(params, dict) or len(params) > MAX_PARAMS:
        raise ResultRefused(f"result.json: params are no object of at most {MAX_PARAMS}")
    for name, value in metrics.items():
        if isinstance(value, bool) or not (value is None or isinstance(value, (int, float))):
            raise ResultRefused(f"result.json: metric {name!r} is {value!r}, not a number or null")
        if value is not None and not is_storable(value):
            raise ResultRefused(
                f"result.json: metric {name!r} is not finite or beyond all range; null says so"
            )
        if not _METRIC_NAME.fullmatch(name):
            raise ResultRefused(f"result.json: {name!r} is no name for a metric")
    _check_facts(result)
    paths = {str(item.get("path")) for item in result.get("files", ()) if isinstance(item, dict)}
    missing = [name for name in STRATEGIES if f"models/{name}.h5" not in paths]
    if missing:
        raise ResultRefused(f"result.json: lists no models/{missing[0]}.h5")
    return result


_FACTS = ("metric_notes", "params", "versions", "data")
_ROW = ("metrics", *_FACTS, "seed", "prediction_interval", "predictions_sha256")


def _check_facts(result: Record) -> None:
    """Refuse what a model's row could not hold: it repeats the facts beside the metrics."""
    for name in _FACTS:
        table = result.get(name) or {}
        if not isinstance(table, dict):
            raise ResultRefused(f"result.json: {name} is no object")
        for key, value in table.items():
            if isinstance(value, (dict, list)):
                raise ResultRefused(
                    f"result.json: {name} has {shorten(key)}, which is no plain value"
                )
            if isinstance(value, (int, float)) and not is_storable(value):
                raise ResultRefused(
                    f"result.json: {name} has {shorten(key)}, a number beyond all range"
                )
    for name in ("seed", "prediction_interval"):
        value = result.get(name)
        if value is not None and (not isinstance(value, int) or not is_storable(value)):
            raise ResultRefused(f"result.json: {name} is no whole number of a usual size")
    if not isinstance(result.get("predictions_sha256"), (str, type(None))):
        raise ResultRefused("result.json: predictions_sha256 is no text")
    try:
        facts = {key: result.get(key) for key in _ROW}
        size = len(json.dumps(facts, ensure_ascii=False).encode())
    except UnicodeEncodeError as error:
        raise ResultRefused("result.json: has text that is in no encoding") from error
    if size > MAX_FACTS_BYTES:
        raise ResultRefused(
            f"result.json: {', '.join(_ROW[:-3])} have {size} bytes together; "
            f"there may be {MAX_FACTS_BYTES}"
        )


def build_evaluations(
    result: Record, ref: AttemptRef, *, models: Sequence[Record], mlflow: Record, now: str
) -> list[Record]:
    """
    Return the rows of ``ModelPostTrainEvaluation``: one per model of the pair.

    :param result: The checked result.json.
    :param ref: The attempt it came from.
    :param models: What is published of each model, in any order.
    :param mlflow: ``run_id`` and ``url`` of the MLflow run.
    :param now: The time, ISO 8601.
    """
    return [
        {
            "model_id": f"{ref.submission_id}/{ref.task_id}/{model['strategy']}",
            "model_group_id": ref.submission_id,
            "submission_id": ref.submission_id,
            "task_id": ref.task_id,
            "attempt": ref.attempt,
            "fence": ref.fence,
            "strategy": model["strategy"],
            "prediction_interval": result.get("prediction_interval"),
            "metrics": result["metrics"],
            "metric_notes": result.get("metric_notes") or {},
            "params": result.get("params") or {},
            "versions": result.get("versions") or {},
            "data": result.get("data") or {},
            "seed": result.get("seed"),
            "predictions_sha256": result.get("predictions_sha256"),
            "model_key": model["key"],
            "model_sha256": model["sha256"],
            "may_carry_code": model["may_carry_code"],
            "code_reason": model["code_reason"],
            "mlflow_run_id": mlflow["run_id"],
            "mlflow_url": mlflow["url"],
            "created_at": now,
        }
        for model in models
    ]


def summarise_task(record: Record) -> Record:
    """Return a task's line in its submission's results."""
    published = record.get("published") or {}
    models = published.get("models") or []
    return {
        "task_id": record["task_id"],
        "interval": record.get("interval"),
        "status": record["status"],
        "reason": cut(record.get("reason")),
        "metrics": published.get("metrics") or {},
        "metric_notes": published.get("metric_notes") or {},
        "models": models,
        "may_carry_code": any(model.get("may_carry_code") for model in models),
        "mlflow_url": published.get("mlflow_url"),
    }


def _is_cancelled(task: Record) -> bool:
    # Its agent may not have answered yet: the wish is what counts.
    return task.get("outcome") == Outcome.CANCELLED or bool(
        task.get("outcome") is None and task.get("cancel")
    )


def judge_submission(tasks: Sequence[Record]) -> Record:
    """
    Say how a scheduled submission ended.

    The score is the mean of the net annualised Sharpe ratio over the intervals. With any interval
    missing there is none: an average over survivors would flatter.

    :param tasks: The records of the schedule's trainings.
    :return: Fields of the submission: status, reason, score, verdict, results, chart links.
    """
    fields: Record = {
        "results": [summarise_task(task) for task in tasks],
        "chart_links": [
            {"task_id": task["task_id"], **chart}
            for task in tasks
            for chart in (task.get("published") or {}).get("charts", ())
        ],
        "score": None,
        "similarity": None,
        "verdict": "not judged",
    }
    failed = [task for task in tasks if task["status"] != TaskStatus.SUCCESS]
    if not tasks or failed:
        broken = [task for task in failed if not _is_cancelled(task)]
        is_cancelled = bool(failed) and not broken
        culprit = (broken or failed or [{"task_id": "plan", "reason": "no training"}])[0]
        why = culprit.get("reason") or (culprit.get("cancel") or {}).get("reason") or "did not end"
        reason = cut(f"{culprit['task_id']}: {why}")
        status = SubmissionStatus.CANCELLED if is_cancelled else SubmissionStatus.ERROR
        return fields | {
            "status": status.value,
            "reason": reason,
            "verdict_reason": f"{len(failed)} of {len(tasks)} intervals have no result",
        }
    scores = [fields["results"][i]["metrics"].get(MAIN_METRIC) for i in range(len(tasks))]
    if all(score is not None for score in scores):
        fields["score"] = math.fsum(scores) / len(scores)
        fields["verdict_reason"] = "no baseline to compare with"
    else:
        fields["verdict_reason"] = f"an interval has no {MAIN_METRIC}"
    return fields | {"status": SubmissionStatus.SUCCESS.value, "reason": None}


# --- what stands in a record, and what beside it ------------------------------------------------


def split_published(published: Record) -> tuple[Record, Record]:
    """
    Divide what a training has published into what its record keeps, and the rest.

    :param published: With ``metrics``, ``metric_notes`` and ``charts``.
    :return: The record's part, with the main figures only; and a document with all of them.
    """
    document = {key: published[key] for key in ("metrics", "metric_notes", "charts")}
    kept = {key: value for key, value in published.items() if key not in document}
    return kept | {"metrics": _pick_main(published["metrics"])}, document


def join_published(kept: Record, document: Record) -> Record:
    """Return what :func:`split_published` has divided."""
    return {key: value for key, value in kept.items() if key != "details"} | document


def split_results(fields: Record) -> tuple[Record, Record]:
    """
    Divide what a submission came to into what its record keeps, and the rest.

    :param fields: As :func:`judge_submission` returns them.
    :return: The record's fields, with the main figures only; and a document with all of them.
    """
    document = {key: fields[key] for key in ("results", "chart_links")}
    results = [
        {key: value for key, value in line.items() if key not in {"metric_notes", "models"}}
        | {"metrics": _pick_main(line["metrics"])}
        for line in fields["results"]
    ]
    return {**fields, "results": results, "chart_links": []}, document


def _pick_main(metrics: Record) -> Record:
    return {name: metrics[name] for name in MAIN_METRICS if name in metrics}
