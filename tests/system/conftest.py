"""One installation for all system tests; each test brings submissions of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager

import pytest

from fakes.runpod.server import EmulatorProcess
from system.installation import REPOSITORY, TRAINER, Installation


def pytest_collection_modifyitems(items):
    for item in items:
        if "/tests/system/" in str(item.path):
            item.add_marker(pytest.mark.system)


@pytest.fixture(scope="session")
def runpod(tmp_path_factory):
    """A RunPod on this machine; its pods are containers where there is an engine."""
    emulator = EmulatorProcess(tmp_path_factory.mktemp("runpod"), "--rate-limit", "none")
    try:
        emulator.start()
        yield emulator
    finally:
        emulator.stop()


@pytest.fixture(scope="session")
def elnigma_repository(tmp_path_factory):
    """A repository of el-nigma with a branch that says so when it trains."""
    folder = tmp_path_factory.mktemp("elnigma")

    def git(*arguments):
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True)

    ignore = shutil.ignore_patterns("__pycache__", ".venv", "tests")
    shutil.copytree(TRAINER, folder, ignore=ignore, dirs_exist_ok=True)
    git("init", "--quiet", "--initial-branch=main")
    git("add", "--all")
    git("commit", "--quiet", "--message=main")
    git("checkout", "--quiet", "-b", "feature/louder")
    train = folder / "src" / "elnigma" / "train.py"
    train.write_text(f"{train.read_text()}\nprint('LOUDER')\n")
    git("commit", "--quiet", "--all", "--message=louder")
    git("checkout", "--quiet", "main")
    return folder


@pytest.fixture(scope="session")
def installation(tmp_path_factory, runpod, elnigma_repository):
    """A running stack; Docker where there is an engine, the process runtime otherwise."""
    connection = {"conn_type": "runpod", "host": runpod.url, "password": "rpa_test"}
    options = {
        "TOUCHSTONE_RUNPOD_CONN_ID": "touchstone_runpod",
        "TOUCHSTONE_RUNPOD_GPU_MODELS": '["NVIDIA L4"]',
        "TOUCHSTONE_RUNPOD_MIN_FREE_GB": "0.1",
        "TOUCHSTONE_ELNIGMA_GIT": elnigma_repository.as_uri(),
        "AIRFLOW_CONN_TOUCHSTONE_RUNPOD": json.dumps(connection),
    }
    with run_stack(tmp_path_factory.mktemp("stack"), options, "--slots", "3") as made:
        if os.environ.get("TOUCHSTONE_REQUIRE_ALL"):
            assert made.runtime == "docker", "this machine must have a Docker Engine"
        yield made


@pytest.fixture(scope="module")
def installation_of_processes(tmp_path_factory):
    """Another one, whose attempts are processes; for the tests of one module only."""
    arguments = ("--slots", "1", "--runtime", "process")
    with run_stack(tmp_path_factory.mktemp("processes"), {}, *arguments) as made:
        yield made


@contextmanager
def run_stack(state_dir, options, *arguments):
    """Start a stack, and end it; nothing of it may be left."""
    state_dir.chmod(0o700)
    made = Installation(state_dir, env=f"t{secrets.token_hex(3)}", options=options)
    done = made.run("up", *arguments)
    if done.returncode != 0:
        pytest.fail(f"the stack does not start:\n{done.stdout}\n{done.stderr}", pytrace=False)
    yield made
    ended = made.run("down")
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    assert made.running_attempts() == []


@pytest.fixture(scope="session")
def commit():
    return subprocess.run(
        ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
