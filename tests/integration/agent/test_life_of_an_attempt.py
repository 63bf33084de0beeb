"""What happens to one attempt, on both runtimes, over real queues and a real object store."""

from __future__ import annotations

import hashlib

import psutil
import pytest

from fakes.control_plane import ControlPlane
from touchstone_agent.protocol.messages import AttemptPhase, Progress
from touchstone_agent.supervisor import STOP_GRACE_SECONDS

from .conftest import AgentProcess

pytestmark = pytest.mark.integration


def test_an_attempt_goes_from_start_to_uploaded(agent: AgentProcess, plane: ControlPlane) -> None:
    ref = plane.start(["ok", "30", "0.05"])

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    uploaded = plane.wait_phase(ref, AttemptPhase.UPLOADED)

    assert plane.phases(ref) == ["accepted", "preparing", "running", "exited", "uploaded"]
    assert exited.details["exit_code"] == 0
    assert exited.details["verdict"]["class"] == "ok"
    assert exited.details["files"][0]["path"] == "models/long.h5"
    assert uploaded.details["failed"] == {}
    assert plane.read_output(ref, "models/long.h5") == f"long of {ref.submission_id}\n".encode()
    console = "".join(f"line {i} of 30\n" for i in range(1, 31)).encode()
    assert plane.read_console(ref) == console
    assert plane.read_output(ref, "console.log") == console
    assert plane.bodies(Progress)[-1].metrics == {"loss": 0.5}
    assert agent.find_containers() == []


def test_a_cancelled_attempt_is_gone_before_that_is_said(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["sleep", "300"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    assert agent.find_containers()

    plane.cancel(ref, "not wanted")

    told = plane.wait_phase(ref, AttemptPhase.CANCELLED)
    assert told.reason == "not wanted"
    assert agent.find_containers() == []
    assert AttemptPhase.EXITED not in plane.phases(ref)


@pytest.mark.parametrize("scenario", ["stubborn", "family"])
def test_what_does_not_want_to_end_is_killed_after_its_grace(
    scenario: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    """Left to themselves they would go on for longer than any test."""
    assert STOP_GRACE_SECONDS < 8
    ref = plane.start([scenario])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.wait("it runs", lambda: plane.list(f"attempts/{ref.submission_id}"))

    plane.cancel(ref)

    plane.wait_phase(ref, AttemptPhase.CANCELLED)
    assert agent.find_containers() == []


def test_large_files_arrive_unchanged_both_ways(agent: AgentProcess, plane: ControlPlane) -> None:
    block = bytes(range(256)) * 4096
    data = b"".join(hashlib.sha256(str(i).encode()).digest() + block for i in range(100))
    ref = plane.start(["copy"], inputs=(plane.make_input("big", data),))

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    plane.wait_phase(ref, AttemptPhase.UPLOADED)

    assert len(data) > 100 * 1024**2
    digest = hashlib.sha256(data).hexdigest()
    assert exited.details["files"][0]["sha256"] == digest
    assert hashlib.sha256(plane.read_output(ref, "models/long.h5")).hexdigest() == digest


def test_the_agent_listens_nowhere_not_even_while_it_works(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["ok", "20", "0.1"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)

    open_sockets = psutil.Process(agent.pid).net_connections(kind="inet")

    assert open_sockets, "it does speak to its queues"
    assert [c for c in open_sockets if c.status == psutil.CONN_LISTEN] == []
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
