"""REST v2 alone: its pages, its repeated reads, its logs, its bill, its keys of pods."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import httpx
import pytest

from fakes.runpod.server import Admin
from touchstone.core.pods import PodOrder
from touchstone.hooks.runpod.api import Account, LogLine
from touchstone.hooks.runpod.errors import (
    Forbidden,
    PodNotFound,
    PodRejected,
    ServiceUnavailable,
    Unauthorised,
)
from touchstone.hooks.runpod.rest import AsyncRestPodApi, RestPodApi
from waiting import wait_for


def build_order(name: str = "touchstone-test-a") -> PodOrder:
    return PodOrder(name=name, image="trainer:1", gpu="NVIDIA L4")


@pytest.fixture(autouse=True)
def impatient_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("touchstone.hooks.runpod.rest.LOG_QUIET_SECONDS", 0.4)
    monkeypatch.setattr("touchstone.hooks.runpod.rest.LOG_SECONDS", 1)


def read(account: Account, method: str, path: str, **options: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {account.api_key}"}
    return httpx.request(method, f"{account.url}{path}", headers=headers, **options)  # type: ignore[arg-type]


def test_a_read_is_repeated_when_the_service_stumbles(rest: RestPodApi, admin: Admin) -> None:
    admin.add_fault("list.error", count=2)
    assert rest.list_pods() == []
    admin.add_fault("list.error", count=3)
    with pytest.raises(ServiceUnavailable):
        rest.list_pods()


def test_a_terminate_is_not_repeated(rest: RestPodApi, admin: Admin) -> None:
    pod = rest.create_pod(build_order())
    admin.add_fault("terminate.throttled", count=5)
    with pytest.raises(Exception, match="429"):
        rest.terminate_pod(pod.id)
    assert admin.count_hits() == {"terminate.throttled": 1}


def test_a_field_that_does_not_exist_is_refused_with_its_name(account: Account) -> None:
    body = {"name": "x", "image": "y", "gpu": {"id": "NVIDIA L4", "count": 1}, "bogus": 1}
    answer = read(account, "POST", "/v2/pods", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert "bogus" in answer.json()["errors"][0]


def test_a_gpu_without_a_count_is_told_that_nothing_is_available(account: Account) -> None:
    """The service does so, against its own document: hence our body always has the count."""
    answer = read(
        account, "POST", "/v2/pods", json={"name": "x", "image": "y", "gpu": {"id": "NVIDIA L4"}}
    )
    assert (answer.status_code, "instances available" in answer.json()["detail"]) == (400, True)


def test_the_first_generation_of_rest_is_gone(account: Account) -> None:
    assert read(account, "GET", "/v1/pods").status_code == 410


def test_a_pods_own_key_opens_that_pod_only(
    rest: RestPodApi, account: Account, admin: Admin
) -> None:
    mine, other = (rest.create_pod(build_order(f"touchstone-test-{each}")) for each in "ab")
    [key] = [pod["api_key"] for pod in admin.list_pods() if pod["id"] == mine.id]
    with RestPodApi(Account(api_key=key, url=account.url)) as inside:
        assert inside.get_pod(mine.id).id == mine.id
        for call in (
            inside.list_pods,
            lambda: inside.get_pod(other.id),
            lambda: inside.terminate_pod(other.id),
            lambda: inside.create_pod(build_order()),
        ):
            with pytest.raises(Forbidden):
                call()
        inside.terminate_pod(mine.id)
        with pytest.raises(Unauthorised):
            inside.get_pod(mine.id)
    assert [pod["id"] for pod in admin.list_pods()] == [other.id]


def test_a_pods_own_key_may_be_kept_from_terminating(
    rest: RestPodApi, account: Account, admin: Admin
) -> None:
    pod = rest.create_pod(build_order())
    admin.add_fault("platform.pod_key_may_not_terminate")
    key = admin.list_pods()[0]["api_key"]
    with RestPodApi(Account(api_key=key, url=account.url)) as inside, pytest.raises(Forbidden):
        inside.terminate_pod(pod.id)


def test_the_log_of_the_host_tells_why_an_image_cannot_be_had(
    rest: RestPodApi, admin: Admin
) -> None:
    admin.add_fault("boot.pull_fails")
    pod = rest.create_pod(build_order())
    wait_for(
        "the host's log tells it",
        lambda: [
            line
            for line in rest.read_logs(pod.id, source="system")
            if "error pulling image trainer:1: manifest unknown" in line.text
        ],
    )


@pytest.mark.parametrize("kind", ["logs.cut", "logs.duplicate"])
def test_a_log_that_is_cut_or_doubled_is_read_without_doubles(
    rest: RestPodApi, account: Account, admin: Admin, kind: str
) -> None:
    pod = rest.create_pod(build_order())
    wait_for("all is in the log", lambda: rest.get_pod(pod.id).is_running)
    params = {"after_lines": 2} if kind == "logs.cut" else {}
    admin.add_fault(kind, count=None, params=params)

    async def follow() -> list[LogLine]:
        async with AsyncRestPodApi(account) as api:
            return await api.read_logs(pod.id)

    def read_two(read: Callable[[], list[LogLine]]) -> list[str]:
        lines = [line.text for line in read()]
        assert len(lines) == len(set(lines))
        # So impatient a reader may be told less by a busy machine; then it reads again.
        return lines[:2] if len(lines) >= 2 else []

    first = wait_for("lines are told", lambda: read_two(lambda: rest.read_logs(pod.id)))
    assert wait_for("the same", lambda: read_two(lambda: asyncio.run(follow()))) == first


def test_the_log_of_no_pod_is_no_empty_log(rest: RestPodApi) -> None:
    with pytest.raises(PodNotFound):
        rest.read_logs("nosuchpod")


def test_the_bill_of_a_pod_is_its_ledger(rest: RestPodApi, admin: Admin) -> None:
    pod = rest.create_pod(build_order())
    admin.push_clock(5400)
    rest.terminate_pod(pod.id)
    [bill] = rest.list_bills(pod.id)
    assert bill.usd.quantize(Decimal("0.01")) == Decimal(admin.get_ledger(pod.id)["cents"])
    assert Decimal("0.58") <= bill.usd <= Decimal("0.60"), "an hour and a half of $0.39"


def test_a_list_that_lost_a_page_in_the_middle_is_shorter_and_nobody_can_know(
    rest: RestPodApi, admin: Admin
) -> None:
    """Hence one absence is never taken for an end."""
    for number in range(7):
        rest.create_pod(build_order(f"touchstone-test-{number}"))
    admin.add_fault("list.page_loss")
    assert len(rest.list_pods()) == 4
    assert len(rest.list_pods()) == 7


def test_a_rule_that_is_broken_is_a_refusal_and_no_capacity(rest: RestPodApi) -> None:
    with pytest.raises(PodRejected):
        rest.create_pod(
            PodOrder(name="x", image="y", gpu="NVIDIA L4", env={f"V{n}": "" for n in range(51)})
        )


def test_an_account_without_money_loses_its_pods(rest: RestPodApi, admin: Admin) -> None:
    pod = rest.create_pod(build_order())
    admin.set_account(balance="0")
    wait_for("it has none", lambda: not admin.list_pods())
    with pytest.raises(PodNotFound):
        rest.get_pod(pod.id)
