"""GraphQL, parsed for real: as far as the ``runpod`` SDK and the balance need it."""

from __future__ import annotations

import json
import secrets
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from graphql import (
    ExecutionResult,
    GraphQLError,
    NoSchemaIntrospectionCustomRule,
    build_schema,
    execute,
    parse,
    specified_rules,
    validate,
)

from fakes.runpod.bodies import MAX_ENV, list_ports
from fakes.runpod.catalog import CLOUDS, COMMUNITY, CPUS, DATA_CENTERS, GPUS, SECURE, GpuModel
from fakes.runpod.clock import format_time
from fakes.runpod.cloud import Cloud, Order
from fakes.runpod.gateway import Caller, Gateway
from fakes.runpod.refusals import OddBody, Refused
from fakes.runpod.rest import render_refusal
from fakes.runpod.store import PodRow

SCHEMA = build_schema(
    """
    enum CloudTypeEnum { ALL SECURE COMMUNITY }
    type Query {
      myself: User
      pod(input: PodFilter): Pod
      gpuTypes(input: GpuTypeFilter): [GpuType]
    }
    type Mutation {
      podFindAndDeployOnDemand(input: PodFindAndDeployOnDemandInput): Pod
      deployCpuPod(input: DeployCpuPodInput): Pod
      podStop(input: PodStopInput!): Pod
      podResume(input: PodResumeInput!): Pod
      podTerminate(input: PodTerminateInput!): Void
      updateUserSettings(input: UpdateUserSettingsInput): User
      saveTemplate(input: SaveTemplateInput): PodTemplate
      saveRegistryAuth(input: SaveRegistryAuthInput): RegistryAuth
      updateRegistryAuth(input: UpdateRegistryAuthInput): RegistryAuth
      deleteRegistryAuth(registryAuthId: String): Boolean
    }
    scalar Void
    input PodFilter { podId: String! }
    input GpuTypeFilter { id: String }
    input GpuLowestPriceInput { gpuCount: Int, secureCloud: Boolean, dataCenterId: String }
    input EnvironmentVariableInput { key: String!, value: String! }
    input PodFindAndDeployOnDemandInput {
      name: String, imageName: String, cloudType: CloudTypeEnum, startSsh: Boolean,
      startJupyter: Boolean, gpuTypeId: String, supportPublicIp: Boolean, gpuCount: Int,
      volumeInGb: Int, minVcpuCount: Int, minMemoryInGb: Int, allowedCudaVersions: [String],
      minCudaVersion: String, dataCenterId: String, dockerArgs: String, countryCode: String,
      containerDiskInGb: Int, ports: String, volumeMountPath: String,
      env: [EnvironmentVariableInput], templateId: String, networkVolumeId: String,
      minDownload: Int, minUpload: Int, containerRegistryAuthId: String,
      stopAfter: String, terminateAfter: String
    }
    input DeployCpuPodInput {
      name: String, imageName: String, cloudType: CloudTypeEnum, startSsh: Boolean,
      instanceId: String, dataCenterId: String, dockerArgs: String, countryCode: String,
      containerDiskInGb: Int, ports: String, volumeMountPath: String,
      env: [EnvironmentVariableInput], templateId: String, networkVolumeId: String,
      containerRegistryAuthId: String
    }
    input PodStopInput { podId: String! }
    input PodResumeInput { podId: String!, gpuCount: Int! }
    input PodTerminateInput { podId: String! }
    input UpdateUserSettingsInput { pubKey: String }
    input SaveTemplateInput {
      name: String!, imageName: String, dockerArgs: String, containerDiskInGb: Int,
      volumeInGb: Int, volumeMountPath: String, ports: String, env: [EnvironmentVariableInput],
      isServerless: Boolean, containerRegistryAuthId: String, startSsh: Boolean,
      isPublic: Boolean, readme: String
    }
    input SaveRegistryAuthInput { name: String!, username: String!, password: String! }
    input UpdateRegistryAuthInput { id: String!, username: String!, password: String! }
    type User {
      id: String, pubKey: String, email: String, clientBalance: Float, currentSpendPerHr: Float,
      spendLimit: Float, underBalance: Boolean, minBalance: Float, networkVolumes: [NetworkVolume],
      pods: [Pod], podTemplates: [PodTemplate]
    }
    type NetworkVolume { id: String, name: String, size: Int, dataCenterId: String }
    type PodTemplate {
      id: String, name: String, imageName: String, dockerArgs: String, containerDiskInGb: Int,
      volumeInGb: Int, volumeMountPath: String, ports: String, env: [EnvironmentVariable],
      isServerless: Boolean
    }
    type RegistryAuth { id: String, name: String }
    type EnvironmentVariable { key: String, value: String }
    type PodRuntimePort {
      ip: String, isIpPublic: Boolean, privatePort: Int, publicPort: Int, type: String
    }
    type PodRuntimeGpu { id: String, gpuUtilPercent: Float, memoryUtilPercent: Float }
    type PodRuntimeContainer { cpuPercent: Float, memoryPercent: Float }
    type PodRuntime {
      ports: [PodRuntimePort], uptimeInSeconds: Int, gpus: [PodRuntimeGpu],
      container: PodRuntimeContainer
    }
    type Machine { podHostId: String, gpuDisplayName: String, dataCenterId: String }
    type Pod {
      id: String, name: String, containerDiskInGb: Int, costPerHr: Float, desiredStatus: String,
      dockerArgs: String, dockerId: String, env: [String], gpuCount: Int, imageName: String,
      lastStatusChange: String, machineId: String, memoryInGb: Float, podType: String, port: Int,
      ports: String, uptimeSeconds: Int, vcpuCount: Float, volumeInGb: Float,
      volumeMountPath: String, createdAt: String, containerRegistryAuthId: String,
      runtime: PodRuntime, machine: Machine
    }
    type LowestPrice {
      minimumBidPrice: Float, uninterruptablePrice: Float, stockStatus: String
    }
    type GpuType {
      id: String, displayName: String, manufacturer: String, memoryInGb: Int, cudaCores: Int,
      maxGpuCount: Int, secureCloud: Boolean, communityCloud: Boolean, securePrice: Float,
      communityPrice: Float, oneMonthPrice: Float, threeMonthPrice: Float, oneWeekPrice: Float,
      communitySpotPrice: Float, secureSpotPrice: Float,
      lowestPrice(input: GpuLowestPriceInput): LowestPrice
    }
    """
)
RULES = [*specified_rules, NoSchemaIntrospectionCustomRule]
STOCK_WORDS = ((7, "High"), (3, "Medium"), (1, "Low"))


def build_router() -> APIRouter:
    """Return the one route of GraphQL."""
    router = APIRouter()

    @router.post("/graphql")
    async def answer(request: Request) -> Response:
        gateway: Gateway = request.app.state.gateway
        request.state.operation = "graphql"
        gateway.check_platform("graphql", "graphql")
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        key = key if scheme.lower() == "bearer" else request.query_params.get("api_key", "")
        try:
            caller = gateway.identify(key, "graphql", "graphql")
        except Refused as refused:
            return _say(refused.detail, status=refused.status)
        gateway.limit.take(caller.key)
        try:
            body = json.loads(await request.body())
            text, variables = body["query"], body.get("variables")
        except (ValueError, TypeError, KeyError):
            return _say("the body must be JSON with a query", status=400)
        return await _answer(request, Root(gateway, caller), text, variables)

    return router


async def _answer(
    request: Request, root: Root, text: str, variables: dict[str, Any] | None
) -> Response:
    try:
        document = parse(text)
    except GraphQLError as error:
        return JSONResponse({"errors": [error.formatted]}, 400)
    if errors := validate(SCHEMA, document, rules=RULES):
        return JSONResponse({"errors": [each.formatted for each in errors]}, 400)
    try:
        result = execute(SCHEMA, document, root_value=root, variable_values=variables)
        if not isinstance(result, ExecutionResult):
            result = await result
    finally:
        request.state.operation = root.operation
    return _render(result)


def _render(result: ExecutionResult) -> Response:
    answer: dict[str, Any] = {"data": result.data}
    errors = []
    for error in result.errors or []:
        cause = error.original_error
        if isinstance(cause, OddBody):
            if cause.kind == "null_data":
                return JSONResponse({"data": None})
            if cause.kind == "empty_errors":
                return JSONResponse({"errors": [], "data": None})
            continue
        if isinstance(cause, Refused) and (
            cause.media != "problem" or cause.status in (429, 500, 502, 503)
        ):
            return render_refusal(cause)
        if cause is not None and not isinstance(cause, Refused):
            # A dropped connection, or a mistake of the emulator's.
            raise cause
        errors.append({**error.formatted, "extensions": {"code": "RUNPOD"}})
    if errors:
        answer["errors"] = errors
    return JSONResponse(answer)


def _say(message: str, *, status: int) -> Response:
    return JSONResponse({"errors": [{"message": message}]}, status)


class Root:
    """
    Answers the fields of Query and Mutation, for one request.

    :param gateway: The way to the service.
    :param caller: Who asks.
    """

    def __init__(self, gateway: Gateway, caller: Caller) -> None:
        self._gateway = gateway
        self._cloud: Cloud = gateway.cloud
        self._caller = caller
        self.operation = "graphql"

    def myself(self, info: Any) -> User:
        """Return the account."""
        self._caller.require_account()
        self.operation = "account"
        return User(self, self._gateway)

    async def pod(self, info: Any, input: dict[str, Any]) -> dict[str, Any] | None:  # noqa: A002
        """Return a pod."""
        self.operation = "get"
        self._caller.require_pod(input["podId"])
        pod, is_stale = await self._gateway.get(input["podId"], "graphql")
        return None if pod is None else render_pod(pod, self._cloud, is_stale=is_stale)

    async def gpuTypes(  # noqa: N802
        self,
        info: Any,
        input: dict[str, Any] | None = None,  # noqa: A002
    ) -> list[dict[str, Any]]:
        """Return the catalogue."""
        self.operation = "catalog"
        await self._gateway.misbehave("catalog", api="graphql")
        wanted = (input or {}).get("id")
        return [render_gpu(gpu, self._cloud) for gpu in GPUS.values() if wanted in (None, gpu.id)]

    async def podFindAndDeployOnDemand(  # noqa: N802
        self,
        info: Any,
        input: dict[str, Any],  # noqa: A002
    ) -> dict[str, Any]:
        """Rent a GPU pod."""
        if not input.get("gpuTypeId"):
            raise Refused(400, "gpuTypeId is missing")
        return await self._create(
            build_order(input, gpu=input["gpuTypeId"], gpu_count=input.get("gpuCount") or 1)
        )

    async def deployCpuPod(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002, N802
        """Rent a CPU pod; without an instance the service chooses one."""
        flavor, _, rest = (input.get("instanceId") or "cpu3c-2-4").partition("-")
        vcpus = int(rest.partition("-")[0] or 2)
        return await self._create(build_order(input, cpu=flavor, vcpus=vcpus, gpu_count=0))

    async def _create(self, order: Order) -> dict[str, Any]:
        self.operation = "create"
        self._caller.require_account()
        return render_pod(await self._gateway.create(order), self._cloud)

    def podStop(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002, N802
        """Stop a pod."""
        self.operation = "action"
        pod = self._find(input["podId"], "pod not found to stop")
        self._cloud.stop(pod)
        return render_pod(pod, self._cloud)

    def podResume(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002, N802
        """Start a stopped pod."""
        self.operation = "action"
        pod = self._find(input["podId"], "pod not found to resume")
        if pod.status not in ("EXITED", "ERROR"):
            raise Refused(400, f"pod {pod.id} is not stopped")
        self._cloud.start(pod)
        return render_pod(pod, self._cloud)

    async def podTerminate(self, info: Any, input: dict[str, Any]) -> None:  # noqa: A002, N802
        """Give a pod back."""
        self.operation = "terminate"
        pod_id = input["podId"]
        self._caller.require_pod(pod_id)
        if not await self._gateway.terminate(pod_id, self._caller, "graphql"):
            raise Refused(400, "pod not found to terminate")

    def updateUserSettings(self, info: Any, input: dict[str, Any]) -> User:  # noqa: A002, N802
        """Replace the account's SSH keys."""
        self.operation = "account"
        self._caller.require_account()
        keys = [line for line in input["pubKey"].splitlines() if line.strip()]
        self._cloud.store.set_value("ssh_keys", keys)
        return User(self, self._gateway)

    def saveTemplate(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002, N802
        """Remember a template; nothing can be made of one here."""
        self.operation = "template"
        return {"id": secrets.token_hex(5), **input}

    def saveRegistryAuth(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002, N802
        """Take credentials of an image registry and forget them."""
        self.operation = "registry"
        return {"id": secrets.token_hex(12), "name": input["name"]}

    def updateRegistryAuth(self, info: Any, input: dict[str, Any]) -> dict[str, Any]:  # noqa: A002, N802
        """Take credentials of an image registry and forget them."""
        self.operation = "registry"
        return {"id": input["id"], "name": input["username"]}

    def deleteRegistryAuth(self, info: Any, registryAuthId: str) -> bool:  # noqa: N802, N803
        """Forget credentials that were forgotten already."""
        self.operation = "registry"
        return True

    def _find(self, pod_id: str, message: str) -> PodRow:
        self._caller.require_pod(pod_id)
        pod = self._cloud.find_visible(pod_id)
        if pod is None:
            raise Refused(400, message)
        return pod


class User:
    """
    Answers the fields of the account.

    :param root: The request it belongs to.
    :param gateway: The way to the service.
    """

    id = "user_emulated"
    email = "emulator@example.invalid"
    minBalance = 0.0  # noqa: N815
    networkVolumes: tuple[()] = ()  # noqa: N815
    podTemplates: tuple[()] = ()  # noqa: N815

    def __init__(self, root: Root, gateway: Gateway) -> None:
        self._root = root
        self._gateway = gateway
        self._cloud = gateway.cloud

    def pubKey(self, info: Any) -> str:  # noqa: N802
        """Return the account's SSH keys."""
        return "\n".join(self._cloud.store.get_value("ssh_keys", []))

    async def clientBalance(self, info: Any) -> float:  # noqa: N802
        """Return USD."""
        self._root.operation = "balance"
        await self._gateway.misbehave("balance", api="graphql")
        return float(self._cloud.compute_balance())

    def currentSpendPerHr(self, info: Any) -> float:  # noqa: N802
        """Return USD per hour."""
        return float(self._cloud.compute_spend())

    def spendLimit(self, info: Any) -> float:  # noqa: N802
        """Return USD per hour."""
        return float(self._cloud.spend_limit)

    def underBalance(self, info: Any) -> bool:  # noqa: N802
        """Return whether the balance is used up."""
        return self._cloud.compute_balance() <= 0

    async def pods(self, info: Any) -> list[dict[str, Any]]:
        """Return all pods; GraphQL knows no pages."""
        self._root.operation = "list"
        pods = await self._gateway.list_pods("graphql")
        return [render_pod(pod, self._cloud) for pod in pods]


def build_order(wanted: dict[str, Any], **compute: Any) -> Order:
    """Return the order of a mutation's input."""
    if not wanted.get("imageName"):
        raise Refused(400, "imageName is missing")
    cloud = wanted.get("cloudType") or "ALL"
    env = {each["key"]: each["value"] for each in wanted.get("env") or []}
    if len(env) > MAX_ENV:
        raise Refused(400, f"at most {MAX_ENV} environment variables are allowed")
    data_center = wanted.get("dataCenterId")
    if data_center and data_center not in DATA_CENTERS:
        raise Refused(400, f"data center {data_center!r} is unknown")
    if compute.get("cpu") and compute["cpu"] not in CPUS:
        raise Refused(400, f"cpu flavor {compute['cpu']!r} is unknown")
    return Order(
        name=wanted.get("name") or "pod",
        image=wanted["imageName"],
        api="graphql",
        clouds=CLOUDS if cloud == "ALL" else (cloud,),
        data_centers=(data_center,) if data_center else (),
        disk=wanted.get("containerDiskInGb") or 10,
        volume_gb=wanted.get("volumeInGb") or 0,
        mount_path=wanted.get("volumeMountPath") or "/runpod-volume",
        network_volume=wanted.get("networkVolumeId"),
        ports=tuple(each for each in (wanted.get("ports") or "").split(",") if each),
        env=env,
        args=wanted.get("dockerArgs") or "",
        registry=wanted.get("containerRegistryAuthId"),
        has_public_ip=cloud != COMMUNITY or bool(wanted.get("supportPublicIp")),
        start_ssh=bool(wanted.get("startSsh")),
        **compute,
    )


def render_pod(pod: PodRow, cloud: Cloud, *, is_stale: bool = False) -> dict[str, Any]:
    """Return a pod as GraphQL shows it, with the service's oddities."""
    is_stopped = pod.status in ("EXITED", "ERROR") and not is_stale
    runtime = None
    if pod.started_at is not None or (pod.stale_ports and (is_stopped or is_stale)):
        # A stopped pod goes on to report the ports it had.
        stale = is_stale or pod.ssh_port is None
        runtime = {
            "uptimeInSeconds": int(cloud.clock.now() - (pod.started_at or cloud.clock.now())),
            "ports": [
                {
                    "ip": each["ip"] or "100.65.0.12",
                    "isIpPublic": each["ip"] == cloud.options.host,
                    "privatePort": each["private"],
                    "publicPort": each["public"],
                    "type": each["type"],
                }
                for each in list_ports(pod, cloud.options.host, is_stale=stale)
            ],
            "gpus": [{"id": str(n), "gpuUtilPercent": 0} for n in range(pod.gpu_count)],
            "container": {"cpuPercent": 3, "memoryPercent": 5},
        }
    model = GPUS.get(pod.gpu or "")
    return {
        "id": pod.id,
        "name": pod.name,
        "containerDiskInGb": pod.disk,
        "costPerHr": float(pod.hourly),
        # Desired, not seen: RUNNING from the first moment.
        "desiredStatus": "EXITED" if is_stopped else "RUNNING",
        "dockerArgs": pod.args,
        "dockerId": None,
        "env": [f"{key}={value}" for key, value in pod.env.items()],
        "gpuCount": pod.gpu_count,
        "imageName": pod.image,
        "lastStatusChange": f"Changed: {format_time(pod.changed_at)}",
        "machineId": pod.machine_id,
        "memoryInGb": pod.memory_gb,
        "podType": "RESERVED",
        "port": None,
        "ports": ",".join(pod.ports),
        # Has been 0 for everybody for long; runtime.uptimeInSeconds is the real one.
        "uptimeSeconds": 0,
        "vcpuCount": pod.vcpus,
        "volumeInGb": pod.volume_gb,
        "volumeMountPath": pod.mount_path,
        "createdAt": format_time(pod.created_at),
        "containerRegistryAuthId": pod.registry,
        "runtime": runtime,
        "machine": {
            "podHostId": f"{pod.id}-{pod.machine_id[:8]}",
            "gpuDisplayName": model.name if model else None,
            "dataCenterId": pod.data_center,
        },
    }


def render_gpu(gpu: GpuModel, cloud: Cloud) -> dict[str, Any]:
    """Return a model as GraphQL's catalogue shows it."""

    def find_lowest(info: Any, input: dict[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002
        wanted = input or {}
        is_secure = wanted.get("secureCloud")
        clouds = CLOUDS if is_secure is None else ((SECURE,) if is_secure else (COMMUNITY,))
        free = cloud.count_free(gpu.id, clouds)
        number = sum(free.values()) // (wanted.get("gpuCount") or 1)
        prices = [price for each in clouds if (price := gpu.find_price(each)) is not None]
        word = next((word for least, word in STOCK_WORDS if number >= least), None)
        lowest = float(min(prices)) if prices and number else None
        return {"minimumBidPrice": lowest, "uninterruptablePrice": lowest, "stockStatus": word}

    return {
        "id": gpu.id,
        "displayName": gpu.name,
        "manufacturer": "Nvidia",
        "memoryInGb": gpu.memory_gb,
        "cudaCores": gpu.cuda_cores,
        "maxGpuCount": 8,
        "secureCloud": gpu.secure is not None,
        "communityCloud": gpu.community is not None,
        "securePrice": float(gpu.secure or 0),
        "communityPrice": float(gpu.community or 0),
        "lowestPrice": find_lowest,
    }
