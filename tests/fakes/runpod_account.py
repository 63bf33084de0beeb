"""A RunPod account in memory: what it has, and its money."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal

from touchstone.core.offers import CpuOffer, GpuOffer, Stock
from touchstone.core.pods import Balance, Cloud


def make_offer(name: str = "RTX 4090", price: str = "0.69", stock: Stock = Stock.HIGH) -> GpuOffer:
    """Return an offer of RunPod's own cloud."""
    return GpuOffer(
        gpu=f"NVIDIA GeForce {name}",
        name=name,
        memory_gb=24,
        cloud=Cloud.SECURE,
        price_per_hour=Decimal(price),
        stock=stock,
    )


def make_cpu(cpu: str = "cpu3c", price: str = "0.03") -> CpuOffer:
    """Return a CPU flavor, by its price per vCPU."""
    return CpuOffer(
        cpu=cpu,
        name="Compute-Optimized",
        min_vcpus=2,
        max_vcpus=32,
        memory_gb_per_vcpu=2,
        price_per_vcpu=Decimal(price),
    )


class FakeRunPodHook:
    """As much of the hook as those need who only look."""

    def __init__(self) -> None:
        self.offers: tuple[GpuOffer, ...] = (make_offer(),)
        self.cpus: tuple[CpuOffer, ...] | Exception = (make_cpu(),)
        self.balance: Balance | Exception = Balance(usd=Decimal(100), spend_per_hour=Decimal())
        self.balance_warning = Decimal(50)
        self.error: Exception | None = None
        self.asked = 0

    @contextmanager
    def get_conn(self) -> Iterator[FakeRunPodHook]:
        """Return itself: it has no connections to close."""
        yield self

    def list_offers(self) -> list[GpuOffer]:
        """Return the catalogue, or raise what it was told to."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return list(self.offers)

    def list_cpus(self) -> list[CpuOffer]:
        """Return the catalogue of CPUs, or raise what it was told to."""
        if isinstance(self.cpus, Exception):
            raise self.cpus
        return list(self.cpus)

    def get_balance(self) -> Balance:
        """Return the money, or raise what it was told to."""
        if isinstance(self.balance, Exception):
            raise self.balance
        return self.balance
