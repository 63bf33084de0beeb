"""What an admin is told before anything is relied on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fakes.agent_world import FakeRuntime
from touchstone_agent import __main__ as command
from touchstone_agent import preflight
from touchstone_agent.preflight import CheckResult, run_checks
from touchstone_agent.settings import AgentSettings

from .conftest import CONTROL_PUBLIC


class SharingRuntime(FakeRuntime):
    """Cannot keep runner and trainer apart."""

    def find_shared_user(self, image: str | None = None) -> str | None:
        return "this agent is not root"


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[CheckResult]]:
    monkeypatch.setattr(preflight, "_check_queue", lambda settings, queue: "reachable")
    settings = AgentSettings(
        env="dev",
        server="box",
        state_dir=tmp_path,
        private_key_file=tmp_path / "key",
        control_public_key=CONTROL_PUBLIC,
        images_allowed=("trainer:1", "registry/*"),
        min_free_mib=0,
    )

    def check(runtime: FakeRuntime) -> list[CheckResult]:
        return list(run_checks(settings, lambda _: runtime))

    return check


def test_it_is_told_whether_runner_and_trainer_are_two_users(check) -> None:
    told = [r for r in check(FakeRuntime()) if r.name.startswith("users")]
    assert [r.name for r in told] == ["users", "users in trainer:1"]
    assert all(r.is_ok and not r.is_warning for r in told)


def test_who_shares_a_user_is_warned_of_loudly_and_may_go_on(
    check, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = check(SharingRuntime())
    told, _ = [r for r in found if r.name.startswith("users")]
    assert told.is_ok
    assert told.is_warning
    assert "SHARE A USER: this agent is not root" in told.text

    monkeypatch.setattr(preflight, "run_checks", lambda *_: (told,))
    assert command.check(None) == 0
    assert capsys.readouterr().out.startswith("WARN users: RUNNER AND TRAINER")
