"""What a pod is made of: nothing, a process or a Docker container."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from fakes.runpod.store import PodRow

GPU_FILE = "gpu.env"
"""Read by the pods' nvidia-smi; its change is a change of the hardware."""


class PullFailed(Exception):
    """The image cannot be had."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """
    What a pod's container is started with.

    :param env: Its environment.
    :param gpu: Content of the file that describes its GPU.
    :param has_key: Whether the public key gets in (not so with the fault ``boot.wrong_key``).
    :param disk_mib: Size of its disk when that is to be small.
    """

    env: dict[str, str] = field(repr=False)
    gpu: str
    has_key: bool = True
    disk_mib: int | None = None


class Runtime(Protocol):
    """
    Runs the containers of pods.

    :ivar poll_seconds: How often to look whether a container has ended.
    """

    poll_seconds: float

    async def pull(self, pod: PodRow) -> None:
        """Get the image. Raise ``PullFailed`` when it does not exist."""

    async def start(self, pod: PodRow, launch: Launch) -> int | None:
        """Start the container; return the loopback port of its sshd."""

    async def adopt(self, pod: PodRow) -> int | None:
        """Return the sshd's port of a container that still runs, or ``None``."""

    async def poll(self, pod: PodRow) -> int | None:
        """Return the exit code when the container has ended."""

    async def read_console(self, pod: PodRow) -> list[str]:
        """Return what the container has written since the last call."""

    async def set_gpu(self, pod: PodRow, gpu: str) -> None:
        """Change the GPU of a running container."""

    async def fill_disk(self, pod: PodRow) -> None:
        """Use up the disk of a running container."""

    async def kill(self, pod: PodRow) -> None:
        """End the container; its disk stays."""

    async def remove(self, pod: PodRow) -> None:
        """End the container and wipe its disk; nothing happens when it is gone."""


class NoRuntime:
    """Pods with nothing behind them, for tests of the API and for many at once."""

    poll_seconds = 0.5

    def __init__(self) -> None:
        self._killed: set[str] = set()

    async def pull(self, pod: PodRow) -> None:
        """All images exist."""

    async def start(self, pod: PodRow, launch: Launch) -> int | None:
        """Start nothing."""
        self._killed.discard(pod.id)

    async def adopt(self, pod: PodRow) -> int | None:
        """Nothing survives."""

    async def poll(self, pod: PodRow) -> int | None:
        """Only what was killed has ended."""
        return 137 if pod.id in self._killed else None

    async def read_console(self, pod: PodRow) -> list[str]:
        """Nothing is written."""
        return []

    async def set_gpu(self, pod: PodRow, gpu: str) -> None:
        """Nobody looks."""

    async def fill_disk(self, pod: PodRow) -> None:
        """There is none."""

    async def kill(self, pod: PodRow) -> None:
        """Let it have ended."""
        self._killed.add(pod.id)

    async def remove(self, pod: PodRow) -> None:
        """Forget it."""
        self._killed.discard(pod.id)
