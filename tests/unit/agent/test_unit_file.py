"""The service of an enrolled server: what is left to whoever gets hold of the agent."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[3] / "agent/packaging/touchstone-agent.service"
MOST_EXPOSED = 29
"""Tenths: below 3.0."""


@pytest.fixture(scope="module")
def unit() -> str:
    """The unit as the installer writes it."""
    text = UNIT.read_text().replace("@STATE_DIR@", "/var/lib/touchstone-agent")
    text = text.replace("@ENGINE_GROUP@", "docker")
    assert "@" not in text.replace("@system-service", "").replace("@privileged", "")
    return text


def find_values(unit: str, key: str) -> list[str]:
    lines = (line.partition("=") for line in unit.splitlines())
    return [value for name, _, value in lines if name == key]


def test_systemd_finds_it_little_exposed(unit: str, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NO SYSTEMD (apt install systemd): the unit's protections were NOT judged")
    file = tmp_path / "touchstone-agent.service"
    file.write_text(unit)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(file)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-300:] + done.stderr


def test_it_is_a_user_of_its_own_in_the_engines_group_and_no_other(unit: str) -> None:
    assert find_values(unit, "User") == ["touchstone-agent"]
    assert find_values(unit, "Group") == ["touchstone-agent"]
    assert find_values(unit, "SupplementaryGroups") == ["docker"]
    assert find_values(unit, "CapabilityBoundingSet") == [""]


def test_it_may_write_to_its_state_folder_alone(unit: str) -> None:
    assert find_values(unit, "ProtectSystem") == ["strict"]
    assert find_values(unit, "ReadWritePaths") == ["/var/lib/touchstone-agent"]
    assert find_values(unit, "ReadOnlyPaths") == ["-/dev/shm -/dev/mqueue -/run"]
    assert find_values(unit, "PrivateTmp") == ["yes"]


def test_a_restart_leaves_what_runs_alone(unit: str) -> None:
    assert find_values(unit, "KillMode") == ["process"]
    assert find_values(unit, "Restart") == ["always"]
