"""The record of an evaluation: how one trained model did, ``ModelPostTrainEvaluation``."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from touchstone.core.records.judged import JudgedStatus
from touchstone.core.records.kept import SparseRecord
from touchstone.core.records.stored import Time
from touchstone.core.records.submissions import Fact, Number


class Evaluation(SparseRecord):
    """
    How one model of a training did.

    :param model_id: ``SUBMISSION/TASK/STRATEGY``, of each further seed with its number behind it:
        ``SUBMISSION/TASK/long-2``.
    :param model_group_id: The group that is judged together: a submission's models.
    :param submission_id: The submission.
    :param task_id: The training within it.
    :param attempt: The attempt that trained it.
    :param fence: That attempt's fence; an evaluation of a newer one takes its place.
    :param strategy: Which model of the pair.
    :param prediction_interval: Prediction interval in days.
    :param judged: Whether the figures are the judge's own; absent in rows from before.
    :param judged_reason: Why they are not.
    :param metrics: The judge's figures by name; ``None`` for one that is undefined. In rows from
        before, they are the trainer's.
    :param reported: The trainer's figures where the judge has none.
    :param metric_notes: Why a figure is undefined, by its name.
    :param params: What it was trained with.
    :param versions: Versions of what trained it.
    :param data: What it was trained on.
    :param device: On what it was trained.
    :param seed: Seed of the model.
    :param seed_count: How many seeds' predictions the figures are of; absent in rows from before.
    :param predictions_sha256: Digest of its predictions.
    :param model_key: Key of the model in the models bucket.
    :param model_sha256: Digest of the model.
    :param may_carry_code: Whether loading it could run code.
    :param code_reason: Why it could.
    :param mlflow_run_id: Its run in MLflow.
    :param mlflow_url: That run's address.
    :param created_at: When it was written.
    """

    model_id: str
    model_group_id: str
    submission_id: str
    task_id: str
    attempt: int
    fence: int
    strategy: str
    prediction_interval: int | None = None
    judged: JudgedStatus | None = None
    judged_reason: str | None = None
    metrics: Mapping[str, Number | None]
    reported: Mapping[str, Number | None] = Field(default_factory=dict)
    metric_notes: Mapping[str, str] = Field(default_factory=dict)
    params: Mapping[str, Fact] = Field(default_factory=dict)
    versions: Mapping[str, str] = Field(default_factory=dict)
    data: Mapping[str, Fact] = Field(default_factory=dict)
    device: Mapping[str, Fact] = Field(default_factory=dict)
    seed: int | None = None
    seed_count: int | None = None
    predictions_sha256: str | None = None
    model_key: str
    model_sha256: str
    may_carry_code: bool
    code_reason: str | None = None
    mlflow_run_id: str | None = None
    mlflow_url: str | None = None
    created_at: Time
