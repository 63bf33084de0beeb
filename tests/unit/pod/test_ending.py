"""How a pod asks for its own end."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import urllib3

from fakes.waits import are_jittered
from touchstone_agent.pod.ending import (
    BACKOFF,
    PATIENCE,
    Answer,
    PodTerminator,
    Request,
    Way,
    build_request,
    goes_on,
    judge,
)

GOOD = json.dumps({"data": {"podTerminate": None}}).encode()
BAD = json.dumps({"data": None, "errors": [{"message": "no"}]}).encode()


class Service:
    """Answers each way as it is told, and counts what it is asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {way.value: (403, b"") for way in Way} | answers
        self.asked: list[str] = []

    def __call__(self, request: Request) -> tuple[int, bytes]:
        way = next(
            way.value
            for way in Way
            if build_request(way, api_url="http://api", pod_id="p1") == request
        )
        self.asked.append(way)
        answer = self.answers[way]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def make_terminator(service: Service, slept: list[float] | None = None) -> PodTerminator:
    def sleep(seconds: float) -> None:
        assert slept is not None
        slept.append(seconds)
        if len(slept) >= 8:
            raise KeyboardInterrupt  # what SIGKILL is in truth

    return PodTerminator(api_url="http://api", pod_id="p1", send=service, sleep=sleep)


def test_each_way_is_asked_for_as_the_service_documents_it() -> None:
    built = [build_request(way, api_url="http://api", pod_id="p1") for way in Way]
    assert [(each.method, each.url) for each in built] == [
        ("DELETE", "http://api/v2/pods/p1"),
        ("POST", "http://api/v2/pods/p1/action"),
        ("POST", "http://api/graphql"),
        ("POST", "http://api/graphql"),
    ]
    assert built[0].body is None
    assert [json.loads(each.body or "") for each in built[1:]] == [
        {"action": "stop"},
        {"query": 'mutation { podTerminate(input: {podId: "p1"}) }'},
        {"query": 'mutation { podStop(input: {podId: "p1"}) { id desiredStatus } }'},
    ]


@pytest.mark.parametrize(
    ("way", "status", "body", "answer"),
    [
        (Way.DELETE, 204, b"", Answer.ACCEPTED),
        (Way.DELETE, 404, b"", Answer.REFUSED),
        (Way.DELETE, 403, b"", Answer.REFUSED),
        (Way.DELETE, 302, b"", Answer.REFUSED),
        (Way.DELETE, 429, b"", Answer.UNCLEAR),
        (Way.DELETE, 503, b"<html>", Answer.UNCLEAR),
        (Way.STOP, 200, b"{}", Answer.ACCEPTED),
        (Way.STOP, 409, b"", Answer.REFUSED),
        (Way.GRAPH_TERMINATE, 200, GOOD, Answer.ACCEPTED),
        (Way.GRAPH_TERMINATE, 200, BAD, Answer.REFUSED),
        (Way.GRAPH_TERMINATE, 410, b"", Answer.REFUSED),
        (Way.GRAPH_STOP, 200, b"<html>", Answer.UNCLEAR),
        (Way.GRAPH_STOP, 200, b"[]", Answer.UNCLEAR),
    ],
)
def test_what_an_answer_means(way: Way, status: int, body: bytes, answer: Answer) -> None:
    assert judge(way, status, body) is answer


@pytest.mark.parametrize(
    ("answer", "times", "tried"),
    [
        (Answer.REFUSED, 1, True),
        (Answer.ACCEPTED, 1, False),
        (Answer.UNCLEAR, PATIENCE - 1, False),
        (Answer.UNCLEAR, PATIENCE, True),
        (Answer.ACCEPTED, PATIENCE, True),
    ],
)
def test_when_the_next_way_is_tried(answer: Answer, times: int, tried: bool) -> None:
    assert goes_on(answer, times) is tried


def test_what_is_promised_is_not_asked_for_in_other_ways() -> None:
    service = Service(delete=(204, b""))
    make_terminator(service).try_all()
    assert service.asked == ["delete"]


def test_what_is_refused_is_tried_in_every_way() -> None:
    service = Service()
    make_terminator(service).try_all()
    assert service.asked == ["delete", "stop", "podTerminate", "podStop"]


def test_a_pod_that_may_only_be_stopped_is_stopped() -> None:
    service = Service(stop=(200, b"{}"))
    make_terminator(service).try_all()
    assert service.asked == ["delete", "stop"]


@pytest.mark.parametrize(
    "problem",
    [urllib3.exceptions.HTTPError("no"), OSError("no"), ValueError("no"), (500, b"")],
)
def test_an_api_that_does_not_work_is_asked_again_before_anything_lesser(problem: Any) -> None:
    service = Service(delete=problem)
    terminator = make_terminator(service)
    for _ in range(PATIENCE - 1):
        terminator.try_all()
    assert set(service.asked) == {"delete"}
    terminator.try_all()
    assert service.asked[-3:] == ["stop", "podTerminate", "podStop"]


def test_patience_is_for_the_same_answer_in_a_row() -> None:
    service = Service(delete=[(500, b""), (204, b""), (500, b""), (204, b"")])
    terminator = make_terminator(service)
    for _ in range(4):
        terminator.try_all()
    assert service.asked == ["delete"] * 4


def test_it_never_gives_up_and_waits_no_longer_than_half_a_minute() -> None:
    slept: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        make_terminator(Service(), slept).run()
    assert are_jittered(slept, [1, 2, 4, 8, 16, 30, 30, 30])
    assert BACKOFF.cap_seconds == 30


def test_an_error_is_logged_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    service = Service(delete=OSError("Bearer sesame"))
    make_terminator(service).try_all()
    assert "sesame" not in caplog.text
