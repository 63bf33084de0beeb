"""The emulator's own API, apart from the service's and with its own token."""

from __future__ import annotations

import secrets
from collections import Counter
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, HTTPException, Request
from pydantic import BaseModel, ConfigDict, Field

from fakes.runpod.catalog import CLOUDS, DATA_CENTERS, GPUS
from fakes.runpod.clock import format_time
from fakes.runpod.cloud import Cloud
from fakes.runpod.faults import KINDS, POD_FAULTS, Rule

PREFIX = "/_emulator"
TOKEN_HEADER = "X-Emulator-Token"
CENT = Decimal("0.01")


class RuleBody(BaseModel):
    """A fault to inject."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    params: dict[str, Any] = {}
    match: dict[str, str] = {}
    count: int | None = Field(default=1, ge=1)
    skip: int = Field(default=0, ge=0)
    probability: float = Field(default=1, ge=0, le=1)
    seed: int = 0


class InjectBody(BaseModel):
    """A fault for a pod that exists."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    params: dict[str, Any] = {}


class CapacityBody(BaseModel):
    """Free GPUs; what is left out means all."""

    model_config = ConfigDict(extra="forbid")

    free: int = Field(ge=0)
    gpu: str | None = None
    cloud: str | None = None
    data_center: str | None = None


class AccountBody(BaseModel):
    """What to change of the account."""

    model_config = ConfigDict(extra="forbid")

    balance: Decimal | None = None
    spend_limit: Decimal | None = None
    revoked_keys: list[str] | None = None


class ClockBody(BaseModel):
    """How far to push the clock."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(gt=0)


def check_token(request: Request) -> None:
    """Refuse everybody who does not have the emulator's token."""
    given = request.headers.get(TOKEN_HEADER, "")
    if not secrets.compare_digest(given, request.app.state.admin_token):
        raise HTTPException(401, "wrong or missing emulator token")


def get_cloud(request: Request) -> Cloud:
    """Return the service."""
    cloud: Cloud = request.app.state.gateway.cloud
    return cloud


World = Annotated[Cloud, Depends(get_cloud)]


def build_router() -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix=PREFIX)

    @router.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    guarded = APIRouter(dependencies=[Depends(check_token)])
    _add_fault_routes(guarded)
    _add_world_routes(guarded)
    _add_oracle_routes(guarded)
    router.include_router(guarded)
    return router


def _add_fault_routes(router: APIRouter) -> None:
    @router.get("/faults/kinds")
    async def list_kinds() -> dict[str, dict[str, Any]]:
        return KINDS

    @router.get("/faults")
    async def list_faults(cloud: World) -> list[dict[str, Any]]:
        return [vars(rule) for rule in cloud.rules]

    @router.post("/faults", status_code=201)
    async def add_fault(*, body: RuleBody, cloud: World) -> dict[str, Any]:
        _check_kind(body.kind, body.params, KINDS)
        rule = Rule(id=secrets.token_hex(6), **body.model_dump())
        cloud.add_rule(rule)
        return vars(rule)

    @router.delete("/faults", status_code=204)
    async def clear_faults(cloud: World) -> None:
        cloud.delete_rules([rule.id for rule in cloud.rules])

    @router.delete("/faults/{rule_id}", status_code=204)
    async def delete_fault(*, rule_id: str, cloud: World) -> None:
        cloud.delete_rules([rule_id])

    @router.post("/pods/{pod_id}/faults", status_code=204)
    async def inject(*, pod_id: str, body: InjectBody, cloud: World) -> None:
        _check_kind(body.kind, body.params, POD_FAULTS)
        pod = cloud.find_pod(pod_id)
        if pod is None:
            raise HTTPException(404, f"there is no pod {pod_id}")
        cloud.inject(pod, body.kind, body.params)


def _check_kind(kind: str, params: dict[str, Any], kinds: dict[str, dict[str, Any]]) -> None:
    if kind not in kinds:
        raise HTTPException(422, f"unknown fault {kind!r}")
    if unknown := set(params) - set(kinds[kind]):
        raise HTTPException(422, f"{kind} has no parameter {sorted(unknown)}")


def _add_world_routes(router: APIRouter) -> None:
    @router.get("/capacity")
    async def list_capacity(cloud: World) -> list[dict[str, Any]]:
        names = ("gpu", "cloud", "data_center", "free")
        return [dict(zip(names, row, strict=True)) for row in cloud.store.list_capacity()]

    @router.put("/capacity", status_code=204)
    async def set_capacity(*, body: CapacityBody, cloud: World) -> None:
        rows = [
            (gpu, kind, place, body.free)
            for gpu in ([body.gpu] if body.gpu else GPUS)
            for kind in ([body.cloud] if body.cloud else CLOUDS)
            for place in ([body.data_center] if body.data_center else DATA_CENTERS)
            if GPUS[gpu].find_price(kind) is not None
        ]
        cloud.store.set_capacity(rows)

    @router.get("/account")
    async def get_account(cloud: World) -> dict[str, Any]:
        return {
            "balance": str(cloud.compute_balance()),
            "spend_per_hour": str(cloud.compute_spend()),
            "spend_limit": str(cloud.spend_limit),
            "revoked_keys": cloud.store.get_value("revoked_keys", []),
        }

    @router.put("/account", status_code=204)
    async def change_account(*, body: AccountBody, cloud: World) -> None:
        if body.balance is not None:
            cloud.set_balance(body.balance)
        if body.spend_limit is not None:
            cloud.store.set_value("spend_limit", str(body.spend_limit))
        if body.revoked_keys is not None:
            cloud.store.set_value("revoked_keys", body.revoked_keys)

    @router.post("/clock", status_code=204)
    async def push_clock(*, body: ClockBody, cloud: World) -> None:
        cloud.push_clock(body.seconds)

    @router.post("/reset", status_code=204)
    async def reset(cloud: World) -> None:
        """Return when all is as in the beginning, and nothing of any pod runs any more."""
        await cloud.reset()


def _add_oracle_routes(router: APIRouter) -> None:
    @router.get("/pods")
    async def list_pods(cloud: World) -> list[dict[str, Any]]:
        """Return every pod that is alive in truth, also those the API hides or denies."""
        return [_describe(cloud, pod.id) for pod in cloud.list_live()]

    @router.get("/pods/{pod_id}")
    async def get_pod(*, pod_id: str, cloud: World) -> dict[str, Any]:
        if cloud.find_pod(pod_id) is None:
            raise HTTPException(404, f"there is no pod {pod_id}")
        return _describe(cloud, pod_id)

    @router.get("/ledger")
    async def read_ledger(*, pod_id: str | None = None, cloud: World) -> dict[str, Any]:
        """Return the bill: every span of every pod, with seconds, USD and whether it goes on."""
        spans = cloud.store.list_spans(pod_id)
        total = sum((cloud.compute_amount(each) for each in spans), Decimal())
        return {
            "spans": [
                {
                    "pod_id": each.pod_id,
                    "name": each.name,
                    "kind": each.kind,
                    "rate": str(each.rate),
                    "started_at": format_time(each.started_at),
                    "ended_at": format_time(each.ended_at),
                    "seconds": cloud.count_seconds(each),
                    "usd": str(cloud.compute_amount(each).quantize(Decimal("0.000001"))),
                }
                for each in spans
            ],
            "open": sum(each.ended_at is None for each in spans),
            "usd": str(total.quantize(Decimal("0.000001"))),
            "cents": str(total.quantize(CENT)),
        }

    @router.get("/requests")
    async def count_requests(*, window_seconds: float = 60, cloud: World) -> dict[str, Any]:
        """Return how many requests of each operation there were, and the most in one window."""
        times: dict[str, list[float]] = {}
        statuses: Counter[str] = Counter()
        for at, api, operation, status in cloud.store.list_requests():
            times.setdefault(f"{api}.{operation}", []).append(at)
            statuses[str(status)] += 1
        return {
            "operations": {
                name: {"count": len(each), "most": _find_busiest(each, window_seconds)}
                for name, each in times.items()
            },
            "statuses": statuses,
        }


def _find_busiest(times: list[float], window: float) -> int:
    most, begin = 0, 0
    for end, moment in enumerate(times):
        while times[begin] <= moment - window:
            begin += 1
        most = max(most, end - begin + 1)
    return most


def _describe(cloud: Cloud, pod_id: str) -> dict[str, Any]:
    pod = cloud.find_pod(pod_id)
    assert pod is not None
    spans = cloud.store.list_spans(pod_id)
    return {
        "id": pod.id,
        "name": pod.name,
        "status": pod.status,
        "api": pod.api,
        "api_key": pod.api_key,
        "image": pod.image,
        "gpu": pod.gpu,
        "min_cuda": pod.min_cuda,
        "registry": pod.registry,
        "cloud": pod.cloud,
        "data_center": pod.data_center,
        "ssh_port": pod.ssh_port,
        "boots": pod.boots,
        "faults": pod.faults,
        "created_at": format_time(pod.created_at),
        "terminated_at": format_time(pod.terminated_at),
        "is_billed": any(each.ended_at is None for each in spans),
        "billed_seconds": sum(cloud.count_seconds(each) for each in spans),
        "usd": str(sum((cloud.compute_amount(each) for each in spans), Decimal())),
    }
