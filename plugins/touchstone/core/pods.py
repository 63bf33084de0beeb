"""Pods of RunPod as Touchstone sees them: their state, their order, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

SSH_PORT: Final = "22/tcp"


class Cloud(StrEnum):
    """Whose machine it is: RunPod's own data centre, or a vetted host's."""

    SECURE = "SECURE"
    COMMUNITY = "COMMUNITY"


class PodStatus(StrEnum):
    """What RunPod has seen of a pod; ``UNKNOWN`` for a word not known yet."""

    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    EXITED = "EXITED"
    ERROR = "ERROR"
    TERMINATED = "TERMINATED"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, kw_only=True)
class SshAddress:
    """Where a pod's own sshd is reached; changes with every start of its container."""

    host: str
    port: int
    username: str = "root"


@dataclass(frozen=True, kw_only=True)
class Pod:
    """
    A pod as the API shows it.

    :param status: Seen, not desired.
    :param price_per_hour: USD while it has its machine; 0 when it is stopped.
    :param ssh: ``None`` until port 22 is mapped to a public address.
    :param uptime_seconds: Since its container started; ``None`` while none runs.
    """

    id: str
    name: str
    status: PodStatus
    image: str
    gpu: str | None
    gpu_count: int
    cloud: Cloud | None
    data_center: str | None
    price_per_hour: Decimal
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssh: SshAddress | None = None
    uptime_seconds: int | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    cuda_version: str | None = None

    @property
    def is_running(self) -> bool:
        """Return whether its container runs."""
        return self.status is PodStatus.RUNNING


@dataclass(frozen=True, kw_only=True)
class PodOrder:
    """
    What to rent: exactly one of ``gpu`` and ``cpu``.

    :param name: Unique, because RunPod takes a name twice and knows no idempotency key.
    :param image: The pod *is* a container of this image; there is no Docker inside.
    :param gpu: GPU model id of the catalogue.
    :param cpu: CPU flavor id of the catalogue.
    :param vcpus: How many of it; ``None`` for a GPU, which brings its own.
    :param data_center: ``None`` lets RunPod choose.
    :param disk_gb: Container disk, wiped with the container.
    :param entrypoint: Instead of the image's; empty keeps the image's.
    :param cmd: Instead of the image's; empty keeps the image's.
    :param registry_id: RunPod's id of the credentials for a private image.
    :param min_cuda: Lowest CUDA version of the host, as ``12.4``.
    """

    name: str
    image: str
    gpu: str | None = None
    gpu_count: int = 1
    cpu: str | None = None
    vcpus: int | None = None
    cloud: Cloud = Cloud.SECURE
    data_center: str | None = None
    disk_gb: int = 20
    ports: tuple[str, ...] = (SSH_PORT,)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    registry_id: str | None = None
    min_cuda: str | None = None

    def __post_init__(self) -> None:
        """Refuse an order of nothing or of both."""
        if (self.gpu is None) == (self.cpu is None):
            raise ValueError("a pod has either a GPU or a CPU")
        if (self.cpu is None) != (self.vcpus is None):
            raise ValueError("a CPU pod says how many vCPUs, and no other does")


@dataclass(frozen=True, kw_only=True)
class Balance:
    """The account's money, in USD; ``spend_per_hour`` is of all pods, ours or not."""

    usd: Decimal
    spend_per_hour: Decimal
    spend_limit: Decimal | None = None


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What RunPod says a pod has cost so far, in USD; lags behind by up to an hour."""

    pod_id: str
    usd: Decimal


def compute_cost(price_per_hour: Decimal, seconds: float) -> Decimal:
    """Return USD for a time: RunPod bills whole seconds, begun ones count."""
    return price_per_hour * math.ceil(max(0.0, seconds)) / 3600
