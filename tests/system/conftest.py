"""One installation for all system tests; each test brings submissions of its own."""

from __future__ import annotations

import os
import secrets

import pytest

from system.installation import Installation


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/system/" in str(item.path):
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(scope="session")
def installation(tmp_path_factory):
    """A running stack; Docker where there is an engine, the process runtime otherwise."""
    state_dir = tmp_path_factory.mktemp("stack")
    state_dir.chmod(0o700)
    made = Installation(state_dir, env=f"t{secrets.token_hex(3)}")
    done = made.run("up", "--slots", "3", timeout=900)
    if done.returncode != 0:
        pytest.fail(f"the stack does not start:\n{done.stdout}\n{done.stderr}", pytrace=False)
    if os.environ.get("TOUCHSTONE_REQUIRE_ALL"):
        assert made.runtime == "docker", "this machine must have a Docker Engine"
    yield made
    ended = made.run("down", timeout=300)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert made.running_attempts() == []
