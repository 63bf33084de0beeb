"""Publishes what a training has produced."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from touchstone.core.attempts import get_ref
from touchstone.core.names import build_attempt_prefix, build_model_key, build_output_key
from touchstone.core.outcomes import Outcome
from touchstone.core.results import STRATEGIES, build_evaluations, check_result, split_published
from touchstone.core.states import TaskStatus
from touchstone.core.tasks import TaskSpec
from touchstone.settings import get_settings
from touchstone_agent.protocol.errors import PermanentError

if TYPE_CHECKING:
    from airflow.sdk import Context

    from touchstone.hooks.objects import ObjectStore
    from touchstone.hooks.records import Record
    from touchstone_agent.protocol.messages import AttemptRef

RESULT_BYTES = 4 * 1024**2
"""Largest result.json that is read; it comes from a container that ran submitted code."""


class CollectOperator(BaseOperator):
    """
    Checks an attempt's uploads against their digests and publishes them.

    Models go to the models bucket, evaluations to DynamoDB, metrics and charts to MLflow; all of
    it from here, because trainers hold no credentials. Doing it twice publishes once.

    :param spec: (templated) The task's spec, as given to the training.
    """

    template_fields: Sequence[str] = ("spec",)

    def __init__(self, *, spec: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.spec = spec

    def execute(self, context: Context) -> None:
        """Wait, deferred, until the files are there; then publish."""
        from touchstone.hooks.records import RecordStore
        from touchstone.triggers.agent import UploadTrigger

        spec = TaskSpec.model_validate(self.spec)
        record = RecordStore.connect(get_settings()).get_task(spec.submission_id, spec.task_id)
        if not record.get("uploaded_at") and record["status"] == TaskStatus.UPLOADING:
            self.defer(
                trigger=UploadTrigger(spec.submission_id, spec.task_id, record["fence"]),
                method_name="publish",
            )
        self.publish(context)

    def publish(
        self,
        context: Context,  # noqa: ARG002 - Airflow's signature
        event: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> None:
        """
        Publish the newest attempt's files.

        :raises AirflowFailException: If they are not what the contract promises.
        """
        from touchstone.hooks.objects import ObjectStore
        from touchstone.hooks.parts import Parts, find_files
        from touchstone.hooks.records import RecordStore

        settings = get_settings()
        spec = TaskSpec.model_validate(self.spec)
        records, objects = RecordStore.connect(settings), ObjectStore.connect(settings)
        parts = Parts(objects, settings.content_bucket)
        record = records.get_task(spec.submission_id, spec.task_id)
        ref = get_ref(record)
        if not record.get("uploaded_at"):
            raise AirflowFailException(
                f"{ref.task_key}: nothing was uploaded ({record['status']}: {record['reason']}); "
                "clear the task 'train' of this interval to run it again"
            )
        try:
            files = find_files(record, parts)
            published = self._publish(objects, {**record, "files": files}, ref)
            for row in published.pop("evaluations"):
                records.put_evaluation(row)
            published, details = split_published(published)
            prefix = f"results/{build_attempt_prefix(ref)}"
            published["details"] = parts.put(prefix, details)
        except PermanentError as error:
            reason = str(error)
            records.change_task(ref.submission_id, ref.task_id, lambda _: _fail(reason))
            raise AirflowFailException(reason) from error

        def decide(found: Record) -> Record | None:
            if found["fence"] != ref.fence:
                return None
            return {
                "status": TaskStatus.SUCCESS.value,
                "ended_at": found.get("ended_at") or datetime.now(UTC).isoformat(),
                "published": published,
            }

        records.change_task(ref.submission_id, ref.task_id, decide)

    def _publish(self, objects: ObjectStore, record: Record, ref: AttemptRef) -> Record:
        from touchstone.hooks.confined.models import inspect_model
        from touchstone.hooks.mlflow import MlflowHook

        settings = get_settings()
        files = {str(item["path"]): item for item in record["files"]}
        with tempfile.TemporaryDirectory(prefix="touchstone-collect-") as folder:
            for path, item in files.items():
                target = Path(folder, path)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(
                    objects.get(
                        settings.content_bucket,
                        build_output_key(ref, path),
                        sha256=item["sha256"],
                    )
                )
            result = _read_result(Path(folder), ref)
            models = []
            for strategy in STRATEGIES:
                item = files[f"models/{strategy}.h5"]
                key = build_model_key(ref, strategy)
                body = Path(folder, "models", f"{strategy}.h5").read_bytes()
                objects.put_new(settings.models_bucket, key, body)
                models.append(
                    {
                        "strategy": strategy,
                        "bucket": settings.models_bucket,
                        "key": key,
                        "sha256": item["sha256"],
                        "size": item["size"],
                    }
                    | asdict(inspect_model(Path(folder, "models", f"{strategy}.h5")))
                )
            run = MlflowHook(settings=settings).publish(
                task_key=ref.task_key,
                attempt=f"{ref.attempt}-{ref.fence}",
                model_group_id=ref.submission_id,
                params=_as_params(result, record),
                metrics={k: float(v) for k, v in result["metrics"].items() if v is not None},
                tags={"server": str(record["server"]), "container": str(record["container"])},
                artifacts=Path(folder),
            )
        now = datetime.now(UTC).isoformat()
        charts = sorted(path for path in files if path.startswith("charts/"))
        return {
            "metrics": result["metrics"],
            "metric_notes": result.get("metric_notes") or {},
            "models": models,
            "mlflow_run_id": run.run_id,
            "mlflow_url": run.url,
            "charts": [{"name": Path(p).stem, "url": run.artifact_url + p} for p in charts],
            "published_at": now,
            "evaluations": build_evaluations(
                result,
                ref,
                models=models,
                mlflow={"run_id": run.run_id, "url": run.url},
                now=now,
            ),
        }


def _read_result(folder: Path, ref: AttemptRef) -> Record:
    path = folder / "result.json"
    if not path.is_file() or path.stat().st_size > RESULT_BYTES:
        raise PermanentError("result.json: missing, or too large to be one")
    try:
        result = json.loads(path.read_bytes())
    except ValueError as error:
        raise PermanentError(f"result.json: not JSON: {error}") from error
    return check_result(result, submission_id=ref.submission_id, task_id=ref.task_id)


def _as_params(result: Mapping[str, Any], record: Record) -> dict[str, str]:
    params = {str(key): str(value) for key, value in (result.get("params") or {}).items()}
    params |= {
        "prediction_interval": str(result.get("prediction_interval")),
        "seed": str(result.get("seed")),
        "system": str(record["config"]["system"]),
        "content_sha256": str(record["config"]["content_sha256"]),
        "data_sha256": str((result.get("data") or {}).get("sha256")),
    }
    # MLflow refuses longer ones, and a truncated parameter is better than no run.
    return {key[:250]: value[:6000] for key, value in params.items()}


def _fail(reason: str) -> Record:
    return {
        "status": TaskStatus.ERROR.value,
        "outcome": Outcome.FAILED_USER.value,
        "failure_class": "contract",
        "reason": reason,
        "ended_at": datetime.now(UTC).isoformat(),
    }
