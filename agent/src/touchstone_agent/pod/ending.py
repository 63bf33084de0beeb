"""
How a pod ends itself, without help.

RunPod does not end pods by itself, and starts a container that ends again. So a pod must ask for
its own end, by every way there is, until somebody kills it from outside.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn
from urllib.parse import quote

import urllib3

from touchstone_agent.adapters.pools import HttpPools
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.logs import Log
from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.pods import POD_PROGRAM, POD_PROTOCOL_VERSION

BACKOFF = Backoff(first_seconds=1, cap_seconds=30)
PATIENCE = 4
"""So often in a row one way may be promised or fail before the next is tried as well."""

MAX_ANSWER_BYTES = 64 * 1024

_TIMEOUT = urllib3.Timeout(connect=5, read=15)

log = Log("ending")


class Way(StrEnum):
    """A way to end a pod, best first: what is only stopped may cost its volume."""

    DELETE = "delete"
    STOP = "stop"
    GRAPH_TERMINATE = "podTerminate"
    GRAPH_STOP = "podStop"


class Answer(StrEnum):
    """
    What a try came to.

    ``ACCEPTED``: the service said yes, which it has also said and done nothing.
    ``REFUSED``: this way is closed. ``UNCLEAR``: it may work later.
    """

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNCLEAR = "unclear"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One HTTP request; ``body`` is JSON."""

    method: str
    url: str
    body: str | None = None


Send = Callable[[Request], tuple[int, bytes]]
"""Return status and body; raise ``OSError``, urllib3's ``HTTPError`` or ``ValueError``."""


def build_request(way: Way, *, api_url: str, pod_id: str) -> Request:
    """Return the request of a way."""
    pod_url = f"{api_url}/v2/pods/{quote(pod_id, safe='')}"
    if way is Way.DELETE:
        return Request(method="DELETE", url=pod_url)
    if way is Way.STOP:
        body = json.dumps({"action": "stop"})
        return Request(method="POST", url=f"{pod_url}/action", body=body)
    fields = "" if way is Way.GRAPH_TERMINATE else " { id desiredStatus }"
    # A JSON string is a string of GraphQL, too.
    query = f"mutation {{ {way.value}(input: {{podId: {json.dumps(pod_id)}}}){fields} }}"
    return Request(method="POST", url=f"{api_url}/graphql", body=json.dumps({"query": query}))


def judge(way: Way, status: int, body: bytes) -> Answer:
    """Say what an answer means; not to know a pod is no proof that it is gone."""
    if status in (408, 429) or status >= 500:
        return Answer.UNCLEAR
    if not 200 <= status < 300:
        return Answer.REFUSED
    if way in (Way.DELETE, Way.STOP):
        return Answer.ACCEPTED
    try:
        answer = parse_json(body, max_bytes=MAX_ANSWER_BYTES)
    except DocumentRefused:
        return Answer.UNCLEAR
    if not isinstance(answer, dict) or "data" not in answer:
        return Answer.UNCLEAR
    return Answer.REFUSED if answer.get("errors") else Answer.ACCEPTED


def goes_on(answer: Answer, times: int) -> bool:
    """
    Tell whether the next way is tried at once.

    :param answer: What this way has answered.
    :param times: How often in a row it has.
    """
    return answer is Answer.REFUSED or times >= PATIENCE


def build_sender(api_key: str | None) -> Send:
    """Return what sends requests for real; without a key they are refused, with a message."""
    pools = HttpPools()
    headers = {
        **({"Authorization": f"Bearer {api_key}"} if api_key else {}),
        "Content-Type": "application/json",
        # The service's front door refuses libraries that do not say who uses them.
        "User-Agent": f"{POD_PROGRAM}/{POD_PROTOCOL_VERSION}",
    }

    def send(request: Request) -> tuple[int, bytes]:
        answer = pools.find(request.url).request(
            request.method,
            request.url,
            body=request.body,
            headers=headers,
            redirect=False,
            retries=False,
            timeout=_TIMEOUT,
            preload_content=False,
        )
        try:
            # Nobody needs the rest: what is cut is no answer, and is asked for again.
            return answer.status, answer.read(MAX_ANSWER_BYTES, decode_content=False)
        finally:
            answer.close()

    return send


class PodTerminator:
    """
    Asks for the pod's end until there is nobody left to ask.

    :param api_url: Base of the API.
    :param pod_id: The pod.
    :param send: Sends a request.
    :param sleep: Waits for seconds.
    """

    def __init__(
        self, *, api_url: str, pod_id: str, send: Send, sleep: Callable[[float], None]
    ) -> None:
        self._api_url = api_url
        self._pod_id = pod_id
        self._send = send
        self._sleep = sleep
        self._streaks: dict[Way, tuple[Answer, int]] = {}

    def run(self) -> NoReturn:
        """Ask for ever; being killed from outside is success."""
        rounds = 0
        while True:
            rounds += 1
            self.try_all()
            self._sleep(BACKOFF.after(rounds))

    def try_all(self) -> None:
        """Try one way after the other, as far as that makes sense now."""
        for way in Way:
            answer, times = self._try(way)
            if not goes_on(answer, times):
                return

    def _try(self, way: Way) -> tuple[Answer, int]:
        request = build_request(way, api_url=self._api_url, pod_id=self._pod_id)
        try:
            status, body = self._send(request)
            answer, told = judge(way, status, body), f"HTTP {status}"
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            answer, told = Answer.UNCLEAR, type(error).__name__
        before, times = self._streaks.get(way, (answer, 0))
        streak = (answer, times + 1 if before is answer else 1)
        self._streaks[way] = streak
        log.warning("pod.end", way=way.value, answer=answer.value, told=told, times=streak[1])
        return streak
