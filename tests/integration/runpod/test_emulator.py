"""The emulator itself: it survives its own end, repeats itself on demand, and holds many pods."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests.integration.runpod.conftest import SshClient, World, find_processes

from campaigns import ALL_CAMPAIGNS
from fakes.runpod.server import EmulatorProcess
from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import CapacityExhausted
from touchstone.hooks.runpod.lister import AsyncPodLister, PodLister
from touchstone.hooks.runpod.rest import RestPodApi
from waiting import wait_for

pytestmark = pytest.mark.integration

PODS = 500 if ALL_CAMPAIGNS else 150


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[EmulatorProcess]:
    """Run an emulator, and end it and its pods whatever happens."""
    emulator = EmulatorProcess(folder, *arguments)
    try:
        emulator.start()
        yield emulator
    finally:
        emulator.stop()


@pytest.mark.campaign(sample=2)
@pytest.mark.parametrize("pods", ["process", "plain"])
def test_pods_and_bill_go_on_when_the_emulator_crashes(
    tmp_path: Path, ssh: SshClient, pods: str
) -> None:
    with (
        running(tmp_path, "--pods", pods, "--rate-limit", "none") as emulator,
        RestPodApi(Account(api_key="k", url=emulator.url)) as api,
    ):
        world = World(emulator, api, ssh)
        emulator.admin.add_fault("get.error", count=1000, skip=500, seed=3)
        pod = world.rent()
        port = world.wait_port(pod)
        marker = f"32{time.time_ns() % 10**9:09d}"
        world.run(pod, f"setsid sleep {marker} > /dev/null 2>&1 < /dev/null &")
        [pid] = wait_for("it runs", lambda: find_processes(f"sleep\0{marker}"))
        emulator.kill()
        assert find_processes(f"sleep\0{marker}") == [pid]
        emulator.start()
        assert world.wait_port(pod) == port
        assert find_processes(f"sleep\0{marker}") == [pid], "it was not restarted"
        assert world.run(pod, "echo hello").output == "hello"
        [span] = emulator.admin.get_ledger(pod.id)["spans"]
        assert span["ended_at"] is None
        [rule] = emulator.admin.ask("GET", "/faults")
        assert rule["draws"] > 0, "the counters have survived too"
        emulator.stop()
        wait_for("nothing is left", lambda: not find_processes(marker))


def test_what_a_crash_has_left_can_be_swept_away(tmp_path: Path, ssh: SshClient) -> None:
    with (
        running(tmp_path, "--pods", "process") as emulator,
        RestPodApi(Account(api_key="k", url=emulator.url)) as api,
    ):
        world = World(emulator, api, ssh)
        pod = world.rent()
        marker = f"33{time.time_ns() % 10**9:09d}"
        world.run(pod, f"setsid sleep {marker} > /dev/null 2>&1 < /dev/null &")
        wait_for("it runs", lambda: find_processes(marker))
        emulator.kill()
    sweeper = EmulatorProcess(tmp_path, "--pods", "process", "--sweep")
    with pytest.raises(AssertionError, match="has ended with 0"):
        # It only sweeps, and exits.
        sweeper.start()
    wait_for("nothing is left", lambda: not find_processes(marker))
    assert not list((tmp_path / "pods").glob("*/disk"))


def test_equal_seeds_bring_equal_bad_luck(tmp_path: Path) -> None:
    def draw(folder: Path) -> list[bool]:
        outcomes = []
        with (
            running(folder, "--pods", "none", "--rate-limit", "none") as emulator,
            RestPodApi(Account(api_key="k", url=emulator.url)) as api,
        ):
            emulator.admin.add_fault("create.no_capacity", count=None, probability=0.4, seed=7)
            for number in range(20):
                try:
                    api.create_pod(PodOrder(name=f"n{number}", image="i", gpu="NVIDIA L4"))
                    outcomes.append(True)
                except CapacityExhausted:
                    outcomes.append(False)
            assert emulator.admin.count_hits() == {"create.no_capacity": outcomes.count(False)}
        return outcomes

    first = draw(tmp_path / "a")
    assert first == draw(tmp_path / "b")
    assert {True, False} == set(first)


async def test_many_pods_are_waited_for_with_one_lister(tmp_path: Path) -> None:
    arguments = (
        *("--pods", "none", "--rate-limit", "none", "--page-size", "100"),
        *("--boot-seconds", "3", "--credit", "100000"),
    )
    with (
        running(tmp_path, *arguments) as emulator,
        RestPodApi(Account(api_key="k", url=emulator.url)) as api,
    ):
        emulator.admin.set_capacity(1000, gpu="NVIDIA L4")
        emulator.admin.set_account(spend_limit="100000")
        pods = [
            api.create_pod(PodOrder(name=f"n{number}", image="i", gpu="NVIDIA L4"))
            for number in range(PODS)
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
    # One a second, of as many pages as there are: the longer it takes, the more there may be.
    assert lists <= 5 + seconds + 5, f"{lists} list requests in {seconds:.0f} s"


def test_the_rate_limit_is_the_documented_one_and_says_when_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, "--pods", "none", "--rate-limit", "hour=3") as emulator:
        headers = {"Authorization": "Bearer k"}
        answers = [
            httpx.get(f"{emulator.url}/v2/pods", headers=headers, timeout=None) for _ in range(4)
        ]
    assert [each.status_code for each in answers] == [200, 200, 200, 429]
    assert answers[0].headers["RateLimit-Policy"] == '"hour";q=3;w=3600'
    assert 0 < int(answers[3].headers["Retry-After"]) <= 3600
