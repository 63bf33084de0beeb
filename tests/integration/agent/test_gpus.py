"""Slots on one server never see each other's GPU, nor one that somebody else uses."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator

import pytest

from fakes.control_plane import ControlPlane, make_ref
from fakes.gpus import RTX, FakeGpus
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Cancel,
    Hello,
)

from .conftest import AgentProcess

# An engine without NVIDIA's parts hands no GPU over: that it is asked for the right one is shown
# in tests/unit/agent/test_handing_over.py.
pytestmark = [
    pytest.mark.integration,
    pytest.mark.parametrize("runtime_name", ["process"]),
]


@pytest.fixture
def gpus(stopped_agent: AgentProcess) -> FakeGpus:
    """The two GPUs of an agent with four slots."""
    stopped_agent.options |= {"gpu": "auto", "slots": 4}
    return FakeGpus(stopped_agent.folder)


@pytest.fixture
def stranger() -> Iterator[int]:
    """The process id of somebody who is no attempt."""
    process = subprocess.Popen(["sleep", "3600"])
    yield process.pid
    process.kill()
    process.wait()


@pytest.fixture
def start(stopped_agent: AgentProcess, plane: ControlPlane) -> Callable[..., AttemptRef]:
    """Return a function that sends a training which writes down what GPUs it sees."""

    def start(*, gpus: int = 1, **fields: object) -> AttemptRef:
        command = plane.make_start(["devices"]).model_copy(update={"gpus": gpus, **fields})
        plane.send(command)
        return command.ref

    return start


@pytest.fixture
def read_devices(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> Callable[[AttemptRef], dict[str, str]]:
    """Return a function that waits for what an attempt has written down."""

    def read(ref: AttemptRef) -> dict[str, str]:
        plane.wait_phase(ref, AttemptPhase.RUNNING)

        def find() -> dict[str, str] | None:
            console = stopped_agent.find_output(ref, "console.log")
            lines = console.read_text().splitlines() if console else []
            return dict(line.split("=", 1) for line in lines) if len(lines) == 4 else None

        return plane.wait("it has written down what it sees", find)

    return read


def find_child(agent: AgentProcess, ref: AttemptRef) -> int:
    """Return the first process of what an attempt runs."""
    folder = agent.folder / "state/attempts" / ref.container_name(agent.plane.env)
    return int(json.loads((folder / "process.json").read_text())["child"])


def test_two_slots_on_two_gpus_never_see_each_others(
    stopped_agent: AgentProcess, plane: ControlPlane, gpus: FakeGpus, start, read_devices
) -> None:
    stopped_agent.start()
    first, second = start(), start(requires_gpu=True)

    seen = [read_devices(ref) for ref in (first, second)]

    assert [devices["TOUCHSTONE_CUDA"] for devices in seen] == ["preferred", "required"]
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES"):
        assert {devices[name] for devices in seen} == {"GPU-0", "GPU-1"}
    assert [devices["TOUCHSTONE_GPU_SHARE"] for devices in seen] == ["1", "1"]
    third = start()
    told = plane.wait_phase(third, AttemptPhase.REJECTED)
    assert (told.reason, told.details) == ("full: 1 GPUs wanted, 0 free", {"refusal": "full"})
    # Another agent goes on with both, and with what they hold.
    stopped_agent.kill()
    stopped_agent.start()
    assert plane.wait_phase(start(), AttemptPhase.REJECTED).details == {"refusal": "full"}
    stopped_agent.let_go(first)
    plane.wait_phase(first, AttemptPhase.UPLOADED)
    fourth = read_devices(start())
    assert fourth["CUDA_VISIBLE_DEVICES"] == seen[0]["CUDA_VISIBLE_DEVICES"]


def test_four_trainings_share_two_gpus_where_the_settings_say_so(
    stopped_agent: AgentProcess, plane: ControlPlane, gpus: FakeGpus, start, read_devices
) -> None:
    stopped_agent.options["gpu_shares"] = 2
    stopped_agent.start()

    seen = [read_devices(start()) for _ in range(4)]

    assert [devices["CUDA_VISIBLE_DEVICES"] for devices in seen] == [
        *("GPU-0", "GPU-1"),
        *("GPU-0", "GPU-1"),
    ]
    assert {devices["TOUCHSTONE_GPU_SHARE"] for devices in seen} == {"0.5"}
    (gpu, _) = plane.bodies(Hello)[0].inventory.gpus
    assert (gpu.name, gpu.driver, gpu.shares) == (RTX, "550.54.14", 2)


def test_what_is_handed_no_gpu_sees_none(
    stopped_agent: AgentProcess, plane: ControlPlane, gpus: FakeGpus, start, read_devices
) -> None:
    stopped_agent.start()

    assert read_devices(start(gpus=0)) == {
        "CUDA_VISIBLE_DEVICES": "",
        "NVIDIA_VISIBLE_DEVICES": "void",
        "TOUCHSTONE_CUDA": "none",
        "TOUCHSTONE_GPU_SHARE": "not set",
    }


def test_a_gpu_that_somebody_else_uses_is_handed_to_nobody_until_he_is_gone(
    stopped_agent: AgentProcess,
    plane: ControlPlane,
    gpus: FakeGpus,
    stranger: int,
    start,
    read_devices,
) -> None:
    gpus.use(0, stranger)
    stopped_agent.start()

    assert read_devices(start())["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    told = plane.wait_phase(start(), AttemptPhase.REJECTED)
    assert told.details == {"refusal": "full"}
    assert told.reason is not None
    assert told.reason.startswith(f"full: another process uses GPU 0 (pid {stranger}, 12000 MiB)")
    gpus.change(processes=[])
    assert read_devices(start())["CUDA_VISIBLE_DEVICES"] == "GPU-0"


def test_what_attempts_compute_on_a_shared_gpu_is_not_somebody_elses(
    stopped_agent: AgentProcess, plane: ControlPlane, gpus: FakeGpus, start, read_devices
) -> None:
    gpus.change(gpus=gpus.hardware["gpus"][:1])
    stopped_agent.options["gpu_shares"] = 2
    stopped_agent.start()
    first = start()
    read_devices(first)
    gpus.use(0, find_child(stopped_agent, first))

    assert read_devices(start())["CUDA_VISIBLE_DEVICES"] == "GPU-0"


def test_check_tells_of_gpus_and_who_uses_them(
    stopped_agent: AgentProcess,
    plane: ControlPlane,
    gpus: FakeGpus,
    stranger: int,
    start,
    read_devices,
) -> None:
    stopped_agent.start()
    ref = start()
    read_devices(ref)
    gpus.use(0, find_child(stopped_agent, ref))
    gpus.use(1, stranger)

    checked = stopped_agent.run("doctor").stdout.splitlines()

    (line,) = [line for line in checked if " GPUs: " in line]
    assert line.startswith(f"WARN GPUs: 0: {RTX} (24576 MiB, driver 550.54.14), 1: {RTX}")
    assert f"another process uses GPU 1 (pid {stranger}, 12000 MiB)" in line
    assert "uses GPU 0" not in line


def test_a_driver_that_hangs_stops_no_other_command(
    stopped_agent: AgentProcess, plane: ControlPlane, gpus: FakeGpus, start, read_devices
) -> None:
    stopped_agent.start()
    running = start(gpus=0)
    read_devices(running)
    gpus.change(fault="hang")
    asked = len(gpus.asked)
    stuck = start()
    plane.wait("the driver is asked", lambda: len(gpus.asked) > asked)

    plane.send(Cancel(ref=running, reason="enough"))

    plane.wait_phase(running, AttemptPhase.CANCELLED)
    told = plane.wait_phase(stuck, AttemptPhase.REJECTED)
    assert told.details == {"refusal": "gpu"}
    assert told.reason is not None
    assert told.reason.startswith("gpu: nvidia-smi does not answer within 15 s")
    gpus.change(fault=None)
    assert read_devices(start())["CUDA_VISIBLE_DEVICES"] == "GPU-0"


def test_an_attempt_that_the_version_before_began_keeps_its_gpu(
    stopped_agent: AgentProcess, plane: ControlPlane, gpus: FakeGpus, start, read_devices
) -> None:
    """Upgraded in place, while a training runs."""
    stopped_agent.start()
    first = start()
    read_devices(first)
    stopped_agent.kill()
    with sqlite3.connect(stopped_agent.folder / "state/journal.db") as db:
        db.execute("UPDATE attempts SET gpu_ids = '[0]'")
        db.execute("ALTER TABLE attempts DROP COLUMN gpu_shares")

    stopped_agent.start()

    assert read_devices(start())["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    other = make_ref(first.submission_id, task_id="i9")
    plane.send(plane.make_start(["devices"], ref=other).model_copy(update={"gpus": 1}))
    assert plane.wait_phase(other, AttemptPhase.REJECTED).details == {"refusal": "full"}
