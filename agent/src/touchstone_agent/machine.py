"""What the agent finds on its server."""

from __future__ import annotations

import os
from collections.abc import Iterable
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

    def describe_gpus(self, gpu_ids: Iterable[str]) -> list[str]:
        """Return model and driver of the GPUs of these ids; of one that is unknown, the id."""
        return [self._describe_gpu(gpu_id) for gpu_id in gpu_ids]

    def _describe_gpu(self, gpu_id: str) -> str:
        found = (gpu for gpu in self.gpus if gpu.is_among((gpu_id,)))
        return next((f"{gpu.name} driver {gpu.driver}" for gpu in found), gpu_id)


def measure_machine(gpus: tuple[DetectedGpu, ...]) -> Machine:
    """Measure this server."""
    return Machine(
        cpus=os.cpu_count() or 1,
        memory_mib=psutil.virtual_memory().total // 1024**2,
        gpus=gpus,
    )
