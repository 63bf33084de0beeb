"""A live stack under attack: a real Airflow and agent, RunPod's emulator, somebody's results."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import docker
import pytest

from fakes.runpod.server import EmulatorProcess
from security.attacks import EVIL_IMAGE, Victim, build_evil_image
from system.installation import EXAMPLES, Installation

MODULES = Path(__file__).parent / "modules"
SETTINGS = {
    "TOUCHSTONE_RUNPOD_CONN_ID": "touchstone_runpod",
    "TOUCHSTONE_RUNPOD_GPU_MODELS": '["NVIDIA L4"]',
    "TOUCHSTONE_RUNPOD_MIN_FREE_GB": "0.1",
    "TOUCHSTONE_RUNPOD_IMAGE": EVIL_IMAGE,
    "TOUCHSTONE_RUNPOD_REAP_SECONDS": "15",
    "TOUCHSTONE_RUNPOD_REAP_GRACE_SECONDS": "5",
    # So that what stops its watcher and sleeps is seen to be ended in a test's time.
    "TOUCHSTONE_VALIDATION_WALL_SECONDS": "180",
    # A server that says nothing that can be read is one that says nothing.
    "TOUCHSTONE_LEASE_SECONDS": "40",
    "TOUCHSTONE_SILENCE_SECONDS": "30",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/security/" in str(item.path):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def runpod(tmp_path_factory):
    """A RunPod on this machine."""
    emulator = EmulatorProcess(tmp_path_factory.mktemp("runpod"), "--rate-limit", "none")
    try:
        emulator.start()
        yield emulator
    finally:
        emulator.stop()


@pytest.fixture(scope="session")
def installation(tmp_path_factory, runpod):
    """A running stack whose pods' hosts lie."""
    state_dir = tmp_path_factory.mktemp("stack")
    state_dir.chmod(0o700)
    connection = {"conn_type": "runpod", "host": runpod.url, "password": "rpa_test"}
    options = SETTINGS | {"AIRFLOW_CONN_TOUCHSTONE_RUNPOD": json.dumps(connection)}
    made = Installation(state_dir, env=f"s{secrets.token_hex(3)}", options=options)
    # One of the two for the sleeper, which holds it for minutes.
    done = made.run("up", "--slots", "2", "--validation-slots", "2")
    if done.returncode != 0:
        pytest.fail(f"the stack does not start:\n{done.stdout}\n{done.stderr}", pytrace=False)
    if os.environ.get("TOUCHSTONE_REQUIRE_ALL"):
        assert made.runtime == "docker", "this machine must have a Docker Engine"
    if made.runtime == "docker":
        build_evil_image(docker.from_env())
    yield made
    ended = made.run("down")
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert made.running_attempts() == []


@pytest.fixture(scope="session")
def isolated(installation):
    """The stack, if its attempts run in containers: nothing else keeps code from anything."""
    if installation.runtime != "docker":
        pytest.skip("NO CONTAINER ENGINE: nothing isolates here, so NOT attacked from inside")
    return installation


@pytest.fixture(scope="session")
def sleeper(isolated):
    """A submission that stops its watcher and sleeps."""
    return isolated.submit(MODULES / "stopped_runner")


@pytest.fixture(scope="session", autouse=True)
def begun_early(request, installation):
    """It is ended after minutes, which the other tests need as well."""
    wanted = any("sleeper" in item.fixturenames for item in request.session.items)
    if wanted and installation.runtime == "docker":
        request.getfixturevalue("sleeper")


@pytest.fixture(scope="session")
def victim(installation):
    """A finished submission of the admin's, which nothing here may change."""
    done = installation.ask(
        *("submit", str(EXAMPLES / "momentum"), "--as", "admin", "--intervals", "1"),
        *("--override", "training.epochs=2", "--wait"),
    )
    return Victim(installation, done["submission_id"])


@pytest.fixture
def unharmed(victim):
    """The victim, whose records, objects and runs are the same afterwards."""
    before = victim.photograph()
    yield victim
    assert victim.photograph() == before


@pytest.fixture
def modules():
    """Where the hostile modules are."""
    return MODULES
