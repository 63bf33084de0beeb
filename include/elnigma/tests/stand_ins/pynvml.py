"""
NVIDIA's management library without a driver: answers from the JSON file that STAND_IN_GPU names.

It has the part of nvidia-ml-py that the runner uses, with its names, units and errors. The file is
read again at each question, so that a device can change, and be lost, while it is in use.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_LIBRARY_NOT_FOUND = 12
NVML_ERROR_GPU_IS_LOST = 15
TEXTS = {3: "Not Supported", 6: "Not Found", 12: "NVML Shared Library Not Found", 15: "GPU is lost"}


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value

    def __str__(self) -> str:
        return TEXTS[self.value]


def _read() -> dict[str, Any]:
    path = os.environ.get("STAND_IN_GPU")
    if path is None:
        raise NVMLError(NVML_ERROR_LIBRARY_NOT_FOUND)
    state: dict[str, Any] = json.loads(Path(path).read_text())
    return state


def _ask(uuid: str, name: str) -> Any:
    (device,) = (device for device in _read()["devices"] if device["uuid"] == uuid)
    if device.get("lost"):
        raise NVMLError(NVML_ERROR_GPU_IS_LOST)
    if name not in device:
        raise NVMLError(NVML_ERROR_NOT_SUPPORTED)
    if name == "processes":
        # The last question of a sample: whoever waits for the first one sees it.
        Path(os.environ["STAND_IN_GPU"] + ".asked").touch()
    return device[name]


def nvmlInit() -> None:  # noqa: N802
    _read()


def nvmlSystemGetDriverVersion() -> str:  # noqa: N802
    return str(_read()["driver"])


def nvmlDeviceGetCount() -> int:  # noqa: N802
    return len(_read()["devices"])


def nvmlDeviceGetHandleByIndex(index: int) -> str:  # noqa: N802
    return str(_read()["devices"][index]["uuid"])


def nvmlDeviceGetHandleByUUID(uuid: str) -> str:  # noqa: N802
    if uuid not in {device["uuid"] for device in _read()["devices"]}:
        raise NVMLError(NVML_ERROR_NOT_FOUND)
    return uuid


def nvmlDeviceGetName(handle: str) -> Any:  # noqa: N802
    return _ask(handle, "name")


def nvmlDeviceGetUUID(handle: str) -> Any:  # noqa: N802
    return _ask(handle, "uuid")


def nvmlDeviceGetUtilizationRates(handle: str) -> Any:  # noqa: N802
    return SimpleNamespace(gpu=_ask(handle, "percent"), memory=0)


def nvmlDeviceGetMemoryInfo(handle: str) -> Any:  # noqa: N802
    return SimpleNamespace(used=_ask(handle, "used"), total=_ask(handle, "total"))


def nvmlDeviceGetComputeRunningProcesses(handle: str) -> Any:  # noqa: N802
    return [
        SimpleNamespace(pid=process["pid"], usedGpuMemory=process["used"])
        for process in _ask(handle, "processes")
    ]


def nvmlDeviceGetPowerUsage(handle: str) -> Any:  # noqa: N802
    return _ask(handle, "milliwatts")


def nvmlDeviceGetTotalEnergyConsumption(handle: str) -> Any:  # noqa: N802
    return _ask(handle, "millijoules")
