"""Publishes trainings to MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk.bases.hook import BaseHook

from touchstone.settings import Settings, get_settings
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

if TYPE_CHECKING:
    from airflow.sdk.definitions.connection import Connection
    from mlflow.tracking import MlflowClient

TASK_TAG = "touchstone.task"
ATTEMPT_TAG = "touchstone.attempt"
GROUP_TAG = "model_group_id"
JUDGED_TAG = "judged"
JUDGED_REASON_TAG = "judged.reason"
CHARTS_TAG = "judged.charts"
HELD_BACK_TAG = "held_back"
CONTENT_TAG = "touchstone.content"
_DECIDING = (JUDGED_TAG, JUDGED_REASON_TAG, CHARTS_TAG, HELD_BACK_TAG, CONTENT_TAG)
"""Tags that tell whether a run shows what is to be shown."""


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """
    A training in MLflow.

    :param run_id: MLflow's id of the run.
    :param url: Its page, for people.
    :param artifact_url: Where its artifacts can be fetched, a path can be added.
    """

    run_id: str
    url: str
    artifact_url: str


class MlflowHook(BaseHook):
    """
    Writes runs to the MLflow server of an Airflow connection.

    :param mlflow_conn_id: Airflow connection; host with scheme and port, login and password if
        the server wants them.
    :param settings: Names of the installation; ``None`` for those of this process.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "touchstone_mlflow"
    conn_type = "touchstone_mlflow"
    hook_name = "MLflow (Touchstone)"

    def __init__(
        self, mlflow_conn_id: str | None = None, *, settings: Settings | None = None
    ) -> None:
        super().__init__()
        self.settings = settings or get_settings()
        self.mlflow_conn_id = mlflow_conn_id or self.settings.mlflow_conn_id

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, object]:
        """Return how Airflow's connection form looks."""
        return {
            "hidden_fields": ["extra"],
            "relabeling": {"host": "Tracking server", "schema": "http or https"},
            "placeholders": {"host": "127.0.0.1", "schema": "http", "port": "5000"},
        }

    @cached_property
    def tracking_uri(self) -> str:
        """Return the server's address."""
        connection = self.get_connection(self.mlflow_conn_id)
        host = connection.host or ""
        base = host if "://" in host else f"{connection.schema or 'http'}://{host}"
        login = find_login(connection)
        if login is not None:
            os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"] = login
        return f"{base}:{connection.port}" if connection.port else base

    def get_conn(self) -> MlflowClient:
        """Return MLflow's client."""
        # MLflow takes seconds to import, which only the task that publishes should pay.
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.tracking_uri)

    def ensure_experiment(self) -> str:
        """Return the id of the experiment, which is created if there is none."""
        from mlflow.exceptions import MlflowException

        client, name = self.get_conn(), self.settings.mlflow_experiment
        try:
            found = client.get_experiment_by_name(name)
            return str(found.experiment_id if found else client.create_experiment(name))
        except MlflowException as error:
            # Two at once: the task is retried, and finds the other one's.
            raise TransientError(f"MLflow experiment {name!r}: {error}") from error

    def publish(
        self,
        *,
        task_key: str,
        attempt: str,
        model_group_id: str,
        params: Mapping[str, str],
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        artifacts: Path,
    ) -> PublishedRun:
        """
        Write one training as one finished run.

        Found again by its tags, so that doing it twice gives one run; runs of the task's earlier
        attempts, or of what was judged, drawn or held back otherwise, are deleted (MLflow keeps
        them in its trash).

        :param task_key: ``<submission>/<task>``.
        :param attempt: ``<try>-<fence>``.
        :param model_group_id: The submission whose models belong together.
        :param artifacts: Folder whose files become the run's artifacts.
        :raises TransientError: If the server cannot be reached or refuses.
        """
        from mlflow.entities import Metric, Param, RunTag
        from mlflow.exceptions import MlflowException

        client = self.get_conn()
        experiment_id = self.ensure_experiment()
        try:
            runs = client.search_runs([experiment_id], f"tags.`{TASK_TAG}` = '{task_key}'")
            wanted = {ATTEMPT_TAG: attempt} | {name: tags.get(name) for name in _DECIDING}
            mine = [
                run
                for run in runs
                if all(run.data.tags.get(name) == value for name, value in wanted.items())
            ]
            for run in runs:
                if run not in mine[:1]:
                    client.delete_run(run.info.run_id)
            if mine and mine[0].info.status == "FINISHED":
                return self._describe(mine[0])
            all_tags = {TASK_TAG: task_key, ATTEMPT_TAG: attempt, GROUP_TAG: model_group_id, **tags}
            run = (
                mine[0]
                if mine
                else client.create_run(experiment_id, run_name=task_key, tags=all_tags)
            )
            now = int(time.time() * 1000)
            client.log_batch(
                run.info.run_id,
                metrics=[Metric(key, value, now, 0) for key, value in metrics.items()],
                params=[Param(key, value) for key, value in params.items()],
                tags=[RunTag(key, value) for key, value in all_tags.items()],
            )
            client.log_artifacts(run.info.run_id, str(artifacts))
            client.set_terminated(run.info.run_id, status="FINISHED")
        except MlflowException as error:
            raise TransientError(f"publishing {task_key} to MLflow: {error}") from error
        return self._describe(run)

    def _describe(self, run: Any) -> PublishedRun:
        info = run.info
        # People may reach the server elsewhere than we do.
        base = (self.settings.mlflow_public_url or self.tracking_uri).rstrip("/")
        return PublishedRun(
            run_id=info.run_id,
            url=f"{base}/#/experiments/{info.experiment_id}/runs/{info.run_id}",
            artifact_url=f"{base}/get-artifact?run_uuid={info.run_id}&path=",
        )


def find_login(connection: Connection) -> tuple[str, str] | None:
    """
    Return by which name and password an MLflow server is used; ``None`` if it wants none.

    :raises ConfigurationError: If the connection has but a name: with an empty password somebody
        else might be let in as well.
    """
    if not connection.login:
        return None
    if not connection.password:
        raise ConfigurationError(
            f"connection {connection.conn_id!r} has a login and no password: give it one, or "
            "remove the login"
        )
    return connection.login, connection.password
