"""The ports that the rest of Touchstone uses: what a RunPod account can be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from touchstone.core.offers import CpuOffer, GpuOffer
from touchstone.core.pods import Balance, Bill, Pod, PodOrder
from touchstone.hooks.runpod.provider import DEFAULT_URL


@dataclass(frozen=True, kw_only=True)
class Account:
    """
    How to reach an account.

    :param api_key: The account's key.
    :param url: Base of the API, without a path.
    :param timeout_seconds: Longest wait for one answer.
    """

    api_key: str = field(repr=False)
    url: str = DEFAULT_URL
    timeout_seconds: float = 30


@dataclass(frozen=True, kw_only=True)
class LogLine:
    """
    A line of a pod's log.

    :param source: ``container``, or ``system`` for the host's: image pull, start, end.
    """

    source: str
    at: datetime
    text: str


class PodApi(Protocol):
    """
    One RunPod account.

    Errors are those of ``touchstone.hooks.runpod.errors``. Reads are repeated a few times when the
    service stumbles; changes never are, because there is no idempotency key.
    """

    def list_pods(self) -> list[Pod]:
        """Return all pods of the account, from all pages; raise rather than leave some out."""

    def get_pod(self, pod_id: str) -> Pod:
        """Return a pod. Raise ``PodNotFound`` when this answer denies it."""

    def create_pod(self, order: PodOrder) -> Pod:
        """Rent a pod. Raise ``Ambiguous`` when it may have been rented."""

    def terminate_pod(self, pod_id: str) -> None:
        """Ask for a pod's end; only reading it back, twice, proves that it is gone."""

    def list_offers(self) -> list[GpuOffer]:
        """Return the live catalogue: every GPU model in every cloud that has it."""

    def list_cpus(self) -> list[CpuOffer]:
        """Return the live catalogue of CPUs: every flavor, of RunPod's own cloud."""

    def get_balance(self) -> Balance:
        """Return the account's money."""


class AsyncPodApi(Protocol):
    """The same for triggers; without what a trigger never asks."""

    async def close(self) -> None:
        """Close the connections."""

    async def list_pods(self) -> list[Pod]:
        """Return all pods of the account, from all pages; raise rather than leave some out."""

    async def get_pod(self, pod_id: str) -> Pod:
        """Return a pod. Raise ``PodNotFound`` when this answer denies it."""

    async def create_pod(self, order: PodOrder) -> Pod:
        """Rent a pod. Raise ``Ambiguous`` when it may have been rented."""

    async def terminate_pod(self, pod_id: str) -> None:
        """Ask for a pod's end; only reading it back, twice, proves that it is gone."""

    async def list_registries(self) -> list[tuple[str, str]]:
        """Return id and name of each login of a registry that the account has."""

    async def create_registry(self, name: str, login: str, password: str) -> str:
        """Leave a login there, and return its id. Raise ``Ambiguous`` when it may be there."""

    async def delete_registry(self, registry_id: str) -> None:
        """Remove a login; gone already is success."""

    async def list_offers(self) -> list[GpuOffer]:
        """Return the live catalogue."""

    async def list_cpus(self) -> list[CpuOffer]:
        """Return the live catalogue of CPUs."""

    async def list_bills(self, pod_id: str | None = None) -> list[Bill]:
        """Return what pods have cost by RunPod's own count, which lags behind."""

    async def read_logs(
        self, pod_id: str, *, source: str | None = None, tail: int = 200
    ) -> list[LogLine]:
        """Return the last lines of a pod's log."""


__all__ = ["DEFAULT_URL", "Account", "AsyncPodApi", "Bill", "LogLine", "PodApi"]
