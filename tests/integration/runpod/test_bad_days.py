"""Each fault of a pod's boot and run, as somebody at the other end of SSH sees it."""

from __future__ import annotations

import subprocess
import time

import pytest
from tests.integration.runpod.conftest import World, wait_for

from touchstone.core.pods import PodStatus
from touchstone.hooks.runpod.errors import PodNotFound

pytestmark = [pytest.mark.integration, pytest.mark.campaign]


@pytest.mark.parametrize("kind", ["boot.ssh_refused", "boot.wrong_key"])
def test_a_pod_may_never_let_us_in(world: World, kind: str) -> None:
    world.admin.add_fault(kind)
    assert world.run(world.rent(), "true").code == 255


def test_an_sshd_may_accept_and_say_nothing(world: World) -> None:
    world.admin.add_fault("boot.ssh_silent")
    begun = time.monotonic()
    assert world.run(world.rent(), "true").code == 255
    assert time.monotonic() - begun > 4, "it was the client that gave up"


def test_an_sshd_may_be_late(world: World) -> None:
    world.admin.add_fault("boot.ssh_late", params={"seconds": 1.5})
    pod = world.rent()
    assert world.run(pod, "true").code == 255
    wait_for(lambda: world.run(pod, "true").code == 0)


@pytest.mark.parametrize("kind", ["boot.no_port", "boot.private_ip", "boot.never_runs"])
def test_a_pod_may_have_no_way_in(world: World, kind: str) -> None:
    world.admin.add_fault(kind)
    pod = world.rent()
    time.sleep(1)
    assert world.api.get_pod(pod.id).ssh is None


def test_a_pod_may_end_in_error_and_costs_on(world: World) -> None:
    world.admin.add_fault("boot.error")
    pod = world.rent()
    wait_for(lambda: world.api.get_pod(pod.id).status is PodStatus.ERROR)
    assert world.admin.get_ledger(pod.id)["open"] == 1


def test_an_image_may_take_long(world: World) -> None:
    world.admin.add_fault("boot.slow_pull", params={"seconds": 1.5})
    pod = world.rent()
    time.sleep(1)
    assert world.api.get_pod(pod.id).status is PodStatus.PROVISIONING
    wait_for(lambda: world.api.get_pod(pod.id).is_running)


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
    wait_for(lambda: world.run(pod, "nvidia-smi").code == 6)


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
    wait_for(lambda: world.run(pod, "head -c 100000 /dev/zero >> /workspace/x").code != 0)


def start_ticker(world: World, name: str) -> tuple[str, subprocess.Popen[str]]:
    """Start a command that says something ten times a second; return the pod's id and it."""
    pod = world.rent(name)
    ticker = world.ssh.start(
        world.wait_port(pod), "i=0; while echo $i; do i=$((i+1)); sleep 0.1; done"
    )
    assert ticker.stdout is not None
    assert ticker.stdout.readline() == "0\n"
    return pod.id, ticker


def test_a_connection_may_drop_while_the_pod_goes_on(world: World) -> None:
    pod_id, ticker = start_ticker(world, "touchstone-test-drop")
    world.admin.inject(pod_id, "run.ssh_drop", after=0)
    assert ticker.wait(10) == 255
    assert world.run(world.api.get_pod(pod_id), "echo on").output == "on"


def test_a_connection_may_freeze_and_thaw(world: World) -> None:
    pod_id, ticker = start_ticker(world, "touchstone-test-freeze")
    assert ticker.stdout is not None
    world.admin.inject(pod_id, "run.ssh_freeze", after=0, seconds=1.5)
    begun, gap = time.monotonic(), 0.0
    while gap < 1 and time.monotonic() - begun < 10:
        before = time.monotonic()
        assert ticker.stdout.readline()
        gap = time.monotonic() - before
    ticker.kill()
    ticker.wait()
    assert gap >= 1


def test_a_connection_may_be_dead_on_one_side(world: World) -> None:
    pod_id, ticker = start_ticker(world, "touchstone-test-half")
    world.admin.inject(pod_id, "run.ssh_half_open", after=0, seconds=60)
    begun = time.monotonic()
    assert ticker.wait(20) == 255
    assert time.monotonic() - begun > 2, "nobody told the client; it asked and got no answer"


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
    world.admin.inject(pod.id, "run.host_death", after=0, stale_seconds=2)
    wait_for(lambda: world.ssh.run(port, "true").code == 255)
    assert world.api.get_pod(pod.id).is_running, "it has not noticed yet"
    wait_for(lambda: world.api.get_pod(pod.id).status is PodStatus.EXITED)
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

    wait_for(is_gone)
    assert world.api.list_pods() == []


def test_a_terminated_pod_may_come_back_and_was_billed_all_the_time(world: World) -> None:
    pod = world.rent()
    world.admin.add_fault("terminate.reappears", params={"seconds": 1})
    world.api.terminate_pod(pod.id)
    with pytest.raises(PodNotFound):
        world.api.get_pod(pod.id)
    assert world.admin.get_ledger(pod.id)["open"] == 1
    wait_for(lambda: world.api.list_pods())


def test_a_terminate_may_take_its_time(world: World) -> None:
    pod = world.rent()
    world.admin.add_fault("terminate.delayed", params={"seconds": 1})
    world.api.terminate_pod(pod.id)
    assert world.api.get_pod(pod.id)
    wait_for(lambda: world.admin.get_ledger(pod.id)["open"] == 0)
    with pytest.raises(PodNotFound):
        world.api.get_pod(pod.id)


def test_a_clock_of_the_service_may_be_wrong(world: World) -> None:
    world.admin.add_fault("run.clock_skew", params={"seconds": 7200})
    pod = world.rent()
    assert pod.created_at is not None
    assert pod.created_at.timestamp() - time.time() > 7000
