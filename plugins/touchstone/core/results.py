"""What trainings and a whole submission amount to: evaluations, aggregates, the verdict."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from touchstone.core.attempts import is_storable
from touchstone.core.names import build_model_key
from touchstone.core.outcomes import Outcome
from touchstone.core.states import SubmissionStatus, TaskStatus
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import AttemptRef

Record = dict[str, Any]

STRATEGIES = ("long", "short")
MAIN_METRIC = "net_sharpe"
MAX_METRICS = 200
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
    paths = {str(item.get("path")) for item in result.get("files", ()) if isinstance(item, dict)}
    missing = [name for name in STRATEGIES if f"models/{name}.h5" not in paths]
    if missing:
        raise ResultRefused(f"result.json: lists no models/{missing[0]}.h5")
    return result


def build_evaluations(
    result: Record, ref: AttemptRef, *, files: Mapping[str, Record], mlflow: Record, now: str
) -> list[Record]:
    """
    Return the rows of ``ModelPostTrainEvaluation``: one per model of the pair.

    :param result: The checked result.json.
    :param ref: The attempt it came from.
    :param files: The uploaded files by path.
    :param mlflow: ``run_id`` and ``url`` of the MLflow run.
    :param now: The time, ISO 8601.
    """
    return [
        {
            "model_id": f"{ref.submission_id}/{ref.task_id}/{strategy}",
            "model_group_id": ref.submission_id,
            "submission_id": ref.submission_id,
            "task_id": ref.task_id,
            "attempt": ref.attempt,
            "fence": ref.fence,
            "strategy": strategy,
            "prediction_interval": result.get("prediction_interval"),
            "metrics": result["metrics"],
            "metric_notes": result.get("metric_notes") or {},
            "params": result.get("params") or {},
            "versions": result.get("versions") or {},
            "data": result.get("data") or {},
            "seed": result.get("seed"),
            "predictions_sha256": result.get("predictions_sha256"),
            "model_key": build_model_key(ref, strategy),
            "model_sha256": files[f"models/{strategy}.h5"]["sha256"],
            "mlflow_run_id": mlflow["run_id"],
            "mlflow_url": mlflow["url"],
            "created_at": now,
        }
        for strategy in STRATEGIES
    ]


def summarise_task(record: Record) -> Record:
    """Return a task's line in its submission's results."""
    published = record.get("published") or {}
    return {
        "task_id": record["task_id"],
        "interval": record.get("interval"),
        "status": record["status"],
        "reason": record.get("reason"),
        "metrics": published.get("metrics") or {},
        "metric_notes": published.get("metric_notes") or {},
        "models": published.get("models") or [],
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
        reason = f"{culprit['task_id']}: {why}"
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
