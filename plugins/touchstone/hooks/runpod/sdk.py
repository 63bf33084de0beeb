"""
The ``runpod`` SDK behind our protocol, for what only GraphQL tells: the balance.

The SDK speaks GraphQL, which RunPod retires early in 2027. It hides HTTP's status, reports some
failed terminations as success, quotes nothing, keeps the API key in a global variable and takes
seconds to import. All of that ends here.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import httpx

from touchstone.core.offers import CpuOffer, GpuOffer, Stock
from touchstone.core.pods import Balance, Cloud, Pod, PodOrder, PodStatus, SshAddress
from touchstone.hooks.runpod.api import Account
from touchstone.hooks.runpod.errors import (
    Ambiguous,
    CapacityExhausted,
    PodNotFound,
    PodRejected,
    ServiceUnavailable,
    Unauthorised,
)
from touchstone.hooks.runpod.requests import (
    Answer,
    ApiRequest,
    is_capacity_prose,
    translate,
    translate_refusal,
)
from touchstone.hooks.runpod.wire import read_stock
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TouchstoneError

_SDK_LOCK = threading.Lock()
"""The SDK reads its key from a global variable and its address from the environment."""

MAX_PROBLEM_BYTES: Final = 64 * 1024
URL_VARIABLE: Final = "RUNPOD_API_BASE_URL"
UNQUOTABLE: Final = ('"', "\\", "\n", "\r")
BALANCE_QUERY: Final = "query { myself { clientBalance currentSpendPerHr spendLimit } }"
CATALOGUE_QUERY: Final = """
query { gpuTypes {
  id displayName memoryInGb secureCloud communityCloud securePrice communityPrice
  secure: lowestPrice(input: {gpuCount: 1, secureCloud: true}) { stockStatus }
  community: lowestPrice(input: {gpuCount: 1, secureCloud: false}) { stockStatus }
} }
"""


class SdkPodApi:
    """
    A RunPod account by the SDK, for workers.

    Calls of a process go one after another, whatever the account.

    :param account: Whose pods.
    """

    def __init__(self, account: Account) -> None:
        self._account = account

    def list_pods(self) -> list[Pod]:
        """Return all pods of the account; GraphQL knows no pages."""
        return [_build_pod(each) for each in self._read(lambda sdk: sdk.get_pods())]

    def get_pod(self, pod_id: str) -> Pod:
        """Return a pod."""
        _require_quotable({"pod_id": pod_id})
        found = self._read(lambda sdk: sdk.get_pod(pod_id))
        if found is None:
            raise PodNotFound(f"pod {pod_id} is unknown to GraphQL")
        return _build_pod(found)

    def create_pod(self, order: PodOrder) -> Pod:
        """
        Rent a pod; never repeated.

        The answer is short; what GraphQL leaves out is taken from the order.
        """
        arguments = _build_create_arguments(order)
        answer = self._change(lambda sdk: sdk.create_pod(**arguments), "create_pod")
        if not isinstance(answer, Mapping) or not answer.get("id"):
            # Seen for no capacity; but "seen" is no promise.
            raise Ambiguous("create_pod: GraphQL answered without a pod; it may have happened")
        return Pod(
            id=str(answer["id"]),
            name=order.name,
            status=PodStatus.PROVISIONING,
            image=order.image,
            gpu=order.gpu,
            gpu_count=order.gpu_count if order.gpu else 0,
            cloud=order.cloud,
            data_center=order.data_center,
            price_per_hour=Decimal(),
            env=order.env,
        )

    def terminate_pod(self, pod_id: str) -> None:
        """
        Ask for a pod's end, and look whether anybody has heard it.

        The SDK returns the same for a yes as for an error without the ``errors`` of GraphQL.
        """
        _require_quotable({"pod_id": pod_id})
        self._change(lambda sdk: sdk.terminate_pod(pod_id), "terminate_pod")
        try:
            self.get_pod(pod_id)
        except PodNotFound:
            return
        raise Ambiguous(f"terminate_pod: pod {pod_id} is still there; it may end later")

    def list_offers(self) -> list[GpuOffer]:
        """Return the live catalogue; GraphQL tells no stock of single data centres here."""
        found = self._query(CATALOGUE_QUERY)["gpuTypes"]
        return [
            _build_offer(gpu, cloud)
            for cloud in Cloud
            for gpu in found
            if gpu["secureCloud" if cloud is Cloud.SECURE else "communityCloud"]
        ]

    def list_cpus(self) -> list[CpuOffer]:
        """Raise: nothing of ours asks GraphQL for them."""
        raise ConfigurationError("the SDK is not asked for CPUs: ask REST v2's backend")

    def get_balance(self) -> Balance:
        """Return the account's money."""
        myself = self._query(BALANCE_QUERY)["myself"]
        limit = myself.get("spendLimit")
        return Balance(
            usd=_read_money(myself["clientBalance"]),
            spend_per_hour=_read_money(myself.get("currentSpendPerHr") or 0),
            spend_limit=None if limit is None else _read_money(limit),
        )

    def _query(self, query: str) -> Any:
        found = self._read(lambda sdk: sdk.api.graphql.run_graphql_query(query)["data"])
        if not isinstance(found, Mapping) or any(each is None for each in found.values()):
            raise ServiceUnavailable("GraphQL answered without data")
        return found

    def _read(self, call: Callable[[Any], Any]) -> Any:
        with self._lent_sdk() as sdk:
            try:
                return call(sdk)
            except sdk.error.RunPodError as error:
                raise _translate(sdk, error, "GraphQL") from error
            except Exception as error:
                raise self._diagnose(f"GraphQL: {type(error).__name__}: {error}") from error

    def _change(self, call: Callable[[Any], Any], label: str) -> Any:
        with self._lent_sdk() as sdk:
            try:
                return call(sdk)
            except sdk.error.RunPodError as error:
                raise _translate(sdk, error, label) from error
            except Exception as error:
                if type(error) is ValueError:
                    # Its own check of the arguments; errors of JSON are of derived classes.
                    raise PodRejected(f"{label}: {error}") from error
                # Its answer is lost in the SDK.
                found = self._diagnose(f"{label}: {type(error).__name__}: {error}")
                if isinstance(found, PermanentError):
                    # The account or the API refuses everything, so it has refused this.
                    raise found from error
                raise Ambiguous(f"{label}: {type(error).__name__}; it may have happened") from error

    @contextmanager
    def _lent_sdk(self) -> Iterator[Any]:
        """Give the SDK our account for one call, and take it away again."""
        with _SDK_LOCK:
            # Takes seconds, once per process.
            runpod: Any = importlib.import_module("runpod")
            importlib.import_module("runpod.api.graphql")

            key, url = runpod.api_key, os.environ.get(URL_VARIABLE)
            runpod.api_key = self._account.api_key
            os.environ[URL_VARIABLE] = self._account.url
            try:
                yield runpod
            finally:
                runpod.api_key = key
                if url is None:
                    os.environ.pop(URL_VARIABLE, None)
                else:
                    os.environ[URL_VARIABLE] = url

    def _diagnose(self, text: str) -> TouchstoneError:
        """Return what the service says to a harmless query, because the SDK hides its answers."""
        request = ApiRequest(method="POST", path="/graphql")
        try:
            with httpx.stream(
                "POST",
                f"{self._account.url}/graphql",
                json={"query": "query { myself { id } }"},
                headers={"Authorization": f"Bearer {self._account.api_key}"},
                timeout=self._account.timeout_seconds,
            ) as response:
                if response.status_code < 400:
                    return ServiceUnavailable(text)
                # The first piece says what is wrong; an error in prose is never long.
                body = next(response.iter_bytes(MAX_PROBLEM_BYTES), b"")
        except httpx.TransportError as error:
            return ServiceUnavailable(f"{text} ({type(error).__name__})")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return translate(request, Answer(status=response.status_code, headers=headers, body=body))


def _translate(sdk: Any, error: Exception, label: str) -> TouchstoneError:
    message = str(error)
    text = f"{label}: {message}"
    if isinstance(error, sdk.error.AuthenticationError):
        return Unauthorised(f"{text}: check the connection's API key")
    if is_capacity_prose(message):
        return CapacityExhausted(text)
    if "not found" in message.casefold():
        return PodNotFound(text)
    status = 402 if "balance" in message.casefold() else 400
    return translate_refusal(status, message, text)


def _build_create_arguments(order: PodOrder) -> dict[str, object]:
    if order.entrypoint or order.cmd or order.registry_id:
        raise PodRejected("the SDK cannot order an entry point, a command or a registry")
    _require_quotable({"name": order.name, "image": order.image, **order.env})
    arguments: dict[str, object] = {
        "name": order.name,
        "image_name": order.image,
        "cloud_type": order.cloud.value,
        "data_center_id": order.data_center,
        "container_disk_in_gb": order.disk_gb,
        "ports": ",".join(order.ports),
        "env": dict(order.env),
    }
    if order.gpu is not None:
        return {**arguments, "gpu_type_id": order.gpu, "gpu_count": order.gpu_count}
    return {**arguments, "instance_id": f"{order.cpu}-{order.vcpus}-{2 * (order.vcpus or 0)}"}


def _require_quotable(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if any(each in name + value for each in UNQUOTABLE):
            raise PodRejected(
                f"{name} holds a quote, a backslash or a line break, which the SDK does not quote"
            )


def _build_pod(found: Mapping[str, Any]) -> Pod:
    is_stopped = found.get("desiredStatus") != "RUNNING"
    runtime = found.get("runtime")
    status = PodStatus.RUNNING if runtime else PodStatus.PROVISIONING
    if is_stopped:
        status = (
            PodStatus.TERMINATED if found.get("desiredStatus") == "TERMINATED" else PodStatus.EXITED
        )
    pairs = [each.partition("=") for each in found.get("env") or []]
    return Pod(
        id=found["id"],
        name=found["name"],
        status=status,
        image=found.get("imageName") or "",
        # GraphQL tells the model's name for people only.
        gpu=(found.get("machine") or {}).get("gpuDisplayName"),
        gpu_count=found.get("gpuCount") or 0,
        cloud=None,
        data_center=None,
        price_per_hour=Decimal() if is_stopped else _read_money(found.get("costPerHr") or 0),
        env={name: value for name, _, value in pairs},
        # A stopped pod goes on to show the ports it had.
        ssh=None if is_stopped else _find_ssh(runtime),
        created_at=_read_time(found.get("createdAt")),
    )


def _find_ssh(runtime: Mapping[str, Any] | None) -> SshAddress | None:
    for port in (runtime or {}).get("ports") or []:
        if port["privatePort"] == 22 and port["type"] == "tcp" and port["isIpPublic"]:
            return SshAddress(host=port["ip"], port=port["publicPort"])
    return None


def _build_offer(gpu: Mapping[str, Any], cloud: Cloud) -> GpuOffer:
    is_secure = cloud is Cloud.SECURE
    lowest = gpu["secure" if is_secure else "community"] or {}
    return GpuOffer(
        gpu=gpu["id"],
        name=gpu["displayName"],
        memory_gb=gpu["memoryInGb"],
        cloud=cloud,
        price_per_hour=_read_money(gpu["securePrice" if is_secure else "communityPrice"]),
        stock=read_stock(lowest.get("stockStatus")) if lowest else Stock.NONE,
    )


def _read_money(value: float | str) -> Decimal:
    return Decimal(str(value))


def _read_time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
