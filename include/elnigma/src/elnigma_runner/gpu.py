"""How much of a GPU the trainer uses, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

_QUERY = (
    "--query-gpu=name,utilization.gpu,memory.used,memory.total",
    "--format=csv,noheader,nounits",
)
_TIMEOUT_SECONDS = 5.0


class GpuMeter:
    """Samples ``nvidia-smi``; without it, there is nothing to tell."""

    def __init__(self) -> None:
        self._command = shutil.which("nvidia-smi")
        self._name = ""
        self._samples = 0
        self._utilisation = 0.0
        self._peak_mib = 0.0
        self._total_mib = 0.0

    @property
    def is_present(self) -> bool:
        """Return whether there is a GPU to sample."""
        return self._command is not None

    def sample(self) -> None:
        """Take one sample of all GPUs that this container sees."""
        if self._command is None:
            return
        try:
            text = subprocess.run(
                [self._command, *_QUERY], capture_output=True, text=True, check=True,
                timeout=_TIMEOUT_SECONDS,
            ).stdout  # fmt: skip
            rows = [[part.strip() for part in row.split(",")] for row in text.splitlines() if row]
            self._name = ", ".join(row[0] for row in rows)
            self._utilisation += sum(float(row[1]) for row in rows) / len(rows)
            self._peak_mib = max(self._peak_mib, sum(float(row[2]) for row in rows))
            self._total_mib = sum(float(row[3]) for row in rows)
            self._samples += 1
        except (OSError, subprocess.SubprocessError, ValueError, IndexError, ZeroDivisionError):
            self._command = None  # a tool without a GPU behind it

    def summary(self) -> dict[str, Any] | None:
        """Return the figures of the whole run, or ``None`` without a GPU."""
        if not self._samples:
            return None
        return {
            "name": self._name,
            "mean_utilisation_percent": round(self._utilisation / self._samples, 1),
            "peak_memory_mib": self._peak_mib,
            "memory_mib": self._total_mib,
        }
