"""What the agent finds on its server."""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

from touchstone_agent.core.gpus import DetectedGpu


@dataclass(frozen=True, kw_only=True)
class Machine:
    """
    What the agent found on its server.

    :param cpus: CPUs.
    :param memory_mib: Memory, MiB.
    :param gpus: GPUs that may be handed to attempts.
    """

    cpus: int
    memory_mib: int
    gpus: tuple[DetectedGpu, ...] = ()


def measure_machine(gpus: tuple[DetectedGpu, ...]) -> Machine:
    """Measure this server."""
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // 1024**2,
        gpus=gpus,
    )
