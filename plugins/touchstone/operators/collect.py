"""Publishes what a training has produced."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from pydantic import TypeAdapter, ValidationError

from touchstone.core import phases
from touchstone.core.charts import (
    CHARTS,
    FIGURES,
    HELD_BACK,
    JUDGE,
    NOT_DRAWN,
    NOT_NOW,
    REPORTED,
    RETURNS,
    TRAINER,
    BaselineReturns,
    JudgesFiles,
    build_question,
    is_open_file,
    place_file,
    write_returns,
)
from touchstone.core.event_rules import is_hidden
from touchstone.core.figures import build_document
from touchstone.core.gpus import describe_device, find_gpu_use
from touchstone.core.judging import (
    CONTRACT_1,
    accept_answer,
    build_rules,
    find_other_rows,
    find_other_seeds,
    hide_figures_of_reason,
    refuse_judging,
)
from touchstone.core.names import build_attempt_prefix, build_model_key, build_output_key
from touchstone.core.outcomes import Outcome
from touchstone.core.records.tasks import (
    Attempt,
    Published,
    PublishedChart,
    PublishedModel,
    StoredFile,
    Task,
)
from touchstone.core.results import (
    RESULT_BYTES,
    ResultRefused,
    TrainedModel,
    TrainerResult,
    build_evaluations,
    list_models,
    read_result,
    split_published,
)
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import find_held_data
from touchstone.core.waivers import build_params, find_other_waivers
from touchstone.operators.authority import (
    get_map_index,
    get_run,
    get_task_of_instance,
    read_interval,
)
from touchstone.operators.replay import publish_replay
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.facts import Files, UploadedFile
from touchstone_agent.protocol.words import build_line, check_path, describe_refusal

if TYPE_CHECKING:
    from airflow.sdk import Context

    from touchstone.core.judging import JudgeAnswer
    from touchstone.core.model_config import CodeFinding
    from touchstone.core.records.evaluations import Evaluation
    from touchstone.core.records.judged import Judged, JudgingRules
    from touchstone.core.tasks import TaskSpec
    from touchstone.stores.objects import ObjectStore
    from touchstone.stores.records import RecordStore
    from touchstone_agent.protocol.messages import AttemptRef

log = logging.getLogger(__name__)

_FILES: TypeAdapter[tuple[UploadedFile, ...]] = TypeAdapter(Files)


class CollectOperator(BaseOperator):
    """
    Checks an attempt's uploads against their digests and publishes them.

    Models go to the models bucket, evaluations to DynamoDB, metrics and charts to MLflow; all of
    it from here, because trainers hold no credentials. Doing it twice publishes once.

    :param interval: (templated) The prediction interval, of folds which one, as given to the
        training.
    """

    template_fields: Sequence[str] = ("interval",)

    def __init__(self, *, interval: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interval = interval

    def execute(self, context: Context) -> None:
        """Wait, deferred, until the files are there; then publish."""
        from touchstone.stores.records import RecordStore
        from touchstone.triggers.agent import UploadTrigger

        task = self._get_task(RecordStore.connect(get_settings()), context)
        if task.newest.uploaded_at is None and task.status is TaskStatus.UPLOADING:
            self.defer(
                trigger=UploadTrigger(task.submission_id, task.task_id, task.fence),
                method_name="publish",
            )
        self.publish(context)

    def _get_task(self, records: RecordStore, context: Context) -> Task:
        # Also for the label in the grid: whatever else stands there is none.
        self.interval = read_interval(self.interval)
        return get_task_of_instance(
            records,
            get_run(context),
            interval=self.interval,
            map_index=get_map_index(context["ti"]),
        )

    def publish(
        self,
        context: Context,
        event: dict[str, object] | None = None,  # noqa: ARG002 - Airflow's signature
    ) -> None:
        """
        Publish the newest attempt's files.

        :raises AirflowFailException: If they are not what the contract promises.
        """
        from touchstone.stores.objects import ObjectStore
        from touchstone.stores.parts import Parts, find_files
        from touchstone.stores.records import RecordStore

        settings = get_settings()
        records, objects = RecordStore.connect(settings), ObjectStore.connect(settings)
        parts = Parts(objects, settings.content_bucket)
        task = self._get_task(records, context)
        ref = task.ref
        if task.newest.uploaded_at is None:
            raise AirflowFailException(
                f"{ref.task_key}: nothing was uploaded ({task.status}: {task.newest.reason}); "
                "clear the task 'train' of this interval, or fold, to run it again"
            )
        try:
            files = read_files(find_files(task.newest, parts))
            whole, evaluations = publish_attempt(objects, task, files)
            for evaluation in evaluations:
                records.put_evaluation(evaluation)
            kept, details = split_published(whole)
            part = parts.put(f"results/{build_attempt_prefix(ref)}", details)
            published = kept.change(details=part)
            records.change_task(
                ref.submission_id,
                ref.task_id,
                lambda found: phases.publish(
                    found, published, fence=ref.fence, now=datetime.now(UTC)
                ),
            )
        except PermanentError as error:
            # Also what no record can hold: it would be the same the next time.
            reason, fail = build_line(str(error)), _fail(error)
            records.change_task(ref.submission_id, ref.task_id, lambda found: fail(found, ref))
            raise AirflowFailException(reason) from error


def publish_attempt(
    objects: ObjectStore, task: Task, files: Mapping[str, UploadedFile]
) -> tuple[Published, list[Evaluation]]:
    """
    Publish the files of a training: models, and a run in MLflow; of a replay only what it shows.

    :param task: The task.
    :param files: What its newest attempt has left, by path.
    :return: What the record keeps of what is published, and the evaluations to write.
    :raises PermanentError: If the files are not what the contract promises, or not there.
    :raises TransientError: If a store cannot be used now.
    """
    from touchstone.confined.models import inspect_model
    from touchstone.hooks.mlflow import MlflowHook
    from touchstone.stores.parts import Parts

    settings, ref = get_settings(), task.ref
    if find_held_data(task.spec) is not None:
        return publish_figures(task), []
    if task.spec.replay is not None:
        replayed, held_back = publish_replay(objects, task, files), find_hold_back(task)
        return (replayed.change(held_back=held_back) if held_back else replayed), []
    use = find_gpu_use(task, datetime.now(UTC))
    held_back = find_hold_back(task)
    with tempfile.TemporaryDirectory(prefix="touchstone-collect-") as name:
        folder, shown = Path(name, "left"), Path(name, "shown")
        # First, and alone: its errors show before gigabytes are fetched.
        result = _read_result(objects, files, folder, ref)
        for file in files.values():
            _fetch(objects, file, folder, ref)
        # Every file is here and is what the verdict says, and nothing is published yet.
        trained = list_models(result.seed, result.seed_count or 1)
        inspected = {
            model.name: inspect_model(folder / "models" / f"{model.name}.h5") for model in trained
        }
        models = tuple(
            _publish_model(objects, files, ref, model, inspected[model.name]) for model in trained
        )
        judged, answer = _judge(objects, task, result, folder)
        if held_back:
            judged = hide_figures_of_reason(judged)
        told = {} if held_back else _list_metrics(result, judged)
        own = _draw(objects, task, judged, answer, held_back=held_back)
        paths = _lay_out(files, folder, shown, own, held_back=held_back)
        run = MlflowHook(settings=settings).publish(
            task_key=ref.task_key,
            attempt=f"{ref.attempt}-{ref.fence}",
            model_group_id=ref.submission_id,
            params=_as_params(result, task.spec),
            metrics=told | (use.list_metrics() if use else {}),
            tags=_build_tags(result, task.newest)
            | _tell_judged(judged)
            | _tell_shown(own, held_back=held_back),
            artifacts=shown,
        )
    now = datetime.now(UTC)
    drawn = own.kept_drawn
    if own.drawn is not None:
        parts = Parts(objects, settings.content_bucket)
        drawn = parts.put(f"charts/{build_attempt_prefix(ref)}", own.drawn)
    published = Published(
        metrics=judged.metrics,
        metric_notes=judged.metric_notes if judged.is_judged else result.metric_notes or {},
        reported={} if judged.is_judged else result.metrics,
        judged=judged,
        models=models,
        device=result.device or {},
        gpu=use.dump() if use else None,
        mlflow_run_id=run.run_id,
        mlflow_url=run.url,
        charts=own.kept
        or tuple(
            PublishedChart(name=Path(path).stem, url=run.artifact_url + quote(path), by=by)
            for path, by in _list_charts(paths)
        ),
        charts_note=own.note,
        drawn=drawn,
        held_back=held_back,
        published_at=now,
    )
    evaluations = build_evaluations(
        result,
        ref,
        judged=judged,
        models=models,
        mlflow_run_id=run.run_id,
        mlflow_url=run.url,
        now=now,
    )
    return published, evaluations


def publish_figures(task: Task) -> Published:
    """
    Return what is published of a training on private data: its server's figures, and nothing else.

    Models, predictions, charts and the console stay there, so there is no run in MLflow.
    """
    rules, newest = build_rules(task.spec.data), task.newest
    other = find_other_rows(task.spec, rules)
    judged = newest.judged or refuse_judging(f"{newest.server} told no figures", rules)
    if other is not None:
        judged = refuse_judging(other, rules).change(there=judged.there)
    return Published(
        metrics=judged.metrics,
        judged=judged,
        charts_note=f"they stay at {newest.server}, which holds the data",
        published_at=datetime.now(UTC),
    )


def _judge(
    objects: ObjectStore, task: Task, result: TrainerResult, folder: Path
) -> tuple[Judged, JudgeAnswer | None]:
    """
    Return what the judge finds of a training; the training is published in any case.

    :param folder: Its files, each as its digest says.
    :return: What goes on record, and the judge's answer if it has judged the training now.
    :raises TransientError: If a store cannot be used now, or this process is to end.
    """
    from touchstone.confined.judge import find_judge
    from touchstone.confined.judging import JudgeFailed, ask_judge
    from touchstone.services.data_sets import DataUnusable, fetch_data
    from touchstone.stores.parts import Parts

    settings, interval = get_settings(), task.interval
    rules = build_rules(task.spec.data, task.spec.fold)
    if result.contract == 1:
        return refuse_judging(CONTRACT_1, rules), None
    other = (
        find_other_rows(task.spec, rules)
        or find_other_seeds(task.spec, seed=result.seed, seed_count=result.seed_count)
        or find_other_waivers(result.waived_columns, task.spec.waived_columns)
    )
    if other is not None:
        return refuse_judging(other, rules), None
    try:
        if interval is None:
            raise JudgeFailed("the record names no interval")
        data_dir = fetch_data(objects, settings, task.spec.data)
        answer = ask_judge(find_judge(settings), folder, rules, interval, data_dir=data_dir)
    except (JudgeFailed, DataUnusable) as error:
        # Clearing this task judges again; what was found before by these rules still holds.
        before = task.newest.published.judged if task.newest.published else None
        if before is not None and before.is_judged and _has_rules(before, rules):
            return before, None
        log.warning("%s: the judge could not run: %s", task.name, error)
        return refuse_judging(f"the judge could not run ({error})", rules), None
    series = None
    if answer.judged:
        parts = Parts(objects, settings.content_bucket)
        series = parts.put_series(task.ref, answer.series)
    return accept_answer(answer, rules, series), answer if answer.judged else None


def find_hold_back(task: Task) -> str | None:
    """
    Return the event that is to be closed before any figure of a training is shown.

    A replay has the figures of what it replays, whatever event it is itself of.

    :return: ``None`` if there is none; an event that makes no sense holds back, too.
    """
    from touchstone.core.records.stored import RecordUnreadable
    from touchstone.stores.events import EventStore, UnknownEvent
    from touchstone.stores.records import RecordStore

    settings = get_settings()
    records = RecordStore.connect(settings)
    events = EventStore(records, settings.events_table)
    for name in _list_events(records, task):
        try:
            event = events.get_event(name)
        except UnknownEvent:
            continue
        except RecordUnreadable as error:
            log.warning("%s is held back: %s", task.name, error)
            return name
        if is_hidden(event.definition, closed_at=event.closed_at):
            return event.name
    return None


def _list_events(records: RecordStore, task: Task) -> list[str]:
    """Return the events that a training's rows may be of."""
    replayed = task.spec.replay
    if replayed is None:
        schedule = records.get_submission(task.submission_id).find_schedule(task.run_id)
        return [schedule.event] if schedule else []
    original = records.find_submission(replayed.submission_id)
    trained = records.find_task(replayed.submission_id, replayed.task_id)
    published = trained.newest.published if trained else None
    # It may have been scheduled again since, for another event.
    found = [original.schedule.event] if original and original.schedule else []
    return [*found, *([published.held_back] if published and published.held_back else [])]


def _draw(
    objects: ObjectStore,
    task: Task,
    judged: Judged,
    answer: JudgeAnswer | None,
    *,
    held_back: str | None,
) -> JudgesFiles:
    """
    Return the judge's own files of a training; one that is not drawn is published all the same.

    :raises TransientError: If a store cannot be used now, or this process is to end.
    """
    from touchstone.confined.charts import NotDrawn, ask_for_charts
    from touchstone.confined.judge import find_judge
    from touchstone.stores.parts import Parts, read_published

    if not judged.is_judged:
        return JudgesFiles(note=NOT_DRAWN)
    if held_back:
        return JudgesFiles(note=HELD_BACK)
    if answer is None or task.interval is None:
        # What was drawn then is still there, in the run of then.
        before = read_published(task, Parts(objects, get_settings().content_bucket))
        charts = before.charts if before else ()
        if before is None or not any(chart.by == JUDGE for chart in charts):
            return JudgesFiles(note=NOT_NOW)
        return JudgesFiles(kept=charts, kept_drawn=before.drawn)
    returns = {RETURNS: write_returns(answer)}
    baseline = _find_baseline(objects, task, judged)
    try:
        rules = build_rules(task.spec.data, task.spec.fold)
        question = build_question(answer, rules, task.interval, baseline)
        drawn = ask_for_charts(find_judge(get_settings()), question)
    except NotDrawn as error:
        log.warning("%s: the judge could not draw: %s", task.name, error)
        return JudgesFiles(files=returns, note=build_line(f"the judge could not draw ({error})"))
    document = build_document(drawn.figures, drawn.notes, baseline.name if baseline else None)
    figures = json.dumps(document, sort_keys=True)
    files = {f"{CHARTS}/{name}.svg": text.encode() for name, text in drawn.charts.items()}
    return JudgesFiles(files={**returns, FIGURES: figures.encode(), **files}, drawn=document)


def _find_baseline(objects: ObjectStore, task: Task, judged: Judged) -> BaselineReturns | None:
    """Return what the event's baseline has earned on the same rows; ``None`` if that is unknown."""
    from touchstone.stores.events import EventStore
    from touchstone.stores.parts import Parts, read_series
    from touchstone.stores.records import RecordStore

    settings = get_settings()
    records = RecordStore.connect(settings)
    try:
        schedule = records.get_submission(task.submission_id).find_schedule(task.run_id)
        events = EventStore(records, settings.events_table)
        name = events.get_event(schedule.event).chosen_baseline if schedule else None
        if name is None or name == task.submission_id:
            return None
        found = records.find_task(name, task.task_id)
        published = found.newest.published if found else None
        theirs = published.judged if published else None
        if theirs is None or theirs.series is None or theirs.rules != judged.rules:
            return None
        if theirs.rows_digest != judged.rows_digest:
            return None
        series = read_series(Parts(objects, settings.content_bucket), theirs)
    except PermanentError as error:
        # A curve that is missing is no reason to lose the others.
        log.warning("%s: the baseline is not drawn: %s", task.name, error)
        return None
    return BaselineReturns(name=name, net=series.net)


def _lay_out(
    files: Iterable[str], folder: Path, shown: Path, own: JudgesFiles, *, held_back: str | None
) -> list[str]:
    """
    Put what is shown of a training into a folder: the trainer's files, and the judge's own.

    :param files: Paths of the trainer's files.
    :param folder: Where those are.
    :param shown: Where to put all of it.
    :return: Paths in there.
    """
    shown.mkdir()
    paths = []
    for path in files:
        if held_back and not is_open_file(path):
            continue
        place = place_file(path)
        target = shown.joinpath(*check_path(place).split("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.joinpath(*check_path(path).split("/")).rename(target)
        paths.append(place)
    for path, body in own.files.items():
        target = shown / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(body)
        paths.append(path)
    return paths


def _list_charts(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Return the charts among what is shown, the judge's first, and whose each is."""
    charts = [(path, JUDGE) for path in paths if path.startswith(f"{CHARTS}/")]
    reports = [(path, TRAINER) for path in paths if path.startswith(f"{REPORTED}/{CHARTS}/")]
    return [*sorted(each for each in charts if each[0] != FIGURES), *sorted(reports)]


def _tell_shown(own: JudgesFiles, *, held_back: str | None) -> dict[str, str]:
    from touchstone.hooks.mlflow import CHARTS_TAG, HELD_BACK_TAG

    told = {CHARTS_TAG: f"none: {own.note}" if own.note else "drawn"}
    return told | ({HELD_BACK_TAG: held_back} if held_back else {})


def _has_rules(judged: Judged, rules: JudgingRules) -> bool:
    return judged.rules is not None and judged.rules.sha256 == rules.sha256


def _list_metrics(result: TrainerResult, judged: Judged) -> dict[str, float]:
    """Return the metrics for MLflow: the judge's figures, or the trainer's as reported."""
    if judged.is_judged:
        return {name: float(value) for name, value in judged.metrics.items() if value is not None}
    return {
        f"reported.{name}": float(value)
        for name, value in result.metrics.items()
        if value is not None
    }


def _tell_judged(judged: Judged) -> dict[str, str]:
    from touchstone.hooks.mlflow import JUDGED_REASON_TAG, JUDGED_TAG

    reason = {JUDGED_REASON_TAG: judged.reason} if judged.reason else {}
    return {JUDGED_TAG: judged.status.value, **reason}


def read_files(stored: Iterable[StoredFile]) -> dict[str, UploadedFile]:
    """
    Return the files of an attempt, by path.

    They were checked when their agent or pod told of them. They are checked again here, where
    their paths become files of this machine: nothing else keeps them below a folder.

    :raises PermanentError: If one could be anywhere else, or is too large.
    """
    try:
        files = _FILES.validate_python([file.dump() for file in stored])
    except ValidationError as error:
        raise PermanentError(f"the attempt's files: {describe_refusal(error)}") from error
    return {file.path: file for file in files}


def _fetch(objects: ObjectStore, file: UploadedFile, folder: Path, ref: AttemptRef) -> Path:
    target = folder.joinpath(*check_path(file.path).split("/"))
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        objects.fetch(
            get_settings().content_bucket,
            build_output_key(ref, file.path),
            target,
            sha256=file.sha256,
            size=file.size,
        )
    return target


def _publish_model(
    objects: ObjectStore,
    files: Mapping[str, UploadedFile],
    ref: AttemptRef,
    model: TrainedModel,
    finding: CodeFinding,
) -> PublishedModel:
    settings = get_settings()
    file, key = files[f"models/{model.name}.h5"], build_model_key(ref, model.name)
    # Within the store: what was checked is what is copied, since neither key is written twice.
    objects.copy_new(
        settings.models_bucket,
        key,
        source_bucket=settings.content_bucket,
        source_key=build_output_key(ref, file.path),
    )
    # Of a single seed it is written as by the versions that knew of one only.
    told = {} if model.seed is None else {"name": model.name, "seed": model.seed}
    return PublishedModel(
        strategy=model.strategy,
        **told,
        bucket=settings.models_bucket,
        key=key,
        sha256=file.sha256,
        size=file.size,
        may_carry_code=finding.may_carry_code,
        code_reason=finding.code_reason,
    )


def _read_result(
    objects: ObjectStore, files: Mapping[str, UploadedFile], folder: Path, ref: AttemptRef
) -> TrainerResult:
    if "result.json" not in files:
        raise ResultRefused("result.json: the training has left none")
    if files["result.json"].size > RESULT_BYTES:
        raise ResultRefused(f"result.json: has more than {RESULT_BYTES} bytes")
    text = _fetch(objects, files["result.json"], folder, ref).read_bytes()
    result = read_result(text, submission_id=ref.submission_id, task_id=ref.task_id)
    for model in list_models(result.seed, result.seed_count or 1):
        if f"models/{model.name}.h5" not in files:
            raise ResultRefused(f"models/{model.name}.h5: the training has left none")
    return result


def _as_params(result: TrainerResult, spec: TaskSpec) -> dict[str, str]:
    params = {str(key): str(value) for key, value in (result.params or {}).items()}
    params |= {
        "prediction_interval": str(result.prediction_interval),
        "seed": str(result.seed),
        "seed_count": str(result.seed_count or 1),
        "system": str(spec.system),
        "content_sha256": spec.content_sha256,
        "data_sha256": str((result.data or {}).get("sha256")),
    } | build_params(spec.waived_columns)
    if spec.fold is not None:
        params |= {"fold": str(spec.fold.number), "fold_count": str(spec.fold.count)}
    # MLflow refuses longer ones, and a truncated parameter is better than no run.
    return {key[:250]: value[:6000] for key, value in params.items()}


def _build_tags(result: TrainerResult, attempt: Attempt) -> dict[str, str]:
    """Return where a training ran, in which image, and on what; of the device by its fields."""
    device = result.device or {}
    tags = {"server": str(attempt.server), "container": str(attempt.container)}
    images = {"image": attempt.image, "image_digest": attempt.image_digest}
    tags |= {key: value for key, value in images.items() if value}
    tags |= {f"device.{name}": str(value) for name, value in device.items()}
    return tags | ({"device": describe_device(device)} if device else {})


def _fail(error: PermanentError) -> Callable[[Task, AttemptRef], Task | None]:
    """Return what a task becomes whose attempt has left what cannot be published."""
    from touchstone.stores.tables import RecordUnfit

    # All else (a file that is not there, a store that refuses us) is no fault of the training's.
    is_theirs = isinstance(error, ResultRefused | RecordUnfit)

    def fail(task: Task, ref: AttemptRef) -> Task | None:
        return phases.fail_publishing(
            task,
            fence=ref.fence,
            outcome=Outcome.FAILED_USER if is_theirs else Outcome.FAILED_INFRASTRUCTURE,
            failure_class="contract" if is_theirs else "collect",
            reason=build_line(str(error)),
            now=datetime.now(UTC),
        )

    return fail
