"""What submitted code may do, how its ends are told, and what is done about bad input."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fakes.control_plane import ControlPlane
from fakes.gpus import FakeGpus
from fakes.images import RUNNER, build_script_image, name_script_image
from touchstone_agent.protocol.messages import (
    AttemptPhase,
    AttemptRef,
    Preparation,
    SlotClass,
    Start,
)

from .conftest import AgentProcess

pytestmark = pytest.mark.integration


def make_archive(*members: tuple[str, bytes], links: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Build a .tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for name, target in links:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return gzip.compress(buffer.getvalue())


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_container_has_nothing_but_its_folders(
    docker_image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    content = make_archive(("train.py", b"the content"))
    ref = plane.start(["look"], inputs=(plane.make_input("content", content, unpack=True),))

    plane.wait_phase(ref, AttemptPhase.UPLOADED)

    assert plane.read_output(ref, "console.log").decode().splitlines() == [
        "uid 65534",
        "root is read-only",
        "in is read-only",
        "tmp is writable",
        "interfaces lo ",
        "home /tmp",
        "no cache",
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "content the content",
    ]


def make_branch_start(plane: ControlPlane, scenario: str = "look", **fields: object) -> Start:
    """Order a training by a branch that requires something."""
    content = plane.make_input("content", make_archive(("train.py", b"submitted")), unpack=True)
    branch = make_archive(("requirements.txt", b"tiny==1\n"))
    checkout = plane.make_input("elnigma", branch, unpack=True)
    prepare = Preparation(argv=("prepare", "{in}", "{out}"), inputs=("elnigma",))
    start = plane.make_start([scenario], inputs=(content, checkout))
    return start.model_copy(update={"prepare": prepare, **fields})


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_branch_is_prepared_with_the_network_and_trains_without(
    docker_image: str, stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    """Submitted code had the network all the while, and wrote to what everybody executes."""
    # The host's network: not every machine that tests has the engine's bridge.
    stopped_agent.docker["network"] = "host"
    stopped_agent.start()
    start = make_branch_start(plane)
    plane.send(start)

    plane.wait_phase(start.ref, AttemptPhase.UPLOADED)

    console = plane.read_output(start.ref, "console.log").decode().splitlines()
    assert "interfaces lo " in console
    assert "cache is read-only" in console
    assert "cache is made of tiny==1" in console
    assert "content submitted" in console
    (entry,) = (stopped_agent.folder / "state/prepared").iterdir()
    assert (entry / "files/made").read_text() == "made of tiny==1\n"
    assert not (entry / "files/written").exists()
    assert stopped_agent.find_containers() == []


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_preparation_has_the_network_and_nothing_that_was_submitted(
    docker_image: str, stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    stopped_agent.docker["network"] = "host"
    stopped_agent.start()
    start = make_branch_start(plane)
    environment = {**start.environment, "TOUCHSTONE_SLOW": "300"}
    plane.send(start.model_copy(update={"environment": environment}))
    name = f"{start.ref.container_name(plane.env)}-prepare"
    console = stopped_agent.folder / "state/attempts" / name / "out/console.log"

    plane.wait("a console is written", lambda: console.exists() and "uid" in console.read_text())

    lines = console.read_text().splitlines()
    assert lines[0] == "prepares with elnigma "
    assert lines[1] != "interfaces lo "
    assert lines[2] == "uid 65534"
    assert stopped_agent.find_containers() == [name]
    plane.cancel(start.ref)
    plane.wait_phase(start.ref, AttemptPhase.CANCELLED)
    assert stopped_agent.find_containers() == []
    assert list((stopped_agent.folder / "state/prepared").iterdir()) == []


def test_a_preparation_that_its_agent_leaves_behind_is_done_again(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    stopped_agent.docker["network"] = "host"
    agent = stopped_agent.start()
    start = make_branch_start(plane)
    environment = {**start.environment, "TOUCHSTONE_SLOW": "3"}
    plane.send(start.model_copy(update={"environment": environment}))
    prepared = agent.folder / "state/prepared"
    plane.wait("a preparation has begun", lambda: list(prepared.glob(".partial-*/files/made")))
    agent.kill()

    agent.start()

    plane.wait_phase(start.ref, AttemptPhase.UPLOADED)
    assert "cache is made of tiny==1" in plane.read_output(start.ref, "console.log").decode()
    assert len(list(prepared.iterdir())) == 1
    assert agent.find_containers() == []


# --- what is ended from outside ---------------------------------------------------------------

MIB = 1024**2


def follow_to_its_end(agent: AgentProcess, plane: ControlPlane, ref: AttemptRef) -> int:
    """Wait for its exit; return the most bytes that its folder ever had."""
    out = agent.folder / "state/attempts" / ref.container_name(plane.env) / "out"
    most = 0

    def has_exited() -> bool:
        nonlocal most
        for path in out.glob("fill"):
            with suppress(FileNotFoundError):
                most = max(most, path.stat().st_blocks * 512)
        return AttemptPhase.EXITED in plane.phases(ref)

    plane.wait("its end is told", has_exited)
    return most


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [
        ("fill", "output limit: stopped after more than 5 MiB"),
        ("litter", "output limit: stopped after more than 10000 files"),
        ("dig 50", "output limit: stopped, with folders more than 32 deep"),
    ],
    ids=["bytes", "files", "depth"],
)
def test_a_runner_that_is_stopped_does_not_lift_the_limits(
    scenario: str, reason: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    """Submitted code stopped its runner and wrote 400 MB where 5 were allowed."""
    limits = {"output_bytes": 5 * MIB, "console_bytes": MIB}
    ref = plane.start(scenario.split(), **limits)

    most = follow_to_its_end(agent, plane, ref)

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    assert (exited.details["exit_code"], exited.details["files"]) == (3, [])
    verdict = exited.details["verdict"]
    assert (verdict["class"], verdict["outcome"]) == ("limit", "failed")
    assert verdict["reason"] == reason
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert plane.read_console(ref) == b"nobody is in charge\n"
    assert agent.find_containers() == []
    # It writes 80 MiB a second at most: so much in two seconds, beyond what is allowed.
    assert most <= (5 + 1 + 16 + 2 * 80) * MIB


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_file_without_a_name_counts(
    docker_image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT ROOT: files without a name are NOT counted on this machine")
    ref = plane.start(["hide"], output_bytes=5 * MIB, console_bytes=MIB)

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)

    assert exited.details["verdict"]["reason"] == "output limit: stopped after more than 5 MiB"


@pytest.mark.parametrize("slot_class", list(SlotClass))
def test_a_runner_that_is_stopped_does_not_stop_the_time(
    slot_class: SlotClass, agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["hang"], wall_seconds=1, slot_class=slot_class)

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)

    verdict = exited.details["verdict"]
    assert (verdict["class"], verdict["reason"]) == ("limit", "time limit: stopped after 1 s")
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert agent.find_containers() == []


def test_folders_inside_each_other_end_no_agent(
    stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    """Whoever removed them went as deep as they did, until there was no stack left."""
    agent = stopped_agent.start()
    ref = plane.start(["dig", "3000"])
    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    attempts = agent.folder / "state/attempts"
    plane.wait("no attempt is left", lambda: not list(attempts.iterdir()))

    again = plane.start(["ok", "1", "0"])

    plane.wait_phase(again, AttemptPhase.UPLOADED)


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_container_that_runs_out_of_memory_is_told_as_such(
    docker_image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["eat"], memory_mib=64)

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)

    assert exited.details["oom_killed"] is True
    assert exited.details["exit_code"] == 137
    assert exited.details["verdict"] is None


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_an_image_that_is_not_there_loses_the_attempt(
    docker_image: str, agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["ok", "1", "0"], image="touchstone-absent:local")

    told = plane.wait_phase(ref, AttemptPhase.LOST)

    assert told.reason == (
        "image touchstone-absent:local is not on this server; build or pull it there"
    )
    assert told.details == {"refusal": "image"}


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_container_that_can_be_made_but_not_started_leaves_nothing(
    docker_image: str, stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    """The driver answers, but the engine was never told how to hand over a GPU."""
    FakeGpus(stopped_agent.folder, 1)
    stopped_agent.options["gpu"] = "auto"
    stopped_agent.start()
    start = plane.make_start(["ok", "1", "0"])
    plane.send(start.model_copy(update={"gpus": 1}))

    told = plane.wait_phase(start.ref, AttemptPhase.LOST)

    assert told.reason is not None
    assert "could not be started" in told.reason
    assert told.details == {"refusal": "gpu"}
    assert stopped_agent.find_containers() == []
    too_many = plane.make_start(["ok", "1", "0"])
    plane.send(too_many.model_copy(update={"gpus": 2}))
    rejected = plane.wait_phase(too_many.ref, AttemptPhase.REJECTED)
    assert rejected.reason == "gpu: 2 GPUs wanted, this server has 1"
    assert rejected.details == {"refusal": "gpu"}


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_container_that_is_handed_no_gpu_sees_none_whatever_its_image_asks_for(
    docker_image: str, agent: AgentProcess, plane: ControlPlane, tmp_path: Path
) -> None:
    """Images for CUDA ask for all, and get them where NVIDIA's runtime is the engine's default."""
    asking = {"NVIDIA_VISIBLE_DEVICES": "all"}
    image = name_script_image("touchstone-test-cuda", RUNNER, asking)
    build_script_image(image, RUNNER, tmp_path, asking)
    ref = plane.start(["devices"], image=image)
    plane.wait_phase(ref, AttemptPhase.RUNNING)
    plane.wait("it has begun", lambda: agent.find_output(ref, "console.log"))
    agent.let_go(ref)

    plane.wait_phase(ref, AttemptPhase.UPLOADED)

    console = plane.read_output(ref, "console.log").decode().splitlines()
    assert "NVIDIA_VISIBLE_DEVICES=void" in console
    assert "TOUCHSTONE_CUDA=none" in console


def test_what_ends_without_a_verdict_keeps_its_last_words(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    ref = plane.start(["crash", "7"])

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)
    plane.wait_phase(ref, AttemptPhase.UPLOADED)

    assert exited.details["exit_code"] == 7
    assert exited.details["verdict"] is None
    assert plane.read_console(ref) == b"it went wrong before there was a console\n"


def test_an_archive_that_leads_out_of_its_folder_is_the_submitters_failure(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    content = make_archive(("train.py", b""), links=(("passwords", "/etc/passwd"),))
    ref = plane.start(["look"], inputs=(plane.make_input("content", content, unpack=True),))

    exited = plane.wait_phase(ref, AttemptPhase.EXITED)

    assert exited.details["exit_code"] == 3
    assert exited.details["verdict"]["class"] == "submission"
    assert "'passwords' is a link" in exited.details["verdict"]["reason"]
    assert AttemptPhase.RUNNING not in plane.phases(ref)


def test_an_input_with_other_bytes_than_promised_is_never_used(
    agent: AgentProcess, plane: ControlPlane
) -> None:
    item = plane.make_input("big", b"as promised")
    plane.put("input/big", b"not promised")

    ref = plane.start(["copy"], inputs=(item.model_copy(update={"size": 12}),))

    told = plane.wait_phase(ref, AttemptPhase.LOST)
    assert told.reason is not None
    assert "sha256" in told.reason


def test_an_expired_grant_is_asked_for_again(agent: AgentProcess, plane: ControlPlane) -> None:
    expired = datetime.now(UTC) - timedelta(seconds=1)
    item = plane.make_input("big", b"the input", expires_at=expired)

    ref = plane.start(["copy"], inputs=(item,))

    plane.wait_phase(ref, AttemptPhase.UPLOADED)
    assert plane.read_output(ref, "models/long.h5") == b"the input"


def test_its_commands_tell_what_an_agent_does(agent: AgentProcess, plane: ControlPlane) -> None:
    ref = plane.start(["sleep", "300"])
    plane.wait_phase(ref, AttemptPhase.RUNNING)

    status = json.loads(agent.run("status", "--json").stdout)
    checked = agent.run("doctor")
    second = agent.run("run")
    refused = agent.run("purge")

    assert status["is_running"] is True
    assert [a["phase"] for a in status["attempts"]] == ["running"]
    assert checked.returncode == 0, checked.stdout
    assert all(line.startswith(("ok ", "WARN ")) for line in checked.stdout.splitlines())
    assert second.returncode == 2
    assert "an agent is running" in second.stderr
    assert refused.returncode == 2
    agent.terminate()
    purged = agent.run("purge")
    assert purged.returncode == 0
    assert agent.find_containers() == []
    assert list((agent.folder / "state/attempts").iterdir()) == []


def test_no_log_line_holds_a_signed_url_or_a_key(agent: AgentProcess, plane: ControlPlane) -> None:
    ref = plane.start(["copy"], inputs=(plane.make_input("big", b"x"),))
    plane.wait_phase(ref, AttemptPhase.UPLOADED)

    agent.terminate()

    for secret in ("X-Amz-", "Signature", plane.server_private_key, plane.private_key):
        assert secret not in agent.log
