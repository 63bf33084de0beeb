"""The service, under a systemd that is its machine's first process."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.integration.enrolling.conftest import (
    Plane,
    Server,
    change_bundle,
    find_container,
    run,
)

from fakes.control_plane import ControlPlane
from touchstone.core.enrolment import EnrolmentRequest, was_heard
from touchstone.hooks.agent import AgentHook
from waiting import wait_for

pytestmark = [
    pytest.mark.integration,
    pytest.mark.docker,
    pytest.mark.xdist_group("enrolment"),
    pytest.mark.campaign(sample=50),
]

SERVICE = "touchstone-agent"
LOOK = """
import json, os
found = []
for folder, names, _ in os.walk("/"):
    names[:] = [n for n in names if os.path.join(folder, n) not in ("/proc", "/sys")]
    if os.access(folder, os.W_OK):
        found.append(folder)
        names[:] = []
print(json.dumps(found))
"""
"""Where one may write, and not what lies below that."""


@pytest.fixture
def machine(make_server: Callable[..., Server], more_image: str) -> Server:
    """A machine that systemd has started."""
    server = make_server("real", has_systemd=True, image=more_image)
    assert server.run("readlink", "/proc/1/exe") == "/usr/lib/systemd/systemd"
    return server


@pytest.fixture
def wanted(machine: Server, image: str) -> EnrolmentRequest:
    """What an admin wants of it."""
    return EnrolmentRequest(
        server=machine.name,
        ssh_conn_id=machine.conn_id,
        images=(image,),
        gpu="none",
        state_dir=machine.state_dir,
    )


def show(server: Server, name: str) -> str:
    """Return what systemd says of the service."""
    return server.run("systemctl", "show", "--value", "--property", name, SERVICE)


def wait_until_heard(plane: Plane, server: Server) -> None:
    """Wait for its next heartbeat."""
    now = datetime.now(UTC)
    wait_for(
        "it is heard",
        lambda: was_heard(plane.records.find_server(server.name), since=now),
    )


def ask_as_the_service(server: Server, program: str) -> Any:
    """Run a Python program as the service's user, with the service's view of the machine."""
    pid = show(server, "MainPID")
    user, group = (server.run("id", option, SERVICE) for option in ("-u", "-g"))
    who = ("--setuid", user, "--setgid", group)
    command = ("nsenter", "--target", pid, "--mount", *who, "--", "python3", "-c", program)
    return json.loads(server.run(*command))


def test_a_real_systemd_starts_guards_restarts_and_forgets_it(
    plane: Plane, machine: Server, wanted: EnrolmentRequest, ministack: str, tmp_path: Path
) -> None:
    plane.enrolling().enroll(wanted)

    # Installed, and started by systemd: now, and whenever the machine starts.
    assert machine.run("systemctl", "is-active", SERVICE) == "active"
    assert machine.run("systemctl", "is-enabled", SERVICE) == "enabled"
    first = show(machine, "MainPID")
    assert not plane.enrolling().enroll(wanted).is_changed
    assert show(machine, "MainPID") == first

    # Hardened: as systemd judges what runs, not a file.
    judged = machine.run("systemd-analyze", "security", "--no-pager", "--threshold=29", SERVICE)
    print(judged.splitlines()[-1])
    status = machine.run("cat", f"/proc/{first}/status")
    assert {"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1"} <= set(
        status.splitlines()
    )
    writable = ask_as_the_service(machine, LOOK)
    # The two temporary folders are the service's own, empty ones, and end with it.
    assert sorted(writable) == ["/tmp", str(machine.state_dir), "/var/tmp"]

    # A training goes on whatever happens to the agent.
    start = ControlPlane(ministack, server=machine.name).make_start(["sleep", "3600"])
    AgentHook(settings=plane.settings).send(machine.name, start)
    label = f"label=touchstone.server={machine.name}"
    wait_for("it runs", lambda: run("docker", "ps", "-q", "--filter", label))
    running = find_container(machine)
    machine.run("systemctl", "restart", SERVICE)
    wait_until_heard(plane, machine)
    machine.run("systemctl", "kill", "--signal=KILL", SERVICE)
    wait_for("it is started again", lambda: show(machine, "NRestarts") != "0")
    wait_until_heard(plane, machine)
    newer = change_bundle(plane.bundle, tmp_path / "newer", "0.2.0+gnewer")
    assert plane.enrolling(bundle=newer).upgrade(machine.name)
    run("docker", "restart", "--time", "60", machine.name)
    is_active = ("systemctl", "is-active", SERVICE)
    wait_for("it is up", lambda: machine.run(*is_active, check=False) == "active")
    wait_until_heard(plane, machine)
    assert find_container(machine) == running

    plane.enrolling(bundle=newer).remove(machine.name)

    assert machine.list_traces() == []
    assert plane.list_traces(machine.name) == []
    assert machine.run("systemctl", "show", "--value", "--property", "LoadState", SERVICE) == (
        "not-found"
    )
    assert not run("docker", "ps", "--all", "--quiet", "--filter", label)
