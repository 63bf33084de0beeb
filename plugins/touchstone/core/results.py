"""What trainings and a whole submission amount to: evaluations, aggregates, the verdict."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
)

from touchstone.core.attempts import cut
from touchstone.core.names import build_task_id
from touchstone.core.outcomes import Outcome
from touchstone.core.states import SubmissionStatus, TaskStatus
from touchstone_agent.protocol.documents import MAX_INTEGER, DocumentRefused, parse_json
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.words import Sha256, build_line, describe_refusal, is_storable

Record = dict[str, Any]

STRATEGIES = ("long", "short")
MAIN_METRIC = "net_sharpe"
MAIN_METRICS = (
    *(MAIN_METRIC, "net_sharpe_low", "net_sharpe_high", "hit_rate_minus_base", "max_drawdown"),
    *("total_return", "turnover", "auc_long", "auc_short"),
)
"""Those that are shown in lists, and so stand in the records themselves."""

MAX_METRICS = 200
MAX_PARAMS = 90
"""MLflow takes a hundred in one request, and ours are added."""

MAX_FACTS = 50
MAX_DEVICE_FACTS = 12
MAX_VALUE = 1000
RESULT_BYTES = 1024**2
"""Largest result.json that is read."""

KEPT_BYTES = 192 * 1024
"""All that a model's row repeats of one, as JSON: a record has room for so much."""

_NAME = re.compile(r"[A-Za-z_][\w .:/-]{0,199}")


class ResultRefused(PermanentError):
    """A result.json breaks the contract; the message says where."""


def _check_scalar(value: object, limit: int = MAX_VALUE) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return build_line(value, limit)
    if not isinstance(value, int | float):
        raise ValueError("is neither a text nor a number")
    if not is_storable(value) or (abs(value) > MAX_INTEGER and isinstance(value, int)):
        raise ValueError("is beyond all range")
    return value


def _check_name(name: str) -> str:
    # MLflow takes a name for a path, and refuses one that could be written in another way.
    if not _NAME.fullmatch(name) or posixpath.normpath(name) != name:
        raise ValueError(f"{build_line(name, 60)!r} is no name")
    return name


_Key = Annotated[str, AfterValidator(_check_name)]
_Scalar = Annotated[Any, PlainValidator(_check_scalar)]
_Note = Annotated[str, BeforeValidator(lambda v: build_line(v, 200) if isinstance(v, str) else v)]
_Fact = Annotated[Any, PlainValidator(lambda v: _check_scalar(v, limit=200))]
_Text = Annotated[str, BeforeValidator(lambda v: build_line(v, 100) if isinstance(v, str) else v)]


class _Kept(BaseModel):
    """What is kept of a result.json, beside its metrics: flat, and of a bounded size."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prediction_interval: int | None = Field(default=None, ge=1, le=100_000)
    metric_notes: dict[_Key, _Note] | None = Field(default=None, max_length=MAX_METRICS)
    params: dict[_Key, _Scalar] | None = Field(default=None, max_length=MAX_PARAMS)
    versions: dict[_Key, _Text] | None = Field(default=None, max_length=MAX_FACTS)
    data: dict[_Key, _Scalar] | None = Field(default=None, max_length=MAX_FACTS)
    device: dict[_Key, _Fact] | None = Field(default=None, max_length=MAX_DEVICE_FACTS)
    seed: int | None = Field(default=None, ge=-MAX_INTEGER, le=MAX_INTEGER)
    predictions_sha256: Sha256 | None = None


def read_result(text: bytes, *, submission_id: str, task_id: str) -> Record:
    """
    Read a trainer's result.json, which comes from a container that ran submitted code.

    :param text: The file.
    :return: What :func:`check_result` keeps of it.
    :raises ResultRefused: If it is not the result of this task, or not what the contract asks for.
    """
    try:
        document = parse_json(text, max_bytes=RESULT_BYTES)
    except DocumentRefused as error:
        raise ResultRefused(f"result.json: {error}") from error
    return check_result(document, submission_id=submission_id, task_id=task_id)


def check_result(result: Any, *, submission_id: str, task_id: str) -> Record:
    """
    Check a parsed result.json.

    :return: What is kept of it, each field within its bounds: ``metrics``, ``metric_notes``,
        ``params``, ``versions``, ``data``, ``device``, ``seed``, ``prediction_interval`` and
        ``predictions_sha256``.
    :raises ResultRefused: If it is not the result of this task, or lacks what is published; names
        the field.
    """
    if not isinstance(result, dict) or result.get("contract") != 1:
        raise ResultRefused("result.json: not a result of contract 1")
    if (result.get("submission_id"), result.get("task_id")) != (submission_id, task_id):
        told = build_line(f"{result.get('submission_id')}/{result.get('task_id')}", 100)
        raise ResultRefused(f"result.json: is of {told}, not of {submission_id}/{task_id}")
    metrics = _check_metrics(result.get("metrics"))
    listed = result.get("files")
    items = listed if isinstance(listed, list) else ()
    paths = {str(item.get("path")) for item in items if isinstance(item, dict)}
    missing = [name for name in STRATEGIES if f"models/{name}.h5" not in paths]
    if missing:
        raise ResultRefused(f"result.json: lists no models/{missing[0]}.h5")
    try:
        kept = _Kept.model_validate(result)
    except ValidationError as error:
        raise ResultRefused(f"result.json: {describe_refusal(error)}") from error
    interval = kept.prediction_interval
    if interval and build_task_id(interval) != task_id:
        raise ResultRefused(
            f"result.json: prediction_interval: is {interval}, not that of {task_id}"
        )
    found = {"metrics": metrics, **kept.model_dump()}
    size = len(json.dumps(found).encode())
    if size > KEPT_BYTES:
        raise ResultRefused(
            f"result.json: params, notes and the like have {size} bytes; {KEPT_BYTES} are kept"
        )
    return found


def _check_metrics(metrics: Any) -> dict[str, float | None]:
    if not isinstance(metrics, dict) or not 0 < len(metrics) <= MAX_METRICS:
        raise ResultRefused(f"result.json: has no metrics, or more than {MAX_METRICS}")
    for name, value in metrics.items():
        shown = build_line(name, 100)
        try:
            _check_name(name)
        except ValueError as error:
            raise ResultRefused(f"result.json: {shown!r} is no name for a metric") from error
        if isinstance(value, bool) or not (value is None or isinstance(value, (int, float))):
            told = build_line(repr(value), 60)
            raise ResultRefused(f"result.json: metric {shown!r} is {told}, not a number or null")
        if value is not None and not is_storable(value):
            raise ResultRefused(
                f"result.json: metric {shown!r} is not finite or beyond all range; null says so"
            )
    return metrics


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
            "device": result.get("device") or {},
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
        "device": published.get("device") or {},
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
        {
            key: value
            for key, value in line.items()
            if key not in {"metric_notes", "models", "device"}
        }
        | {"metrics": _pick_main(line["metrics"])}
        for line in fields["results"]
    ]
    return {**fields, "results": results, "chart_links": []}, document


def _pick_main(metrics: Record) -> Record:
    return {name: metrics[name] for name in MAIN_METRICS if name in metrics}
