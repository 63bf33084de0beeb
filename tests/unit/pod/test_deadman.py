from __future__ import annotations

from collections.abc import Callable

import pytest

from touchstone_agent.pod import deadman
from touchstone_agent.pod.deadman import DeadMan


class Threads:
    """Runs what is begun when the test wants it."""

    def __init__(self) -> None:
        self.begun: list[Callable[[], None]] = []
        self.alive = True

    def __call__(self, work: Callable[[], None]) -> Callable[[], bool]:
        self.begun.append(work)
        return lambda: self.alive


class Steps:
    """Fails as often as told; then it is ended from outside, as a pod is."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
        if len(self.reasons) <= self.failures:
            raise RuntimeError("no")
        raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(deadman.time, "sleep", pauses.append)
    return pauses


def test_who_ends_the_pod_is_there_before_there_is_a_reason() -> None:
    """Later it might not be started any more: a trainer may use up all processes."""
    threads, steps = Threads(), Steps()
    man = DeadMan(lambda: None, steps, threads)
    man.look()
    man.look()
    assert (len(threads.begun), steps.reasons) == (1, [])


def test_the_end_is_for_good() -> None:
    reasons = iter([None, "the lease"])
    threads, steps = Threads(), Steps()
    man = DeadMan(lambda: next(reasons), steps, threads)
    for _ in range(4):
        man.look()
    with pytest.raises(KeyboardInterrupt):
        threads.begun[0]()
    assert steps.reasons == ["the lease"]


def test_an_end_that_failed_is_begun_again_after_a_pause(slept: list[float]) -> None:
    threads, steps = Threads(), Steps(failures=2)
    DeadMan(lambda: "over", steps, threads).look()
    with pytest.raises(KeyboardInterrupt):
        threads.begun[0]()
    assert (steps.reasons, slept) == (["over"] * 3, [1, 1])


def test_one_that_is_gone_is_replaced() -> None:
    threads, steps = Threads(), Steps()
    man = DeadMan(lambda: "over", steps, threads)
    man.look()
    threads.alive = False
    man.look()
    assert len(threads.begun) == 2
    with pytest.raises(KeyboardInterrupt):
        threads.begun[1]()
    assert steps.reasons == ["over"]
