"""GPUs that are not there: a program ``nvidia-smi`` and the hardware that it tells of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from touchstone_agent.core.gpus import DetectedGpu

STAND_IN = Path(__file__).with_name("nvidia_smi.py")
RTX = "NVIDIA GeForce RTX 3090"


class FakeGpus:
    """
    The GPUs of one machine.

    :param folder: Where its programs go, to be put on a PATH as ``folder/bin``.
    :param count: How many.
    """

    def __init__(self, folder: Path, count: int = 2) -> None:
        self.bin = folder / "bin"
        self._file = folder / "gpus.json"
        self.hardware: dict[str, Any] = {
            "driver": "550.54.14",
            "fault": None,
            "gpus": [
                {"uuid": f"GPU-{index}", "name": RTX, "memory_mib": 24576} for index in range(count)
            ],
            "processes": [],
        }
        self.bin.mkdir(parents=True, exist_ok=True)
        program = self.bin / "nvidia-smi"
        program.write_text(
            f'#!/bin/sh\nFAKE_GPUS="{self._file}" exec "{sys.executable}" -I "{STAND_IN}" "$@"\n'
        )
        program.chmod(0o755)
        self.change()

    def change(self, **fields: Any) -> None:
        """Change the hardware, whole at once: somebody may be asking."""
        self.hardware |= fields
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(self.hardware))
        part.replace(self._file)

    def change_gpu(self, index: int, **fields: Any) -> None:
        """Change one GPU."""
        self.hardware["gpus"][index] |= fields
        self.change()

    def use(self, index: int, pid: int, memory_mib: int = 12000) -> None:
        """Let a process compute on a GPU."""
        process = {"uuid": f"GPU-{index}", "pid": pid, "memory_mib": memory_mib}
        self.change(processes=[*self.hardware["processes"], process])

    @property
    def asked(self) -> list[str]:
        """Return what ``nvidia-smi`` was asked so far, a line for each call."""
        file = self._file.with_suffix(".asked")
        return file.read_text().splitlines() if file.exists() else []


def make_gpu(index: int = 0, **fields: Any) -> DetectedGpu:
    """Build a GPU as it is detected."""
    known = {
        "uuid": f"GPU-{index}",
        "index": index,
        "name": RTX,
        "memory_mib": 24576,
        "driver": "550.54.14",
        "compute_mode": "Default",
        "used_mib": 0,
    }
    return DetectedGpu(**{**known, **fields})


def make_gpus(count: int) -> tuple[DetectedGpu, ...]:
    """Build the GPUs of a machine."""
    return tuple(map(make_gpu, range(count)))
