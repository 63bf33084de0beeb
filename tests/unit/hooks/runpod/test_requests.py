"""Conversations with REST v2, without a network: what is asked, what answers become."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from fakes.waits import are_jittered
from touchstone.core.offers import Stock
from touchstone.core.pods import Cloud, PodOrder, PodStatus, SshAddress
from touchstone.hooks.runpod import requests
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
from touchstone.hooks.runpod.requests import (
    Answer,
    ApiRequest,
    Broken,
    Conversation,
    Pause,
    Reply,
    Step,
)

ORDER = PodOrder(name="touchstone-dev-s1-i5-1-1", image="trainer:1", gpu="NVIDIA L4")
CAPACITY = "There are no longer any instances available with the requested specifications."


def answer(status: int, body: Any = None, **headers: str) -> Answer:
    return Answer(
        status=status, headers=headers, body=b"" if body is None else json.dumps(body).encode()
    )


def hold(conversation: Conversation[Any], *replies: Reply) -> tuple[list[Step], Any]:
    """Hold a conversation with prepared replies; return what was asked and what came out."""
    steps: list[Step] = []
    left = list(replies)
    try:
        step = next(conversation)
        while True:
            steps.append(step)
            step = conversation.send(None if isinstance(step, Pause) else left.pop(0))
    except StopIteration as end:
        assert not left, "not all replies were wanted"
        return steps, end.value


def wire_pod(pod_id: str = "p1", **changes: Any) -> dict[str, Any]:
    return {
        "id": pod_id,
        "name": "touchstone-dev-s1-i5-1-1",
        "status": "RUNNING",
        "image": "trainer:1",
        "gpu": {"id": "NVIDIA L4", "count": 1},
        "cloud": "SECURE",
        "dataCenterId": "EU-RO-1",
        "cost": 0.39,
        "env": {"A": "b"},
        "ssh": {"proxy": None, "direct": {"host": "1.2.3.4", "port": 10022, "username": "root"}},
        "runtime": {"uptime": 12},
        "createdAt": "2026-11-22T10:00:00Z",
        "startedAt": "2026-11-22T10:01:00Z",
        "cudaVersion": "12.8",
        "aFieldOfTomorrow": {"x": 1},
    } | changes


def test_a_pod_becomes_ours() -> None:
    _, pod = hold(requests.get_pod("p1"), answer(200, wire_pod()))
    assert (pod.status, pod.gpu, pod.cloud, pod.data_center) == (
        PodStatus.RUNNING,
        "NVIDIA L4",
        Cloud.SECURE,
        "EU-RO-1",
    )
    assert pod.price_per_hour == Decimal("0.39")
    assert pod.ssh == SshAddress(host="1.2.3.4", port=10022)
    assert pod.created_at.tzinfo is not None


def test_a_status_nobody_knew_is_unknown_and_no_error() -> None:
    _, pod = hold(requests.get_pod("p1"), answer(200, wire_pod(status="MIGRATING", cloud="NEW")))
    assert (pod.status, pod.cloud) == (PodStatus.UNKNOWN, None)


def test_the_environment_of_a_pod_is_in_no_message() -> None:
    _, pod = hold(requests.get_pod("p1"), answer(200, wire_pod(env={"TOKEN": "hush"})))
    [step], _ = hold(requests.create_pod(ORDER), answer(201, wire_pod()))
    assert "hush" not in repr(pod)
    assert "env" not in repr(step)


def test_all_pages_are_read_and_a_pod_on_two_pages_is_one() -> None:
    pages = [
        {
            "pods": [wire_pod("a"), wire_pod("b")],
            "pagination": {"hasNextPage": True, "nextCursor": "c1"},
        },
        {"pods": [wire_pod("b"), wire_pod("c")], "pagination": {"hasNextPage": False}},
    ]
    steps, found = hold(requests.list_pods(), *(answer(200, page) for page in pages))
    assert [pod.id for pod in found.pods] == ["a", "b", "c"]
    assert found.requests == 2
    assert [step.params for step in steps] == [{}, {"cursor": "c1"}]


def test_a_list_without_pagination_is_whole() -> None:
    _, found = hold(requests.list_pods(), answer(200, {"pods": [wire_pod()]}))
    assert len(found.pods) == 1


@pytest.mark.parametrize("cursor", [None, "", "c1"])
def test_a_list_that_does_not_end_is_an_error_and_no_list(cursor: str | None) -> None:
    first = {"pods": [], "pagination": {"hasNextPage": True, "nextCursor": "c1"}}
    second = {"pods": [], "pagination": {"hasNextPage": True, "nextCursor": cursor}}
    with pytest.raises(ServiceUnavailable, match="no end"):
        hold(requests.list_pods(), answer(200, first), answer(200, second))


def test_an_error_on_the_second_page_is_no_shorter_list() -> None:
    first = {"pods": [wire_pod()], "pagination": {"hasNextPage": True, "nextCursor": "c1"}}
    with pytest.raises(ServiceUnavailable):
        hold(requests.list_pods(), answer(200, first), *[answer(500)] * 3)


def test_a_create_names_the_count_and_never_the_image_command() -> None:
    [step], pod = hold(requests.create_pod(ORDER), answer(201, wire_pod()))
    assert (step.method, step.path) == ("POST", "/v2/pods")
    assert step.body["gpu"] == {"id": "NVIDIA L4", "count": 1}
    assert step.body["ports"] == ["22/tcp"]
    assert not {"args", "cmd", "entrypoint", "registry", "dataCenterIds"} & set(step.body)
    assert pod.id == "p1"


def test_a_create_carries_what_was_ordered() -> None:
    order = PodOrder(
        name="n",
        image="i",
        cpu="cpu3c",
        vcpus=8,
        cloud=Cloud.SECURE,
        data_center="EU-RO-1",
        cmd=("validate",),
        registry_id="r1",
    )
    [step], _ = hold(requests.create_pod(order), answer(201, wire_pod()))
    assert step.body["cpu"] == {"id": "cpu3c", "vcpuCount": 8}
    assert step.body["dataCenterIds"] == ["EU-RO-1"]
    assert (step.body["cmd"], step.body["registry"]) == (["validate"], "r1")


def test_an_order_is_of_one_thing() -> None:
    with pytest.raises(ValueError, match="either"):
        PodOrder(name="n", image="i")
    with pytest.raises(ValueError, match="either"):
        PodOrder(name="n", image="i", gpu="g", cpu="c")


def test_an_id_cannot_lead_to_another_route() -> None:
    [step], _ = hold(requests.terminate_pod("../x"), answer(204))
    assert step.path == "/v2/pods/..%2Fx"


CREATE_ERRORS: list[tuple[Reply, type[Exception]]] = [
    (answer(400, {"detail": CAPACITY}), CapacityExhausted),
    (answer(400, {"detail": "exactly one of gpu and cpu must be set"}), PodRejected),
    (answer(422, {"detail": "validation failed", "errors": ["$: bogus"]}), PodRejected),
    (answer(404, {"detail": "template not found"}), PodRejected),
    (answer(401, {"detail": "invalid"}), Unauthorised),
    (answer(402, {"detail": "insufficient balance"}), OutOfFunds),
    (answer(400, {"detail": "over your spend limit"}), OutOfFunds),
    (answer(403, {"detail": "access denied"}), Forbidden),
    (answer(410, {"detail": "gone"}), ApiGone),
    (answer(429, {"detail": "slow down"}), Throttled),
    (answer(500, {"detail": "internal"}), Ambiguous),
    (Answer(status=502, headers={}, body=b"<html>"), Ambiguous),
    (answer(302), Ambiguous),
    (answer(201, {"id": "p1"}), Ambiguous),
    (answer(201), Ambiguous),
    (Broken(reason="read timeout", is_sent=True), Ambiguous),
    (Broken(reason="no route", is_sent=False), ServiceUnavailable),
]


@pytest.mark.parametrize(("reply", "error"), CREATE_ERRORS)
def test_a_create_is_asked_once_and_its_answer_has_one_meaning(
    reply: Reply, error: type[Exception]
) -> None:
    with pytest.raises(error) as caught:
        hold(requests.create_pod(ORDER), reply)
    assert type(caught.value) is error


READ_ERRORS: list[tuple[Reply, type[Exception], int]] = [
    (answer(404, {"detail": "no such pod"}), PodNotFound, 1),
    (answer(401), Unauthorised, 1),
    (answer(403), Forbidden, 1),
    (answer(410), ApiGone, 1),
    (answer(500), ServiceUnavailable, 3),
    (answer(429), Throttled, 3),
    (answer(429, None, **{"retry-after": "60"}), Throttled, 1),
    (answer(200, {"id": "p1"}), ServiceUnavailable, 1),
    (Broken(reason="connection reset", is_sent=True), ServiceUnavailable, 3),
]


@pytest.mark.parametrize(("reply", "error", "tries"), READ_ERRORS)
def test_a_read_is_repeated_only_when_that_can_help(
    reply: Reply, error: type[Exception], tries: int
) -> None:
    with pytest.raises(error) as caught:
        hold(requests.get_pod("p1"), *[reply] * tries)
    assert type(caught.value) is error


def test_a_repeated_read_waits_as_long_as_it_was_told() -> None:
    steps, _ = hold(
        requests.get_pod("p1"),
        answer(429, None, **{"retry-after": "4"}),
        answer(503),
        answer(200, wire_pod()),
    )
    asked, own = [step.seconds for step in steps if isinstance(step, Pause)]
    assert asked == 4
    assert are_jittered([own], [1])


def test_a_throttled_call_tells_its_caller_how_long() -> None:
    with pytest.raises(Throttled) as caught:
        hold(requests.create_pod(ORDER), answer(429, None, **{"retry-after": "12"}))
    assert caught.value.retry_after == 12


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (answer(200), Ambiguous),
        (answer(404), PodNotFound),
        (answer(500), Ambiguous),
        (answer(429), Throttled),
        (answer(409, {"detail": "pod belongs to a cluster"}), PodRejected),
        (Broken(reason="reset", is_sent=True), Ambiguous),
    ],
)
def test_only_204_is_a_terminate(reply: Reply, error: type[Exception]) -> None:
    with pytest.raises(error):
        hold(requests.terminate_pod("p1"), reply)


def test_cloudflare_is_named_when_it_refuses_the_client() -> None:
    with pytest.raises(Forbidden, match="Cloudflare"):
        hold(requests.get_pod("p1"), Answer(status=403, headers={}, body=b"error code: 1010"))


def test_the_catalogue_is_read_once_for_each_cloud() -> None:
    gpu = {
        "id": "NVIDIA L4",
        "name": "L4",
        "memory": 24,
        "secure": True,
        "community": False,
        "price": {"secure": 0.39, "community": 0},
        "availability": "LOW",
        "dataCenters": [{"id": "EU-RO-1", "name": "x", "availability": "HIGH"}],
    }
    steps, offers = hold(
        requests.list_offers(), answer(200, {"gpus": [gpu]}), answer(200, {"gpus": [gpu]})
    )
    assert [step.params["cloud"] for step in steps] == ["SECURE", "COMMUNITY"]
    [offer] = offers
    assert (offer.stock, offer.data_centers) == (Stock.LOW, {"EU-RO-1": Stock.HIGH})


def test_the_catalogue_of_cpus_tells_what_a_vcpu_costs() -> None:
    cpu = {
        "id": "cpu3c",
        "name": "Compute-Optimized",
        "group": "Gen 3",
        "vcpu": {"min": 2, "max": 32},
        "ramGbPerVcpu": 2.0,
        "price": {"securePerVcpu": 0.03, "serverlessPerVcpu": 0.04},
    }
    [step], [offer] = hold(requests.list_cpus(), answer(200, {"cpus": [cpu]}))
    assert (step.method, step.path) == ("GET", "/v2/catalog/cpus")
    assert (offer.cpu, offer.min_vcpus, offer.max_vcpus) == ("cpu3c", 2, 32)
    assert (offer.price_per_vcpu, offer.memory_gb_per_vcpu) == (Decimal("0.03"), 2)


def test_a_bill_is_one_sum_per_pod() -> None:
    records = [
        {"podId": "a", "totalAmount": 0.1},
        {"podId": "b", "totalAmount": 1},
        {"podId": "a", "totalAmount": 0.2},
    ]
    _, bills = hold(requests.list_bills(), answer(200, {"records": records}))
    assert {bill.pod_id: bill.usd for bill in bills} == {"a": Decimal("0.3"), "b": Decimal(1)}


def test_a_log_is_read_once_per_line_and_in_order() -> None:
    def event(number: int, line: str) -> list[str]:
        moment = f"2026-11-22T10:00:0{number}Z"
        data = json.dumps({"source": "system", "line": line, "ts": moment})
        return [f"id: {moment}/{number}", f"data: {data}", ""]

    stream = [*event(2, "second"), *event(1, "first"), *event(2, "second"), "data: {broken", ":"]
    assert [line.text for line in requests.decode_log_lines(stream)] == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "is_capacity"),
    [
        (CAPACITY, True),
        ("There are no longer any instances available with enough disk space.", True),
        ("This machine does not have the resources to deploy your pod", True),
        ("There are not enough free GPUs on the host machine to start this pod.", True),
        ("ports must be like 22/tcp", False),
        ("", False),
    ],
)
def test_no_capacity_is_known_by_its_prose(text: str, is_capacity: bool) -> None:
    assert requests.is_capacity_prose(text) is is_capacity


def test_a_request_says_what_it_is() -> None:
    build: Callable[..., ApiRequest] = requests.build_log_request
    assert build("p1", "system", 5).label == "GET /v2/pods/p1/logs"
