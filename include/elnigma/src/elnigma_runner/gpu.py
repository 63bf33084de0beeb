"""How much of a GPU the trainer uses, where there is one."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from statistics import fmean
from typing import Any

from elnigma_runner.gpu_sources import MAX_TEXT, GpuLost, NoGpu, Reading, Source, add, find_sources

LEAST_PERCENT = 10.0
"""A GPU that is used less than this was not worth having."""
SMALL_MODEL = 1_000_000
"""Parameters of a model that a processor trains about as fast."""


class GpuMeter:
    """
    Samples the GPUs of this attempt: by NVML where its library is installed, else by nvidia-smi.

    :param environment: Names the GPUs by UUID in ``CUDA_VISIBLE_DEVICES`` or
        ``NVIDIA_VISIBLE_DEVICES``; else they are all that can be seen here. With ``none`` in
        ``TOUCHSTONE_CUDA`` there are none.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._wanted = environment.get("TOUCHSTONE_CUDA", "")
        self._sources: list[Source] = []
        if self._wanted != "none":
            self._sources = find_sources(environment)
        self._last: list[Reading] = []
        self._percents: list[float] = []
        self._watts: list[float] = []
        self._energy = _Energy()
        self._peak_mib: float | None = None
        self._own_peak_mib: float | None = None
        self._fault: str | None = None

    @property
    def is_present(self) -> bool:
        """Return whether there may be a GPU to sample."""
        return bool(self._sources)

    @property
    def fault(self) -> str | None:
        """Return what the driver says of a GPU that was there and is lost; ``None`` if none is."""
        return self._fault

    def sample(self, pids: Collection[int]) -> None:
        """
        Take one sample of all GPUs.

        :param pids: The trainer's processes.
        """
        readings = self._read(pids)
        if not readings:
            return
        percents = [reading.utilisation_percent for reading in readings]
        self._percents += [percent for percent in percents if percent is not None]
        used = add([reading.used_mib for reading in readings])
        own = add([reading.own_mib for reading in readings])
        self._peak_mib = _greater(self._peak_mib, used)
        self._own_peak_mib = _greater(self._own_peak_mib, own)

    def finish(self) -> None:
        """Look once more when the trainer has ended: at the energy, and at whether it is there."""
        self._read(())

    def find_waste(self, parameters: int | None) -> str | None:
        """
        Return what is to be said of a GPU that somebody wanted and that was hardly used.

        :param parameters: Of the largest model that was trained; ``None`` if it is unknown.
        """
        used = _mean(self._percents)
        if self._wanted not in ("required", "preferred") or used is None or used >= LEAST_PERCENT:
            return None
        told = f"the GPU was in use for {used:g} % of the time"
        if parameters is not None and parameters < SMALL_MODEL:
            return f"{told}: the model has {parameters:,} parameters; a CPU slot would do"
        return f"{told}: most of it went elsewhere, into features, data or start-up"

    def summary(self) -> dict[str, Any] | None:
        """Return the figures of the whole run, or ``None`` without a GPU."""
        if not self._last:
            return None
        is_own = self._own_peak_mib is not None
        return {
            "name": ", ".join(reading.name for reading in self._last)[:MAX_TEXT],
            "uuid": ", ".join(reading.uuid for reading in self._last)[:MAX_TEXT],
            "driver": self._last[0].driver,
            "mean_utilisation_percent": _mean(self._percents),
            "peak_memory_mib": _round(self._own_peak_mib if is_own else self._peak_mib),
            "memory_of": "trainer" if is_own else "device",
            "memory_mib": _round(add([reading.total_mib for reading in self._last])),
            "mean_power_watts": _mean(self._watts),
            "energy_joules": _round(self._energy.joules),
        }

    def _read(self, pids: Collection[int]) -> list[Reading]:
        while self._sources:
            try:
                readings = self._sources[0].read(pids)
            except GpuLost as error:
                # One that nobody has seen at work is no loss, only a machine without a GPU.
                if self._last:
                    self._fault = str(error)[:MAX_TEXT]
                self._sources.clear()
                return []
            except NoGpu:
                # What one does not tell, the other may; but not in the middle of a run.
                if self._last:
                    self._sources.clear()
                else:
                    self._sources.pop(0)
                continue
            now = time.monotonic()
            watts = add([reading.power_watts for reading in readings])
            if watts is not None:
                self._watts.append(watts)
            self._energy.add(add([reading.energy_joules for reading in readings]), watts, now)
            self._last = readings
            return readings
        return []


class _Energy:
    """What was drawn between the first and the last reading."""

    def __init__(self) -> None:
        self._first: float | None = None
        self._last: float | None = None
        self._by_power: float | None = None
        self._power: float | None = None
        self._at = 0.0

    @property
    def joules(self) -> float | None:
        if self._first is not None and self._last is not None:
            # A driver that was loaded anew begins at nothing.
            return self._last - self._first if self._last >= self._first else None
        return self._by_power

    def add(self, counter: float | None, watts: float | None, now: float) -> None:
        if counter is not None:
            self._first = counter if self._first is None else self._first
            self._last = counter
        if watts is not None:
            if self._power is not None:
                drawn = (self._power + watts) / 2 * (now - self._at)
                self._by_power = (self._by_power or 0.0) + drawn
            self._power, self._at = watts, now


def _mean(figures: list[float]) -> float | None:
    return round(fmean(figures), 1) if figures else None


def _greater(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def _round(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 1)
