"""The agent is killed, or its queues go away, at every moment that matters."""

from __future__ import annotations

import random
import time

import pytest

from fakes.control_plane import ControlPlane, make_ref
from touchstone_agent.protocol.messages import AttemptPhase, Grants, PhaseChanged
from waiting import wait_for

from ..conftest import MiniStack
from .conftest import AgentProcess

pytestmark = pytest.mark.integration

LINES = 40
CONSOLE = "".join(f"line {i} of {LINES}\n" for i in range(1, LINES + 1)).encode()

FAULTS = [
    "after-saving:accepted",
    "before-delete",
    "after-delete",
    "after-saving:preparing",
    "after-launch",
    "after-saving:running",
    "after-put",
    "before-saving:exited",
    "after-saving:exited",
    "before-saving:uploaded",
    "after-saving:uploaded",
]


@pytest.mark.campaign(sample=3)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_at_any_moment_costs_nothing(
    fault: str, stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    agent = stopped_agent.start(fault=fault)
    ref = plane.start(["ok", str(LINES), "0.02"])
    agent.wait()

    agent.start()

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    uploaded = plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert exited.details["exit_code"] == 0
    assert uploaded.details["failed"] == {}
    # Lines that were written twice would mean that it ran twice.
    assert plane.read_output(ref, "console.log") == CONSOLE
    assert plane.read_console(ref) == CONSOLE
    ends = {(e.phase, e.at) for e in plane.bodies(PhaseChanged) if e.ref == ref}
    assert len(ends) == len({phase for phase, _ in ends}), "a phase was entered twice"
    assert agent.find_containers() == []


def test_a_container_runs_on_while_its_agent_is_dead(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["held"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.wait("some is stored", lambda: plane.list(f"attempts/{ref.submission_id}"))
    agent.kill()
    before, console = agent.find_containers(), agent.find_output(ref, "console.log")
    assert console is not None
    size = console.stat().st_size
    wait_for("it writes on", lambda: console.stat().st_size > size)

    agent.start()

    agent.let_go(ref)
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert len(before) == 1
    written = plane.read_output(ref, "console.log")
    # Lines that were written twice would mean that it ran twice.
    assert written == b"".join(b"line %d\n" % i for i in range(1, 1 + written.count(b"\n")))
    assert plane.read_console(ref) == written
    assert plane.phases(ref).count(AttemptPhase.LOST) == 0


def test_a_container_that_ended_without_an_agent_is_reported_by_the_next(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["held"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.wait("some is stored", lambda: plane.list(f"attempts/{ref.submission_id}"))
    agent.kill()
    agent.let_go(ref)
    wait_for("it has ended", lambda: agent.find_output(ref, "verdict.json"))

    agent.start()

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert exited.details["exit_code"] == 0
    assert plane.phases(ref).count(AttemptPhase.EXITED) == 1


def test_the_agent_leaves_at_once_and_leaves_containers_alone(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["sleep", "300"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)

    agent.terminate()

    assert len(agent.find_containers()) == 1, "it has not waited for it"
    agent.start()
    plane.cancel(ref)
    plane.wait_phase(ref, AttemptPhase.CANCELLED)
    assert agent.find_containers() == []


def test_a_cancel_that_was_journalled_is_finished_after_a_crash(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    agent = stopped_agent.start(fault="before-saving:cancelled")
    ref = plane.start(["sleep", "300"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.cancel(ref)
    agent.wait()

    agent.start()

    plane.wait_phase(ref, AttemptPhase.CANCELLED)
    assert agent.find_containers() == []


def test_queues_and_store_may_restart_under_a_running_attempt(
    stopped_agent: AgentProcess, plane: ControlPlane, ministack_server: MiniStack
) -> None:
    agent = stopped_agent.start()
    ref = plane.start(["ok", str(LINES), "0.1"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)

    ministack_server.stop()
    time.sleep(2)
    ministack_server.start()

    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert plane.read_console(ref) == CONSOLE
    assert agent.find_containers() == []


def test_an_end_that_nobody_acknowledged_is_told_again_after_a_restart(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    plane.is_acknowledging = False
    ref = plane.start(["ok", "1", "0"])
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    agent.kill()

    agent.start()

    plane.wait("it is told again", lambda: plane.phases(ref).count(AttemptPhase.UPLOADED) == 2)
    told = [e for e in plane.bodies(PhaseChanged) if e.phase is AttemptPhase.UPLOADED]
    assert told[0] == told[1]


def test_grants_that_never_came_are_asked_for_again(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    plane.is_granting = False
    ref = plane.start(["ok", "1", "0"])
    plane.wait_phase(ref, AttemptPhase.EXITED)

    plane.is_granting = True

    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert plane.read_console(ref) == b"line 1 of 1\n"


def test_grants_that_nobody_asked_for_are_ignored(agent: AgentProcess, plane: ControlPlane) -> None:
    plane.send(Grants(ref=make_ref(), purpose="output"), correlation_id="nothing-of-ours")

    ref = plane.start(["ok", "1", "0"])

    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    agent.terminate()
    assert '"unexpected_grants": 1' in agent.log


def test_an_agent_without_queues_waits_for_them(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    for name in plane.queue_names:
        plane.delete_queue(name)
    agent = stopped_agent.start()
    plane.wait("it says so", lambda: "enrol this server" in agent.log)

    plane.make_queues()

    ref = plane.start(["ok", "1", "0"])
    plane.wait_phase(ref, AttemptPhase.UPLOADED)


def test_an_agent_that_is_killed_again_and_again_loses_nothing(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    seed = 20261122
    pauses = random.Random(seed)
    lines = 120
    stopped_agent.options["slots"] = 3
    agent = stopped_agent.start()
    refs = [plane.start(["ok", str(lines), "0.1"]) for _ in range(3)]
    for _ in range(8):
        time.sleep(pauses.uniform(0.2, 2.0))
        agent.kill()
        agent.start()

    console = "".join(f"line {i} of {lines}\n" for i in range(1, lines + 1)).encode()
    for ref in refs:
        plane.wait_phase(ref, AttemptPhase.UPLOADED)
        assert plane.read_output(ref, "console.log") == console, f"seed {seed}"
        assert plane.read_console(ref) == console, f"seed {seed}"
    assert agent.find_containers() == []
