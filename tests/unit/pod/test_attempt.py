"""An attempt whose runner could not tell how it ended."""

from __future__ import annotations

from typing import Any

import pytest

from touchstone_agent.pod import attempt
from touchstone_agent.pod.attempt import RESTARTED, RUNNER_GONE, find_interruption, mend_attempt
from touchstone_agent.pod.home import PodHome, locked, read_json, write_json


@pytest.fixture(autouse=True)
def killed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    monkeypatch.setattr(attempt, "kill_trainer", lambda record: calls.append("killed"))
    return calls


@pytest.mark.parametrize(
    ("order_boot", "phase", "problem"),
    [
        (None, None, None),
        ("b1", None, None),
        ("b1", "preparing", RUNNER_GONE),
        ("b1", "running", RUNNER_GONE),
        ("b1", "exited", None),
        ("b0", None, RESTARTED),
        ("b0", "preparing", RESTARTED),
        ("b0", "running", RESTARTED),
        ("b0", "exited", None),
    ],
)
def test_what_has_ended_it(order_boot: str | None, phase: str | None, problem: str | None) -> None:
    order = None if order_boot is None else {"boot_id": order_boot}
    record = None if phase is None else {"phase": phase}
    assert find_interruption(order, record, boot_id="b1") == problem


def test_an_attempt_of_an_earlier_boot_has_exited_with_a_problem(
    busy_home: PodHome, killed: list[str]
) -> None:
    before = read_json(busy_home.record_file) or {}
    assert mend_attempt(busy_home, boot_id="b2")
    record: dict[str, Any] = read_json(busy_home.record_file) or {}
    assert (record["phase"], record["problem"]) == ("exited", RESTARTED)
    assert record["running_at"] == before["running_at"]
    assert "exit_code" not in record
    assert killed == ["killed"]


def test_an_order_of_an_earlier_boot_is_not_begun(busy_home: PodHome) -> None:
    busy_home.record_file.unlink()
    assert mend_attempt(busy_home, boot_id="b2")
    assert (read_json(busy_home.record_file) or {})["problem"] == RESTARTED


def test_while_its_runner_lives_it_is_left_alone(busy_home: PodHome, killed: list[str]) -> None:
    with locked(busy_home.run_lock, wait=True):
        assert not mend_attempt(busy_home, boot_id="b1")
    assert (read_json(busy_home.record_file) or {})["phase"] == "running"
    assert killed == []


def test_a_runner_that_is_gone_is_noticed(busy_home: PodHome, killed: list[str]) -> None:
    assert mend_attempt(busy_home, boot_id="b1")
    assert (read_json(busy_home.record_file) or {})["problem"] == RUNNER_GONE
    assert killed == ["killed"]


def test_an_end_on_record_stays(busy_home: PodHome) -> None:
    record = {"phase": "exited", "exit_code": 0}
    write_json(busy_home.record_file, record)
    assert mend_attempt(busy_home, boot_id="b2")
    assert read_json(busy_home.record_file) == record


def test_without_an_order_there_is_nothing_to_mend(home: PodHome) -> None:
    assert not mend_attempt(home, boot_id="b2")
    assert not home.record_file.exists()
