"""REST v2."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse

from fakes.runpod.bodies import (
    ACTIONS,
    ActionBody,
    CreateBody,
    KeysBody,
    RegistryBody,
    render_cpu,
    render_data_center,
    render_gpu,
    render_pod,
)
from fakes.runpod.catalog import CPUS, DATA_CENTERS, GPUS
from fakes.runpod.clock import format_time, parse_time
from fakes.runpod.cloud import Cloud
from fakes.runpod.gateway import Caller, Gateway
from fakes.runpod.refusals import OddBody, Refused
from fakes.runpod.store import PodRow

LOG_POLL_SECONDS = 0.2
BUCKETS = {"hour": timedelta(hours=1), "day": timedelta(days=1)}


def render_refusal(refused: Refused) -> Response:
    """Return the answer of an error."""
    if refused.media == "html":
        return Response(
            refused.build_html(), refused.status, refused.headers, media_type="text/html"
        )
    if refused.media == "text":
        return PlainTextResponse(refused.detail, refused.status, refused.headers)
    return JSONResponse(
        refused.build_problem(),
        refused.status,
        refused.headers,
        media_type="application/problem+json",
    )


def admit(operation: str) -> Callable[[Request, Response], Awaitable[Caller]]:
    """Return the dependency that lets a request of an operation in."""

    async def check(request: Request, response: Response) -> Caller:
        request.state.operation = operation
        gateway: Gateway = request.app.state.gateway
        gateway.check_platform(operation, "rest")
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        caller = gateway.identify(key if scheme.lower() == "bearer" else None, operation, "rest")
        request.state.headers = gateway.limit.take(caller.key)
        response.headers.update(request.state.headers)
        return caller

    return check


def get_gateway(request: Request) -> Gateway:
    """Return the gateway of this emulator."""
    gateway: Gateway = request.app.state.gateway
    return gateway


Gate = Annotated[Gateway, Depends(get_gateway)]


def build_router() -> APIRouter:
    """Return the routes of REST v2, and what is left of v1."""
    router = APIRouter()
    router.include_router(_build_pod_routes())
    router.include_router(_build_catalog_routes())
    router.include_router(_build_account_routes())

    @router.api_route("/v1/{path:path}", methods=["GET", "POST", "PATCH", "DELETE"])
    async def retired(request: Request, path: str) -> Response:
        request.state.operation = "v1"
        return render_refusal(Refused(410, "REST v1 has been retired: use /v2"))

    return router


def _find(pod: PodRow | None, pod_id: str) -> PodRow:
    if pod is None:
        raise Refused(404, f"pod {pod_id} not found")
    return pod


def _build_pod_routes() -> APIRouter:
    router = APIRouter(prefix="/v2/pods")

    @router.get("")
    async def list_pods(
        *,
        request: Request,
        caller: Annotated[Caller, Depends(admit("list"))],
        cursor: str | None = None,
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_account()
        pods = await gateway.list_pods("rest")
        return _build_page(pods, cursor, gateway, request.app.state.page_size)

    @router.post("", status_code=201)
    async def create_pod(
        *,
        request: Request,
        body: CreateBody,
        caller: Annotated[Caller, Depends(admit("create"))],
        gateway: Gate,
    ) -> Any:
        caller.require_account()
        try:
            pod = await gateway.create(body.build_order())
        except OddBody as odd:
            if odd.kind == "empty_errors":
                return JSONResponse({"errors": []}, 500, media_type="application/problem+json")
            return JSONResponse(None if odd.kind == "null_pod" else {}, 201)
        return render_pod(pod, gateway.cloud)

    _add_single_pod_routes(router)
    return router


def _add_single_pod_routes(router: APIRouter) -> None:
    @router.get("/{pod_id}")
    async def get_pod(
        *,
        pod_id: str,
        caller: Annotated[Caller, Depends(admit("get"))],
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_pod(pod_id)
        pod, is_stale = await gateway.get(pod_id, "rest")
        return render_pod(_find(pod, pod_id), gateway.cloud, is_stale=is_stale)

    @router.delete("/{pod_id}", status_code=204)
    async def delete_pod(
        *,
        pod_id: str,
        caller: Annotated[Caller, Depends(admit("terminate"))],
        gateway: Gate,
    ) -> None:
        caller.require_pod(pod_id)
        if not await gateway.terminate(pod_id, caller, "rest"):
            raise Refused(404, f"pod {pod_id} not found")

    @router.post("/{pod_id}/action")
    async def act(
        *,
        pod_id: str,
        body: ActionBody,
        caller: Annotated[Caller, Depends(admit("action"))],
        gateway: Gate,
    ) -> Any:
        caller.require_pod(pod_id)
        if body.action == "terminate":
            if not await gateway.terminate(pod_id, caller, "rest"):
                raise Refused(404, f"pod {pod_id} not found")
            return Response(status_code=204)
        pod = _find(gateway.cloud.find_visible(pod_id), pod_id)
        if body.action not in ACTIONS[pod.status]:
            raise Refused(409, f"{body.action} is not valid for a pod that is {pod.status}")
        {
            "start": gateway.cloud.start,
            "stop": gateway.cloud.stop,
            "restart": gateway.cloud.restart,
        }[body.action](pod)
        return render_pod(pod, gateway.cloud)

    @router.get("/{pod_id}/logs")
    async def stream_logs(
        *,
        request: Request,
        pod_id: str,
        caller: Annotated[Caller, Depends(admit("logs"))],
        source: Annotated[str | None, Query(pattern="^(container|system)$")] = None,
        tail: Annotated[int, Query(ge=0, le=5000)] = 100,
        since: str | None = None,
        gateway: Gate,
    ) -> StreamingResponse:
        caller.require_pod(pod_id)
        pod = _find(gateway.cloud.find_visible(pod_id), pod_id)
        last_seen = request.headers.get("Last-Event-ID")
        lines = _follow(gateway.cloud, pod, source, tail, last_seen or since)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(lines, media_type="text/event-stream", headers=headers)


def _build_page(
    pods: list[PodRow], cursor: str | None, gateway: Gateway, size: int
) -> dict[str, Any]:
    """Return the page after a pod, in order of creation; new pods never move old ones."""
    after = 0
    if cursor:
        try:
            after = int(base64.urlsafe_b64decode(cursor.encode()).decode())
        except ValueError:
            raise Refused(400, "cursor is not one of ours") from None
    if after and gateway.cloud.draw("list.page_loss", api="rest") is not None:
        after += size
    page, rest = pods[after : after + size], pods[after + size :]
    following = base64.urlsafe_b64encode(str(after + size).encode()).decode() if rest else None
    return {
        "pods": [render_pod(pod, gateway.cloud) for pod in page],
        "pagination": {"hasNextPage": bool(rest), "nextCursor": following},
    }


async def _follow(
    cloud: Cloud, pod: PodRow, source: str | None, tail: int, since: str | None
) -> AsyncIterator[str]:
    """Yield a pod's log as server-sent events, old lines first, until the pod is gone."""
    context = {"name": pod.name, "pod_id": pod.id, "api": "rest"}
    cut = cloud.draw("logs.cut", **context)
    is_double = cloud.draw("logs.duplicate", **context) is not None
    lines = [each for each in cloud.store.list_logs(pod.id) if source in (None, each[1])]
    if since:
        moment = parse_time(since.partition("/")[0])
        lines = [each for each in lines if each[2] > moment - 0.001]
    else:
        lines = lines[-tail:] if tail else []
    seen = max([0, *(each[0] for each in cloud.store.list_logs(pod.id))])
    sent = 0
    while True:
        for number, origin, at, line in lines:
            seen = max(seen, number)
            stamp = format_time(at)
            data = json.dumps({"ts": stamp, "source": origin, "line": line})
            for _ in range(2 if is_double else 1):
                yield f"id: {stamp}/{number:012d}\ndata: {data}\n\n"
            sent += 1
            if cut is not None and sent >= int(cut["after_lines"]):
                return
        if pod.is_gone:
            return
        await asyncio.sleep(LOG_POLL_SECONDS)
        lines = [each for each in cloud.store.list_logs(pod.id, seen) if source in (None, each[1])]


def _build_catalog_routes() -> APIRouter:
    router = APIRouter(prefix="/v2/catalog")

    def check_include(include: str | None, product: str | None) -> bool:
        if include not in (None, "AVAILABILITY"):
            raise Refused(422, "validation failed", errors=["include: unknown value"])
        if (include is None) != (product is None):
            raise Refused(400, "include=AVAILABILITY and product go together")
        return include is not None

    @router.get("/gpus")
    async def list_gpus(
        *,
        caller: Annotated[Caller, Depends(admit("catalog"))],
        include: str | None = None,
        product: str | None = None,
        count: Annotated[int, Query(ge=1)] = 1,
        cloud: Annotated[str | None, Query(pattern="^(SECURE|COMMUNITY)$")] = None,
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_account()
        await gateway.misbehave("catalog", api="rest")
        with_stock = check_include(include, product)
        return {
            "gpus": [
                render_gpu(gpu, gateway.cloud, with_stock=with_stock, count=count, of_cloud=cloud)
                for gpu in GPUS.values()
            ]
        }

    @router.get("/gpus/{gpu_id}")
    async def get_gpu(
        *,
        gpu_id: str,
        caller: Annotated[Caller, Depends(admit("catalog"))],
        include: str | None = None,
        product: str | None = None,
        count: Annotated[int, Query(ge=1)] = 1,
        cloud: Annotated[str | None, Query(pattern="^(SECURE|COMMUNITY)$")] = None,
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_account()
        if gpu_id not in GPUS:
            raise Refused(404, f"gpu type {gpu_id!r} not found")
        with_stock = check_include(include, product)
        return render_gpu(
            GPUS[gpu_id], gateway.cloud, with_stock=with_stock, count=count, of_cloud=cloud
        )

    @router.get("/cpus")
    async def list_cpus(*, caller: Annotated[Caller, Depends(admit("catalog"))]) -> dict[str, Any]:
        return {"cpus": [render_cpu(key) for key in CPUS]}

    @router.get("/datacenters")
    async def list_data_centers(
        *,
        caller: Annotated[Caller, Depends(admit("catalog"))],
        include: str | None = None,
        gateway: Gate,
    ) -> dict[str, Any]:
        with_stock = include == "GPU_AVAILABILITY"
        return {
            "dataCenters": [
                render_data_center(key, gateway.cloud, with_stock=with_stock)
                for key in DATA_CENTERS
            ]
        }

    return router


def _build_account_routes() -> APIRouter:
    router = APIRouter(prefix="/v2")

    @router.get("/account/ssh-keys")
    async def get_keys(
        *, caller: Annotated[Caller, Depends(admit("account"))], gateway: Gate
    ) -> dict[str, Any]:
        caller.require_account()
        return {"keys": gateway.cloud.store.get_value("ssh_keys", [])}

    @router.put("/account/ssh-keys")
    async def put_keys(
        *,
        body: KeysBody,
        caller: Annotated[Caller, Depends(admit("account"))],
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_account()
        gateway.cloud.store.set_value("ssh_keys", body.keys)
        return {"keys": body.keys}

    @router.get("/registries")
    async def list_registries(
        *, caller: Annotated[Caller, Depends(admit("registries"))], gateway: Gate
    ) -> dict[str, Any]:
        caller.require_account()
        known = gateway.cloud.store.get_value("registries", [])
        return {"registries": [{"id": each["id"], "name": each["name"]} for each in known]}

    @router.post("/registries", status_code=201)
    async def create_registry(
        *,
        body: RegistryBody,
        caller: Annotated[Caller, Depends(admit("registry"))],
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_account()
        known = gateway.cloud.store.get_value("registries", [])
        made = {"id": f"cra{secrets.token_hex(8)}", **body.model_dump()}
        gateway.cloud.store.set_value("registries", [*known, made])
        return {"id": made["id"], "name": body.name}

    @router.delete("/registries/{registry_id}", status_code=204)
    async def delete_registry(
        *,
        registry_id: str,
        caller: Annotated[Caller, Depends(admit("registry"))],
        gateway: Gate,
    ) -> None:
        caller.require_account()
        known = gateway.cloud.store.get_value("registries", [])
        left = [each for each in known if each["id"] != registry_id]
        if len(left) == len(known):
            raise Refused(400, "Registry auth not found")
        gateway.cloud.store.set_value("registries", left)

    @router.get("/billing/pods")
    async def bill(
        *,
        caller: Annotated[Caller, Depends(admit("billing"))],
        podId: str | None = None,  # noqa: N803 - the wire's name
        bucketSize: Annotated[str, Query(pattern="^(hour|day)$")] = "day",  # noqa: N803
        lastN: Annotated[int | None, Query(ge=1)] = None,  # noqa: N803
        startTime: str | None = None,  # noqa: N803
        endTime: str | None = None,  # noqa: N803
        gateway: Gate,
    ) -> dict[str, Any]:
        caller.require_account()
        if lastN and (startTime or endTime):
            raise Refused(400, "lastN excludes startTime and endTime")
        bucket = BUCKETS[bucketSize]
        now = gateway.cloud.clock.now()
        until = _round_up(parse_time(endTime) if endTime else now, bucket)
        begin = parse_time(startTime) if startTime else now - timedelta(days=30).total_seconds()
        begin = _round_up(begin, bucket) - bucket.total_seconds()
        if lastN:
            begin = until - lastN * bucket.total_seconds()
        records = build_records(gateway.cloud, podId, bucket, begin, until)
        if gateway.cloud.draw("billing.lag", api="rest") is not None:
            records = []
        return _render_bill(records, podId, bucketSize, begin, until)

    return router


def _round_up(moment: float, bucket: timedelta) -> float:
    seconds = bucket.total_seconds()
    return -(-moment // seconds) * seconds


def build_records(
    cloud: Cloud, pod_id: str | None, bucket: timedelta, begin: float, until: float
) -> list[dict[str, Any]]:
    """Return the bill in buckets; a span counts where its seconds are."""
    sums: dict[tuple[float, str], dict[str, Decimal]] = {}
    width = bucket.total_seconds()
    for span in cloud.store.list_spans(pod_id):
        left = cloud.count_seconds(span)
        moment = span.started_at
        while left > 0:
            start = moment // width * width
            here = min(left, max(1, int(start + width - moment)))
            if begin <= start < until:
                kinds = sums.setdefault((start, span.pod_id), {})
                kinds[span.kind] = kinds.get(span.kind, Decimal()) + here * span.rate / 3600
            moment, left = start + width, left - here
    records = []
    for (start, owner), kinds in sorted(sums.items()):
        pod = cloud.find_pod(owner)
        compute, volume = kinds.get("compute", Decimal()), kinds.get("volume", Decimal())
        is_cpu = pod is not None and pod.cpu is not None
        records.append(
            {
                "startTime": format_time(start),
                "endTime": format_time(start + width),
                "podId": owner,
                "totalAmount": float(compute + volume),
                "gpuAmount": 0.0 if is_cpu else float(compute),
                "cpuAmount": float(compute) if is_cpu else 0.0,
                "diskAmount": float(volume),
            }
        )
    return records


def _render_bill(
    records: list[dict[str, Any]], pod_id: str | None, size: str, begin: float, until: float
) -> dict[str, Any]:
    amounts = ("totalAmount", "gpuAmount", "cpuAmount", "diskAmount")
    return {
        "records": records,
        "metadata": {
            "query": {
                "startTime": format_time(begin),
                "endTime": format_time(until),
                "bucketSize": size,
                "podId": pod_id,
            },
            "recordCount": len(records),
            "uniquePodCount": len({each["podId"] for each in records}),
            "totals": {name: sum(each[name] for each in records) for name in amounts},
        },
    }


def add_error_handlers(app: FastAPI) -> None:
    """Let the app say no the way the service does."""

    @app.exception_handler(Refused)
    async def refuse(request: Request, error: Refused) -> Response:
        error.headers = {**getattr(request.state, "headers", {}), **error.headers}
        return render_refusal(error)

    @app.exception_handler(RequestValidationError)
    async def reject(request: Request, error: RequestValidationError) -> Response:
        errors = [
            f"$.{'.'.join(str(part) for part in each['loc'][1:])}: {each['msg']}"
            for each in error.errors()
        ]
        return render_refusal(
            Refused(
                422,
                "Request validation failed.",
                errors=errors,
                headers=getattr(request.state, "headers", {}),
            )
        )
