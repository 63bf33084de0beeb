"""Which task this process works on, from the environment that the contract names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from elnigma.errors import ConfigError

CONTRACT = 2
"""The version of what this trainer leaves."""
CONTRACTS = (1, 2)
"""The versions of what it may be given: they differ in what is left, and in nothing else."""


INPUTS = "/in"
"""The input folder where nothing names another."""
DATA_FOLDER = "data"
"""Of a data set, in the input folder."""


class Cuda(StrEnum):
    """How much a GPU is wanted."""

    REQUIRED = "required"
    PREFERRED = "preferred"
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Task:
    """
    The task's identity and what it was given besides arguments.

    :param submission_id: Empty when run by hand; likewise the next two.
    :param task_id: ``validation``, ``i<interval>``, or of a fold ``i<interval>-f<number>``.
    :param model_group_id: Shared by all models of a submission's schedule.
    :param seed: Seeds everything random; ``None`` leaves it to the configuration.
    :param threads: CPU threads of the numeric libraries.
    :param cuda: How much a GPU is wanted; ``None`` takes what is there, and says nothing of it.
    :param gpu_share: Share of one GPU's memory, above 0 and up to 1.
    :param memory_bytes: Memory of all processes together; ``None`` for no limit.
    :param progress_file: Where progress lines go; ``None`` for nowhere.
    :param data_folder: Of the data set that came with the task; ``None`` for none.
    """

    submission_id: str
    task_id: str
    model_group_id: str
    seed: int | None
    threads: int
    cuda: Cuda | None
    gpu_share: float
    memory_bytes: int | None
    progress_file: Path | None
    data_folder: Path | None

    @property
    def wants_gpu(self) -> bool:
        """Return whether it matters if there is a GPU."""
        return self.cuda in (Cuda.REQUIRED, Cuda.PREFERRED)


def read_task(environment: Mapping[str, str] = os.environ) -> Task:
    """
    Read the task from ``TOUCHSTONE_*`` variables; all of them may be missing.

    :raises ConfigError: If one has an impossible value, or the contract is another version.
    """
    contract = environment.get("TOUCHSTONE_CONTRACT", str(CONTRACT))
    if contract not in map(str, CONTRACTS):
        spoken = " and ".join(map(str, CONTRACTS))
        raise ConfigError(f"contract {contract!r} is not spoken here; this trainer speaks {spoken}")
    progress_file = environment.get("TOUCHSTONE_PROGRESS_FILE")
    seed = environment.get("TOUCHSTONE_SEED")
    memory_mib = environment.get("TOUCHSTONE_MEMORY_MIB")
    return Task(
        submission_id=environment.get("TOUCHSTONE_SUBMISSION_ID", ""),
        task_id=environment.get("TOUCHSTONE_TASK_ID", ""),
        model_group_id=environment.get("TOUCHSTONE_MODEL_GROUP_ID", ""),
        seed=_read_number("TOUCHSTONE_SEED", seed) if seed else None,
        threads=_read_number("TOUCHSTONE_THREADS", environment.get("TOUCHSTONE_THREADS") or "1"),
        cuda=_read_cuda(environment.get("TOUCHSTONE_CUDA")),
        gpu_share=_read_share(environment.get("TOUCHSTONE_GPU_SHARE")),
        memory_bytes=_read_mib("TOUCHSTONE_MEMORY_MIB", memory_mib) if memory_mib else None,
        progress_file=Path(progress_file) if progress_file else None,
        data_folder=_find_data(Path(environment.get("TOUCHSTONE_IN") or INPUTS)),
    )


def _find_data(inputs: Path) -> Path | None:
    folder = inputs / DATA_FOLDER
    return folder if folder.is_dir() else None


def _read_cuda(text: str | None) -> Cuda | None:
    if not text:
        return None
    try:
        return Cuda(text)
    except ValueError as error:
        raise ConfigError(f"TOUCHSTONE_CUDA must be {', '.join(Cuda)}, not {text!r}") from error


def _read_share(text: str | None) -> float:
    try:
        share = float(text or 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise ConfigError(f"TOUCHSTONE_GPU_SHARE must be above 0 and at most 1, not {text!r}")
    return share


def _read_mib(name: str, text: str) -> int:
    try:
        mib = float(text)
    except ValueError:
        mib = 0.0
    if not 0 < mib < 1e15:
        raise ConfigError(f"{name} must be a positive number, not {text!r}")
    return int(mib * 1024**2)


def _read_number(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**31:
        raise ConfigError(f"{name} must be a whole number from 0 to {2**31 - 1}, not {text!r}")
    return int(text)
