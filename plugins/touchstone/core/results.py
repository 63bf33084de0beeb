"""What trainings and a whole submission amount to: evaluations, aggregates, the verdict."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationError,
)

from touchstone.core.attempts import MAX_REASON
from touchstone.core.fold_results import Pooled, group_folds, summarise_folds, tell_failed
from touchstone.core.judging import hide_held_back, mark_reported
from touchstone.core.names import build_model_name, build_task_id, find_interval_id
from touchstone.core.outcomes import Outcome
from touchstone.core.records.beside import Beside
from touchstone.core.records.evaluations import Evaluation
from touchstone.core.records.judged import BEFORE_JUDGING, Judged, JudgedStatus
from touchstone.core.records.submissions import (
    AFTER_CLOSING,
    HELD_BACK,
    NOT_JUDGED,
    ChartLink,
    Fact,
    ModelLine,
    Number,
    ResultLine,
)
from touchstone.core.records.tasks import Published, PublishedModel, Task, cut
from touchstone.core.schedule import MAX_SEEDS
from touchstone.core.states import SubmissionStatus, TaskStatus
from touchstone.core.waivers import WaivedColumns
from touchstone_agent.protocol.documents import MAX_INTEGER, DocumentRefused, parse_json
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import AttemptRef
from touchstone_agent.protocol.words import Sha256, build_line, describe_refusal, is_storable

STRATEGIES = ("long", "short")
MAIN_METRIC = "net_sharpe"
MAIN_METRICS = (
    *(MAIN_METRIC, "net_sharpe_low", "net_sharpe_high", "hit_rate_minus_base", "max_drawdown"),
    *("total_return", "turnover", "auc_long", "auc_short"),
)
"""Those that are shown in lists, and so stand in the records themselves."""

CONTRACTS = (1, 2)
"""Versions of the trainer contract whose results are read: an older image goes on being of use."""

MAX_METRICS = 200
"""With more of them a result is refused."""
MAX_PARAMS = 90
"""MLflow takes a hundred in one request, and ours are added."""

MAX_FACTS = 50
MAX_DEVICE_FACTS = 12
MAX_VALUE = 1000
"""Facts that are kept of a training and of its device, and the characters of each."""
RESULT_BYTES = 1024**2
"""Largest result.json that is read."""

KEPT_BYTES = 192 * 1024
"""All that a model's row repeats of one, as JSON: a record has room for so much."""

_NAME = re.compile(r"[A-Za-z_][\w .:/-]{0,199}")


class ResultRefused(PermanentError):
    """A result.json breaks the contract; the message says where."""


def _check_scalar(value: object, limit: int = MAX_VALUE) -> Fact:
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
_Scalar = Annotated[Fact, PlainValidator(_check_scalar)]
_Note = Annotated[str, BeforeValidator(lambda v: build_line(v, 200) if isinstance(v, str) else v)]
_ShortFact = Annotated[Fact, PlainValidator(lambda v: _check_scalar(v, limit=200))]
_Text = Annotated[str, BeforeValidator(lambda v: build_line(v, 100) if isinstance(v, str) else v)]


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """
    A model that a training leaves.

    :param strategy: Which of the pair.
    :param name: Its file's, without folder and ending.
    :param seed: Its seed, where there are several; else ``None``.
    """

    strategy: str
    name: str
    seed: int | None


def list_models(seed: int | None, count: int) -> tuple[TrainedModel, ...]:
    """
    Return the models that a training leaves, seed by seed.

    :param seed: The first seed; ``None`` if nobody knows.
    :param count: How many seeds there are.
    """
    return tuple(
        TrainedModel(
            strategy=strategy,
            name=build_model_name(strategy, number),
            seed=None if seed is None or count == 1 else seed + number,
        )
        for number in range(count)
        for strategy in STRATEGIES
    )


class _Kept(BaseModel):
    """What is kept of a result.json, beside its metrics: flat, and of a bounded size."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    contract: int
    prediction_interval: int | None = Field(default=None, ge=1, le=100_000)
    metric_notes: dict[_Key, _Note] | None = Field(default=None, max_length=MAX_METRICS)
    params: dict[_Key, _Scalar] | None = Field(default=None, max_length=MAX_PARAMS)
    versions: dict[_Key, _Text] | None = Field(default=None, max_length=MAX_FACTS)
    data: dict[_Key, _Scalar] | None = Field(default=None, max_length=MAX_FACTS)
    device: dict[_Key, _ShortFact] | None = Field(default=None, max_length=MAX_DEVICE_FACTS)
    seed: int | None = Field(default=None, ge=-MAX_INTEGER, le=MAX_INTEGER)
    seed_count: int | None = Field(default=None, ge=1, le=MAX_SEEDS)
    waived_columns: WaivedColumns | None = None
    predictions_sha256: Sha256 | None = None


class TrainerResult(_Kept):
    """
    What is kept of a result.json; ``None`` for what it does not tell.

    :param metrics: Its figures by name; ``None`` for one that is undefined.
    """

    metrics: Mapping[str, Number | None]


def read_result(text: bytes, *, submission_id: str, task_id: str) -> TrainerResult:
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


def check_result(result: object, *, submission_id: str, task_id: str) -> TrainerResult:
    """
    Check a parsed result.json.

    :return: What is kept of it, each field within its bounds.
    :raises ResultRefused: If it is not the result of this task, or lacks what is published; names
        the field.
    """
    if not isinstance(result, dict) or result.get("contract") not in CONTRACTS:
        spoken = " or ".join(map(str, CONTRACTS))
        raise ResultRefused(f"result.json: not a result of contract {spoken}")
    if (result.get("submission_id"), result.get("task_id")) != (submission_id, task_id):
        told = build_line(f"{result.get('submission_id')}/{result.get('task_id')}", 100)
        raise ResultRefused(f"result.json: is of {told}, not of {submission_id}/{task_id}")
    metrics = _check_metrics(result.get("metrics"))
    listed = result.get("files")
    items = listed if isinstance(listed, list) else ()
    paths = {str(item.get("path")) for item in items if isinstance(item, dict)}
    try:
        kept = _Kept.model_validate(result)
    except ValidationError as error:
        raise ResultRefused(f"result.json: {describe_refusal(error)}") from error
    if kept.seed is None and (kept.seed_count or 1) > 1:
        raise ResultRefused(f"result.json: seed: is missing, and seed_count is {kept.seed_count}")
    names = [model.name for model in list_models(kept.seed, kept.seed_count or 1)]
    missing = [name for name in names if f"models/{name}.h5" not in paths]
    if missing:
        raise ResultRefused(f"result.json: lists no models/{missing[0]}.h5")
    interval = kept.prediction_interval
    if interval and build_task_id(interval) != find_interval_id(task_id):
        raise ResultRefused(
            f"result.json: prediction_interval: is {interval}, not that of {task_id}"
        )
    found = TrainerResult(metrics=metrics, **kept.model_dump())
    size = len(json.dumps(found.model_dump()).encode())
    if size > KEPT_BYTES:
        raise ResultRefused(
            f"result.json: params, notes and the like have {size} bytes; {KEPT_BYTES} are kept"
        )
    return found


def _check_metrics(metrics: object) -> dict[str, Number | None]:
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
    result: TrainerResult,
    ref: AttemptRef,
    *,
    judged: Judged,
    models: Sequence[PublishedModel],
    mlflow_run_id: str,
    mlflow_url: str,
    now: datetime,
) -> list[Evaluation]:
    """
    Return the rows of ``ModelPostTrainEvaluation``: one per model of the pair.

    :param result: The checked result.json.
    :param ref: The attempt it came from.
    :param judged: What the judge found of it.
    :param models: What is published of each model, in any order.
    :param mlflow_run_id: The training's run in MLflow.
    :param mlflow_url: That run's address.
    :param now: The time, UTC.
    """
    return [
        Evaluation(
            model_id=f"{ref.submission_id}/{ref.task_id}/{model.name or model.strategy}",
            model_group_id=ref.submission_id,
            submission_id=ref.submission_id,
            task_id=ref.task_id,
            attempt=ref.attempt,
            fence=ref.fence,
            strategy=str(model.strategy),
            prediction_interval=result.prediction_interval,
            judged=judged.status,
            judged_reason=judged.reason,
            metrics=judged.metrics,
            reported={} if judged.is_judged else result.metrics,
            metric_notes=judged.metric_notes if judged.is_judged else result.metric_notes or {},
            params=result.params or {},
            versions=result.versions or {},
            data=result.data or {},
            device=result.device or {},
            seed=result.seed if model.seed is None else model.seed,
            seed_count=result.seed_count or 1,
            predictions_sha256=result.predictions_sha256,
            model_key=str(model.key),
            model_sha256=str(model.sha256),
            may_carry_code=model.may_carry_code,
            code_reason=model.code_reason,
            mlflow_run_id=mlflow_run_id,
            mlflow_url=mlflow_url,
            created_at=now,
        )
        for model in models
    ]


def summarise_task(task: Task, published: Published | None) -> ResultLine:
    """
    Return a task's line in its submission's results.

    :param published: What it has published, with all its figures.
    """
    told = hide_held_back(mark_reported(published)) if published else Published()
    models = tuple(ModelLine.load(model.dump()) for model in told.models)
    fold = task.spec.fold
    line = ResultLine(
        task_id=task.task_id,
        interval=task.interval,
        status=task.status,
        reason=cut(task.newest.reason, MAX_REASON),
        judged=told.judged.status if told.judged else None,
        judged_reason=_tell_judging(told.judged) if told.judged else None,
        metrics=told.metrics,
        reported=told.reported,
        metric_notes=told.metric_notes,
        models=models,
        device=told.device,
        may_carry_code=any(model.may_carry_code for model in models),
        mlflow_url=told.mlflow_url,
    )
    # Without folds it is written as by the versions that knew of none.
    return line if fold is None else line.change(fold=fold.number, rows=fold.rows)


def _list_lines(
    tasks: Sequence[tuple[Task, Published | None]], pooled: Mapping[int, Pooled]
) -> tuple[ResultLine, ...]:
    """Return the lines of trainings; before those of an interval's folds that of all together."""
    lines = [summarise_task(task, published) for task, published in tasks]
    for interval, folds in group_folds(tasks).items():
        ids = {task.task_id for task, _ in folds}
        own = [line for line in lines if line.task_id in ids]
        is_held_back = any(published and published.held_back for _, published in folds)
        found = Pooled() if is_held_back else pooled.get(interval)
        lines.insert(lines.index(own[0]), summarise_folds(interval, own, found))
    return tuple(lines)


def _tell_judging(judged: Judged) -> str | None:
    """Return why a training is not judged, or who has judged it if it was not the own judge."""
    if judged.reason is not None or judged.there is None:
        return judged.reason
    return f"by the judge of {judged.there.server}, which holds the data"


def _is_cancelled(task: Task) -> bool:
    # Its agent may not have answered yet: the cancel request counts.
    newest = task.newest
    return newest.outcome is Outcome.CANCELLED or bool(newest.outcome is None and newest.cancel)


def _tell_end(task: Task) -> str:
    """Return why a task has no result."""
    cancel = task.newest.cancel
    return task.newest.reason or (cancel.reason if cancel else "did not end")


@dataclass(frozen=True, kw_only=True)
class SubmissionEnd:
    """
    How a scheduled submission ended.

    :param status: The status that it ends in.
    :param reason: Why, if it did not end well.
    :param results: What each training came to.
    :param chart_links: The charts of all of them.
    :param score: Mean net Sharpe ratio of the intervals; ``None`` where one is missing.
    :param similarity: How like its baseline it is; ``None`` where :attr:`beside` says why.
    :param beside: What is shown beside the verdict; ``None`` where there is none.
    :param verdict: What came of the comparison.
    :param verdict_reason: Why.
    """

    status: SubmissionStatus
    reason: str | None
    results: tuple[ResultLine, ...]
    chart_links: tuple[ChartLink, ...]
    score: float | None = None
    similarity: float | None = None
    beside: Beside | None = None
    verdict: str = NOT_JUDGED
    verdict_reason: str | None = None


def judge_submission(
    tasks: Sequence[tuple[Task, Published | None]], pooled: Mapping[int, Pooled] | None = None
) -> SubmissionEnd:
    """
    Say how a scheduled submission ended.

    The score is the mean of the net annualised Sharpe ratio over the intervals, as the judge found
    it. With any interval missing, or not judged, there is none: an average over survivors would
    flatter.

    :param tasks: The schedule's trainings, each with all that it has published.
    :param pooled: What the folds of an interval come to together, by interval.
    """
    results = _list_lines(tasks, pooled or {})
    charts = tuple(
        ChartLink.load({"task_id": task.task_id, **chart.dump()})
        for task, published in tasks
        for chart in (hide_held_back(published).charts if published else ())
    )
    failed = [task for task, _ in tasks if task.status is not TaskStatus.SUCCESS]
    if not tasks or failed:
        broken = [task for task in failed if not _is_cancelled(task)]
        is_cancelled = bool(failed) and not broken
        told = [f"{task.task_id}: {_tell_end(task)}" for task in broken or failed]
        return SubmissionEnd(
            status=SubmissionStatus.CANCELLED if is_cancelled else SubmissionStatus.ERROR,
            reason=cut(told[0] if told else "plan: no training", MAX_REASON),
            results=results,
            chart_links=charts,
            verdict_reason=tell_failed([task for task, _ in tasks], failed),
        )
    end = SubmissionEnd(
        status=SubmissionStatus.SUCCESS, reason=None, results=results, chart_links=charts
    )
    is_held_back = any(published is not None and published.held_back for _, published in tasks)
    first = tasks[0][1]
    if first is not None and first.replay is not None:
        if is_held_back:
            return replace(end, verdict=HELD_BACK, verdict_reason=AFTER_CLOSING)
        # A replay publishes no result, so it has no score.
        return replace(end, verdict=first.replay.verdict, verdict_reason=first.replay.reason)
    if is_held_back:
        return replace(end, verdict_reason=AFTER_CLOSING)
    # The line of all folds together says of which it is: their own come first.
    trained = {task.task_id for task, _ in tasks}
    ordered = sorted(results, key=lambda line: line.task_id not in trained)
    unjudged = [line for line in ordered if line.judged is JudgedStatus.NOT_JUDGED]
    if unjudged:
        reason = f"{unjudged[0].task_id}: {unjudged[0].judged_reason}"
        return replace(end, verdict_reason=cut(reason, MAX_REASON))
    found = [line.metrics.get(MAIN_METRIC) for line in results if line.fold is None]
    scores = [score for score in found if score is not None]
    if len(scores) < len(found):
        return replace(end, verdict_reason=f"an interval has no {MAIN_METRIC}")
    return replace(
        end,
        score=math.fsum(scores) / len(scores),
        verdict_reason="no baseline to compare with",
    )


# --- what stands in a record, and what beside it ------------------------------------------------


_BESIDE = frozenset({"metrics", "metric_notes", "reported", "charts"})


def split_published(published: Published) -> tuple[Published, dict[str, JsonValue]]:
    """
    Divide what a training has published into what its record keeps, and the rest.

    :return: The record's part, with the main figures only; and a document with all of them.
    """
    whole = published.mark_set(_BESIDE).dump()
    document: dict[str, JsonValue] = {name: whole[name] for name in sorted(_BESIDE)}
    kept = {name: value for name, value in whole.items() if name not in _BESIDE}
    main = {"metrics": _pick_main(published.metrics), "reported": _pick_main(published.reported)}
    return Published.load({**kept, **main}), document


def join_published(kept: Published, document: Mapping[str, JsonValue]) -> Published:
    """Return what :func:`split_published` has divided."""
    whole = {name: value for name, value in kept.dump().items() if name != "details"}
    return Published.load({**whole, **document})


def split_results(end: SubmissionEnd) -> tuple[SubmissionEnd, dict[str, JsonValue]]:
    """
    Divide what a submission came to into what its record keeps, and the rest.

    :return: What the record keeps, with the main figures only; and a document with all of them.
    """
    document: dict[str, JsonValue] = {
        "results": [line.dump() for line in end.results],
        "chart_links": [link.dump() for link in end.chart_links],
    }
    results = tuple(_cut_line(line) for line in end.results)
    return replace(end, results=results, chart_links=()), document


def _cut_line(line: ResultLine) -> ResultLine:
    kept = ResultLine(
        task_id=line.task_id,
        interval=line.interval,
        status=line.status,
        reason=line.reason,
        judged=line.judged,
        judged_reason=line.judged_reason,
        metrics=_pick_main(line.metrics),
        reported=_pick_main(line.reported),
        may_carry_code=line.may_carry_code,
        mlflow_url=line.mlflow_url,
    )
    return kept if line.fold is None else kept.change(fold=line.fold, rows=line.rows)


def _pick_main(metrics: Mapping[str, Number | None]) -> dict[str, Number | None]:
    return {name: metrics[name] for name in MAIN_METRICS if name in metrics}


def tell_lines(lines: JsonValue, *, is_replay: bool) -> list[JsonValue]:
    """
    Return stored lines of results as they are shown: unjudged figures are reported only.

    :param lines: As they are stored; ``None`` for none. One from before says nothing of a judge.
    :param is_replay: Whether they are of a replay, which is compared and never judged.
    """
    found = lines if isinstance(lines, list) else []
    return found if is_replay else [_tell_line(line) for line in found]


def _tell_line(line: JsonValue) -> JsonValue:
    if not isinstance(line, dict) or line.get("judged") is not None or not line.get("metrics"):
        return line
    return {
        **line,
        "judged": JudgedStatus.NOT_JUDGED.value,
        "judged_reason": BEFORE_JUDGING,
        "metrics": {},
        "reported": line["metrics"],
    }
