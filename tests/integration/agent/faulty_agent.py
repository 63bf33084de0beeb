"""The agent with one flaw: it kills itself, as a crash would, at the named point."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from touchstone_agent import __main__ as command
from touchstone_agent.adapters import journal, sqs, transfer
from touchstone_agent.protocol.messages import AttemptPhase


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, method: str, is_due: Callable[..., bool] = lambda *_, **__: True) -> None:
    original = getattr(owner, method)

    def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
        if is_due(*args, **kwargs):
            _die()
        return original(self, *args, **kwargs)

    setattr(owner, method, replacement)


def _after(owner: Any, method: str, is_due: Callable[..., bool] = lambda *_, **__: True) -> None:
    original = getattr(owner, method)

    def replacement(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if is_due(*args, **kwargs):
            _die()
        return result

    setattr(owner, method, replacement)


def _runtime() -> Any:
    from touchstone_agent.adapters.docker import DockerRuntime
    from touchstone_agent.adapters.process import ProcessRuntime

    return (DockerRuntime, ProcessRuntime)


def _saves(phase: AttemptPhase) -> Callable[..., bool]:
    return lambda attempt, **kwargs: attempt.phase is phase and kwargs.get("announce", False)


def _is_request(queue: str, _: str) -> bool:
    return queue.startswith("req-")


def _install(point: str) -> None:
    kind, _, name = point.partition(":")
    if kind == "after-saving":
        _after(journal.Journal, "save", _saves(AttemptPhase(name)))
    elif kind == "before-saving":
        _before(journal.Journal, "save", _saves(AttemptPhase(name)))
    elif point == "after-launch":
        for runtime in _runtime():
            _after(runtime, "launch")
    elif point == "after-put":
        _after(transfer.Transfer, "put")
    elif point == "before-delete":
        _before(sqs.Queues, "delete", _is_request)
    elif point == "after-delete":
        _after(sqs.Queues, "delete", _is_request)
    else:
        raise SystemExit(f"unknown point {point}")


if __name__ == "__main__":
    _install(sys.argv[1])
    sys.exit(command.main(sys.argv[2:]))
