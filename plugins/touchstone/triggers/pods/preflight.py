"""Whether a rented host is any good, before anything runs on it."""

from __future__ import annotations

from touchstone.core.eligibility import VRAM_TOLERANCE
from touchstone.core.tasks import TaskSpec
from touchstone.settings import RunPodSettings
from touchstone.triggers.pods.failures import PodFailed
from touchstone_agent.protocol.messages import SlotClass
from touchstone_agent.protocol.pods import PodState

_MIB_PER_GIB = 1024
_BYTES_PER_GB = 10**9


def check_host(state: PodState, spec: TaskSpec, wanted: RunPodSettings) -> None:
    """
    Refuse a host without the GPU that is paid for, with an old driver, or with a full disk.

    A validation pays for no GPU, and is asked for none.

    :param state: What the pod tells of itself.
    :param spec: What is to run there.
    :param wanted: What this installation asks of every host.
    :raises PodFailed: Of class ``host``, with what is wrong.
    """
    if spec.kind is SlotClass.TRAINING:
        _check_gpu(state, spec, wanted)
    free_gb = state.disk_free_bytes / _BYTES_PER_GB
    if free_gb < wanted.min_free_gb:
        raise PodFailed("host", f"the pod has {free_gb:.1f} GB of disk, not {wanted.min_free_gb}")


def _check_gpu(state: PodState, spec: TaskSpec, wanted: RunPodSettings) -> None:
    if not state.gpus:
        raise PodFailed("host", "the pod has no GPU: nvidia-smi shows none")
    gpu = state.gpus[0]
    memory_gib = gpu.memory_mib / _MIB_PER_GIB
    if memory_gib < spec.min_vram_gib * (1 - VRAM_TOLERANCE):
        raise PodFailed("host", f"the pod's GPU has {memory_gib:.0f} GiB, not {spec.min_vram_gib}")
    major = gpu.driver.partition(".")[0]
    if not (major.isascii() and major.isdigit() and len(major) < 9):
        raise PodFailed("host", f"the pod's GPU driver is {gpu.driver!r}, which is no version")
    if int(major) < wanted.min_driver:
        raise PodFailed(
            "host", f"the pod's GPU driver is {gpu.driver}, older than {wanted.min_driver}"
        )
