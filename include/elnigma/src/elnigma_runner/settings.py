"""What the environment says to the runner."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from elnigma_runner.users import TrainerUser

CONTRACT = 1
MIB = 1024**2

_USER = re.compile(r"([1-9]\d{0,8})(?::([1-9]\d{0,8}))?")

# A console this many times longer than what is kept is not a log any more.
CONSOLE_HARD_MULTIPLE = 8

# All that a trainer gets to see of the runner's environment, besides TOUCHSTONE_*.
_PASSED_ON = frozenset(
    {"PATH", "HOME", "LANG", "LC_ALL", "TZ", "TERM", "PYTHONPATH", "PYTHONHASHSEED",
     "PYTHONFAULTHANDLER", "PYTHONDONTWRITEBYTECODE", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
)  # fmt: skip
_PASSED_ON_PREFIXES = (
    "TOUCHSTONE_", "ELNIGMA_", "KERAS_", "XLA_", "JAX_", "TF_", "CUDA_", "NVIDIA_", "OMP_",
    "OPENBLAS_", "MKL_",
)  # fmt: skip


class SettingsError(ValueError):
    """The runner was called in a way that the contract does not allow."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """
    Limits and places of one attempt.

    :param out: Output folder.
    :param progress_file: Where checked progress lines go.
    :param wall_seconds: Seconds the trainer may take.
    :param cpu_seconds: CPU seconds of all its processes; ``None`` for no limit.
    :param memory_bytes: Memory of all its processes; ``None`` for no limit.
    :param console_bytes: Bytes of console kept.
    :param output_bytes: Bytes of all output files together.
    :param compiled_bytes: Bytes of compiled code that are kept for the next training; 0 for none.
    :param submission_id: As ``result.json`` must name it.
    :param task_id: Likewise.
    :param inputs: Input folder.
    :param commit: The commit of el-nigma that is there and is to be run, if not the image's own.
    :param cache: Folder that keeps what commits require between attempts.
    :param trainer: Executable of the trainer; ``None`` for the Python module ``elnigma``.
    :param environment: The environment that the trainer gets.
    :param user: Whom the trainer runs as.
    """

    out: Path
    progress_file: Path
    wall_seconds: float
    cpu_seconds: float | None
    memory_bytes: int | None
    console_bytes: int
    output_bytes: int
    compiled_bytes: int
    submission_id: str
    task_id: str
    inputs: Path
    commit: str | None
    cache: Path
    trainer: str | None
    environment: dict[str, str]
    user: TrainerUser

    @property
    def console_hard_bytes(self) -> int:
        """Return how many bytes a trainer may print before it is stopped for it."""
        return self.console_bytes * CONSOLE_HARD_MULTIPLE


def find_out(argv: list[str], environment: Mapping[str, str]) -> Path:
    """
    Return the output folder: ``TOUCHSTONE_OUT``, or what ``--out`` says.

    :raises SettingsError: If neither is given.
    """
    folder = environment.get("TOUCHSTONE_OUT")
    if not folder and "--out" in argv[:-1]:
        folder = argv[argv.index("--out") + 1]
    if not folder:
        raise SettingsError("neither TOUCHSTONE_OUT nor --out names the output folder")
    return Path(folder)


def read_settings(out: Path, environment: Mapping[str, str]) -> Settings:
    """
    Read the settings of this attempt.

    :param out: Output folder.
    :param environment: ``TOUCHSTONE_*`` variables; a limit that is missing is generous.
    :raises SettingsError: If a value is impossible.
    """
    cpu_seconds = _read(environment, "TOUCHSTONE_CPU_SECONDS", None)
    memory_mib = _read(environment, "TOUCHSTONE_MEMORY_MIB", None)
    return Settings(
        out=out,
        progress_file=Path(environment.get("TOUCHSTONE_PROGRESS_FILE") or out / "progress.jsonl"),
        wall_seconds=_read(environment, "TOUCHSTONE_WALL_SECONDS", 86_400.0) or 86_400.0,
        cpu_seconds=cpu_seconds,
        memory_bytes=int(memory_mib * MIB) if memory_mib else None,
        console_bytes=int(_read(environment, "TOUCHSTONE_CONSOLE_BYTES", 8.0 * MIB) or 0),
        output_bytes=int(_read(environment, "TOUCHSTONE_OUTPUT_BYTES", 1024.0 * MIB) or 0),
        compiled_bytes=int(_read(environment, "TOUCHSTONE_COMPILED_BYTES", None) or 0),
        submission_id=environment.get("TOUCHSTONE_SUBMISSION_ID", ""),
        task_id=environment.get("TOUCHSTONE_TASK_ID", ""),
        inputs=Path(environment.get("TOUCHSTONE_IN") or "/in"),
        commit=environment.get("TOUCHSTONE_ELNIGMA_COMMIT") or None,
        cache=Path(
            environment.get("TOUCHSTONE_CACHE") or Path(tempfile.gettempdir()) / "touchstone-cache"
        ),
        trainer=environment.get("TOUCHSTONE_TRAINER") or None,
        environment={
            name: value
            for name, value in environment.items()
            if name in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
        },
        user=_read_user(environment),
    )


def _read_user(environment: Mapping[str, str]) -> TrainerUser:
    text = environment.get("TOUCHSTONE_TRAINER_USER")
    if not text:
        return TrainerUser()
    match = _USER.fullmatch(text)
    if match is None:
        raise SettingsError(f"TOUCHSTONE_TRAINER_USER must be UID or UID:GID, not root: {text!r}")
    if os.geteuid() != 0:
        # Nobody else can become another user, and to go on as one would be a lie.
        raise SettingsError("TOUCHSTONE_TRAINER_USER is for a runner that is root")
    return TrainerUser(uid=int(match[1]), gid=int(match[2] or match[1]))


def _read(environment: Mapping[str, str], name: str, default: float | None) -> float | None:
    text = environment.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1e15:
        raise SettingsError(f"{name} must be a positive number, not {text!r}")
    return value
