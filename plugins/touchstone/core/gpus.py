"""What a training computed on, and what it made of the GPU that it held. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

from pydantic import JsonValue

from touchstone.core.attempts import count_gpus
from touchstone.core.pod_attempts import compute_pod_cost
from touchstone.core.records.submissions import Fact
from touchstone.core.records.tasks import Attempt, GpuUsage, Task
from touchstone_agent.protocol.messages import AttemptPhase, SlotClass

LITTLE_USE_PERCENT: Final = 10
"""Below that a CPU slot would do."""

_SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """
    What an attempt made of its GPU.

    :param held_hours: How long the GPU was nobody else's: from START to the container's exit, or
        for as long as its pod is billed; of a shared GPU, its share of that.
    :param utilisation_percent: Mean share of the time in which it computed, by the runner's word;
        ``None`` if that is not known.
    :param usd: What the time costs: of a pod by its meter, of a server by the price that its owner
        declares; ``None`` if that is not known.
    :param is_open: Whether it is held still.
    :param waste: Why it computed so little, by the runner's word; ``None`` if it says nothing.
    """

    held_hours: float
    utilisation_percent: float | None
    usd: Decimal | None
    is_open: bool
    waste: str | None = None

    @property
    def useful_hours(self) -> float | None:
        """Return the part of the hours in which it computed."""
        if self.utilisation_percent is None:
            return None
        return self.held_hours * (self.utilisation_percent / 100)

    @property
    def usd_per_useful_hour(self) -> Decimal | None:
        """Return what one of those has cost; ``None`` if there was none, or nothing is known."""
        if self.usd is None or not self.useful_hours:
            return None
        return self.usd / Decimal(str(self.useful_hours))

    @property
    def is_little(self) -> bool:
        """Tell whether a CPU slot would have done."""
        used = self.utilisation_percent
        return used is not None and used < LITTLE_USE_PERCENT

    def dump(self) -> dict[str, JsonValue]:
        """Return it as plain values; amounts are texts with four decimals."""
        useful, ratio = self.useful_hours, self.usd_per_useful_hour
        return {
            "held_hours": round(self.held_hours, 4),
            "utilisation_percent": self.utilisation_percent,
            "useful_hours": None if useful is None else round(useful, 4),
            "usd": None if self.usd is None else f"{self.usd:.4f}",
            "usd_per_useful_hour": None if ratio is None else f"{ratio:.4f}",
            "is_open": self.is_open,
            "note": describe_use(self),
        }

    def list_metrics(self) -> dict[str, float]:
        """Return what is known of it as MLflow's metrics, by names that no trainer's has."""
        found = {
            "held_hours": self.held_hours,
            "utilisation_percent": self.utilisation_percent,
            "useful_hours": self.useful_hours,
            "usd": self.usd,
            "usd_per_useful_hour": self.usd_per_useful_hour,
        }
        return {f"touchstone.gpu.{key}": float(v) for key, v in found.items() if v is not None}


def find_gpu_use(task: Task, now: datetime) -> GpuUse | None:
    """
    Return what a training's newest attempt made of its GPU.

    :param task: The task.
    :param now: Until when it is counted while it is held.
    :return: ``None`` if it held none.
    """
    attempt = task.newest
    gpus = count_gpus(attempt) if task.kind is SlotClass.TRAINING else 0
    if not gpus or attempt.phase is AttemptPhase.REJECTED:
        return None
    seconds, is_open = _find_held(attempt, now)
    if seconds is None:
        return None
    pod, placement = attempt.pod, attempt.placement
    shares = 1 if pod or placement is None else placement.gpu_shares or 1
    hours = gpus * seconds / _SECONDS_PER_HOUR / shares
    if pod:
        usd: Decimal | None = compute_pod_cost(pod, now)[0]
    else:
        price = placement.gpu_price_per_hour if placement else None
        usd = None if price is None else Decimal(str(price)) * Decimal(str(hours))
    usage = attempt.verdict.usage if attempt.verdict else None
    told = (usage.gpu if usage else None) or GpuUsage()
    return GpuUse(
        held_hours=hours,
        utilisation_percent=_find_utilisation(told),
        usd=usd,
        is_open=is_open,
        waste=told.note,
    )


def describe_use(use: GpuUse) -> str:
    """Return in one line what an attempt made of its GPU."""
    if use.utilisation_percent is None:
        told = f"held a GPU for {use.held_hours:.2f} h"
    else:
        # Rounded down: a use that is shown as 10 % is not little.
        percent = math.floor(use.utilisation_percent)
        told = f"used {percent} % of its GPU in {use.held_hours:.2f} h"
    if use.is_open:
        return f"{told} so far"
    if use.usd_per_useful_hour is not None:
        told += f", ${use.usd_per_useful_hour:.2f} per useful hour"
    return f"{told}: {use.waste or 'a CPU slot would do'}" if use.is_little else told


def describe_device(device: Mapping[str, Fact]) -> str:
    """
    Return on what a training computed, by its trainer's word: ``on NVIDIA L4 (driver 550.54)``.

    :param device: The field ``device`` of its result.json; empty for trainers that do not tell it.
    :return: Empty if nothing is known.
    """
    name, platform = device.get("name"), device.get("platform")
    if platform == "cpu":
        none_seen = "a GPU was preferred, none seen" if device.get("wanted") == "preferred" else ""
        why = device.get("note") or none_seen
        return f"on the CPU ({why})" if why else "on the CPU"
    if not name:
        return ""
    return f"on {name} (driver {device['driver']})" if device.get("driver") else f"on {name}"


def _find_held(attempt: Attempt, now: datetime) -> tuple[float | None, bool]:
    """Return for how many seconds the GPU was held, and whether it is still."""
    pod = attempt.pod
    if pod and pod.seconds is not None:
        return float(pod.seconds), False
    if pod:
        # An order without an answer may have become no pod.
        begun, ended = pod.ordered_at if pod.id else None, None
    else:
        begun, ended = attempt.intent_at, attempt.exited_at or attempt.ended_at
    if begun is None:
        return None, False
    until = ended or now
    return max(0.0, (until - begun).total_seconds()), ended is None


def _find_utilisation(told: GpuUsage) -> float | None:
    percent = told.mean_utilisation_percent
    # The runner's word, of whatever driver: more than all of it makes no sense.
    return None if percent is None else min(100.0, max(0.0, float(percent)))
