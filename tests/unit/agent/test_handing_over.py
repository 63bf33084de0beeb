"""Which GPU an attempt is handed, what it is told of it, and what keeps a GPU from being free."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.agent_world import NOW, make_attempt, make_ref, make_start
from fakes.gpus import FakeGpus, make_gpu, make_gpus
from touchstone_agent.adapters import gpu
from touchstone_agent.adapters.docker import DockerRuntime
from touchstone_agent.adapters.process import ProcessRuntime
from touchstone_agent.context import build_labels, build_spec
from touchstone_agent.core.ports import LaunchSpec
from touchstone_agent.orphans import build_adopted
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Cancel,
    Hello,
    PhaseChanged,
    SlotClass,
)
from touchstone_agent.settings import DockerSettings, ProcessSettings
from touchstone_agent.supervisor import Supervisor
from waiting import wait_for

from .conftest import AgentWorld

P = AttemptPhase
FIRST = "touchstone-dev-s1-i1-1-1"


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """Two GPUs, of which the agent can ask."""
    found = FakeGpus(tmp_path / "machine")
    monkeypatch.setenv("PATH", f"{found.bin}:{os.environ['PATH']}")
    # A busy machine is no driver that hangs.
    monkeypatch.setattr(gpu, "LOOK_SECONDS", 600)
    return found


@pytest.fixture
def world(make_world: Callable[..., AgentWorld], gpus: FakeGpus) -> AgentWorld:
    """An agent that has detected both, and has slots for more."""
    return make_world(gpus=make_gpus(2), slots=4)


@pytest.fixture
def start_process() -> Iterator[Callable[[], int]]:
    """Return a function that starts a process and returns its id."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> int:
        started.append(subprocess.Popen(["sleep", "3600"]))
        return started[-1].pid

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def stranger(start_process: Callable[[], int]) -> int:
    """The process id of somebody who is no attempt."""
    return start_process()


def order(world: AgentWorld, task_id: str, **fields: object) -> PhaseChanged:
    """Order a training with a GPU; return what is told of it."""
    world.order(make_start(make_ref(task_id), **{"gpus": 1, **fields}))
    return [body for body in world.tell() if isinstance(body, PhaseChanged)][-1]


def look_at_attempts(world: AgentWorld) -> dict[str, tuple[str, ...]]:
    """Return the GPUs of each attempt."""
    return {attempt.ref.task_id: attempt.gpu_ids for attempt in world.journal.load()}


def find_environment(supervisor: Supervisor, world: AgentWorld) -> dict[str, str]:
    environment = build_spec(supervisor._handle, world.context).environment
    names = ("TOUCHSTONE_CUDA", "TOUCHSTONE_GPU_SHARE")
    return {name: environment[name] for name in names if name in environment}


# --- what an attempt is told ------------------------------------------------------------------


def test_two_trainings_are_handed_two_gpus_by_their_uuids(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    order(world, "i1")
    order(world, "i2")

    assert look_at_attempts(world) == {"i1": ("GPU-0",), "i2": ("GPU-1",)}
    specs = [build_spec(supervisor._handle, world.context) for supervisor in supervised]
    assert [spec.gpu_ids for spec in specs] == [("GPU-0",), ("GPU-1",)]


def test_a_third_training_on_two_gpus_is_refused(world: AgentWorld) -> None:
    for task_id in ("i1", "i2"):
        order(world, task_id)

    told = order(world, "i3")

    assert (told.phase, told.details) == (P.REJECTED, {"refusal": "full"})
    assert told.reason == "full: 1 GPUs wanted, 0 free"


def test_gpus_are_shared_by_as_many_trainings_as_the_settings_say(
    make_world: Callable[..., AgentWorld], gpus: FakeGpus
) -> None:
    world = make_world(gpus=make_gpus(2), slots=9, gpu_shares=2)

    phases = [order(world, f"i{number}").phase for number in range(5)]

    assert phases == [P.ACCEPTED] * 4 + [P.REJECTED]
    assert sorted(look_at_attempts(world).values()) == [
        *[("GPU-0",)] * 2,
        *[("GPU-1",)] * 2,
    ]


def test_who_was_given_all_of_a_gpu_keeps_it_when_it_may_be_shared_from_now_on(
    world: AgentWorld, make_world: Callable[..., AgentWorld]
) -> None:
    for task_id in ("i1", "i2"):
        order(world, task_id)
    sharing = make_world(gpus=make_gpus(2), slots=4, gpu_shares=2)
    sharing.agent.recover()

    assert order(sharing, "i3").phase is P.REJECTED


def test_what_a_runner_may_expect_of_its_gpu_is_in_its_environment(
    make_world: Callable[..., AgentWorld], gpus: FakeGpus, supervised: list[Supervisor]
) -> None:
    world = make_world(gpus=make_gpus(2), slots=4, gpu_shares=2)

    order(world, "i1")
    order(world, "i2", requires_gpu=True)
    order(world, "i3", gpus=0)
    world.order(make_start(make_ref("validation"), slot_class=SlotClass.VALIDATION))

    assert [find_environment(supervisor, world) for supervisor in supervised] == [
        {"TOUCHSTONE_CUDA": "preferred", "TOUCHSTONE_GPU_SHARE": "0.5"},
        {"TOUCHSTONE_CUDA": "required", "TOUCHSTONE_GPU_SHARE": "0.5"},
        {"TOUCHSTONE_CUDA": "none"},
        {"TOUCHSTONE_CUDA": "none"},
    ]


def test_whoever_sends_a_start_does_not_say_what_is_handed_over(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    order(world, "i1", environment={"TOUCHSTONE_CUDA": "none", "TOUCHSTONE_GPU_SHARE": "9"})

    assert find_environment(supervised[0], world) == {
        "TOUCHSTONE_CUDA": "preferred",
        "TOUCHSTONE_GPU_SHARE": "1",
    }


def test_hello_tells_each_gpu_with_its_driver_and_its_shares(
    make_world: Callable[..., AgentWorld],
) -> None:
    world = make_world(gpus=make_gpus(1), gpu_shares=3)
    world.agent._say_hello()

    (hello,) = [body for body in world.tell() if isinstance(body, Hello)]

    (told,) = hello.inventory.gpus
    assert (told.uuid, told.driver, told.shares) == ("GPU-0", "550.54.14", 3)


def make_spec(tmp_path: Path, *gpu_ids: str) -> LaunchSpec:
    return LaunchSpec(
        ref=make_ref(),
        name=FIRST,
        labels={},
        image="trainer:1",
        argv=(),
        # Neither a START nor an image says what may be seen.
        environment={"CUDA_VISIBLE_DEVICES": "7", "NVIDIA_VISIBLE_DEVICES": "all"},
        folder=tmp_path,
        gpu_ids=gpu_ids,
    )


@pytest.mark.parametrize(
    ("gpu_ids", "cuda", "nvidia"),
    [
        (("GPU-0",), "GPU-0", "GPU-0"),
        (("MIG-1", "MIG-2"), "MIG-1,MIG-2", "MIG-1,MIG-2"),
        (("0",), "0", "0"),
        ((), "", "void"),
    ],
)
def test_a_process_sees_the_gpus_that_it_was_handed_and_no_other(
    tmp_path: Path, gpu_ids: tuple[str, ...], cuda: str, nvidia: str
) -> None:
    settings = ProcessSettings(command=("run",), environment={"CUDA_VISIBLE_DEVICES": "8"})
    runtime = ProcessRuntime(settings, env="dev", server="box", attempts_dir=tmp_path)

    environment = runtime._build_environment(make_spec(tmp_path, *gpu_ids))

    assert environment["CUDA_VISIBLE_DEVICES"] == cuda
    assert environment["NVIDIA_VISIBLE_DEVICES"] == nvidia


@pytest.mark.parametrize(
    ("gpu_ids", "devices"), [(("GPU-0", "MIG-2"), "GPU-0,MIG-2"), ((), "void")]
)
def test_a_container_is_handed_its_gpus_by_uuid_and_no_other(
    tmp_path: Path, gpu_ids: tuple[str, ...], devices: str
) -> None:
    """Where NVIDIA's runtime is the default one an image gets whatever its own ENV asks for."""
    runtime = DockerRuntime(DockerSettings(), env="dev", server="box")
    spec = make_spec(tmp_path, *gpu_ids)

    requests = runtime._build_host_config(spec)["device_requests"]

    assert [request["DeviceIDs"] for request in requests or ()] == [list(gpu_ids)] * bool(gpu_ids)
    assert runtime._build_environment(spec)["NVIDIA_VISIBLE_DEVICES"] == devices


# --- over restarts and upgrades ---------------------------------------------------------------


def test_an_attempt_that_the_journal_lost_is_adopted_with_its_gpu(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    order(world, "i1")
    labels = build_labels(supervised[0]._handle, world.context)

    adopted = build_adopted(labels, runtime="docker", now=NOW)

    assert adopted is not None
    assert (adopted.gpu_ids, adopted.gpu_shares) == (("GPU-0",), 1)


def test_a_container_of_the_version_before_is_adopted_with_its_gpu(
    world: AgentWorld, supervised: list[Supervisor]
) -> None:
    order(world, "i1")
    labels = build_labels(supervised[0]._handle, world.context)
    del labels["touchstone.gpu_shares"]

    adopted = build_adopted({**labels, "touchstone.gpus": "0,2"}, runtime="docker", now=NOW)

    assert adopted is not None
    assert (adopted.gpu_ids, adopted.gpu_shares) == (("0", "2"), 1)


@pytest.mark.parametrize(
    "labels",
    [
        {"touchstone.gpus": "all"},
        {"touchstone.gpus": "GPU-0,../x"},
        {"touchstone.gpu_shares": "0"},
        {"touchstone.gpu_shares": "1000"},
        {"touchstone.gpu_shares": "half"},
    ],
)
def test_labels_that_make_no_sense_are_nobodys(
    world: AgentWorld, supervised: list[Supervisor], labels: dict[str, str]
) -> None:
    order(world, "i1")
    known = build_labels(supervised[0]._handle, world.context)

    assert build_adopted({**known, **labels}, runtime="docker", now=NOW) is None


def test_what_the_version_before_handed_over_stays_held(world: AgentWorld) -> None:
    world.journal.save(make_attempt(make_ref("i1"), gpu_ids=("1",)), now=NOW)
    world.agent.recover()

    assert order(world, "i2").phase is P.ACCEPTED
    assert order(world, "i3").phase is P.REJECTED

    assert look_at_attempts(world) == {"i1": ("1",), "i2": ("GPU-0",)}


# --- what is not free -------------------------------------------------------------------------


def test_a_gpu_on_which_somebody_else_computes_is_passed_over(
    world: AgentWorld, gpus: FakeGpus, stranger: int
) -> None:
    gpus.use(0, stranger)

    order(world, "i1")

    assert look_at_attempts(world) == {"i1": ("GPU-1",)}


@pytest.mark.parametrize("is_held", [True, False], ids=["one is held", "all are used"])
def test_where_somebody_else_uses_the_last_free_gpu_a_start_is_refused_and_says_who(
    world: AgentWorld, gpus: FakeGpus, stranger: int, is_held: bool
) -> None:
    if is_held:
        order(world, "i1")
    else:
        gpus.use(0, stranger, memory_mib=12000)
    gpus.use(1, stranger, memory_mib=12000)

    told = order(world, "i2")

    refusal, gpu = ("full", 1) if is_held else ("gpu", 0)
    assert (told.phase, told.details) == (P.REJECTED, {"refusal": refusal})
    assert told.reason == (
        f"{refusal}: another process uses GPU {gpu} (pid {stranger}, 12000 MiB); end it, or leave "
        "this GPU out of the agent's setting gpu"
    )


def test_a_process_that_has_ended_since_it_was_seen_uses_nothing(
    world: AgentWorld, gpus: FakeGpus
) -> None:
    """An attempt that just ends on a shared GPU is in no tree any more, and no stranger."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    gpus.use(0, ended.pid)

    order(world, "i1")

    assert look_at_attempts(world) == {"i1": ("GPU-0",)}


@pytest.fixture
def sharing(make_world: Callable[..., AgentWorld], gpus: FakeGpus) -> AgentWorld:
    """An agent whose one GPU is for two trainings, of which the first has begun."""
    world = make_world(gpus=make_gpus(1), slots=4, gpu_shares=2)
    assert order(world, "i1").phase is P.ACCEPTED
    return world


def test_what_an_attempt_runs_on_a_shared_gpu_keeps_no_other_away(
    sharing: AgentWorld, gpus: FakeGpus, stranger: int
) -> None:
    sharing.runtime.main_pids = {FIRST: os.getpid()}  # of whom it is a child
    gpus.use(0, stranger)

    assert order(sharing, "i2").phase is P.ACCEPTED


def test_somebody_else_on_a_shared_gpu_keeps_others_away(
    sharing: AgentWorld, gpus: FakeGpus, stranger: int, start_process: Callable[[], int]
) -> None:
    sharing.runtime.main_pids = {FIRST: start_process()}
    gpus.use(0, stranger)

    told = order(sharing, "i2")

    assert told.reason is not None
    assert told.reason.startswith(f"gpu: another process uses GPU 0 (pid {stranger},")


def test_what_is_on_the_gpu_of_an_attempt_that_nobody_can_look_at_is_believed_to_be_its(
    sharing: AgentWorld, gpus: FakeGpus, stranger: int
) -> None:
    gpus.use(0, stranger)

    assert order(sharing, "i2").phase is P.ACCEPTED


def test_a_gpu_that_was_lost_since_the_agent_began_is_passed_over(
    world: AgentWorld, gpus: FakeGpus
) -> None:
    gpus.change_gpu(0, fault="lost")

    order(world, "i1")
    told = order(world, "i2")

    assert look_at_attempts(world) == {"i1": ("GPU-1",)}
    assert told.details == {"refusal": "full"}
    assert told.reason is not None
    assert told.reason.startswith("full: GPU 0 does not answer any more: Unable to determine")


def test_a_slice_that_was_taken_away_is_not_handed_over(
    make_world: Callable[..., AgentWorld], gpus: FakeGpus
) -> None:
    slices = tuple(make_gpu(uuid=f"MIG-{number}", parent="GPU-0") for number in (1, 2))
    world = make_world(gpus=slices, slots=4)
    gpus.change_gpu(0, slices={"MIG-2": "1g.10gb"})

    order(world, "i1")

    assert look_at_attempts(world) == {"i1": ("MIG-2",)}


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("failed", "gpu: nvidia-smi ended with 9: NVIDIA-SMI has failed"),
        ("garbage", "gpu: GPU 0 does not answer any more"),
        ("flood", "gpu: nvidia-smi says more than"),
    ],
)
def test_a_driver_that_makes_no_sense_hands_nothing_over(
    world: AgentWorld, gpus: FakeGpus, fault: str, said: str
) -> None:
    gpus.change(fault=fault)

    told = order(world, "i1")

    assert told.details == {"refusal": "gpu"}
    assert told.reason is not None
    assert told.reason.startswith(said)
    # What needs no GPU goes on.
    assert order(world, "i2", gpus=0).phase is P.ACCEPTED


# --- how often it is asked --------------------------------------------------------------------


def test_the_driver_is_asked_once_for_each_start_that_would_get_a_gpu(
    world: AgentWorld, gpus: FakeGpus
) -> None:
    order(world, "i1")
    (gpu_query, process_query) = gpus.asked
    assert gpu_query.startswith("--query-gpu=")
    assert process_query.startswith("--query-compute-apps=")

    order(world, "i1")  # again
    order(world, "i2", gpus=0)
    world.order(make_start(make_ref("validation"), slot_class=SlotClass.VALIDATION))
    order(world, "i1", image="other")

    assert len(gpus.asked) == 2


def test_a_start_that_was_refused_and_comes_again_is_answered_without_asking(
    world: AgentWorld, gpus: FakeGpus
) -> None:
    """An answer that takes longer than a message stays hidden makes the message come again."""
    gpus.change(fault="failed")
    first = order(world, "i1")
    asked = len(gpus.asked)

    again = order(world, "i1")

    assert (again.phase, again.reason) == (first.phase, first.reason)
    assert len(gpus.asked) == asked


def test_a_driver_that_hangs_keeps_nothing_waiting_but_its_start(
    world: AgentWorld, gpus: FakeGpus
) -> None:
    order(world, "i1", gpus=0)
    gpus.change(fault="hang")
    asked = len(gpus.asked)
    start = make_start(make_ref("i2"), gpus=1)
    waiting = threading.Thread(target=world.order, args=(start,))
    waiting.start()
    wait_for("it is asked", lambda: len(gpus.asked) > asked)

    world.order(Cancel(ref=make_ref("i1"), reason="enough"))
    inventory = world.agent.build_inventory()

    assert waiting.is_alive()
    assert [ref for ref, _ in inventory.running] == [make_ref("i1")]
    reasons = {a.ref: a.cancel_reason for a in world.journal.load()}
    assert reasons == {make_ref("i1"): "enough"}
    gpus.change(fault=None)
    waiting.join()
    assert look_at_attempts(world)["i2"] == ("GPU-0",)


def test_a_start_that_is_cancelled_while_the_driver_hangs_never_begins(
    world: AgentWorld, gpus: FakeGpus
) -> None:
    ref: AttemptRef = make_ref("i1")
    gpus.change(fault="hang")
    waiting = threading.Thread(target=world.order, args=(make_start(ref, gpus=1),))
    waiting.start()
    wait_for("it is asked", lambda: gpus.asked)

    world.order(Cancel(ref=ref, reason="enough"))
    gpus.change(fault=None)
    waiting.join()

    assert world.journal.load() == ()
    assert set(world.tell_phases()) == {("i1", 1, "cancelled")}
