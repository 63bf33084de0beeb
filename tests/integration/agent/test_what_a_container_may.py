"""What submitted code may do, how its ends are told, and what is done about bad input."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from datetime import UTC, datetime, timedelta

import pytest

from fakes.control_plane import ControlPlane
from touchstone_agent.protocol.messages import AttemptPhase

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


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_an_attempt_with_network_gets_a_cache_that_stays(
    docker_image: str, stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    # The host's network: not every machine that tests has the engine's bridge.
    stopped_agent.docker["network"] = "host"
    stopped_agent.start()
    content = plane.make_input("content", make_archive(("train.py", b"")), unpack=True)
    start = plane.make_start(["look"], inputs=(content,))
    environment = {**start.environment, "TOUCHSTONE_CACHE": "/cache"}
    plane.send(start.model_copy(update={"network": True, "environment": environment}))

    plane.wait_phase(start.ref, AttemptPhase.UPLOADED)

    console = plane.read_output(start.ref, "console.log").decode().splitlines()
    assert "cache is writable" in console
    assert "interfaces lo " not in console
    assert (stopped_agent.folder / "state/cache/written").read_text() == "kept\n"


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


@pytest.mark.docker
@pytest.mark.parametrize("runtime_name", ["docker"])
def test_a_container_that_can_be_made_but_not_started_leaves_nothing(
    docker_image: str, stopped_agent: AgentProcess, plane: ControlPlane
) -> None:
    """The driver answers, but the engine was never told how to hand over a GPU."""
    driver = stopped_agent.folder / "bin/nvidia-smi"
    driver.parent.mkdir()
    driver.write_text("#!/bin/sh\necho '0, Test GPU, 24576, GPU-0'\n")
    driver.chmod(0o755)
    stopped_agent.options["gpu"] = "auto"
    stopped_agent.start()
    start = plane.make_start(["ok", "1", "0"])
    plane.send(start.model_copy(update={"gpus": 1}))

    told = plane.wait_phase(start.ref, AttemptPhase.LOST)

    assert told.reason is not None
    assert "could not be started" in told.reason
    assert stopped_agent.find_containers() == []
    too_many = plane.make_start(["ok", "1", "0"])
    plane.send(too_many.model_copy(update={"gpus": 2}))
    rejected = plane.wait_phase(too_many.ref, AttemptPhase.REJECTED)
    assert rejected.reason == "full: 2 GPUs wanted, 1 free"


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
    assert "'passwords' is not a plain file" in exited.details["verdict"]["reason"]
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
    checked = agent.run("check")
    second = agent.run("run")
    refused = agent.run("purge")

    assert status["is_running"] is True
    assert [a["phase"] for a in status["attempts"]] == ["running"]
    assert checked.returncode == 0, checked.stdout
    assert all(line.startswith("ok ") for line in checked.stdout.splitlines())
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
