"""The command line, as an admin runs it on the control plane."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.enrolling.conftest import Plane

from fakes.servers import store_server

pytestmark = [pytest.mark.integration, pytest.mark.docker, pytest.mark.xdist_group("enrolment")]

TOUCHSTONE = Path(sys.executable).with_name("touchstone")


@pytest.fixture
def call(plane: Plane, tmp_path: Path):
    """Return a function that runs a command in a process of its own."""
    names = ("servers", "tasks", "submissions", "evaluations", "budgets", "meter")
    own = {f"TOUCHSTONE_{n.upper()}_TABLE": getattr(plane.settings, f"{n}_table") for n in names}
    own |= {
        "TOUCHSTONE_ENV": plane.settings.env,
        "TOUCHSTONE_AGENT_CONN_ID": plane.settings.agent_conn_id,
        "TOUCHSTONE_AGENT_BUNDLE": str(plane.bundle.folder),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
    }

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [TOUCHSTONE, "agent", *arguments],
            capture_output=True,
            text=True,
            # The connections that the test has made by now.
            env={**os.environ, **own},
        )

    return call


@pytest.mark.campaign(sample=16)
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    plane: Plane, make_server, call, image: str
) -> None:
    server = make_server()
    options = ("--ssh", "ssh_{server}".replace("{server}", server.name.replace("-", "_")))
    options += ("--no-service", "--image", image, "--state-dir", str(server.state_dir))

    done = call("enroll", server.name, *options, "--dry-run", "--json")

    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["servers"]
    assert row["problem"] is None
    assert row["is_changed"] is False
    assert [s["name"] for s in row["steps"] if s["state"] == "planned"] == [
        *("install", "doctor", "register", "configure", "start"),
    ]
    assert server.list_traces() == []
    assert plane.list_traces(server.name) == []


@pytest.mark.campaign(sample=16)
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("enroll", "Not Good"), 2, "cannot be a server's name"),
        (("enroll", "a", "b", "--ssh", "one"), 2, "ssh: one connection leads to one server"),
        (("enroll", "a", "--state-dir", "/etc"), 2, "state_dir: /etc is not the agent's alone"),
        (("enroll", "a", "--ssh", "none"), 1, "connection 'none'"),
        (("remove", "nobody"), 1, "there is no server 'nobody'"),
        (("upgrade",), 2, "name servers, or say --all"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call, arguments, code: int, words: str) -> None:
    done = call(*arguments)
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("touchstone: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.campaign(sample=16)
def test_the_list_is_a_table_and_a_document(plane: Plane, call) -> None:
    inventory = {"agent_version": "0.1.0+gabc"}
    store_server(
        plane.records, {"server": "rio", "env": plane.settings.env, "inventory": inventory}
    )
    rows = json.loads(call("list", "--json").stdout)["servers"]
    assert [row["commit"] for row in rows if row["server"] == "rio"] == ["abc"]
    assert "rio" in call("list").stdout
