"""Pods of the emulator as a client meets them: a container with sshd, and nothing more."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from tests.integration.runpod.conftest import SshClient, World, find_processes, open_world

from fakes.runpod.app import Config
from touchstone.core.pods import PodOrder, PodStatus
from waiting import wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["process", "plain"])
def shared_world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ssh: SshClient
) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("runpod"), ssh, request.param) as world:
        yield world


def test_a_pod_has_a_gpu_and_its_key_lets_us_in(world: World) -> None:
    pod = world.rent()
    query = "nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader"
    assert world.run(pod, query).output == "NVIDIA L4, 24576 MiB, 570.124.06"


def test_a_login_does_not_inherit_the_environment_but_can_read_it(world: World) -> None:
    pod = world.rent(MINE="its own")
    assert world.run(pod, "echo [$RUNPOD_POD_ID$MINE]").output == "[]"
    source = "for f in /etc/rp_environment ./rp_environment; do [ -r $f ] && . $f; done; "
    seen = world.run(pod, source + "echo $RUNPOD_POD_ID/$RUNPOD_DC_ID/$MINE/$RUNPOD_GPU_COUNT")
    assert seen.output == f"{pod.id}/{pod.data_center}/its own/1"


def test_the_exit_code_and_the_input_of_a_command_come_through(world: World) -> None:
    pod = world.rent()
    assert world.run(pod, "exit 7").code == 7
    assert world.run(pod, "printf 'a b' | wc -c").output == "3"


def test_nothing_of_a_pod_outlives_it(world: World) -> None:
    marker = f"31{secrets.randbelow(10**9):09d}"
    pod = world.rent()
    started = world.run(pod, f"setsid sleep {marker} > /dev/null 2>&1 < /dev/null & echo yes")
    assert started.output == "yes"
    wait_for("it runs", lambda: find_processes(marker))
    world.api.terminate_pod(pod.id)
    wait_for("nothing is left", lambda: not find_processes(marker))
    assert world.admin.get_ledger(pod.id)["open"] == 0


def test_a_pod_ends_itself_with_its_own_key(world: World) -> None:
    pod = world.rent()
    source = "for f in /etc/rp_environment ./rp_environment; do [ -r $f ] && . $f; done; "
    code = (
        "import os, urllib.request as u; u.urlopen(u.Request("
        f"'{world.emulator.url}/v2/pods/' + os.environ['RUNPOD_POD_ID'], method='DELETE', "
        "headers={'Authorization': 'Bearer ' + os.environ['RUNPOD_API_KEY']}))"
    )
    world.run(pod, source + f'/usr/bin/python3 -c "{code}"')
    wait_for("it has ended itself", lambda: not world.admin.list_pods())


def test_a_container_that_ends_is_started_again_and_billed_on(world: World) -> None:
    pod = world.rent()
    port = world.wait_port(pod)
    key = world.ssh.scan_host_key(port)
    world.admin.inject(pod.id, "run.container_restart", after=0)
    world.wait_boots(pod.id, 2)
    new_port = world.wait_port(pod)
    assert world.ssh.scan_host_key(new_port) != key
    assert world.run(pod, "echo back").output == "back"
    assert len(world.admin.get_ledger(pod.id)["spans"]) == 1


def test_the_order_of_a_command_runs_it_beside_sshd(world: World) -> None:
    code = "import time; print('hello from the pod', flush=True); time.sleep(60)"
    order = PodOrder(
        name="touchstone-test-cmd",
        image="trainer:1",
        gpu="NVIDIA L4",
        cmd=("/usr/bin/python3", "-c", code),
    )
    pod = world.api.create_pod(order)
    lines = wait_for(
        "it says hello",
        lambda: [
            line for line in world.api.read_logs(pod.id, source="container") if "hello" in line.text
        ],
    )
    assert lines[0].text == "hello from the pod"


def test_an_isolated_pod_has_a_disk_of_its_own_and_no_engine(world: World) -> None:
    pod = world.rent()
    is_isolated = world.run(pod, "cat /proc/1/comm").output != Path("/proc/1/comm").read_text()
    if not is_isolated or world.run(pod, "test -d /workspace").code:
        # The plain variant shares the machine's files; only its home is its own.
        assert world.run(pod, "pwd").output.endswith("/disk")
        return
    name = f"/workspace/{secrets.token_hex(8)}"
    assert (
        world.run(pod, f"touch {name} && echo $HOME && tr '\\0' '\\n' < /proc/1/environ").code == 0
    )
    assert not Path(name).exists()
    assert world.run(pod, "command -v docker; ls /run/docker.sock /var/run/docker.sock").code != 0
    assert f"RUNPOD_POD_ID={pod.id}" in world.run(pod, "tr '\\0' '\\n' < /proc/1/environ").output


def test_the_disk_is_wiped_by_a_stop(world: World) -> None:
    pod = world.rent()
    assert world.run(pod, "touch ~/kept && ls ~/kept").code == 0
    account = {"Authorization": "Bearer rpa_test"}
    url = f"{world.emulator.url}/v2/pods/{pod.id}/action"
    act = partial(httpx.post, url, headers=account, timeout=None)
    assert act(json={"action": "stop"}).json()["status"] == "EXITED"
    assert world.api.get_pod(pod.id).ssh is None
    assert world.admin.get_ledger(pod.id)["open"] == 0
    assert act(json={"action": "start"}).status_code == 200
    wait_for("it runs", lambda: world.api.get_pod(pod.id).status is PodStatus.RUNNING)
    wait_for("a login", lambda: world.run(pod, "true").code == 0)
    assert world.run(pod, "ls ~/kept").code != 0


def test_the_emulator_is_no_way_to_this_machines_secrets() -> None:
    """It listens on the loopback interface only."""
    assert Config(state_dir=Path(os.devnull)).host == "127.0.0.1"
