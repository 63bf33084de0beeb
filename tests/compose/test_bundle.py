"""What the team deployment's image has for servers, and that it lets one join."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from tests.integration.conftest import ministack, ministack_server
from tests.integration.enrolling.conftest import (
    bundle,
    image,
    key_pair,
    make_server,
    new_plane,
    plane,
    run,
)

from compose.deployment import REPOSITORY
from touchstone.enrolling.bundle import find_version, read_bundle

__all__ = [
    "bundle",
    "image",
    "key_pair",
    "make_server",
    "ministack",
    "ministack_server",
    "new_plane",
    "plane",
]

pytestmark = [pytest.mark.docker, pytest.mark.system, pytest.mark.timeout(3600)]

TEAM_IMAGE = "touchstone-test-team:local"


@pytest.fixture(scope="module")
def team_image() -> str:
    """The image of the team deployment, as compose builds it."""
    file = str(REPOSITORY / "deploy/Dockerfile")
    options = ("--quiet", "--network", "host", "--tag", TEAM_IMAGE, "--file", file)
    arguments = ("--build-arg", "PIP_CERT", "--build-arg", "PIP_INDEX_URL")
    run("docker", "build", *options, *arguments, str(REPOSITORY))
    return TEAM_IMAGE


def test_it_holds_a_whole_bundle_that_any_user_can_read(team_image: str, tmp_path) -> None:
    made = run("docker", "create", team_image)
    run("docker", "cp", f"{made}:/opt/touchstone/agent-bundle", str(tmp_path / "bundle"))
    run("docker", "rm", made)
    found = read_bundle(tmp_path / "bundle")
    # Of the same sources; a commit is nothing that an image is built with.
    assert found.version.partition("+")[0] == find_version().partition("+")[0]
    assert found.version.partition("+")[2].startswith("s")
    names = set(found.files)
    assert {"install.py", "touchstone-agent.service", "requirements.txt"} < names
    for needed in ("touchstone_agent-", "pip-", "cryptography-", "docker-", "boto3-"):
        assert [name for name in names if name.startswith(f"wheels/{needed}")], needed
    said = run(
        *("docker", "run", "--rm", "--user", "12345:12345", "--entrypoint", "python", team_image),
        "-c",
        "from touchstone.enrolling.bundle import find_bundle; import hashlib;"
        "from touchstone.settings import get_settings; b = find_bundle(get_settings());"
        "assert all(hashlib.sha256(d).hexdigest() == b.files.get(n, hashlib.sha256(d).hexdigest())"
        " for n, d in b.read_all()); print(b.version)",
    )
    assert said == found.version


def test_a_server_joins_by_it(team_image: str, plane, make_server, image: str) -> None:
    server = make_server()
    names = ("servers", "tasks", "submissions", "evaluations", "budgets", "meter")
    own = {f"TOUCHSTONE_{n.upper()}_TABLE": getattr(plane.settings, f"{n}_table") for n in names}
    own |= {
        "TOUCHSTONE_ENV": plane.settings.env,
        "TOUCHSTONE_AGENT_CONN_ID": plane.settings.agent_conn_id,
        **{n: v for n, v in os.environ.items() if n.startswith("AIRFLOW_CONN_")},
    }
    options = [f"--env={name}" for name in own]
    command = ["docker", "run", "--rm", "--network=host", *options, "--entrypoint=touchstone"]

    def call(*arguments: str) -> dict:
        done = subprocess.run(
            [*command, team_image, "agent", *arguments, "--json"],
            env=os.environ | own,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    where = ("--ssh", server.conn_id, "--no-service", "--state-dir", str(server.state_dir))
    (row,) = call("enroll", server.name, *where, "--gpu", "none", "--image", image)["servers"]
    assert row["is_changed"] is True
    (listed,) = [r for r in call("list")["servers"] if r["server"] == server.name]
    assert listed["state"] == "enrolled"
    call("remove", server.name)
    assert server.list_traces() == []
    assert plane.list_traces(server.name) == []


def test_its_judge_answers_with_the_data_that_the_rules_name(team_image: str) -> None:
    """The judge says of a training of contract 1 why it is not judged; before that it reads all."""
    script = """
import pathlib, tempfile
from touchstone.confined.judge import find_judge
from touchstone.confined.judging import ask_judge
from touchstone.core.judging import RULES
from touchstone.settings import Settings
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "result.json").write_text('{"contract": 1}')
print(ask_judge(find_judge(Settings()), folder, RULES, 5).reason)
"""
    python = "/opt/touchstone/venv/bin/python"
    told = run(
        "docker",
        "run",
        "--rm",
        "--user=12345:12345",
        "--entrypoint",
        python,
        team_image,
        "-c",
        script,
    )
    assert told.splitlines()[-1].startswith("the image speaks contract 1, ")
