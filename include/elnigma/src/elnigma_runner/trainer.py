"""Which trainer is run, and how its versions are told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from elnigma_runner.settings import Settings
from elnigma_runner.verdict import Decision, Ending, one_line

Run = Callable[[list[str], dict[str, str], Path], Ending]
Say = Callable[[str], None]

# What a result depends on most; named in the console.
_TOLD_PACKAGES = ("arch", "h5py", "jax", "jaxlib", "keras", "numpy", "pandas", "scipy")


class PrepareError(Exception):
    """
    The trainer cannot be made ready.

    :param message: Why, in one line.
    :param temporary: Whether the same request may work later.
    """

    def __init__(self, message: str, *, temporary: bool) -> None:
        super().__init__(message)
        code, error_class = (75, "temporary") if temporary else (2, "config")
        reason = one_line(f"{error_class}: {message}")
        self.decision = Decision(exit_code=code, error_class=error_class, reason=reason)


class PrepareStopped(Exception):
    """
    A limit or an abort ended the preparation.

    :param ending: How.
    """

    def __init__(self, ending: Ending) -> None:
        super().__init__(str(ending.stop))
        self.ending = ending


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """
    A trainer that is ready.

    :param command: How to start it, without arguments.
    :param source: In words: where it comes from.
    :param environment: Added to its environment.
    :param sites: Folders of its installed packages, for the versions.
    """

    command: list[str]
    source: str
    environment: dict[str, str] = field(default_factory=dict)
    sites: tuple[str, ...] = ()


def find_own_trainer(settings: Settings) -> Trainer:
    """Return the trainer that is installed beside the runner."""
    if settings.trainer is not None:
        return Trainer(command=[settings.trainer], source=settings.trainer)
    return Trainer(
        command=[sys.executable, "-P", "-m", "elnigma"],
        source="the image's own",
        sites=tuple(sys.path),
    )


def tell_versions(trainer: Trainer, say: Say) -> None:
    """Say what the trainer is and which versions it runs with."""
    say(f"trainer: {trainer.source}; python {sys.version.split()[0]}")
    if trainer.sites:
        found = find_versions(trainer.sites, _TOLD_PACKAGES)
        say("versions: " + ", ".join(f"{name} {found[name]}" for name in sorted(found)))


def find_versions(sites: tuple[str, ...], names: tuple[str, ...]) -> dict[str, str]:
    """Return the installed version by name; the first folder that has one counts."""
    found: dict[str, str] = {}
    for name in names:
        for distribution in distributions(name=name, path=list(sites)):
            found[name] = distribution.version
            break
    return found
