"""
Every conversation with REST v2, written once for both clients.

A conversation is a generator: it yields the request to send, or a pause to make, gets the answer
sent back, and returns the result. It does no input or output itself.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar
from urllib.parse import quote

from pydantic import ValidationError

from touchstone.core.offers import CpuOffer, GpuOffer
from touchstone.core.pods import Bill, Cloud, Pod, PodOrder
from touchstone.hooks.runpod.api import LogLine
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
from touchstone.hooks.runpod.wire import (
    WireBill,
    WireCpuTypes,
    WireGpuTypes,
    WireLogLine,
    WireModel,
    WirePod,
    WirePods,
    WireProblem,
    WireRegistries,
    WireRegistry,
    build_create_body,
)
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.words import build_line

TRIES = 3
BACKOFF = Backoff(first_seconds=0.5, cap_seconds=10)
MAX_PAGES = 1000
MAX_BODY_BYTES = 16 * 1024**2
"""More than a page of pods or the catalogue ever had; what is longer is no answer."""

MAX_LOG_BYTES = 1024**2
NO_CAPACITY_WORDS = (
    "no longer any instances available",
    "no instances available",
    "does not have the resources",
    "not enough free gpus",
    "could not be placed",
)
"""No capacity has no code of its own in either API, only prose."""

WireType = TypeVar("WireType", bound=WireModel)


class Effect(Enum):
    """What a request does there, and with it what a lost answer means."""

    NONE = "none"
    CHANGE = "change"


@dataclass(frozen=True, kw_only=True)
class ApiRequest:
    """One request, without the account's part."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = field(default=None, repr=False)
    effect: Effect = Effect.NONE

    @property
    def label(self) -> str:
        """Return what messages call it."""
        return f"{self.method} {self.path}"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back; ``headers`` have lower-case names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Broken:
    """
    No answer came back.

    :param is_sent: Whether the request may have arrived.
    """

    reason: str
    is_sent: bool


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Wait before going on."""

    seconds: float


Step = ApiRequest | Pause
Reply = Answer | Broken | None
Result = TypeVar("Result")
Conversation = Generator[Step, Reply, Result]


@dataclass(frozen=True, kw_only=True)
class PodList:
    """All pods, and how many requests it took to read them."""

    pods: list[Pod]
    requests: int


def list_pods() -> Conversation[PodList]:
    """Read all pages; a page that is missing is an error, never a shorter list."""
    pods: dict[str, Pod] = {}
    params: dict[str, str] = {}
    seen: set[str] = set()
    for page_number in range(1, MAX_PAGES + 1):
        request = ApiRequest(method="GET", path="/v2/pods", params=params)
        page = _decode(WirePods, (yield from _send(request)), request)
        # By id: a pod created between two pages may move another one onto both.
        pods.update((wire.id, wire.build()) for wire in page.pods)
        if page.pagination is None or not page.pagination.has_next:
            return PodList(pods=list(pods.values()), requests=page_number)
        cursor = page.pagination.cursor
        if not cursor or cursor in seen:
            raise ServiceUnavailable("GET /v2/pods: the list has no end that can be trusted")
        seen.add(cursor)
        params = {"cursor": cursor}
    raise ServiceUnavailable(f"GET /v2/pods: more than {MAX_PAGES} pages")


def get_pod(pod_id: str) -> Conversation[Pod]:
    """Read one pod."""
    request = ApiRequest(method="GET", path=_build_pod_path(pod_id))
    return _decode(WirePod, (yield from _send(request)), request).build()


def create_pod(order: PodOrder) -> Conversation[Pod]:
    """Rent a pod; one request, whatever happens to it."""
    request = ApiRequest(
        method="POST", path="/v2/pods", body=build_create_body(order), effect=Effect.CHANGE
    )
    answer = yield from _send(request)
    return _decode(WirePod, answer, request).build()


def terminate_pod(pod_id: str) -> Conversation[None]:
    """Ask for a pod's end."""
    request = ApiRequest(method="DELETE", path=_build_pod_path(pod_id), effect=Effect.CHANGE)
    answer = yield from _send(request)
    if answer.status != 204:
        raise Ambiguous(f"{request.label}: answered {answer.status} where only 204 means yes")


def list_registries() -> Conversation[list[tuple[str, str]]]:
    """Read id and name of each login of a registry, from all pages."""
    found: dict[str, str] = {}
    params: dict[str, str] = {}
    seen: set[str] = set()
    for _ in range(MAX_PAGES):
        request = ApiRequest(method="GET", path="/v2/registries", params=params)
        page = _decode(WireRegistries, (yield from _send(request)), request)
        found.update((each.id, each.name) for each in page.registries)
        if page.pagination is None or not page.pagination.has_next:
            return list(found.items())
        cursor = page.pagination.cursor
        if not cursor or cursor in seen:
            break
        seen.add(cursor)
        params = {"cursor": cursor}
    raise ServiceUnavailable("GET /v2/registries: the list has no end that can be trusted")


def create_registry(name: str, login: str, password: str) -> Conversation[str]:
    """Leave the login of a registry there, and return its id; one request."""
    body = {"name": name, "username": login, "password": password}
    request = ApiRequest(method="POST", path="/v2/registries", body=body, effect=Effect.CHANGE)
    return _decode(WireRegistry, (yield from _send(request)), request).id


def delete_registry(registry_id: str) -> Conversation[None]:
    """Remove the login of a registry; one that is gone already is success."""
    path = f"/v2/registries/{quote(registry_id, safe='')}"
    request = ApiRequest(method="DELETE", path=path, effect=Effect.CHANGE)
    try:
        yield from _send(request)
    except PodNotFound:
        pass
    except PodRejected as error:
        # It has no 404 of its own.
        if "not found" not in str(error).casefold():
            raise


def list_offers() -> Conversation[list[GpuOffer]]:
    """Read the catalogue with the stock of each cloud."""
    offers: list[GpuOffer] = []
    for cloud in Cloud:
        params = {"include": "AVAILABILITY", "product": "POD", "count": "1", "cloud": cloud.value}
        request = ApiRequest(method="GET", path="/v2/catalog/gpus", params=params)
        catalogue = _decode(WireGpuTypes, (yield from _send(request)), request)
        offers += [offer for gpu in catalogue.gpus if (offer := gpu.find_offer(cloud))]
    return offers


def list_cpus() -> Conversation[list[CpuOffer]]:
    """Read the catalogue of CPUs, which tells no stock."""
    request = ApiRequest(method="GET", path="/v2/catalog/cpus")
    catalogue = _decode(WireCpuTypes, (yield from _send(request)), request)
    return [cpu.build() for cpu in catalogue.cpus]


def list_bills(pod_id: str | None = None) -> Conversation[list[Bill]]:
    """Read what pods have cost by RunPod's own count."""
    params = {"bucketSize": "day"} | ({"podId": pod_id} if pod_id else {})
    request = ApiRequest(method="GET", path="/v2/billing/pods", params=params)
    return _decode(WireBill, (yield from _send(request)), request).build()


def check_key() -> Conversation[None]:
    """Ask for something that every good key may see."""
    yield from _send(ApiRequest(method="GET", path="/v2/account/ssh-keys"))


def build_log_request(pod_id: str, source: str | None, tail: int) -> ApiRequest:
    """Return the request of a pod's log; its answer is a stream that never ends by itself."""
    params = {"tail": str(tail)} | ({"source": source} if source else {})
    return ApiRequest(method="GET", path=f"{_build_pod_path(pod_id)}/logs", params=params)


def decode_log_lines(lines: Iterable[str]) -> list[LogLine]:
    """Return the log lines of a stream of server-sent events, each once, oldest first."""
    found: dict[str, LogLine] = {}
    event_id = ""
    for line in lines:
        name, _, value = line.partition(":")
        if name == "id":
            event_id = value.strip()
        elif name == "data":
            try:
                parsed = WireLogLine.model_validate_json(value.strip()).build()
            except ValidationError:
                continue
            # A stream that was cut repeats itself; ids without a number are not unique.
            found.setdefault(f"{event_id} {parsed.source} {parsed.text}", parsed)
    return sorted(found.values(), key=lambda each: each.at)


def _build_pod_path(pod_id: str) -> str:
    return f"/v2/pods/{quote(pod_id, safe='')}"


def _send(request: ApiRequest) -> Conversation[Answer]:
    """
    Send a request and return a good answer; a read is repeated when the service stumbles.

    A change is sent once: RunPod knows no idempotency key, so its repetition is another change.
    """
    tries = TRIES if request.effect is Effect.NONE else 1
    for number in range(1, tries + 1):
        reply = yield request
        try:
            return check(request, reply)
        except (ServiceUnavailable, Throttled) as error:
            wait = BACKOFF.after(number, asked=error.retry_after)
            if number == tries or wait > BACKOFF.cap_seconds:
                raise
            yield Pause(seconds=wait)
    raise AssertionError("unreachable: the last try returns or raises")


def check(request: ApiRequest, reply: Reply) -> Answer:
    """Return a good answer, or raise what the caller should know."""
    if isinstance(reply, Answer):
        if 200 <= reply.status < 300:
            return reply
        raise translate(request, reply)
    reason = reply.reason if reply else "nothing was sent"
    if request.effect is Effect.CHANGE and reply is not None and reply.is_sent:
        raise Ambiguous(f"{request.label}: no answer ({reason}); it may have happened")
    raise ServiceUnavailable(f"{request.label}: {reason}")


def translate(request: ApiRequest, answer: Answer) -> TouchstoneError:
    """Return the error of an answer that is none of success."""
    problem = _read_problem(answer)
    text = f"{request.label}: {answer.status} {problem}".strip()
    retry_after = _read_retry_after(answer)
    status = answer.status
    if status >= 500 or 300 <= status < 400:
        if request.effect is Effect.CHANGE:
            return Ambiguous(f"{text}; it may have happened")
        return ServiceUnavailable(text, retry_after=retry_after)
    if status == 429:
        return Throttled(text, retry_after=retry_after)
    if status == 404:
        is_create = request.method == "POST"
        return PodRejected(text) if is_create else PodNotFound(text)
    if status == 410:
        return ApiGone(f"{text}: RunPod has switched this API off, upgrade Touchstone")
    return translate_refusal(status, problem, text)


def translate_refusal(status: int, problem: str, text: str) -> TouchstoneError:
    """Return the error of a refusal that will not change by itself, unless capacity does."""
    if status == 401:
        return Unauthorised(f"{text}: check the connection's API key")
    if status == 402 or "spend limit" in problem.casefold():
        return OutOfFunds(f"{text}: add funds or raise the limit in RunPod's console")
    if status == 403:
        hint = ": Cloudflare refused the client" if "1010" in problem else ""
        return Forbidden(text + hint)
    if status in (400, 409) and is_capacity_prose(problem):
        return CapacityExhausted(text)
    return PodRejected(text)


def is_capacity_prose(text: str) -> bool:
    """Return whether a message says that nothing is free."""
    folded = text.casefold()
    return any(words in folded for words in NO_CAPACITY_WORDS)


def _decode(kind: type[WireType], answer: Answer, request: ApiRequest) -> WireType:
    try:
        return kind.model_validate(parse_json(answer.body, max_bytes=MAX_BODY_BYTES))
    except (DocumentRefused, ValidationError) as error:
        text = f"{request.label}: {answer.status} with an answer that makes no sense"
        if request.effect is Effect.CHANGE:
            raise Ambiguous(f"{text}; it may have happened") from error
        raise ServiceUnavailable(text) from error


def _read_problem(answer: Answer) -> str:
    try:
        document = parse_json(answer.body, max_bytes=MAX_BODY_BYTES)
        return build_line(WireProblem.model_validate(document).text)
    except (DocumentRefused, ValidationError):
        return build_line(answer.body[:200].decode(errors="replace"))


def _read_retry_after(answer: Answer) -> float | None:
    try:
        seconds = float(answer.headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds < math.inf else None
