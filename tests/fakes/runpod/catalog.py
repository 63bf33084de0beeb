"""What the emulated service rents out: GPU models, data centres, prices and first stock."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

SECURE, COMMUNITY = "SECURE", "COMMUNITY"
CLOUDS = (SECURE, COMMUNITY)
FIRST_STOCK = 8


@dataclass(frozen=True, kw_only=True)
class GpuModel:
    """One GPU model; a price of ``None`` means the cloud does not offer it."""

    id: str
    name: str
    memory_gb: int
    cuda_cores: int
    secure: Decimal | None
    community: Decimal | None

    def find_price(self, cloud: str) -> Decimal | None:
        """Return USD per hour of one GPU in a cloud."""
        return self.secure if cloud == SECURE else self.community


@dataclass(frozen=True, kw_only=True)
class CpuFlavor:
    """One CPU flavor; memory and price are per vCPU."""

    id: str
    name: str
    memory_gb_per_vcpu: int
    price_per_vcpu: Decimal


def _gpu(
    model: str, name: str, memory: int, cores: int, secure: str | None, community: str | None
) -> GpuModel:
    return GpuModel(
        id=model,
        name=name,
        memory_gb=memory,
        cuda_cores=cores,
        secure=Decimal(secure) if secure else None,
        community=Decimal(community) if community else None,
    )


GPUS = {
    gpu.id: gpu
    for gpu in (
        _gpu("NVIDIA RTX A5000", "RTX A5000", 24, 8192, "0.27", "0.16"),
        _gpu("NVIDIA GeForce RTX 3090", "RTX 3090", 24, 10496, "0.46", "0.22"),
        _gpu("NVIDIA L4", "L4", 24, 7424, "0.39", None),
        _gpu("NVIDIA GeForce RTX 4090", "RTX 4090", 24, 16384, "0.69", "0.34"),
        _gpu("NVIDIA RTX A6000", "RTX A6000", 48, 10752, "0.49", "0.33"),
        _gpu("NVIDIA L40S", "L40S", 48, 18176, "0.86", "0.79"),
        _gpu("NVIDIA A100 80GB PCIe", "A100 PCIe", 80, 6912, "1.39", "1.19"),
        _gpu("NVIDIA H100 80GB HBM3", "H100 SXM", 80, 16896, "2.99", "2.69"),
    )
}

CPUS = {
    flavor.id: flavor
    for flavor in (
        CpuFlavor(
            id="cpu5c",
            name="Compute-Optimized",
            memory_gb_per_vcpu=2,
            price_per_vcpu=Decimal("0.035"),
        ),
        CpuFlavor(
            id="cpu3c",
            name="Compute-Optimized",
            memory_gb_per_vcpu=2,
            price_per_vcpu=Decimal("0.03"),
        ),
    )
}

DATA_CENTERS = {
    "US-KS-2": ("US Kansas 2", "NORTH_AMERICA"),
    "US-TX-3": ("US Texas 3", "NORTH_AMERICA"),
    "CA-MTL-1": ("CA Montreal 1", "NORTH_AMERICA"),
    "EU-RO-1": ("EU Romania 1", "EUROPE"),
    "EU-CZ-1": ("EU Czechia 1", "EUROPE"),
}


def list_first_capacity() -> list[tuple[str, str, str, int]]:
    """Return (GPU model, cloud, data centre, free) as a new emulator starts with."""
    return [
        (gpu.id, cloud, data_center, FIRST_STOCK)
        for gpu in GPUS.values()
        for cloud in CLOUDS
        for data_center in DATA_CENTERS
        if gpu.find_price(cloud) is not None
    ]


def describe_stock(free: int) -> str:
    """Return the catalog's word for so many free GPUs."""
    for least, word in ((7, "HIGH"), (3, "MEDIUM"), (1, "LOW")):
        if free >= least:
            return word
    return "NONE"
