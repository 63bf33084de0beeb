"""Every fault of a request can be injected, happens once, and is seen by our client."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest

from contract.runpod.conftest import NEVER_SECONDS
from fakes.runpod.faults import REQUEST_FAULTS
from fakes.runpod.server import Admin
from touchstone.core.pods import Balance, Pod, PodOrder, PodStatus
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import (
    Ambiguous,
    ApiGone,
    CapacityExhausted,
    Forbidden,
    OutOfFunds,
    PodNotFound,
    PodRejected,
    ServiceUnavailable,
    Throttled,
    Unauthorised,
)
from touchstone.hooks.runpod.rest import RestPodApi
from touchstone.hooks.runpod.sdk import SdkPodApi
from touchstone_agent.protocol.errors import TouchstoneError
from waiting import wait_for

ORDER = PodOrder(name="touchstone-test-new", image="trainer:1", gpu="NVIDIA L4")
Call = Callable[[RestPodApi, Pod], Any]


def create(api: RestPodApi, pod: Pod) -> Any:
    return api.create_pod(ORDER)


def list_all(api: RestPodApi, pod: Pod) -> Any:
    return api.list_pods()


def get(api: RestPodApi, pod: Pod) -> Any:
    return api.get_pod(pod.id)


def terminate(api: RestPodApi, pod: Pod) -> Any:
    return api.terminate_pod(pod.id)


ERRORS: dict[str, tuple[Call, type[TouchstoneError]]] = {
    "create.delay": (create, Ambiguous),
    "create.error_after": (create, Ambiguous),
    "create.drop_after": (create, Ambiguous),
    "create.error_before": (create, Ambiguous),
    "create.drop_before": (create, Ambiguous),
    "create.no_capacity": (create, CapacityExhausted),
    "create.rejected": (create, PodRejected),
    "create.out_of_funds": (create, OutOfFunds),
    "create.forbidden": (create, Forbidden),
    "create.throttled": (create, Throttled),
    "create.null_pod": (create, Ambiguous),
    "create.null_data": (create, Ambiguous),
    "create.empty_errors": (create, Ambiguous),
    "list.error": (list_all, ServiceUnavailable),
    "list.throttled": (list_all, Throttled),
    "list.delay": (list_all, ServiceUnavailable),
    "get.not_found": (get, PodNotFound),
    "get.error": (get, ServiceUnavailable),
    "get.throttled": (get, Throttled),
    "terminate.error": (terminate, Ambiguous),
    "terminate.throttled": (terminate, Throttled),
    "terminate.drop": (terminate, Ambiguous),
    "terminate.not_found_alive": (terminate, PodNotFound),
    "platform.key_revoked": (get, Unauthorised),
    "platform.forbidden": (get, Forbidden),
    "platform.spend_limit": (create, OutOfFunds),
    "platform.cloudflare": (list_all, Forbidden),
    "platform.retired": (terminate, ApiGone),
    "platform.unavailable": (get, ServiceUnavailable),
    "platform.throttled": (get, Throttled),
    "catalog.error": (lambda api, _: api.list_offers(), ServiceUnavailable),
}
"""What our client makes of a fault; the faults that are no error are in tests of their own."""

TESTED_ELSEWHERE = {
    *("list.empty", "list.partial", "list.page_loss", "get.stale", "logs.cut", "logs.duplicate"),
    *("terminate.ignored", "terminate.delayed", "terminate.reappears", "balance.error"),
    *("billing.lag", "platform.pod_key_may_not_terminate"),
}


@pytest.fixture
def pod(rest: RestPodApi) -> Pod:
    return rest.create_pod(replace(ORDER, name="touchstone-test-old"))


def test_no_fault_is_forgotten_here() -> None:
    assert set(ERRORS) | TESTED_ELSEWHERE == set(REQUEST_FAULTS)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_fault_is_seen_as_what_it_is(
    account: Account, impatient: Account, pod: Pod, admin: Admin, kind: str
) -> None:
    call, error = ERRORS[kind]
    is_late = kind.endswith(".delay")
    # Reads are repeated, so only a fault that stays is an error.
    admin.add_fault(kind, count=None, params={"seconds": NEVER_SECONDS} if is_late else {})
    who = impatient if is_late else account
    with RestPodApi(who, sleep=lambda _: None) as api, pytest.raises(error) as caught:
        call(api, pod)
    assert type(caught.value) is error
    wait_for("it has happened", lambda: admin.count_hits()[kind])
    admin.clear_faults()
    if call is create or kind not in ("terminate.drop",):
        assert pod.id in [each["id"] for each in admin.list_pods()]


def test_a_list_may_be_empty_or_in_part(rest: RestPodApi, pod: Pod, admin: Admin) -> None:
    rest.create_pod(ORDER)
    for kind, seen in (("list.empty", 0), ("list.partial", 1)):
        # As long as it takes: on a busy machine a read may be repeated, and see the next answer.
        admin.add_fault(kind, count=None)
        assert len(rest.list_pods()) == seen
        admin.clear_faults()
        assert len(rest.list_pods()) == 2


def test_an_answer_may_be_old(rest: RestPodApi, pod: Pod, admin: Admin) -> None:
    wait_for("there is a way in", lambda: rest.get_pod(pod.id).ssh)
    admin.add_fault("get.stale")
    assert rest.get_pod(pod.id).status is PodStatus.PROVISIONING
    rest.terminate_pod(pod.id)
    admin.add_fault("get.stale")
    old = rest.get_pod(pod.id)
    assert (old.status, old.ssh is not None) == (PodStatus.RUNNING, True)
    with pytest.raises(PodNotFound):
        rest.get_pod(pod.id)


def test_a_bill_may_lag_behind(rest: RestPodApi, pod: Pod, admin: Admin) -> None:
    admin.add_fault("billing.lag")
    assert rest.list_bills(pod.id) == []
    assert [bill.pod_id for bill in rest.list_bills(pod.id)] == [pod.id]


def test_a_fault_may_pass_some_and_hit_only_those_that_match(
    rest: RestPodApi, account: Account, admin: Admin
) -> None:
    admin.add_fault("create.no_capacity", skip=1, match={"gpu": "*L4", "cloud": "SECURE"})
    rest.create_pod(ORDER)
    rest.create_pod(replace(ORDER, gpu="NVIDIA L40S"))
    with pytest.raises(CapacityExhausted):
        rest.create_pod(ORDER)
    assert rest.create_pod(ORDER)
    admin.add_fault("platform.retired", count=None, match={"api": "graphql"})
    with pytest.raises(ApiGone):
        SdkPodApi(account).get_balance()
    assert rest.list_pods()
    admin.clear_faults()
    assert isinstance(SdkPodApi(account).get_balance(), Balance)


@pytest.mark.parametrize("seed", range(3))
def test_stock_and_bill_come_out_even_after_any_number_of_bad_days(
    rest: RestPodApi, account: Account, admin: Admin, seed: int
) -> None:
    kinds = [kind for kind in REQUEST_FAULTS if kind.partition(".")[0] in ("create", "terminate")]
    for kind in [each for each in kinds if not each.endswith((".delay", ".delayed"))]:
        admin.add_fault(kind, count=None, probability=0.1, seed=seed)
    for kind in ("boot.error", "run.vanish", "run.host_death", "run.container_restart"):
        params = {"after": 0} if kind.startswith("run.") else {}
        admin.add_fault(kind, count=None, probability=0.2, seed=seed, params=params)
    choices = random.Random(seed)
    for number in range(60):
        with suppress(TouchstoneError):
            rest.create_pod(replace(ORDER, name=f"touchstone-test-{number}"))
        for pod in admin.list_pods():
            if choices.random() < 0.5:
                with suppress(TouchstoneError):
                    rest.terminate_pod(pod["id"])
            elif choices.random() < 0.3:
                act(account, pod["id"], choices.choice(["stop", "start", "restart"]))
    admin.clear_faults()
    admin.push_clock(60)
    for pod in admin.list_pods():
        # What befell a pod at its start may still take it away between the list and this call.
        with suppress(PodNotFound):
            rest.terminate_pod(pod["id"])
    assert admin.list_pods() == []
    assert admin.get_ledger()["open"] == 0
    assert {row["free"] for row in admin.ask("GET", "/capacity")} == {8}


def act(account: Account, pod_id: str, action: str) -> None:
    """Change a pod, when its state allows it."""
    headers = {"Authorization": f"Bearer {account.api_key}"}
    httpx.post(f"{account.url}/v2/pods/{pod_id}/action", headers=headers, json={"action": action})


def test_a_fault_that_does_not_exist_is_refused(admin: Admin) -> None:
    for body in ({"kind": "no.such"}, {"kind": "list.error", "params": {"sattus": 1}}):
        with pytest.raises(Exception, match="422"):
            admin.ask("POST", "/faults", json=body)


def test_the_emulators_own_api_wants_its_own_token(account: Account) -> None:
    headers = {"Authorization": f"Bearer {account.api_key}"}
    assert httpx.get(f"{account.url}/_emulator/ledger", headers=headers).status_code == 401
