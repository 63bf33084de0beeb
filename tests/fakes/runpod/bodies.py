"""Requests and answers of REST v2; unknown fields of requests are refused."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from fakes.runpod.catalog import CLOUDS, CPUS, DATA_CENTERS, GPUS, GpuModel, describe_stock
from fakes.runpod.clock import format_time
from fakes.runpod.cloud import Cloud, Order
from fakes.runpod.refusals import NO_CAPACITY, Refused
from fakes.runpod.store import PodRow

CudaVersion = Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")]
MAX_ENV = 50
ACTIONS = {
    "PROVISIONING": ["stop", "terminate"],
    "STARTING": ["stop", "terminate"],
    "RUNNING": ["stop", "restart", "terminate"],
    "EXITED": ["start", "terminate"],
    "ERROR": ["start", "terminate"],
    "TERMINATED": [],
}


class Body(BaseModel):
    """A part of a request."""

    model_config = ConfigDict(extra="forbid", strict=True)


class GpuBody(Body):
    """Which GPU."""

    id: str
    count: int = Field(default=1, ge=1)
    allowedCudaVersions: list[CudaVersion] | None = None  # noqa: N815 - the wire's name
    minCudaVersion: CudaVersion | None = None  # noqa: N815
    minVcpuCountPerGpu: int | None = Field(default=None, ge=1)  # noqa: N815
    minRamPerGpu: int | None = Field(default=None, ge=1)  # noqa: N815


class CpuBody(Body):
    """Which CPU."""

    id: str = Field(min_length=1)
    vcpuCount: int = Field(ge=2)  # noqa: N815


class PersistentBody(Body):
    """A volume on the pod's own machine."""

    size: int = Field(ge=10)
    path: str


class NetworkBody(Body):
    """A network volume."""

    volumeId: str  # noqa: N815
    path: str


class MountsBody(Body):
    """What is mounted."""

    persistent: PersistentBody | None = None
    network: list[NetworkBody] | None = Field(default=None, max_length=1)


class RegistryBody(Body):
    """The login of a registry."""

    name: str = Field(min_length=1)
    username: str = Field(min_length=1)
    password: str = Field(min_length=1)


class CreateBody(Body):
    """An order."""

    name: str = Field(min_length=1)
    image: str | None = None
    templateId: str | None = Field(default=None, min_length=1)  # noqa: N815
    gpu: GpuBody | None = None
    cpu: CpuBody | None = None
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    dataCenterIds: list[str] = []  # noqa: N815
    disk: int = Field(default=50, ge=1)
    mounts: MountsBody | None = None
    ports: list[str] = []
    env: dict[str, str] = {}
    args: str = ""
    entrypoint: list[str] = []
    cmd: list[str] = []
    registry: str | None = None
    startSsh: bool = False  # noqa: N815
    startJupyter: bool = False  # noqa: N815
    globalNetworking: bool = False  # noqa: N815

    def build_order(self) -> Order:
        """Return the order. Raise ``Refused`` (400, 404, 422) for what breaks a rule."""
        if self.templateId:
            raise Refused(404, f"template {self.templateId} not found")
        if not self.image:
            raise Refused(422, "validation failed", errors=["$: missing property 'image'"])
        if (self.gpu is None) == (self.cpu is None):
            raise Refused(400, "exactly one of gpu and cpu must be set")
        if self.gpu and self.gpu.allowedCudaVersions and self.gpu.minCudaVersion:
            raise Refused(400, "allowedCudaVersions and minCudaVersion exclude each other")
        if self.gpu and "count" not in self.gpu.model_fields_set:
            # Documented as 1, but the service has been seen to answer this.
            raise Refused(400, NO_CAPACITY)
        if len(self.env) > MAX_ENV:
            raise Refused(400, f"at most {MAX_ENV} environment variables are allowed")
        persistent = self.mounts.persistent if self.mounts else None
        network = (self.mounts.network or [None])[0] if self.mounts else None
        if persistent and (network or self.cpu):
            raise Refused(400, "mounts.persistent excludes mounts.network and cpu")
        for port in self.ports:
            number, _, protocol = port.partition("/")
            if not number.isdigit() or protocol not in ("tcp", "http"):
                raise Refused(400, f"port {port!r} must be like 22/tcp or 8888/http")
        unknown = [each for each in self.dataCenterIds if each not in DATA_CENTERS]
        if unknown:
            raise Refused(400, f"data center {unknown[0]!r} is unknown")
        return Order(
            name=self.name,
            image=self.image,
            api="rest",
            gpu=self.gpu.id if self.gpu else None,
            gpu_count=self.gpu.count if self.gpu else 0,
            min_cuda=self.gpu.minCudaVersion if self.gpu else None,
            cpu=self.cpu.id if self.cpu else None,
            vcpus=self.cpu.vcpuCount if self.cpu else 8 * (self.gpu.count if self.gpu else 1),
            clouds=(self.cloud,),
            data_centers=tuple(self.dataCenterIds),
            disk=self.disk,
            volume_gb=persistent.size if persistent else 0,
            mount_path=persistent.path if persistent else (network.path if network else ""),
            network_volume=network.volumeId if network else None,
            ports=tuple(self.ports),
            env=self.env,
            args=self.args,
            entrypoint=tuple(self.entrypoint),
            cmd=tuple(self.cmd),
            registry=self.registry,
            start_ssh=self.startSsh,
        )


class ActionBody(Body):
    """A change of a pod."""

    action: Literal["start", "stop", "restart", "terminate"]


class KeysBody(Body):
    """The account's SSH keys, all of them."""

    keys: list[
        Annotated[str, StringConstraints(pattern=r"^(ssh|ecdsa|sk)-[^\s]+ [^\s]+([ \t][^\n\r]*)?$")]
    ]


def list_ports(pod: PodRow, host: str, *, is_stale: bool = False) -> list[dict[str, Any]]:
    """Return the live port mappings as REST v2 shows them."""
    public = pod.ssh_port if not is_stale else next(iter(pod.stale_ports), pod.ssh_port)
    ports: list[dict[str, Any]] = []
    for port in pod.ports:
        number, _, protocol = port.partition("/")
        if protocol == "http":
            ports.append({"private": int(number), "public": 60000, "type": "http", "ip": None})
        elif number == "22" and public is not None:
            is_private = "boot.private_ip" in pod.faults or not pod.has_public_ip
            ports.append(
                {
                    "private": 22,
                    "public": public,
                    "type": "tcp",
                    "ip": "100.65.0.12" if is_private else host,
                }
            )
    return ports


def render_pod(pod: PodRow, cloud: Cloud, *, is_stale: bool = False) -> dict[str, Any]:
    """
    Return a pod as REST v2 shows it.

    :param is_stale: Show what was true before: a pod that is gone runs, one that runs boots.
    """
    status, host = pod.status, cloud.options.host
    if is_stale:
        status = "RUNNING" if pod.is_gone or pod.status == "EXITED" else "PROVISIONING"
    is_running = status == "RUNNING"
    ports = list_ports(pod, host, is_stale=is_stale) if is_running else []
    skew = float(pod.faults.get("run.clock_skew", {}).get("seconds", 0))
    ssh = next((each for each in ports if each["private"] == 22), None)
    direct = None
    if ssh is not None and not ssh["ip"].startswith("100."):
        direct = _render_ssh(ssh["ip"], ssh["public"], "root")
    proxy = _render_ssh("ssh.runpod.io", 22, f"{pod.id}-{pod.machine_id[:8]}")
    shown: dict[str, Any] = {
        "id": pod.id,
        "name": pod.name,
        "status": status,
        "actions": ACTIONS[status],
        "image": pod.image,
        "args": pod.args,
        "disk": pod.disk,
        "mounts": _render_mounts(pod),
        "ports": pod.ports,
        "env": pod.env,
        "registry": pod.registry,
        "cloud": pod.cloud,
        "dataCenterId": pod.data_center,
        "cudaVersion": pod.cuda_version,
        "ssh": {"proxy": proxy, "direct": direct},
        "template": None,
        "cost": 0.0 if status in ("EXITED", "TERMINATED") else float(pod.hourly),
        "locked": False,
        "globalNetworking": {"enabled": False},
        "runtime": _render_runtime(pod, cloud, ports, skew) if is_running else None,
        "createdAt": format_time(pod.created_at + skew),
        "startedAt": format_time(pod.started_at + skew if pod.started_at else None),
    }
    if pod.gpu:
        shown["gpu"] = {"id": pod.gpu, "count": pod.gpu_count}
    else:
        shown["cpu"] = {"id": pod.cpu, "vcpuCount": pod.vcpus, "memory": pod.memory_gb}
    return shown


def _render_ssh(host: str, port: int, user: str) -> dict[str, Any]:
    command = f"ssh {user}@{host}" + ("" if port == 22 else f" -p {port}")
    return {"host": host, "port": port, "username": user, "command": command}


def _render_mounts(pod: PodRow) -> dict[str, Any]:
    if pod.network_volume:
        return {"network": [{"volumeId": pod.network_volume, "path": pod.mount_path}]}
    if pod.volume_gb:
        return {"persistent": {"size": pod.volume_gb, "path": pod.mount_path}}
    return {}


def _render_runtime(
    pod: PodRow, cloud: Cloud, ports: list[dict[str, Any]], skew: float
) -> dict[str, Any]:
    started = pod.started_at or cloud.clock.now()
    return {
        "uptime": max(0, int(cloud.clock.now() - started + skew)),
        "gpus": [{"util": 0, "memoryUtil": 0}] * pod.gpu_count,
        "cpu": {"util": 3},
        "memory": {"util": 5},
        "ports": ports,
    }


def render_gpu(
    gpu: GpuModel, cloud: Cloud, *, with_stock: bool, count: int = 1, of_cloud: str | None = None
) -> dict[str, Any]:
    """Return a model as the catalogue shows it."""
    shown: dict[str, Any] = {
        "id": gpu.id,
        "name": gpu.name,
        "pool": None,
        "manufacturer": "NVIDIA",
        "memory": gpu.memory_gb,
        "secure": gpu.secure is not None,
        "community": gpu.community is not None,
        "price": {"secure": float(gpu.secure or 0), "community": float(gpu.community or 0)},
        "maxCount": {"secure": 8 if gpu.secure else 0, "community": 4 if gpu.community else 0},
    }
    if with_stock:
        # Left out, the service means its own cloud only.
        free = cloud.count_free(gpu.id, [of_cloud or CLOUDS[0]])
        usable = {key: number // count for key, number in free.items()}
        shown["availability"] = describe_stock(sum(usable.values()))
        shown["dataCenters"] = [
            {"id": key, "name": DATA_CENTERS[key][0], "availability": describe_stock(number)}
            for key, number in usable.items()
        ]
    return shown


def render_data_center(key: str, cloud: Cloud, *, with_stock: bool) -> dict[str, Any]:
    """Return a data centre as the catalogue shows it."""
    name, region = DATA_CENTERS[key]
    shown: dict[str, Any] = {
        "id": key,
        "name": name,
        "region": region,
        "globalNetwork": False,
        "networkVolumeTypes": ["STANDARD"],
        "compliance": [],
    }
    if with_stock:
        shown["gpuAvailability"] = [
            {
                "id": gpu.id,
                "name": gpu.name,
                "availability": describe_stock(cloud.count_free(gpu.id).get(key, 0)),
            }
            for gpu in GPUS.values()
        ]
    return shown


def render_cpu(key: str) -> dict[str, Any]:
    """Return a CPU flavor as the catalogue shows it."""
    flavor = CPUS[key]
    return {
        "id": flavor.id,
        "name": flavor.name,
        "group": "Gen 3",
        "vcpu": {"min": 2, "max": 32},
        "ramGbPerVcpu": float(flavor.memory_gb_per_vcpu),
        "price": {
            "securePerVcpu": float(flavor.price_per_vcpu),
            "serverlessPerVcpu": float(flavor.price_per_vcpu),
        },
    }
