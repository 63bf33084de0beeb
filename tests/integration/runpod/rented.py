"""A world whose pods have the in-pod program and a trainer that does as it is told."""

from __future__ import annotations

import secrets
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from tests.integration.runpod.conftest import SshClient, World, open_world

from fakes.renting import Office, build_settings
from fakes.runpod.process import can_isolate
from touchstone_agent.protocol.pods import POD_PROGRAM

TRAINER = Path(__file__).parents[2] / "fakes/trainer.sh"
OVERLAP_SECONDS = 0.5
"""A pod that is proven gone was gone a little before that; its bill may end a little later."""


@contextmanager
def open_rented_world(folder: Path, ssh: SshClient, *arguments: str) -> Iterator[World]:
    """Start an emulator whose pods can train, and stop it."""
    if not can_isolate(folder):
        pytest.skip("only root can make pods that are isolated processes")
    with make_programs() as programs:
        options = ("--programs", str(programs), *arguments)
        with open_world(folder / "emulator", ssh, "process", *options) as world:
            yield world


@contextmanager
def make_programs() -> Iterator[Path]:
    """Make what a trainer's image has; where the trainer, who is nobody, may look, too."""
    with tempfile.TemporaryDirectory(prefix="touchstone-programs-") as name:
        programs = Path(name)
        programs.chmod(0o755)
        (programs / POD_PROGRAM).symlink_to(Path(sys.executable).with_name(POD_PROGRAM))
        runner = programs / "elnigma-run"
        runner.write_text(TRAINER.read_text())
        runner.chmod(0o755)
        yield programs


def open_office(world: World, ministack: str, **settings: Any) -> Office:
    """Return an installation of its own that rents in a world."""
    return open_office_at(world.emulator.url, ministack, **settings)


def open_office_at(runpod_url: str, ministack: str, **settings: Any) -> Office:
    """Return an installation of its own that rents from an emulator."""
    env = f"t{secrets.token_hex(3)}"
    return Office(runpod_url, ministack, build_settings(env, **settings)).open()


def list_spans(world: World, office: Office) -> list[dict[str, Any]]:
    """Return what an installation's pods were billed for."""
    prefix = f"touchstone-{office.settings.env}-"
    spans = world.admin.get_ledger()["spans"]
    return [span for span in spans if span["name"].startswith(prefix)]


def list_alive(world: World, office: Office) -> list[str]:
    """Return an installation's pods that are alive in truth."""
    prefix = f"touchstone-{office.settings.env}-"
    return [pod["name"] for pod in world.admin.list_pods() if pod["name"].startswith(prefix)]


def count_doubled(spans: list[dict[str, Any]]) -> int:
    """Return how often a task had two pods at one time."""
    by_task: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for span in spans:
        # Without attempt and fence.
        by_task[span["name"].rsplit("-", 2)[0]].append(span)
    doubled = 0
    for group in by_task.values():
        until: datetime | None = None
        for span in sorted(group, key=lambda each: each["started_at"]):
            begun = datetime.fromisoformat(span["started_at"])
            if until is not None and (until - begun).total_seconds() > OVERLAP_SECONDS:
                doubled += 1
            ended = span["ended_at"] and datetime.fromisoformat(span["ended_at"])
            until = max(filter(None, (until, ended)), default=None) if ended else datetime.max
            if until is datetime.max:
                until = datetime.max.replace(tzinfo=begun.tzinfo)
    return doubled


def sum_usd(spans: list[dict[str, Any]]) -> Decimal:
    """Return what pods have cost by RunPod's own count."""
    return sum((Decimal(span["usd"]) for span in spans), Decimal())
