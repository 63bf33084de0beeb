"""What the daemon needs of the world; the adapters provide it, the tests replace it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.logins import RegistryLogin
from touchstone_agent.protocol.messages import AttemptRef, Limits, Refusal


class HostLacks(PermanentError):
    """
    This machine has not what an attempt needs; another one may.

    :param message: What it lacks.
    :param refusal: What kind of thing.
    """

    def __init__(self, message: str, refusal: Refusal) -> None:
        super().__init__(message)
        self.refusal = refusal


class RegistryAway(TransientError):
    """An image's registry does not answer this machine now."""


class Clock(Protocol):
    """Two clocks: one to tell the time, one to measure durations."""

    def now(self) -> datetime:
        """Return the time, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that never jumps."""
        ...


@dataclass(frozen=True, kw_only=True)
class Exit:
    """
    How a container ended.

    :param exit_code: Its exit code; ``None`` when nobody knows it any more.
    :param oom_killed: Whether it ran out of memory.
    """

    exit_code: int | None
    oom_killed: bool = False


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """
    Everything a runtime needs to run one attempt.

    :param ref: The attempt.
    :param name: Name of the container or process group, derived from the attempt.
    :param labels: Facts by which it is found again.
    :param image: Container image.
    :param argv: Arguments; ``{in}`` and ``{out}`` are still in place.
    :param environment: Environment, without what depends on the runtime.
    :param folder: The attempt's folder, with ``in``, ``out`` and ``tmp``.
    :param cache: Folder of what was prepared; ``None`` for none. Only with the network may it be
        written to.
    :param limits: What it may use.
    :param network: Whether it may use the network; then it runs no submitted code, and as one user
        without any right.
    :param gpu_ids: GPUs to hand over, by UUID (or index, see ``Attempt``); it must see no other.
    """

    ref: AttemptRef
    name: str
    labels: Mapping[str, str]
    image: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path
    cache: Path | None = None
    limits: Limits = field(default_factory=Limits)
    network: bool = False
    gpu_ids: tuple[str, ...] = ()


def show_nothing() -> RegistryLogin | None:
    """Show a registry no login."""
    return None


def tell_nobody(_percent: float, _text: str) -> None:
    """Keep for oneself how far a pull is."""


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """
    What a container engine says of itself.

    :param storage_driver: How it keeps images and containers' file systems.
    :param root: Where it keeps them.
    :param has_live_restore: Whether containers go on while it is restarted.
    :param runtimes: What it can start containers with.
    """

    storage_driver: str
    root: Path
    has_live_restore: bool
    runtimes: tuple[str, ...]


class Runtime(Protocol):
    """
    Where attempts run. Every method may be repeated; names identify, so nothing runs twice.

    All raise :class:`~touchstone_agent.protocol.errors.TransientError` when the engine does not
    answer, and :class:`~touchstone_agent.protocol.errors.PermanentError` when it never will do
    what is asked; of that :class:`HostLacks` when another machine may.
    """

    name: str

    def check(self) -> str:
        """Return one line about the engine that shows it is usable."""
        ...

    def read_engine(self) -> EngineFacts | None:
        """Return what the engine says of itself; ``None`` where there is none."""
        ...

    def resolve_image(
        self,
        image: str,
        *,
        is_cancelled: Callable[[], bool],
        find_login: Callable[[], RegistryLogin | None] = show_nothing,
        tell: Callable[[float, str], None] = tell_nobody,
    ) -> str:
        """
        Make sure an image is on this machine and return its digest.

        :param find_login: Returns what its registry is shown; asked once, for an image that is
            named by content and is not here.
        :param tell: Told how far a pull is: percent, and words for people.
        """
        ...

    def sweep_images(self, in_use: Collection[str]) -> None:
        """
        Remove the oldest images that were pulled here, where all of them take too much.

        :param in_use: Images that are needed whatever they take.
        """
        ...

    def read_image_labels(self, image: str) -> Mapping[str, str]:
        """Return the labels of an image that is on this machine; none where there are no images."""
        ...

    def find_shared_user(self, image: str | None = None) -> str | None:
        """
        Return why runner and trainer share a user; ``None`` if they need not.

        :param image: The image; ``None`` for whatever may be the reason with every image.
        """
        ...

    def launch(self, spec: LaunchSpec) -> None:
        """Run the attempt, unless it runs or has run already under this name."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether it runs, or has run and was not removed."""
        ...

    def wait(self, name: str) -> Exit | None:
        """Block until it has ended; ``None`` if there is none of that name."""
        ...

    def stop(self, name: str, *, grace_seconds: float) -> None:
        """Ask it to end, then force it; returns when it has ended. Gone already is success."""
        ...

    def kill(self, name: str) -> None:
        """End it at once, whatever it is doing. Gone already is success."""
        ...

    def find_main_pid(self, name: str, out: Path) -> int | None:
        """
        Return the process from which all others of it descend.

        :param out: Its output folder.
        :return: ``None`` where its processes cannot be looked at.
        """
        ...

    def read_output(self, name: str) -> bytes:
        """Return the tail of what it wrote itself, beside the console file."""
        ...

    def remove(self, name: str) -> None:
        """Remove what is left of it; returns when it is verified gone."""
        ...

    def list_labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of each container of this environment and server, by name."""
        ...
