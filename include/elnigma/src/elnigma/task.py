"""Which task this process works on, from the environment that the contract names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elnigma.errors import ConfigError

CONTRACT = 1


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    The task's identity and what it was given besides arguments.

    :param submission_id: Empty when run by hand; likewise the next two.
    :param task_id: ``validation``, or ``i<interval>``.
    :param model_group_id: Shared by all models of a submission's schedule.
    :param seed: Seeds everything random; ``None`` leaves it to the configuration.
    :param threads: CPU threads of the numeric libraries.
    :param progress_file: Where progress lines go; ``None`` for nowhere.
    """

    submission_id: str
    task_id: str
    model_group_id: str
    seed: int | None
    threads: int
    progress_file: Path | None


def read_task(environment: Mapping[str, str] = os.environ) -> Task:
    """
    Read the task from ``TOUCHSTONE_*`` variables; all of them may be missing.

    :raises ConfigError: If one has an impossible value, or the contract is another version.
    """
    contract = environment.get("TOUCHSTONE_CONTRACT", str(CONTRACT))
    if contract != str(CONTRACT):
        raise ConfigError(
            f"contract {contract!r} is not spoken here; this trainer speaks {CONTRACT}"
        )
    progress_file = environment.get("TOUCHSTONE_PROGRESS_FILE")
    seed = environment.get("TOUCHSTONE_SEED")
    return Task(
        submission_id=environment.get("TOUCHSTONE_SUBMISSION_ID", ""),
        task_id=environment.get("TOUCHSTONE_TASK_ID", ""),
        model_group_id=environment.get("TOUCHSTONE_MODEL_GROUP_ID", ""),
        seed=_read_number("TOUCHSTONE_SEED", seed) if seed else None,
        threads=_read_number("TOUCHSTONE_THREADS", environment.get("TOUCHSTONE_THREADS") or "1"),
        progress_file=Path(progress_file) if progress_file else None,
    )


def _read_number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise ConfigError(f"{name} must be a whole number from 0 to {2**31 - 1}, not {text!r}")
    return int(text)
