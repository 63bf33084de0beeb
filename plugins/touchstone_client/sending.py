"""What a script may say of a training, and what it gets back for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict


class ScheduleFields(TypedDict, total=False):
    """
    How to train: the fields of a schedule, as the forms and the API have them.

    What each means, and its bounds, stands in the operator manual; the installation checks them.
    """

    intervals: str | Sequence[int]
    config_file: str
    branch: str
    fetched_data_end_to: str
    config_overrides: Sequence[str]
    passthrough_args: Sequence[str]
    seed: int
    seed_count: int
    folds: str | Sequence[str]
    baseline: str
    event: str
    platform: Literal["any", "on-prem", "runpod"]
    require_cuda: bool
    prefer_cuda: bool
    min_vram_gib: float
    min_ram_gib: float
    min_disk_gib: float
    allowed_hosts: Sequence[str]
    gpu_models: Sequence[str]
    cloud: Literal["any", "secure", "community"]
    max_price: float
    budget: float
    max_hours: float
    priority: int
    job: str


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """
    A run that was asked for.

    :param submission_id: The submission.
    :param run_id: The run; of a new submission, the submission's id.
    :param is_new: Whether this request has started it; ``False`` if an earlier one had.
    :param is_scheduled: Whether it trains; otherwise the module is only validated.
    :param page: The address of the submission's page.
    """

    submission_id: str
    run_id: str
    is_new: bool
    is_scheduled: bool
    page: str
