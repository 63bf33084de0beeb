"""`touchstone check`: the installation's own words on one's own machine, and nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tomllib
from pathlib import Path

import docker
import pytest

from system.installation import EXAMPLES, TOUCHSTONE
from waiting import find_exit, wait_for

INPUTS = Path(__file__).parents[1] / "inputs"
ATTACK = Path(__file__).parents[2] / "include/elnigma/tests/native_attack.py"
ATTACKING = """

def build_features(data):
    got = find_what_works("/out", "/in/data")
    if got:
        raise RuntimeError("works: " + ", ".join(got))
    return data["close"].pct_change().fillna(0).to_frame("nothing works")
"""
LOOPS = EXAMPLES / "broken" / "endless_loop"


@pytest.fixture
def environment(installation, tmp_path):
    """As somebody has it who works beside a stack; everything temporary is in one place."""
    return installation.environment | {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}


@pytest.fixture(params=["docker", "process"])
def runtime(request, installation):
    if request.param == "docker" and installation.runtime != "docker":
        pytest.skip("NO CONTAINER ENGINE: checks in a container are NOT tried")
    return request.param


def find_containers():
    engine = docker.from_env()
    return engine.containers.list(all=True, filters={"label": "touchstone.env=check"})


def run(environment, *arguments):
    return subprocess.run(
        [str(TOUCHSTONE), "check", *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def assert_nothing_is_left(runtime, folder):
    assert list(folder.glob("touchstone-check-*")) == []
    if runtime == "docker":
        assert find_containers() == []


def test_a_good_example_is_accepted(environment, runtime, tmp_path):
    done = run(environment, EXAMPLES / "momentum", "--runtime", runtime, "--json")

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["outcome"] == "accepted"
    assert found["checks"]["look_ahead_leaks"] == 0
    assert found["columns"]
    assert_nothing_is_left(runtime, tmp_path)


def test_nothing_that_native_code_tries_works(environment, runtime, tmp_path):
    """The walls of the kernel are the same in a container, for a user without any right."""
    content = tmp_path / "content"
    content.mkdir()
    (content / "features.py").write_text(ATTACK.read_text(encoding="utf-8") + ATTACKING)

    done = run(environment, content, "--runtime", runtime, "--json")

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["columns"] == ["nothing works"]


@pytest.mark.parametrize(
    "name", [pytest.param("index-dropna", marks=pytest.mark.campaign(sample=999)), "lambda-layer"]
)
def test_what_is_refused_is_refused_in_the_same_words(environment, runtime, tmp_path, name):
    folder = INPUTS / name
    expected = tomllib.loads((folder / "expected.toml").read_text())
    system = "model_structure" if (folder / "model.py").exists() else "feature_set"

    done = run(environment, folder, "--system", system, "--runtime", runtime)

    assert done.returncode == 1
    assert done.stdout == f"refused: {expected['reason']}\n"
    assert_nothing_is_left(runtime, tmp_path)


def test_a_git_source_is_checked_at_its_ref(environment, tmp_path):
    repository = tmp_path / "repository"
    (repository / "sets").mkdir(parents=True)
    (repository / "sets" / "features.py").write_bytes(
        (EXAMPLES / "momentum/features.py").read_bytes()
    )
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for arguments in (
        ("init", "--quiet", "--initial-branch=it's"),
        ("add", "--all"),
        ("commit", "--quiet", "--message=x"),
    ):
        subprocess.run(["git", "-C", str(repository), *identity, *arguments], check=True)

    url = repository.as_uri()
    done = run(environment, url, "--ref", "it's", "--path", "sets", "--runtime", "process")

    assert done.returncode == 0, done.stderr
    wrong = run(environment, url, "--ref", "main~1", "--runtime", "process")
    assert wrong.returncode == 2
    assert "ref: 'main~1' is an expression that git computes a commit from" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("/nowhere",), "source: there is no '/nowhere' here"),
        ((EXAMPLES / "momentum", "--ref", "main"), "is not a git URL, so it has no branches"),
        ((EXAMPLES / "momentum", "--system", "features"), "system: "),
        ((EXAMPLES / "momentum", "--path", "../x"), "path: '../x' is not a path below"),
        ((EXAMPLES / "momentum", "--runtime", "podman"), "use auto, docker or process"),
    ],
)
def test_a_wrong_argument_is_named(environment, arguments, told):
    done = run(environment, *arguments)

    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.campaign(sample=2)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_interrupts_it_leaves_nothing_behind(environment, runtime, tmp_path, number):
    process = subprocess.Popen(
        [str(TOUCHSTONE), "check", str(LOOPS), "--runtime", runtime],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_for(
        "the trainer is at work",
        lambda: [
            path
            for path in tmp_path.glob("touchstone-check-*/*/out/console.log")
            if path.stat().st_size
        ],
        unless=lambda: find_exit(process),
        every=0.1,
    )

    os.kill(process.pid, number)

    assert process.wait() == 130
    assert_nothing_is_left(runtime, tmp_path)
