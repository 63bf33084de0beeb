from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from touchstone_agent.pod import gpus, poll
from touchstone_agent.pod.gpus import find_gpus, parse_gpus
from touchstone_agent.pod.home import PodHome
from touchstone_agent.pod.lease import find_lease, read_uptime
from touchstone_agent.protocol.errors import ConfigurationError, TransientError
from touchstone_agent.protocol.facts import PodGpu
from touchstone_agent.protocol.pods import PodPoll, PodState

L4 = {"name": "NVIDIA L4", "memory_mib": 24576, "driver": "570.1"}


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What nvidia-smi says in turn."""
    said = ["NVIDIA L4, 24576, 570.1\n"] * 9
    monkeypatch.setattr(gpus, "ask_driver", lambda: said.pop())
    return said


@pytest.mark.usefixtures("driver")
def test_a_poll_renews_the_lease_and_tells_the_state(home: PodHome) -> None:
    before = read_uptime()
    state = PodState.model_validate(poll.poll(home, b'{"lease_seconds": 100}'))
    until = find_lease(home)
    assert until is not None
    assert before + 100 <= until <= read_uptime() + 100
    assert 99 < state.lease_seconds_left <= 100
    assert state.gpus == (PodGpu(**L4),)


def test_a_pod_that_has_not_booted_says_so(tmp_path) -> None:
    with pytest.raises(TransientError, match="still starting"):
        poll.poll(PodHome(tmp_path), b'{"lease_seconds": 100}')


GIVEN: list[Any] = [
    {"lease_seconds": 1},
    {"lease_seconds": 60, "console_offset": 5, "console_bytes": 0, "added_later": 1},
    {},
    {"lease_seconds": 0},
    {"lease_seconds": -1},
    {"lease_seconds": None},
    {"lease_seconds": 1, "console_offset": -1},
    {"lease_seconds": 1, "console_bytes": "many"},
    [],
    "x",
]


@pytest.mark.parametrize("given", GIVEN)
def test_a_poll_is_read_as_the_protocol_says(given: Any) -> None:
    text = json.dumps(given).encode()
    try:
        meant = PodPoll.model_validate_json(text).model_dump()
    except ValidationError:
        with pytest.raises(ConfigurationError):
            poll.parse_poll(text)
    else:
        assert poll.parse_poll(text) == meant


@pytest.mark.parametrize("text", [b"", b"\xff", b"{", b"[" * 60_000, b" " * 65_537])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ConfigurationError, match="JSON"):
        poll.parse_poll(text)


# --- GPUs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("NVIDIA L4, 24576, 570.1\n", [L4]),
        ("NVIDIA L4, 24576, 570.1\nNVIDIA L4, 24576, 570.1\n", [L4, L4]),
        ("NVIDIA L4, [Unknown Error], 570.1\n", []),
        ("No devices were found\n", []),
        ("", []),
    ],
)
def test_what_the_driver_says(text: str, found: list[Any]) -> None:
    assert parse_gpus(text) == found


def test_an_idle_pod_asks_its_driver_each_time(home: PodHome, driver: list[str]) -> None:
    find_gpus(home, is_idle=True, uptime=100)
    driver.append("")
    assert find_gpus(home, is_idle=True, uptime=101) == []


def test_beside_a_training_the_driver_is_asked_every_half_minute(
    home: PodHome, driver: list[str]
) -> None:
    left = len(driver)
    for uptime in (100, 110, 129.9):
        assert find_gpus(home, is_idle=False, uptime=uptime) == [L4]
    assert len(driver) == left - 1
    find_gpus(home, is_idle=False, uptime=130)
    assert len(driver) == left - 2


def test_what_was_kept_before_the_machine_was_started_again_is_not_believed(
    home: PodHome, driver: list[str]
) -> None:
    find_gpus(home, is_idle=False, uptime=5000)
    driver.append("")
    assert find_gpus(home, is_idle=False, uptime=10) == []
