"""What REST v2 sends and takes, and how it becomes ours; fields we do not use are ignored."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from touchstone.core.offers import CpuOffer, GpuOffer, Stock
from touchstone.core.pods import Bill, Cloud, Pod, PodOrder, PodStatus, SshAddress
from touchstone.hooks.runpod.api import LogLine
from touchstone_agent.protocol.words import Name

Member = TypeVar("Member", bound=StrEnum)

Usd = Annotated[Decimal, Field(ge=-(10**9), le=10**9)]
"""An amount that can be reckoned with."""

Time = Annotated[
    datetime, AfterValidator(lambda at: at if at.tzinfo is not None else at.replace(tzinfo=UTC))
]
"""A time; one without a zone is RunPod's UTC."""

Default = TypeVar("Default")


class WireModel(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class WireGpu(WireModel):
    """A pod's GPU."""

    id: Name
    count: int = 1


class WireSshEndpoint(WireModel):
    """One way to a pod's sshd."""

    host: str = Field(max_length=255)
    port: int = Field(ge=1, le=65_535)
    username: str = Field(default="root", max_length=64)


class WireSsh(WireModel):
    """All ways to a pod's sshd; ``proxy`` is a terminal only and no use to us."""

    direct: WireSshEndpoint | None = None


class WireRuntime(WireModel):
    """What is measured while a pod runs."""

    uptime: int | None = None


class WirePod(WireModel):
    """A pod."""

    id: Name
    name: Name
    status: str
    image: str = ""
    gpu: WireGpu | None = None
    cloud: str | None = None
    data_center: Name | None = Field(default=None, alias="dataCenterId")
    cost: Usd = Decimal()
    env: dict[str, str] = {}
    ssh: WireSsh | None = None
    runtime: WireRuntime | None = None
    created_at: Time | None = Field(default=None, alias="createdAt")
    started_at: Time | None = Field(default=None, alias="startedAt")
    cuda_version: str | None = Field(default=None, alias="cudaVersion")

    def build(self) -> Pod:
        """Return our pod."""
        direct = self.ssh.direct if self.ssh else None
        return Pod(
            id=self.id,
            name=self.name,
            status=_find_member(PodStatus, self.status, PodStatus.UNKNOWN),
            image=self.image,
            gpu=self.gpu.id if self.gpu else None,
            gpu_count=self.gpu.count if self.gpu else 0,
            cloud=_find_member(Cloud, self.cloud, None),
            data_center=self.data_center,
            price_per_hour=self.cost,
            env=self.env,
            ssh=SshAddress(**direct.model_dump()) if direct else None,
            uptime_seconds=self.runtime.uptime if self.runtime else None,
            created_at=self.created_at,
            started_at=self.started_at,
            cuda_version=self.cuda_version,
        )


class WirePagination(WireModel):
    """Whether there is more."""

    has_next: bool = Field(alias="hasNextPage")
    cursor: str | None = Field(default=None, alias="nextCursor")


class WirePods(WireModel):
    """A page of pods; the API had no pages before September 2026."""

    pods: list[WirePod]
    pagination: WirePagination | None = None


class WireRegistry(WireModel):
    """The login of a registry, of which its password is never told."""

    id: str = Field(min_length=1, max_length=200)
    name: str = Field(default="", max_length=1000)


class WireRegistries(WireModel):
    """A page of them."""

    registries: list[WireRegistry]
    pagination: WirePagination | None = None


class WirePrice(WireModel):
    """USD per hour of one GPU."""

    secure: Usd = Decimal()
    community: Usd = Decimal()


class WirePlace(WireModel):
    """Stock of a data centre."""

    id: str
    availability: str


class WireGpuType(WireModel):
    """A GPU model of the catalogue, with the stock of the cloud that was asked for."""

    id: str
    name: str
    memory: int
    secure: bool
    community: bool
    price: WirePrice
    availability: str | None = None
    places: list[WirePlace] = Field(default=[], alias="dataCenters")

    def find_offer(self, cloud: Cloud) -> GpuOffer | None:
        """Return the offer of a cloud, when it has one."""
        is_offered = self.secure if cloud is Cloud.SECURE else self.community
        if not is_offered:
            return None
        return GpuOffer(
            gpu=self.id,
            name=self.name,
            memory_gb=self.memory,
            cloud=cloud,
            price_per_hour=(self.price.secure if cloud is Cloud.SECURE else self.price.community),
            stock=read_stock(self.availability),
            data_centers={place.id: read_stock(place.availability) for place in self.places},
        )


class WireGpuTypes(WireModel):
    """The catalogue."""

    gpus: list[WireGpuType]


class WireVcpus(WireModel):
    """How many vCPUs a pod of a flavor can have."""

    min: int
    max: int


class WireCpuPrice(WireModel):
    """USD per hour of one vCPU."""

    secure: Usd = Field(alias="securePerVcpu")


class WireCpuType(WireModel):
    """A CPU flavor of the catalogue."""

    id: str
    name: str
    vcpu: WireVcpus
    memory_gb_per_vcpu: float = Field(alias="ramGbPerVcpu")
    price: WireCpuPrice

    def build(self) -> CpuOffer:
        """Return our offer."""
        return CpuOffer(
            cpu=self.id,
            name=self.name,
            min_vcpus=self.vcpu.min,
            max_vcpus=self.vcpu.max,
            memory_gb_per_vcpu=self.memory_gb_per_vcpu,
            price_per_vcpu=self.price.secure,
        )


class WireCpuTypes(WireModel):
    """The catalogue of CPUs."""

    cpus: list[WireCpuType]


class WireBillRecord(WireModel):
    """A line of the bill."""

    pod_id: str = Field(alias="podId")
    usd: Usd = Field(alias="totalAmount")


class WireBill(WireModel):
    """The bill."""

    records: list[WireBillRecord]

    def build(self) -> list[Bill]:
        """Return one sum per pod."""
        sums: dict[str, Decimal] = {}
        for record in self.records:
            sums[record.pod_id] = sums.get(record.pod_id, Decimal()) + record.usd
        return [Bill(pod_id=pod_id, usd=usd) for pod_id, usd in sums.items()]


class WireLogLine(WireModel):
    """A line of a pod's log."""

    source: str
    line: str
    ts: Time

    def build(self) -> LogLine:
        """Return our line."""
        return LogLine(source=self.source, at=self.ts, text=self.line)


class WireProblem(WireModel):
    """An error document; every field may be missing, because proxies answer too."""

    title: str | None = None
    detail: str | None = None
    errors: list[str] | None = None

    @property
    def text(self) -> str:
        """Return what it says, in one line."""
        parts = [self.detail or self.title or "", *(self.errors or [])]
        return "; ".join(part for part in parts if part)


def build_create_body(order: PodOrder) -> dict[str, object]:
    """
    Return the body of a create.

    The GPU count is always sent: without it the API has answered that nothing is available.
    ``args`` is never sent, because it would replace the image's command.
    """
    body: dict[str, object] = {
        "name": order.name,
        "image": order.image,
        "cloud": order.cloud.value,
        "disk": order.disk_gb,
        "ports": list(order.ports),
        "env": dict(order.env),
    }
    if order.gpu is not None:
        version = {"minCudaVersion": order.min_cuda} if order.min_cuda else {}
        body["gpu"] = {"id": order.gpu, "count": order.gpu_count, **version}
    else:
        body["cpu"] = {"id": order.cpu, "vcpuCount": order.vcpus}
    if order.data_center:
        body["dataCenterIds"] = [order.data_center]
    if order.entrypoint:
        body["entrypoint"] = list(order.entrypoint)
    if order.cmd:
        body["cmd"] = list(order.cmd)
    if order.registry_id:
        body["registry"] = order.registry_id
    return body


def read_stock(word: str | None) -> Stock:
    """Return the stock of a word of either API, in any case."""
    return _find_member(Stock, (word or "NONE").upper(), Stock.UNKNOWN)


def _find_member(kind: type[Member], value: str | None, default: Default) -> Member | Default:
    try:
        return kind(value or "")
    except ValueError:
        return default
