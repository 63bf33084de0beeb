"""Which commands an agent obeys, which it refuses, and in which order."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from fakes.control_plane import ControlPlane, make_ref
from touchstone_agent.protocol.envelope import generate_key
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    Heartbeat,
    Poison,
    SlotClass,
    Sync,
)

from .conftest import AgentProcess

pytestmark = pytest.mark.integration


def test_a_cancel_that_overtakes_its_start_wins(agent: AgentProcess, plane: ControlPlane) -> None:
    ref = make_ref()
    plane.cancel(ref, "changed my mind")
    plane.wait_phase(ref, AttemptPhase.CANCELLED)

    plane.start(["ok", "1", "0"], ref=ref)

    plane.wait("both are told", lambda: plane.phases(ref).count(AttemptPhase.CANCELLED) == 2)
    assert AttemptPhase.ACCEPTED not in plane.phases(ref)
    assert agent.find_containers() == []


def test_a_start_that_comes_twice_runs_once(agent: AgentProcess, plane: ControlPlane) -> None:
    start = plane.make_start(["ok", "20", "0.05"])
    plane.send(start)
    plane.send(start)

    plane.wait_phase(start.ref, AttemptPhase.UPLOADED)

    console = "".join(f"line {i} of 20\n" for i in range(1, 21)).encode()
    assert plane.read_output(start.ref, "console.log") == console


def test_a_higher_fence_ends_the_older_attempt_first(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    old = plane.start(["sleep", "300"])
    plane.wait_phase(old, AttemptPhase.RUNNING)
    new = make_ref(old.submission_id, attempt=2, fence=2)

    plane.start(["sleep", "300"], ref=new)

    plane.wait_phase(new, AttemptPhase.RUNNING)
    told = plane.wait_phase(old, AttemptPhase.CANCELLED)
    assert told.reason == "superseded by fence 2"
    assert [name.endswith("-2-2") for name in agent.find_containers()] == [True]
    stale = make_ref(old.submission_id, attempt=1, fence=1)
    plane.start(["ok", "1", "0"], ref=stale.model_copy(update={"attempt": 3}))
    plane.wait_phase(stale.model_copy(update={"attempt": 3}), AttemptPhase.REJECTED)


def test_starts_beyond_the_slots_are_refused_at_once(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    refs = [plane.start(["sleep", "300"]) for _ in range(4)]
    validation = plane.start(["sleep", "300"], slot_class=SlotClass.VALIDATION)

    def find_settled() -> bool:
        told = [plane.phases(ref) for ref in refs]
        return all(AttemptPhase.RUNNING in t or AttemptPhase.REJECTED in t for t in told)

    plane.wait("all are settled", find_settled)
    rejected = [r for r in refs if AttemptPhase.REJECTED in plane.phases(r)]
    assert len(rejected) == 2
    told = plane.wait_phase(rejected[0], AttemptPhase.REJECTED)
    assert told.reason == "full: 2 of 2 training slots are taken"
    assert told.details == {"refusal": "full"}
    # A validation never waits for a training.
    plane.wait_phase(validation, AttemptPhase.RUNNING)
    beat = plane.wait("a heartbeat tells of three", lambda: _find_heartbeat(plane, 3))
    running = beat.inventory.running
    assert {ref for ref, _ in running} == {*refs, validation} - set(rejected)


def _find_heartbeat(
    plane: ControlPlane, running: int, *, besides: frozenset[str] = frozenset()
) -> Heartbeat | None:
    """Return the last heartbeat that tells of so many; of none of the starts ``besides``."""
    beats = [
        event.body
        for event in plane.events
        if isinstance(event.body, Heartbeat) and event.header.epoch not in besides
    ]
    return next((beat for beat in beats[::-1] if len(beat.inventory.running) == running), None)


def test_a_drained_server_takes_no_training(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    stopped_agent.options["slots"] = 0
    stopped_agent.start()

    ref = plane.start(["ok", "1", "0"])

    told = plane.wait_phase(ref, AttemptPhase.REJECTED)
    assert told.reason is not None
    assert told.reason == "this server takes no trainings"


def test_an_image_that_is_not_allowed_is_refused(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    stopped_agent.options["images_allowed"] = ["touchstone-*"]
    stopped_agent.start()

    ref = plane.start(["ok", "1", "0"], image="somebody/miner:latest")

    told = plane.wait_phase(ref, AttemptPhase.REJECTED)
    assert told.reason == "image somebody/miner:latest is not allowed on this server"


FORGERIES: dict[str, dict[str, Any]] = {
    "signed by another key": {"private_key": generate_key()[0]},
    "for another environment": {"header": {"env": "elsewhere"}},
    "for another server": {"header": {"server": "elsewhere"}},
    "expired": {"header": {"expires_at": datetime.now(UTC) - timedelta(hours=1)}},
    "of another major version": {"header": {"v": 2}},
}


@pytest.mark.parametrize("forgery", FORGERIES, ids=str)
@pytest.mark.parametrize("runtime_name", ["process"])
def test_a_command_that_is_not_genuine_starts_nothing(
    forgery: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    forged = plane.make_start(["sleep", "300"])
    plane.send(forged, **FORGERIES[forgery])
    genuine = plane.start(["ok", "1", "0"])

    plane.wait_phase(genuine, AttemptPhase.UPLOADED)
    plane.wait("it is told of", lambda: plane.bodies(Poison))
    assert plane.phases(forged.ref) == []


@pytest.mark.parametrize("runtime_name", ["process"])
def test_garbage_on_a_queue_is_reported_and_dropped(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    for queue in plane.queue_names[:2]:
        plane.send_text(queue, "not a message")
        plane.send_text(queue, json.dumps({"kid": "control", "sig": "AA==", "payload": "{}"}))

    plane.wait("all are told of", lambda: len(plane.bodies(Poison)) == 4)
    ref = plane.start(["ok", "1", "0"])
    plane.wait_phase(ref, AttemptPhase.UPLOADED)


def test_an_attempt_that_is_expected_and_not_here_is_lost(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    never_came = make_ref()
    plane.expected = (never_came,)
    stopped_agent.options["sync_grace_seconds"] = 1
    stopped_agent.start()

    told = plane.wait_phase(never_came, AttemptPhase.LOST)

    assert told.reason == "unknown to this server"
    plane.start(["ok", "1", "0"], ref=never_came)
    plane.wait("it is refused", lambda: AttemptPhase.REJECTED in plane.phases(never_came))


def test_an_agent_that_is_asked_for_what_it_does_not_show_tells_where_all_of_it_is(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    """It is asked at any time, and not only when it has said hello."""
    stopped_agent.options["sync_grace_seconds"] = 1
    agent = stopped_agent.start()
    running = plane.start(["sleep", "300"])
    plane.wait_phase(running, AttemptPhase.RUNNING)
    missing = make_ref()

    plane.send(Sync(expected=(running, missing)))

    assert plane.wait_phase(missing, AttemptPhase.LOST).reason == "unknown to this server"
    plane.wait(
        "it tells again that it runs",
        lambda: plane.phases(running).count(AttemptPhase.RUNNING) == 2,
    )
    assert len(agent.find_containers()) == 1


def test_an_attempt_that_nobody_expects_is_ended_after_its_quarantine(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    stopped_agent.options["quarantine_seconds"] = 2
    agent = stopped_agent.start()
    ref = plane.start(["stubborn"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.wait("it runs", lambda: plane.list(f"attempts/{ref.submission_id}"))
    agent.kill()
    plane.expected = ()
    # The agent may have died before it noted that the console was sent, and ask for it again:
    # a control plane that granted that would know of the attempt.
    plane.is_granting = False
    agent.start()

    told = plane.wait_phase(ref, AttemptPhase.LOST)

    assert told.reason == "the control plane does not expect it"
    assert agent.find_containers() == []


def test_with_its_journal_lost_the_agent_adopts_what_runs(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["held"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.wait("it writes", lambda: agent.find_output(ref, "console.log"))
    agent.kill()
    before = plane.epochs
    for file in (agent.folder / "state").glob("journal.db*"):
        file.unlink()

    agent.start()

    plane.wait("it is adopted", lambda: _find_heartbeat(plane, 1, besides=before))
    agent.let_go(ref)
    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    assert exited.details["exit_code"] == 0
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert agent.find_containers() == []


@pytest.mark.docker
def test_containers_of_others_are_never_touched(
    docker_image: str, tmp_path: Path, plane: ControlPlane
) -> None:
    mine = (f"touchstone.env={plane.env}", f"touchstone.server={plane.server}")
    tail = f"{plane.env}-i5-1-1"
    others = {
        f"touchstone-other-{tail}": ("touchstone.env=other", mine[1]),
        f"touchstone-{plane.env}-a{tail}": (mine[0], "touchstone.server=other"),
        f"touchstone-{plane.env}-b{tail}": (),
    }
    stray = f"touchstone-{plane.env}-c{tail}"
    agent = AgentProcess(tmp_path, plane, "docker")
    agent.options["quarantine_seconds"] = 1
    try:
        for name, labels in {**others, stray: mine}.items():
            _run_container(name, labels, docker_image)
        agent.start()
        plane.wait("the stray is gone", lambda: stray not in _list_containers())
        agent.kill()
        agent.run("purge")
        assert set(others) <= _list_containers()
    finally:
        agent.close()
        subprocess.run(["docker", "rm", "-f", *others, stray], capture_output=True)


def _run_container(name: str, labels: tuple[str, ...], image: str) -> None:
    options = [option for label in labels for option in ("--label", label)]
    command = ["docker", "run", "-d", "--network", "none", "--name", name, *options, image]
    done = subprocess.run([*command, "stubborn", "/in", "/tmp"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _list_containers() -> set[str]:
    done = subprocess.run(
        ["docker", "ps", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())
