"""One suite for every backend of ``PodApi``: REST v2, the same for triggers, and the SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from decimal import Decimal
from typing import Any

import pytest

from contract.runpod.conftest import NEVER_SECONDS
from fakes.runpod.server import Admin
from touchstone.core.offers import Stock
from touchstone.core.pods import Cloud, PodOrder, PodStatus
from touchstone.hooks.runpod.api import Account, PodApi
from touchstone.hooks.runpod.errors import (
    Ambiguous,
    ApiGone,
    CapacityExhausted,
    OutOfFunds,
    PodNotFound,
    PodRejected,
    ServiceUnavailable,
    Throttled,
    Unauthorised,
)
from touchstone.hooks.runpod.rest import AsyncRestPodApi, RestPodApi
from touchstone.hooks.runpod.sdk import SdkPodApi
from touchstone_agent.protocol.errors import ConfigurationError
from waiting import wait_for

L4 = "NVIDIA L4"


async def make_no_pause(_: float) -> None:
    pass


class FromEventLoop:
    """The asynchronous backend with blocking methods: each call in an event loop of its own."""

    def __init__(self, account: Account) -> None:
        self._account = account

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any) -> Any:
            async with AsyncRestPodApi(self._account, sleep=make_no_pause) as api:
                return await getattr(api, name)(*arguments)

        return lambda *arguments: asyncio.run(call(*arguments))


def build_rest(account: Account) -> RestPodApi:
    return RestPodApi(account, sleep=lambda _: None)


BACKENDS = {"rest": build_rest, "async": FromEventLoop, "sdk": SdkPodApi}


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def api(backend: str, account: Account) -> PodApi:
    return BACKENDS[backend](account)  # type: ignore[return-value]


@pytest.fixture
def impatient_api(backend: str, impatient: Account) -> PodApi:
    return BACKENDS[backend](impatient)  # type: ignore[return-value]


def build_order(name: str = "touchstone-test-a", **changes: Any) -> PodOrder:
    return PodOrder(**{"name": name, "image": "trainer:1", "gpu": L4} | changes)


@pytest.fixture
def order() -> PodOrder:
    return build_order(env={"PUBLIC_KEY": "ssh-ed25519 AAAA someone", "N": "1"})


def wait_status(api: PodApi, pod_id: str, status: PodStatus) -> None:
    wait_for(f"the pod is {status}", lambda: api.get_pod(pod_id).status is status)


def test_a_pod_is_created_listed_read_and_terminated(api: PodApi, order: PodOrder) -> None:
    pod = api.create_pod(order)
    assert (pod.name, pod.status) == (order.name, PodStatus.PROVISIONING)
    assert [each.id for each in api.list_pods()] == [pod.id]
    wait_status(api, pod.id, PodStatus.RUNNING)
    assert api.get_pod(pod.id).env["N"] == "1"
    api.terminate_pod(pod.id)
    assert api.list_pods() == []
    with pytest.raises(PodNotFound):
        api.get_pod(pod.id)


def test_a_running_pod_tells_its_price_and_nothing_is_billed_after_its_end(
    api: PodApi, order: PodOrder, admin: Admin
) -> None:
    pod = api.create_pod(order)
    assert api.get_pod(pod.id).price_per_hour == Decimal("0.39")
    api.terminate_pod(pod.id)
    [span] = admin.get_ledger(pod.id)["spans"]
    assert span["ended_at"] is not None
    admin.push_clock(3600)
    assert admin.get_ledger(pod.id)["spans"] == [span]


def test_all_pods_are_listed_however_many_pages_they_fill(api: PodApi) -> None:
    names = [f"touchstone-test-{number}" for number in range(7)]
    for name in names:
        api.create_pod(build_order(name))
    assert [pod.name for pod in api.list_pods()] == names


def test_the_catalogue_tells_price_and_stock_of_each_cloud(api: PodApi, admin: Admin) -> None:
    admin.set_capacity(0, gpu="NVIDIA RTX A5000", cloud="COMMUNITY")
    offers = {(offer.name, offer.cloud): offer for offer in api.list_offers()}
    a5000 = offers["RTX A5000", Cloud.COMMUNITY]
    assert (a5000.price_per_hour, a5000.stock) == (Decimal("0.16"), Stock.NONE)
    assert offers["RTX A5000", Cloud.SECURE].stock is Stock.HIGH
    assert ("L4", Cloud.COMMUNITY) not in offers, "it is not offered there"


@pytest.mark.parametrize("backend", ["rest", "async"])
def test_the_catalogue_tells_what_each_cpu_costs(api: PodApi) -> None:
    offers = {offer.cpu: offer for offer in api.list_cpus()}
    assert offers["cpu3c"].price_per_vcpu == Decimal("0.03")
    assert (offers["cpu3c"].min_vcpus, offers["cpu3c"].memory_gb_per_vcpu) == (2, 2)


def test_the_sdk_says_who_tells_of_cpus(sdk: SdkPodApi) -> None:
    with pytest.raises(ConfigurationError, match="REST v2"):
        sdk.list_cpus()


@pytest.mark.parametrize("backend", ["rest", "async"])
def test_a_cpu_pod_costs_what_its_vcpus_cost_and_has_no_gpu(api: PodApi) -> None:
    pod = api.create_pod(build_order(gpu=None, cpu="cpu3c", vcpus=4))
    assert (pod.gpu, pod.gpu_count, pod.cloud) == (None, 0, Cloud.SECURE)
    assert pod.price_per_hour == Decimal("0.12")


def test_a_cpu_that_is_out_of_stock_is_no_capacity(api: PodApi, admin: Admin) -> None:
    """RunPod's catalogue tells no stock of CPUs: only the order does."""
    admin.add_fault("create.no_capacity", match={"cpu": "cpu3c"})
    with pytest.raises(CapacityExhausted):
        api.create_pod(build_order(gpu=None, cpu="cpu3c", vcpus=4))


@pytest.mark.parametrize(
    ("kind", "params", "error"),
    [
        ("create.no_capacity", {}, CapacityExhausted),
        ("create.rejected", {}, PodRejected),
        ("create.rejected", {"status": 422}, PodRejected),
        ("create.out_of_funds", {}, OutOfFunds),
        ("platform.spend_limit", {}, OutOfFunds),
        ("create.error_before", {}, Ambiguous),
        ("create.error_before", {"status": 502, "html": True}, Ambiguous),
        ("create.error_after", {}, Ambiguous),
        ("create.error_after", {"status": 502, "html": True}, Ambiguous),
        ("create.drop_before", {}, Ambiguous),
        ("create.drop_after", {}, Ambiguous),
        ("create.null_pod", {}, Ambiguous),
        ("create.null_data", {}, Ambiguous),
        ("create.empty_errors", {}, Ambiguous),
    ],
)
def test_each_trouble_of_a_create_has_its_error(
    api: PodApi,
    order: PodOrder,
    admin: Admin,
    kind: str,
    params: dict[str, Any],
    error: type[Exception],
) -> None:
    admin.add_fault(kind, params=params)
    with pytest.raises(error):
        api.create_pod(order)
    assert admin.count_hits() == {kind: 1}, "a create is never repeated"
    is_there = kind in ("create.error_after", "create.drop_after")
    assert len(admin.list_pods()) == is_there


@pytest.mark.parametrize("backend", ["rest", "async"])
def test_a_create_that_takes_too_long_is_ambiguous_and_has_happened(
    impatient_api: PodApi, order: PodOrder, admin: Admin
) -> None:
    """Not with the SDK, which waits 30 seconds whatever is wanted."""
    admin.add_fault("create.delay", params={"seconds": NEVER_SECONDS})
    with pytest.raises(Ambiguous):
        impatient_api.create_pod(order)
    made = wait_for("it has happened", admin.list_pods)
    assert [pod["name"] for pod in made] == [order.name]


def test_nothing_free_is_no_capacity_and_an_unknown_model_a_refusal(
    api: PodApi, admin: Admin
) -> None:
    admin.set_capacity(0, gpu=L4)
    with pytest.raises(CapacityExhausted):
        api.create_pod(build_order())
    with pytest.raises(PodRejected):
        api.create_pod(build_order(gpu="NVIDIA RTX 9999"))


@pytest.mark.parametrize("backend", ["rest", "async"])
def test_an_order_says_which_cuda_its_host_must_have_and_gets_none_without(
    api: PodApi, admin: Admin
) -> None:
    api.create_pod(build_order(min_cuda="12.4"))
    assert [pod["min_cuda"] for pod in admin.list_pods()] == ["12.4"]
    with pytest.raises(CapacityExhausted):
        api.create_pod(build_order("touchstone-test-b", min_cuda="13.0"))


def test_an_empty_account_is_out_of_funds(api: PodApi, admin: Admin) -> None:
    admin.set_account(balance="0.10")
    with pytest.raises(OutOfFunds):
        api.create_pod(build_order())


def test_a_revoked_key_opens_nothing(api: PodApi, account: Account, admin: Admin) -> None:
    admin.set_account(revoked_keys=[account.api_key])
    for call in (api.list_pods, lambda: api.create_pod(build_order())):
        with pytest.raises(Unauthorised):
            call()


def test_a_retired_api_is_told_clearly(api: PodApi, admin: Admin) -> None:
    admin.add_fault("platform.retired", count=None)
    for call in (
        api.list_pods,
        lambda: api.get_pod("x"),
        lambda: api.create_pod(build_order()),
        lambda: api.terminate_pod("x"),
        api.list_offers,
    ):
        with pytest.raises(ApiGone, match="switched this API off"):
            call()


def test_a_client_that_cloudflare_refuses_says_so(api: PodApi, admin: Admin) -> None:
    admin.add_fault("platform.cloudflare", count=None)
    with pytest.raises(Unauthorised, match="Cloudflare"):
        api.list_pods()


def test_a_throttled_read_says_how_long_to_wait(api: PodApi, admin: Admin) -> None:
    admin.add_fault("platform.throttled", count=None, params={"retry_after": 77})
    with pytest.raises(Throttled) as caught:
        api.list_pods()
    assert caught.value.retry_after == 77


def test_a_service_that_is_down_is_no_empty_list(api: PodApi, admin: Admin) -> None:
    admin.add_fault("platform.unavailable", count=None)
    with pytest.raises(ServiceUnavailable):
        api.list_pods()


@pytest.mark.parametrize("kind", ["terminate.error", "terminate.drop"])
def test_a_terminate_without_an_answer_is_ambiguous(
    api: PodApi, order: PodOrder, admin: Admin, kind: str
) -> None:
    pod = api.create_pod(order)
    admin.add_fault(kind)
    with pytest.raises(Ambiguous):
        api.terminate_pod(pod.id)
    assert len(admin.list_pods()) == (kind == "terminate.error")


def test_a_terminate_that_is_only_promised_is_found_out_by_reading_back(
    api: PodApi, order: PodOrder, admin: Admin, backend: str
) -> None:
    pod = api.create_pod(order)
    admin.add_fault("terminate.ignored")
    # The SDK's backend reads back by itself, because the SDK calls even errors a success.
    with pytest.raises(Ambiguous) if backend == "sdk" else nullcontext():
        api.terminate_pod(pod.id)
    assert api.get_pod(pod.id).id == pod.id
    api.terminate_pod(pod.id)
    with pytest.raises(PodNotFound):
        api.get_pod(pod.id)


def test_terminating_what_is_not_there_says_so(api: PodApi) -> None:
    with pytest.raises(PodNotFound):
        api.terminate_pod("nosuchpod")


def test_a_pod_may_be_denied_that_lives(api: PodApi, order: PodOrder, admin: Admin) -> None:
    pod = api.create_pod(order)
    admin.add_fault("get.not_found")
    with pytest.raises(PodNotFound):
        api.get_pod(pod.id)
    assert api.get_pod(pod.id).id == pod.id


def test_a_new_pod_may_be_missing_from_lists_for_a_while(
    api: PodApi, order: PodOrder, admin: Admin
) -> None:
    admin.add_fault("list.lag", params={"seconds": 60})
    pod = api.create_pod(order)
    assert api.list_pods() == []
    admin.push_clock(61)
    assert [each.id for each in api.list_pods()] == [pod.id]


def test_a_pod_with_an_address_inside_only_has_no_way_in(
    api: PodApi, order: PodOrder, admin: Admin
) -> None:
    admin.add_fault("boot.private_ip")
    pod = api.create_pod(order)
    wait_status(api, pod.id, PodStatus.RUNNING)
    assert api.get_pod(pod.id).ssh is None


def test_a_running_pod_has_a_way_in_and_a_stopped_one_has_not(
    api: PodApi, order: PodOrder, admin: Admin, rest: RestPodApi
) -> None:
    pod = api.create_pod(order)
    address = wait_for("there is a way in", lambda: api.get_pod(pod.id).ssh)
    assert (address.host, address.username) == ("127.0.0.1", "root")
    admin.inject(pod.id, "run.host_death", after=0, stale_seconds=0)
    wait_status(api, pod.id, PodStatus.EXITED)
    assert api.get_pod(pod.id).ssh is None
    assert api.get_pod(pod.id).price_per_hour == 0


@pytest.fixture
def sdk(account: Account) -> Iterator[SdkPodApi]:
    return SdkPodApi(account)


def test_the_sdk_tells_the_balance_and_what_is_spent(sdk: SdkPodApi, admin: Admin) -> None:
    admin.set_account(balance="12.5")
    assert sdk.get_balance().usd == Decimal("12.5")
    sdk.create_pod(build_order())
    balance = sdk.get_balance()
    assert balance.spend_per_hour == Decimal("0.39")
    assert balance.spend_limit == 80
    assert balance.usd < Decimal("12.5")


def test_a_balance_that_is_not_told_is_no_zero(sdk: SdkPodApi, admin: Admin) -> None:
    admin.add_fault("balance.error", count=None)
    with pytest.raises(ServiceUnavailable):
        sdk.get_balance()


@pytest.mark.parametrize("value", ['he said "hi"', "a\\b", "a\nb"])
def test_the_sdk_is_given_nothing_that_it_would_not_quote(
    sdk: SdkPodApi, admin: Admin, value: str
) -> None:
    with pytest.raises(PodRejected, match="does not quote"):
        sdk.create_pod(build_order(env={"X": value}))
    assert admin.list_pods() == []


def test_rest_carries_what_the_sdk_cannot_quote(rest: RestPodApi) -> None:
    pod = rest.create_pod(build_order(env={"X": 'a "b" \\ c\nd'}))
    assert rest.get_pod(pod.id).env["X"] == 'a "b" \\ c\nd'


def test_two_accounts_in_one_process_keep_their_keys_apart(account: Account, admin: Admin) -> None:
    other = Account(api_key="rpa_other", url=account.url)
    admin.set_account(revoked_keys=[other.api_key])
    with pytest.raises(Unauthorised):
        SdkPodApi(other).get_balance()
    assert SdkPodApi(account).get_balance().usd > 0
