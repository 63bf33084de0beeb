"""Publishes what a training has produced."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException
from pydantic import TypeAdapter, ValidationError

from touchstone.core.attempts import get_ref
from touchstone.core.gpus import describe_device, find_gpu_use
from touchstone.core.names import build_attempt_prefix, build_model_key, build_output_key
from touchstone.core.outcomes import Outcome
from touchstone.core.results import (
    RESULT_BYTES,
    STRATEGIES,
    ResultRefused,
    build_evaluations,
    read_result,
    split_published,
)
from touchstone.core.states import TaskStatus
from touchstone.operators.authority import (
    get_map_index,
    get_run,
    get_task_of_instance,
    read_interval,
)
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.facts import Files, UploadedFile
from touchstone_agent.protocol.words import build_line, check_path, describe_refusal

if TYPE_CHECKING:
    from airflow.sdk import Context

    from touchstone.hooks.objects import ObjectStore
    from touchstone.hooks.records import Record, RecordStore
    from touchstone_agent.protocol.messages import AttemptRef

_FILES: TypeAdapter[tuple[UploadedFile, ...]] = TypeAdapter(Files)


class CollectOperator(BaseOperator):
    """
    Checks an attempt's uploads against their digests and publishes them.

    Models go to the models bucket, evaluations to DynamoDB, metrics and charts to MLflow; all of
    it from here, because trainers hold no credentials. Doing it twice publishes once.

    :param interval: (templated) The prediction interval, as given to the training.
    """

    template_fields: Sequence[str] = ("interval",)

    def __init__(self, *, interval: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.interval = interval

    def execute(self, context: Context) -> None:
        """Wait, deferred, until the files are there; then publish."""
        from touchstone.hooks.records import RecordStore
        from touchstone.triggers.agent import UploadTrigger

        record = self._get_record(RecordStore.connect(get_settings()), context)
        if not record.get("uploaded_at") and record["status"] == TaskStatus.UPLOADING:
            self.defer(
                trigger=UploadTrigger(record["submission_id"], record["task_id"], record["fence"]),
                method_name="publish",
            )
        self.publish(context)

    def _get_record(self, records: RecordStore, context: Context) -> Record:
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
        event: dict[str, Any] | None = None,  # noqa: ARG002 - Airflow's signature
    ) -> None:
        """
        Publish the newest attempt's files.

        :raises AirflowFailException: If they are not what the contract promises.
        """
        from touchstone.hooks.objects import ObjectStore
        from touchstone.hooks.parts import Parts, find_files
        from touchstone.hooks.records import RecordStore

        settings = get_settings()
        records, objects = RecordStore.connect(settings), ObjectStore.connect(settings)
        parts = Parts(objects, settings.content_bucket)
        record = self._get_record(records, context)
        ref = get_ref(record)
        if not record.get("uploaded_at"):
            raise AirflowFailException(
                f"{ref.task_key}: nothing was uploaded ({record['status']}: {record['reason']}); "
                "clear the task 'train' of this interval to run it again"
            )

        def decide(found: Record) -> Record | None:
            if found["fence"] != ref.fence:
                return None
            return {
                "status": TaskStatus.SUCCESS.value,
                "ended_at": found.get("ended_at") or datetime.now(UTC).isoformat(),
                "published": published,
            }

        try:
            published = publish_attempt(
                objects, {**record, "files": find_files(record, parts)}, ref
            )
            for row in published.pop("evaluations"):
                records.put_evaluation(row)
            published, details = split_published(published)
            prefix = f"results/{build_attempt_prefix(ref)}"
            published["details"] = parts.put(prefix, details)
            records.change_task(ref.submission_id, ref.task_id, decide)
        except PermanentError as error:
            # Also what no record can hold: it would be the same the next time.
            failure = _fail(error)
            records.change_task(
                ref.submission_id,
                ref.task_id,
                lambda found: failure if found["fence"] == ref.fence else None,
            )
            raise AirflowFailException(failure["reason"]) from error


def publish_attempt(objects: ObjectStore, record: Record, ref: AttemptRef) -> Record:
    """
    Publish the files of a training: models, and a run in MLflow.

    :param record: The task's record.
    :param ref: Its newest attempt.
    :return: What is kept of it beside the task, and the ``evaluations`` to write.
    :raises PermanentError: If the files are not what the contract promises, or not there.
    :raises TransientError: If a store cannot be used now.
    """
    from touchstone.hooks.confined.models import inspect_model
    from touchstone.hooks.mlflow import MlflowHook

    settings = get_settings()
    files = read_files(record)
    use = find_gpu_use(record, datetime.now(UTC))
    with tempfile.TemporaryDirectory(prefix="touchstone-collect-") as name:
        folder = Path(name)
        # First, and alone: what is wrong with it is told before gigabytes are fetched.
        result = _read_result(objects, files, folder, ref)
        for file in files.values():
            _fetch(objects, file, folder, ref)
        # Every file is here and is what the verdict says, and nothing is published yet.
        inspected = {
            strategy: asdict(inspect_model(folder / "models" / f"{strategy}.h5"))
            for strategy in STRATEGIES
        }
        models = [
            _publish_model(objects, files, ref, strategy) | inspected[strategy]
            for strategy in STRATEGIES
        ]
        run = MlflowHook(settings=settings).publish(
            task_key=ref.task_key,
            attempt=f"{ref.attempt}-{ref.fence}",
            model_group_id=ref.submission_id,
            params=_as_params(result, record),
            metrics={k: float(v) for k, v in result["metrics"].items() if v is not None}
            | (use.list_metrics() if use else {}),
            tags=_build_tags(result, record),
            artifacts=folder,
        )
    now = datetime.now(UTC).isoformat()
    charts = sorted(path for path in files if path.startswith("charts/"))
    return {
        "metrics": result["metrics"],
        "metric_notes": result["metric_notes"] or {},
        "models": models,
        "device": result["device"] or {},
        "gpu": use.dump() if use else None,
        "mlflow_run_id": run.run_id,
        "mlflow_url": run.url,
        "charts": [
            {"name": Path(path).stem, "url": run.artifact_url + quote(path)} for path in charts
        ],
        "published_at": now,
        "evaluations": build_evaluations(
            result, ref, models=models, mlflow={"run_id": run.run_id, "url": run.url}, now=now
        ),
    }


def read_files(record: Mapping[str, Any]) -> dict[str, UploadedFile]:
    """
    Return the files of a task's newest attempt, by path.

    They were checked when their agent or pod told of them. They are checked again here, where
    their paths become files of this machine: nothing else keeps them below a folder.

    :raises PermanentError: If one could be anywhere else, or is too large.
    """
    try:
        files = _FILES.validate_python(record.get("files") or ())
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
    objects: ObjectStore, files: Mapping[str, UploadedFile], ref: AttemptRef, strategy: str
) -> Record:
    settings = get_settings()
    file, key = files[f"models/{strategy}.h5"], build_model_key(ref, strategy)
    # Within the store: what was checked is what is copied, since neither key is written twice.
    objects.copy_new(
        settings.models_bucket,
        key,
        source_bucket=settings.content_bucket,
        source_key=build_output_key(ref, file.path),
    )
    return {
        "strategy": strategy,
        "bucket": settings.models_bucket,
        "key": key,
        "sha256": file.sha256,
        "size": file.size,
    }


def _read_result(
    objects: ObjectStore, files: Mapping[str, UploadedFile], folder: Path, ref: AttemptRef
) -> Record:
    needed = ("result.json", *(f"models/{strategy}.h5" for strategy in STRATEGIES))
    for path in needed:
        if path not in files:
            raise ResultRefused(f"{path}: the training has left none")
    if files["result.json"].size > RESULT_BYTES:
        raise ResultRefused(f"result.json: has more than {RESULT_BYTES} bytes")
    text = _fetch(objects, files["result.json"], folder, ref).read_bytes()
    return read_result(text, submission_id=ref.submission_id, task_id=ref.task_id)


def _as_params(result: Mapping[str, Any], record: Record) -> dict[str, str]:
    params = {str(key): str(value) for key, value in (result["params"] or {}).items()}
    params |= {
        "prediction_interval": str(result["prediction_interval"]),
        "seed": str(result["seed"]),
        "system": str(record["config"]["system"]),
        "content_sha256": str(record["config"]["content_sha256"]),
        "data_sha256": str((result["data"] or {}).get("sha256")),
    }
    # MLflow refuses longer ones, and a truncated parameter is better than no run.
    return {key[:250]: value[:6000] for key, value in params.items()}


def _build_tags(result: Mapping[str, Any], record: Record) -> dict[str, str]:
    """Return where a training ran, in which image, and on what; of the device by its fields."""
    device = result["device"] or {}
    tags = {key: str(record[key]) for key in ("server", "container")}
    tags |= {key: str(record[key]) for key in ("image", "image_digest") if record.get(key)}
    tags |= {f"device.{name}": str(value) for name, value in device.items()}
    return tags | ({"device": describe_device(device)} if device else {})


def _fail(error: PermanentError) -> Record:
    from touchstone.hooks.records import RecordUnfit

    # All else (a file that is not there, a store that refuses us) is no fault of the training's.
    is_theirs = isinstance(error, ResultRefused | RecordUnfit)
    outcome = Outcome.FAILED_USER if is_theirs else Outcome.FAILED_INFRASTRUCTURE
    return {
        "status": TaskStatus.ERROR.value,
        "outcome": outcome.value,
        "failure_class": "contract" if is_theirs else "collect",
        "reason": build_line(str(error)),
        "ended_at": datetime.now(UTC).isoformat(),
    }
