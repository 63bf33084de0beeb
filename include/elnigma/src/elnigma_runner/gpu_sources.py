"""What tells how a GPU is: NVIDIA's library, or the program that comes with the driver."""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

_FIELDS = (
    *("name", "uuid", "driver_version"),
    *("utilization.gpu", "memory.used", "memory.total", "power.draw"),
)
_TIMEOUT_SECONDS = 5.0
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]{1,80}")
# NVML's own numbers, and nvidia-smi's exit codes, for a device that is gone, or works no more
# before it is reset.
_LOST = frozenset({15, 16})
MAX_TEXT = 200
_MIB = 1024**2


class GpuLost(Exception):
    """The driver says that a device is gone; the message is in its words."""


class NoGpu(Exception):
    """A library or tool without a GPU behind it."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """
    One GPU at one moment; ``None`` for what it does not tell.

    :param name: Its model.
    :param uuid: What the driver calls it.
    :param driver: Version of the driver.
    :param utilisation_percent: Part of the last moments in which something ran on it.
    :param used_mib: Memory in use, by any process.
    :param own_mib: Memory in use by the trainer.
    :param total_mib: All of its memory.
    :param power_watts: What it draws.
    :param energy_joules: What it has drawn since its driver was loaded.
    """

    name: str
    uuid: str
    driver: str
    utilisation_percent: float | None
    used_mib: float | None
    own_mib: float | None
    total_mib: float | None
    power_watts: float | None
    energy_joules: float | None


class Source(Protocol):
    """Where readings come from."""

    def read(self, pids: Collection[int], /) -> list[Reading]:
        """
        Return a reading of each GPU.

        :raises GpuLost: If one is lost.
        :raises NoGpu: If there is none.
        """


def find_sources(environment: Mapping[str, str]) -> list[Source]:
    """
    Return what may tell of this attempt's GPUs, the best first. Asks none of them.

    :param environment: Names the GPUs by UUID in ``CUDA_VISIBLE_DEVICES`` or
        ``NVIDIA_VISIBLE_DEVICES``; else they are all that can be seen here.
    """
    uuids = _find_uuids(environment)
    sources: list[Source] = []
    if uuids == ():
        return sources
    if importlib.util.find_spec("pynvml") is not None:
        sources.append(Nvml(uuids))
    if (command := shutil.which("nvidia-smi")) is not None:
        sources.append(Smi(command, uuids))
    return sources


def add(figures: list[float | None]) -> float | None:
    """Return the sum of what is known; ``None`` if nothing is."""
    known = [figure for figure in figures if figure is not None]
    return sum(known) if known else None


class Nvml:
    """
    NVIDIA's management library.

    :param uuids: The GPUs; ``None`` for all.
    """

    def __init__(self, uuids: tuple[str, ...] | None) -> None:
        self._uuids = uuids
        self._nvml: Any = None
        self._handles: list[Any] = []
        self._driver = ""

    def read(self, pids: Collection[int], /) -> list[Reading]:
        """Return a reading of each; see :class:`Source`."""
        if self._nvml is None:
            self._open()
        return [self._read(handle, pids) for handle in self._handles]

    def _open(self) -> None:
        # Late: a runner starts at once, and most have no GPU.
        try:
            self._nvml = nvml = importlib.import_module("pynvml")
            nvml.nvmlInit()
            if self._uuids is None:
                numbers = range(nvml.nvmlDeviceGetCount())
                self._handles = [nvml.nvmlDeviceGetHandleByIndex(number) for number in numbers]
            else:
                self._handles = [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in self._uuids]
            self._driver = _text(nvml.nvmlSystemGetDriverVersion())
        except Exception as error:  # of the library's own kind, or that it cannot be loaded
            raise NoGpu(str(error)) from error
        if not self._handles:
            raise NoGpu("no device")

    def _read(self, handle: Any, pids: Collection[int]) -> Reading:
        rates = self._ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        power = self._ask("nvmlDeviceGetPowerUsage", handle)
        energy = self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        return Reading(
            name=_text(self._ask("nvmlDeviceGetName", handle)),
            uuid=_text(self._ask("nvmlDeviceGetUUID", handle)),
            driver=self._driver,
            utilisation_percent=None if rates is None else _figure(rates.gpu),
            used_mib=None if memory is None else _figure(memory.used, _MIB),
            own_mib=self._find_own(handle, pids),
            total_mib=None if memory is None else _figure(memory.total, _MIB),
            power_watts=_figure(power, 1000),
            energy_joules=_figure(energy, 1000),
        )

    def _find_own(self, handle: Any, pids: Collection[int]) -> float | None:
        """Return what the trainer has; in most containers its processes have other numbers here."""
        processes = self._ask("nvmlDeviceGetComputeRunningProcesses", handle) or ()
        own = [process.usedGpuMemory for process in processes if process.pid in pids]
        return add([_figure(size, _MIB) for size in own])

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Return the answer; ``None`` for what this device does not tell."""
        try:
            return getattr(self._nvml, function)(*arguments)
        except self._nvml.NVMLError as error:
            if getattr(error, "value", None) in _LOST:
                raise GpuLost(str(error)) from error
            return None


class Smi:
    """
    The program that comes with the driver.

    :param command: Where it is.
    :param uuids: The GPUs; ``None`` for all.
    """

    def __init__(self, command: str, uuids: tuple[str, ...] | None) -> None:
        chosen = () if uuids is None else (f"--id={','.join(uuids)}",)
        query = f"--query-gpu={','.join(_FIELDS)}"
        self._argv = [command, *chosen, query, "--format=csv,noheader,nounits"]

    def read(self, _pids: Collection[int], /) -> list[Reading]:
        """Return a reading of each, which tells nothing of processes; see :class:`Source`."""
        try:
            done = subprocess.run(
                self._argv, capture_output=True, text=True, errors="replace", check=False,
                timeout=_TIMEOUT_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise NoGpu(str(error)) from error
        if done.returncode in _LOST:
            raise GpuLost(" ".join((done.stdout + done.stderr).split()) or "GPU is lost")
        lines = [line for line in done.stdout.splitlines() if line.strip()]
        rows = [[part.strip() for part in line.split(",")] for line in lines]
        if done.returncode != 0 or not rows or any(len(row) != len(_FIELDS) for row in rows):
            raise NoGpu("no device")
        return [
            Reading(
                name=_text(name),
                uuid=_text(uuid),
                driver=_text(driver),
                utilisation_percent=_figure(utilisation),
                used_mib=_figure(used),
                own_mib=None,
                total_mib=_figure(total),
                power_watts=_figure(power),
                energy_joules=None,
            )
            for name, uuid, driver, utilisation, used, total, power in rows
        ]


def _find_uuids(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the UUIDs of this attempt's GPUs; ``None`` where nothing names them so."""
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        given = environment.get(name)
        if given is None:
            continue
        if given in ("", "void", "none", "-1"):
            return ()
        parts = tuple(part.strip() for part in given.split(","))
        if all(_UUID.fullmatch(part) for part in parts):
            return parts
    return None


def _figure(value: Any, divisor: float = 1) -> float | None:
    """Return a number; ``None`` for what is none, as ``[N/A]``, or cannot be."""
    try:
        figure = float(value) / divisor
    except (TypeError, ValueError, OverflowError):
        return None
    return figure if math.isfinite(figure) and figure >= 0 else None


def _text(value: Any) -> str:
    text = value.decode(errors="replace") if isinstance(value, bytes) else str(value or "")
    return "".join(character for character in text if character.isprintable())[:MAX_TEXT]
