"""What keeps an attempt from going on in its pod, and whether a rented host is any good for it."""

from __future__ import annotations

from touchstone.core.eligibility import VRAM_TOLERANCE
from touchstone.core.pod_attempts import Problem
from touchstone.core.tasks import TaskSpec
from touchstone.settings import RunPodSettings
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.pods import PodState


class PodFailed(Exception):
    """
    The pod is of no use for this attempt: give it back, and let the attempt end with this.

    :param failure_class: One word.
    :param reason: One line for the engineer.
    """

    def __init__(self, failure_class: str, reason: str) -> None:
        super().__init__(reason)
        self.problem = Problem(failure_class, reason)


class Stopped(Exception):
    """The attempt is to end: only the release of the pod is left to do."""


_MIB_PER_GIB = 1024

_BYTES_PER_GB = 10**9
_BYTES_PER_GIB = 1024**3


def check_host(state: PodState, spec: TaskSpec, wanted: RunPodSettings) -> None:
    """
    Refuse a host without the GPU that is paid for, with an old driver, or with too little disk.

    A validation pays for no GPU, and is asked for none.

    :param state: What the pod tells of itself.
    :param spec: The task that is to run there.
    :param wanted: What this installation asks of every host.
    :raises PodFailed: Of class ``host``, with the problem.
    """
    if spec.kind is SlotClass.TRAINING:
        _check_gpu(state, spec, wanted)
    free_gb = state.disk_free_bytes / _BYTES_PER_GB
    if free_gb < wanted.min_free_gb:
        raise PodFailed("host", f"the pod has {free_gb:.1f} GB of disk, not {wanted.min_free_gb}")
    # It was ordered with as much, and what the installation wants to be left beside it.
    free_gib, least = state.disk_free_bytes / _BYTES_PER_GIB, spec.schedule.min_disk_gib
    if free_gib < least:
        raise PodFailed("host", f"the pod has {free_gib:.1f} GiB of free disk, it needs {least:g}")


def _check_gpu(state: PodState, spec: TaskSpec, wanted: RunPodSettings) -> None:
    if not state.gpus:
        raise PodFailed("host", "the pod has no GPU: nvidia-smi shows none")
    gpu = state.gpus[0]
    memory_gib, least = gpu.memory_mib / _MIB_PER_GIB, spec.schedule.min_vram_gib
    if memory_gib < least * (1 - VRAM_TOLERANCE):
        raise PodFailed("host", f"the pod's GPU has {memory_gib:.0f} GiB, not {least}")
    major = gpu.driver.partition(".")[0]
    if not (major.isascii() and major.isdigit() and len(major) < 9):
        raise PodFailed("host", f"the pod's GPU driver is {gpu.driver!r}, which is no version")
    if int(major) < wanted.min_driver:
        raise PodFailed(
            "host", f"the pod's GPU driver is {gpu.driver}, older than {wanted.min_driver}"
        )
