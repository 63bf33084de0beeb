"""Asking the control plane for presigned requests, for as long as it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.ports import Clock
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.errors import TouchstoneError
from touchstone_agent.protocol.messages import (
    AttemptRef,
    Grant,
    GrantPurpose,
    Grants,
    GrantsWanted,
    Want,
)

MAX_WANTS = 200
"""Wants in one message: the grants in the answer are about 2 KB each, and a queue takes 1 MiB."""

BACKOFF = Backoff(first_seconds=5, cap_seconds=60)

_Key = tuple[AttemptRef, GrantPurpose, str]


class AskingEnded(TouchstoneError):
    """The attempt needs the presigned requests no more."""


@dataclass(kw_only=True)
class Answer:
    """
    What the control plane gave.

    :param grants: A grant by path.
    :param refused: The reason by path.
    """

    grants: dict[str, Grant] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


class GrantRequester:
    """
    Matches answers to those who asked; safe to use from several threads.

    :param outbox: Where questions go.
    :param clock: The clock.
    :param backoff: Time before a question is put again.
    """

    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        backoff: Backoff = BACKOFF,
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._backoff = backoff
        self._changed = threading.Condition()
        self._waiting: dict[_Key, Answer] = {}

    def ask(
        self,
        ref: AttemptRef,
        purpose: GrantPurpose,
        wants: Sequence[Want],
        *,
        is_ended: Callable[[], bool],
    ) -> Answer:
        """
        Ask until every want is granted or refused.

        :param is_ended: Whether the grants are not needed any more; asked about every second.
        :raises AskingEnded: If they are not.
        """
        answer = Answer()
        keys = {want.path: (ref, purpose, want.path) for want in wants}
        with self._changed:
            for key in keys.values():
                self._waiting[key] = answer
        try:
            asked = 0
            while open_wants := [w for w in wants if not _has(answer, w.path)]:
                asked += 1
                self._send(ref, purpose, open_wants)
                self._wait(answer, open_wants, self._backoff.after(asked), is_ended)
        finally:
            with self._changed:
                for key in keys.values():
                    self._waiting.pop(key, None)
        return answer

    def receive(self, message: Grants) -> bool:
        """
        Hand an answer to the waiting callers.

        :return: ``False`` if no caller waits for any part of it.
        """
        wanted = False
        with self._changed:
            for path in (*message.grants, *message.refused):
                answer = self._waiting.get((message.ref, message.purpose, path))
                if answer is None:
                    continue
                wanted = True
                if path in message.grants:
                    answer.grants[path] = message.grants[path]
                else:
                    answer.refused[path] = message.refused[path]
            self._changed.notify_all()
        return wanted

    def wake(self) -> None:
        """Let everybody who waits ask whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def _send(self, ref: AttemptRef, purpose: GrantPurpose, wants: Sequence[Want]) -> None:
        for first in range(0, len(wants), MAX_WANTS):
            part = tuple(wants[first : first + MAX_WANTS])
            event = GrantsWanted(ref=ref, purpose=purpose, wants=part)
            key = f"grants {ref.task_key} {ref.fence} {purpose} {part[0].path}"
            self._outbox.tell(key, event, group=ref.task_key)

    def _wait(
        self, answer: Answer, wants: Sequence[Want], seconds: float, is_ended: Callable[[], bool]
    ) -> None:
        deadline = self._clock.monotonic() + seconds
        with self._changed:
            while not all(_has(answer, w.path) for w in wants):
                if is_ended():
                    raise AskingEnded("grants are not needed any more")
                left = deadline - self._clock.monotonic()
                if left <= 0:
                    return
                self._changed.wait(timeout=min(left, 1.0))


def _has(answer: Answer, path: str) -> bool:
    return path in answer.grants or path in answer.refused
