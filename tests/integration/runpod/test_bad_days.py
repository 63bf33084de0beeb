"""Each fault of a pod's boot and run, as somebody at the other end of SSH sees it."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.integration.runpod.conftest import IMPATIENT, World

from touchstone.core.pods import Pod, PodStatus
from touchstone.hooks.runpod.errors import PodNotFound
from waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.campaign]

NEVER_SECONDS = 3600
"""For what happens when the emulator's clock is pushed, and not before."""


def read_host_log(world: World, pod: Pod) -> str:
    return "\n".join(line.text for line in world.api.read_logs(pod.id, source="system"))


def wait_status(world: World, pod: Pod, status: PodStatus) -> None:
    wait_for(f"the pod is {status}", lambda: world.api.get_pod(pod.id).status is status)


@pytest.mark.parametrize("kind", ["boot.ssh_refused", "boot.wrong_key"])
def test_a_pod_may_never_let_us_in(world: World, kind: str) -> None:
    world.admin.add_fault(kind)
    assert world.run(world.rent(), "true").code == 255


def test_an_sshd_may_accept_and_say_nothing(world: World) -> None:
    world.admin.add_fault("boot.ssh_silent")
    told = world.run(world.rent(), "true", *IMPATIENT)
    assert told.code == 255
    assert "timed out" in told.errors, "it was the client that gave up"


def test_an_sshd_may_be_late(world: World) -> None:
    world.admin.add_fault("boot.ssh_late", params={"seconds": NEVER_SECONDS})
    pod = world.rent()
    wait_for("it runs", lambda: world.api.get_pod(pod.id).is_running)
    assert world.run(pod, "true").code == 255
    world.admin.push_clock(NEVER_SECONDS)
    wait_for("a login", lambda: world.run(pod, "true").code == 0)


@pytest.mark.parametrize("kind", ["boot.no_port", "boot.private_ip", "boot.never_runs"])
def test_a_pod_may_have_no_way_in(world: World, kind: str) -> None:
    world.admin.add_fault(kind)
    pod = world.rent()
    # The way in would be told with the start of the container, or soon after.
    wait_for("it has come so far", lambda: "start container" in read_host_log(world, pod))
    time.sleep(1)
    assert world.api.get_pod(pod.id).ssh is None


def test_a_pod_may_end_in_error_and_costs_on(world: World) -> None:
    world.admin.add_fault("boot.error")
    pod = world.rent()
    wait_status(world, pod, PodStatus.ERROR)
    assert world.admin.get_ledger(pod.id)["open"] == 1


def test_an_image_may_take_long(world: World) -> None:
    world.admin.add_fault("boot.slow_pull", params={"seconds": NEVER_SECONDS})
    pod = world.rent()
    wait_for("it is pulled", lambda: "pulling image" in read_host_log(world, pod))
    assert world.api.get_pod(pod.id).status is PodStatus.PROVISIONING
    world.admin.push_clock(NEVER_SECONDS)
    wait_status(world, pod, PodStatus.RUNNING)


def test_a_host_may_have_no_gpu_or_an_old_driver(world: World) -> None:
    world.admin.add_fault("boot.gpu_missing")
    assert world.run(world.rent("touchstone-test-a"), "nvidia-smi").code == 6
    world.admin.add_fault("boot.old_driver")
    query = "nvidia-smi --query-gpu=driver_version --format=csv,noheader"
    assert world.run(world.rent("touchstone-test-b"), query).output == "470.57.02"


def test_a_gpu_may_be_lost_on_the_way(world: World) -> None:
    pod = world.rent()
    assert world.run(pod, "nvidia-smi").code == 0
    world.admin.inject(pod.id, "run.gpu_lost", after=0)
    wait_for("its GPU is lost", lambda: world.run(pod, "nvidia-smi").code == 6)


def has_own_disk(world: World) -> bool:
    pod = world.rent("touchstone-test-probe")
    found = world.run(pod, "test -d /workspace").code == 0
    world.api.terminate_pod(pod.id)
    return found


def test_a_disk_may_be_too_small_or_fill_up(world: World) -> None:
    if not has_own_disk(world):
        # A plain process has the machine's disk, and that is not to be filled.
        return
    world.admin.add_fault("boot.small_disk")
    pod = world.rent("touchstone-test-a")
    assert "No space left" in world.run(pod, "head -c 9000000 /dev/zero > /workspace/x").errors
    world.admin.add_fault("run.disk_full", params={"after": 0.5})
    pod = world.rent("touchstone-test-b")
    fill = "head -c 100000 /dev/zero >> /workspace/x"
    wait_for("its disk is full", lambda: world.run(pod, fill).code != 0)


@contextmanager
def ticking(world: World, name: str, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run a command that says something ten times a second; yield the pod's id and it."""
    pod = world.rent(name)
    command = "i=0; while echo $i; do i=$((i+1)); sleep 0.1; done"
    with world.ssh.start(world.wait_port(pod), command, *options) as ticker:
        try:
            assert ticker.stdout is not None
            assert ticker.stdout.readline() == "0\n"
            yield pod.id, ticker
        finally:
            ticker.kill()


def test_a_connection_may_drop_while_the_pod_goes_on(world: World) -> None:
    with ticking(world, "touchstone-test-drop") as (pod_id, ticker):
        world.admin.inject(pod_id, "run.ssh_drop", after=0)
        ticker.communicate()
        assert ticker.returncode == 255
        assert world.run(world.api.get_pod(pod_id), "echo on").output == "on"


def test_a_connection_may_freeze_and_thaw(world: World) -> None:
    with ticking(world, "touchstone-test-freeze") as (pod_id, ticker):
        world.admin.inject(pod_id, "run.ssh_freeze", after=0, seconds=NEVER_SECONDS)
        wait_for("nothing comes any more", lambda: is_silent(ticker))
        assert ticker.poll() is None
        world.admin.inject(pod_id, "run.ssh_freeze", after=0, seconds=0)
        wait_for("it goes on", lambda: not is_silent(ticker))


def is_silent(process: subprocess.Popen[str]) -> bool:
    """Take what there is; tell whether there was nothing for a second, ten times its usual."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], 1)[0]:
        return True
    os.read(process.stdout.fileno(), 4096)
    return False


def test_a_connection_may_be_dead_on_one_side(world: World) -> None:
    with ticking(world, "touchstone-test-half", *IMPATIENT) as (pod_id, ticker):
        world.admin.inject(pod_id, "run.ssh_half_open", after=0, seconds=NEVER_SECONDS)
        _, errors = ticker.communicate()
        assert ticker.returncode == 255
        assert "not responding" in errors, "nobody told the client; it asked and got no answer"


def test_a_network_may_be_slow(world: World) -> None:
    world.admin.add_fault("run.slow_network", params={"bytes_per_second": 20_000})
    pod = world.rent()
    begun = time.monotonic()
    assert world.run(pod, "head -c 40000 /dev/urandom | base64 -w 0 | wc -c").code == 0
    world.ssh.run(world.wait_port(pod), "head -c 40000 /dev/urandom | base64 -w 0")
    assert time.monotonic() - begun > 2


def test_a_host_may_die_and_the_api_notice_late(world: World) -> None:
    pod = world.rent()
    port = world.wait_port(pod)
    world.admin.inject(pod.id, "run.host_death", after=0, stale_seconds=NEVER_SECONDS)
    wait_for("nobody answers", lambda: world.ssh.run(port, "true").code == 255)
    assert world.api.get_pod(pod.id).is_running, "it has not noticed yet"
    world.admin.push_clock(NEVER_SECONDS)
    wait_status(world, pod, PodStatus.EXITED)
    assert world.admin.get_ledger(pod.id)["open"] == 0


def test_a_pod_may_vanish(world: World) -> None:
    pod = world.rent()
    world.wait_port(pod)
    world.admin.inject(pod.id, "run.vanish", after=0)

    def is_gone() -> bool:
        try:
            world.api.get_pod(pod.id)
        except PodNotFound:
            return True
        return False

    wait_for("it is gone", is_gone)
    assert world.api.list_pods() == []


def test_a_terminated_pod_may_come_back_and_was_billed_all_the_time(world: World) -> None:
    pod = world.rent()
    world.admin.add_fault("terminate.reappears", params={"seconds": NEVER_SECONDS})
    world.api.terminate_pod(pod.id)
    with pytest.raises(PodNotFound):
        world.api.get_pod(pod.id)
    assert world.admin.get_ledger(pod.id)["open"] == 1
    world.admin.push_clock(NEVER_SECONDS)
    assert [each.id for each in world.api.list_pods()] == [pod.id]


def test_a_terminate_may_take_its_time(world: World) -> None:
    pod = world.rent()
    world.admin.add_fault("terminate.delayed", params={"seconds": NEVER_SECONDS})
    world.api.terminate_pod(pod.id)
    assert world.api.get_pod(pod.id)
    world.admin.push_clock(NEVER_SECONDS)
    wait_for("it is billed no more", lambda: world.admin.get_ledger(pod.id)["open"] == 0)
    with pytest.raises(PodNotFound):
        world.api.get_pod(pod.id)


def test_a_clock_of_the_service_may_be_wrong(world: World) -> None:
    world.admin.add_fault("run.clock_skew", params={"seconds": 7200})
    pod = world.rent()
    assert pod.created_at is not None
    assert pod.created_at.timestamp() - time.time() > 7000
