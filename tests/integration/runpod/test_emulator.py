"""The emulator itself: it survives its own end, repeats itself on demand, and holds many pods."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import pytest
from tests.integration.runpod.conftest import SshClient, World, find_processes, wait_for

from fakes.runpod.server import EmulatorProcess
from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import CapacityExhausted
from touchstone.hooks.runpod.lister import AsyncPodLister, PodLister
from touchstone.hooks.runpod.rest import RestPodApi

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("pods", ["process", "plain"])
def test_pods_and_bill_go_on_when_the_emulator_crashes(
    tmp_path: Path, ssh: SshClient, pods: str
) -> None:
    emulator = EmulatorProcess(tmp_path, "--pods", pods, "--rate-limit", "none")
    emulator.start()
    with RestPodApi(Account(api_key="k", url=emulator.url)) as api:
        world = World(emulator, api, ssh)
        emulator.admin.add_fault("get.error", count=1000, skip=500, seed=3)
        pod = world.rent()
        port = world.wait_port(pod)
        marker = f"32{time.time_ns() % 10**9:09d}"
        world.run(pod, f"setsid sleep {marker} > /dev/null 2>&1 < /dev/null &")
        [pid] = wait_for(lambda: find_processes(marker))
        emulator.kill()
        assert find_processes(marker) == [pid]
        emulator.start()
        assert wait_for(lambda: world.wait_port(pod)) == port
        assert find_processes(marker) == [pid], "it was not restarted"
        assert world.run(pod, "echo hello").output == "hello"
        [span] = emulator.admin.get_ledger(pod.id)["spans"]
        assert span["ended_at"] is None
        [rule] = emulator.admin.ask("GET", "/faults")
        assert rule["draws"] > 0, "the counters have survived too"
        emulator.stop()
        wait_for(lambda: not find_processes(marker))


def test_what_a_crash_has_left_can_be_swept_away(tmp_path: Path, ssh: SshClient) -> None:
    emulator = EmulatorProcess(tmp_path, "--pods", "process")
    emulator.start()
    with RestPodApi(Account(api_key="k", url=emulator.url)) as api:
        world = World(emulator, api, ssh)
        pod = world.rent()
        marker = f"33{time.time_ns() % 10**9:09d}"
        world.run(pod, f"setsid sleep {marker} > /dev/null 2>&1 < /dev/null &")
        wait_for(lambda: find_processes(marker))
    emulator.kill()
    sweeper = EmulatorProcess(tmp_path, "--pods", "process", "--sweep")
    with pytest.raises(RuntimeError, match="did not start"):
        # It only sweeps, and exits.
        sweeper.start()
    wait_for(lambda: not find_processes(marker))
    assert not list((tmp_path / "pods").glob("*/disk"))


def test_equal_seeds_bring_equal_bad_luck(tmp_path: Path) -> None:
    def draw(folder: Path) -> list[bool]:
        emulator = EmulatorProcess(folder, "--pods", "none", "--rate-limit", "none")
        emulator.start()
        emulator.admin.add_fault("create.no_capacity", count=None, probability=0.4, seed=7)
        outcomes = []
        with RestPodApi(Account(api_key="k", url=emulator.url)) as api:
            for number in range(20):
                try:
                    api.create_pod(PodOrder(name=f"n{number}", image="i", gpu="NVIDIA L4"))
                    outcomes.append(True)
                except CapacityExhausted:
                    outcomes.append(False)
        assert emulator.admin.count_hits() == {"create.no_capacity": outcomes.count(False)}
        emulator.stop()
        return outcomes

    first = draw(tmp_path / "a")
    assert first == draw(tmp_path / "b")
    assert {True, False} == set(first)


async def test_500_pods_are_waited_for_with_one_lister(tmp_path: Path) -> None:
    emulator = EmulatorProcess(
        *(tmp_path, "--pods", "none", "--rate-limit", "none"),
        *("--page-size", "100", "--boot-seconds", "3", "--credit", "100000"),
    )
    emulator.start()
    emulator.admin.set_capacity(1000, gpu="NVIDIA L4")
    emulator.admin.set_account(spend_limit="100000")
    with RestPodApi(Account(api_key="k", url=emulator.url)) as api:
        pods = [
            api.create_pod(PodOrder(name=f"n{number}", image="i", gpu="NVIDIA L4"))
            for number in range(500)
        ]
        lister = AsyncPodLister(PodLister(api, requests_per_minute=60))

        async def wait_running(pod_id: str) -> None:
            while True:
                found = (await lister.get()).find(pod_id)
                if found is not None and found.is_running:
                    return
                await asyncio.sleep(0.5)

        begun = time.monotonic()
        await asyncio.gather(*(wait_running(pod.id) for pod in pods))
        seconds = time.monotonic() - begun
    lists = emulator.admin.ask("GET", "/requests")["operations"]["rest.list"]["count"]
    emulator.stop()
    assert lists <= 5 + seconds + 5, f"{lists} list requests in {seconds:.0f} s"


def test_the_rate_limit_is_the_documented_one_and_says_when_to_come_back(tmp_path: Path) -> None:
    emulator = EmulatorProcess(tmp_path, "--pods", "none", "--rate-limit", "minute=3")
    emulator.start()
    headers = {"Authorization": "Bearer k"}
    answers = [httpx.get(f"{emulator.url}/v2/pods", headers=headers) for _ in range(4)]
    emulator.stop()
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"minute";q=3;w=60'
    assert 0 < int(answers[3].headers["Retry-After"]) <= 60
