"""A stack of several servers with a trainer that does as it is told; the tests share it."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from fakes.images import build_script_image, name_script_image
from system.installation import Installation

TRAINER = Path(__file__).parents[1] / "fakes" / "trainer.sh"
IMAGE = name_script_image("touchstone-test-trainer", TRAINER)
SERVERS = {"a": 1, "b": 2, "c": 3}
LEASE_SECONDS = 40
SETTINGS = {
    "TOUCHSTONE_TRAINER_IMAGE": IMAGE,
    # Several heartbeats long, also on a busy machine; one test waits for its end.
    "TOUCHSTONE_SILENCE_SECONDS": "30",
    "TOUCHSTONE_LEASE_SECONDS": str(LEASE_SECONDS),
    "TOUCHSTONE_TRAINING_MEMORY_MIB": "64",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/placement/" in str(item.path):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    """A running stack of servers with one, two and three slots."""
    build_script_image(IMAGE, TRAINER, tmp_path_factory.mktemp("image"))
    state_dir = tmp_path_factory.mktemp("stack")
    state_dir.chmod(0o700)
    made = Installation(state_dir, f"p{secrets.token_hex(3)}", SETTINGS)
    servers = ",".join(f"{name}={slots}" for name, slots in SERVERS.items())
    done = made.run("up", "--runtime", "docker", "--servers", servers)
    if done.returncode != 0:
        pytest.fail(f"the stack does not start:\n{done.stdout}\n{done.stderr}", pytrace=False)
    yield made
    ended = made.run("down")
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert made.running_attempts() == []


@pytest.fixture
def fleet(installation):
    """The servers with the slots they began with, before and after."""
    for name, slots in SERVERS.items():
        installation.set_slots(name, slots)
    yield installation
    for name, slots in SERVERS.items():
        installation.set_slots(name, slots)
