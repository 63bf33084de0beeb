"""What the agent finds on its server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil


@dataclass(frozen=True, kw_only=True)
class Machine:
    """
    What the agent found on its server.

    :param cpus: CPUs.
    :param memory_mib: Memory, MiB.
    :param gpus: GPUs, with ``index``, ``name`` and ``memory_mib`` each.
    """

    cpus: int
    memory_mib: int
    gpus: tuple[Mapping[str, Any], ...] = ()


def measure_machine(gpus: tuple[Mapping[str, Any], ...]) -> Machine:
    """Measure this server."""
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // 1024**2,
        gpus=gpus,
    )
