"""A pod's folders as its first process leaves them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from touchstone_agent.adapters import processes
from touchstone_agent.pod import trainer
from touchstone_agent.pod.home import PodHome, write_json
from touchstone_agent.pod.lease import open_lease
from touchstone_agent.protocol.messages import AttemptRef, Grant, Input, Limits
from touchstone_agent.protocol.pods import PodStart

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
REF = AttemptRef(submission_id="s", task_id="i5", attempt=1, fence=3)


@pytest.fixture
def home(tmp_path: Path) -> PodHome:
    """The home of a pod that has booted and got no order yet."""
    home = PodHome(tmp_path / "touchstone")
    home.make()
    open_lease(home, kernel_boot="k", until=10_000_000)
    write_json(home.boot_file, {"boot_id": "b1"})
    return home


@pytest.fixture
def busy_home(home: PodHome) -> PodHome:
    """The home of a pod whose attempt runs."""
    order = {"boot_id": "b1", "start": make_start().model_dump(mode="json")}
    write_json(home.order_file, order)
    write_json(home.record_file, {"phase": "running", "running_at": NOW.isoformat()})
    home.out.mkdir(parents=True)
    return home


@pytest.fixture(autouse=True)
def _one_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is given to another user, who could not enter the tests' folders."""
    for module in (processes, trainer):
        monkeypatch.setattr(module, "find_trainer_user", lambda: None)


def make_grant(url: str = "http://store/key", method: str = "GET") -> Grant:
    return Grant(method=method, url=url, expires_at=NOW)


def make_input(path: str = "content", *, url: str = "http://store/1", **changes: Any) -> Input:
    return Input(
        **{"path": path, "grant": make_grant(url), "sha256": "0" * 64, "size": 3, **changes}
    )


def make_start(**changes: Any) -> PodStart:
    return PodStart(
        **{
            "ref": REF,
            "command": ("elnigma-run",),
            "argv": ("train", "--feature-set", "{in}/content", "--out", "{out}"),
            "environment": {"TOUCHSTONE_SEED": "7"},
            "limits": Limits(wall_seconds=100, memory_mib=512),
            **changes,
        }
    )
