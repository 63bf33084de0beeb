"""Asking the control plane for the login of a registry, for one pull."""

from __future__ import annotations

import threading
from collections.abc import Callable

from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.ports import Clock
from touchstone_agent.grants import AskingEnded
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.logins import PullKey, RegistryLogin
from touchstone_agent.protocol.messages import AttemptRef, PullLogin, PullLoginWanted

BACKOFF = Backoff(first_seconds=5, cap_seconds=60)
MAX_QUESTIONS = 4


class LoginRequester:
    """
    Matches logins to the pulls that they are for; safe to use from several threads.

    Nothing of a login is kept here once its pull has it.

    :param outbox: Where questions go.
    :param clock: The clock.
    :param server: This server.
    :param backoff: Time before a question is put again.
    """

    def __init__(
        self, outbox: Outbox, clock: Clock, *, server: str, backoff: Backoff = BACKOFF
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._server = server
        self._backoff = backoff
        self._changed = threading.Condition()
        self._waiting: dict[str, PullLogin | None] = {}

    def ask(
        self, ref: AttemptRef | None, image: str, *, is_ended: Callable[[], bool]
    ) -> RegistryLogin | None:
        """
        Ask who may pull an image.

        :param ref: The attempt that needs it; ``None`` for one that is to be there before.
        :param is_ended: Whether the pull needs it no more; asked about every second.
        :return: ``None`` if its registry lets everybody.
        :raises AskingEnded: If the pull needs it no more.
        :raises TransientError: If the control plane does not say, now.
        """
        key = PullKey()
        wanted = PullLoginWanted(ref=ref, image=image, public_key=key.public)
        with self._changed:
            self._waiting[key.public] = None
        try:
            answer = self._find_answer(wanted, is_ended)
        finally:
            with self._changed:
                self._waiting.pop(key.public, None)
        if answer.problem is not None:
            raise TransientError(f"image {image}: {answer.problem}")
        if answer.sealed is None:
            return None
        return key.open(answer.sealed, server=self._server, image=image)

    def receive(self, message: PullLogin) -> bool:
        """
        Hand a login to the pull that it is for.

        :return: ``False`` if no pull waits for it.
        """
        with self._changed:
            if message.public_key not in self._waiting:
                return False
            self._waiting[message.public_key] = message
            self._changed.notify_all()
        return True

    def wake(self) -> None:
        """Let everybody who waits ask whether it is over."""
        with self._changed:
            self._changed.notify_all()

    def _find_answer(self, wanted: PullLoginWanted, is_ended: Callable[[], bool]) -> PullLogin:
        group = wanted.ref.task_key if wanted.ref else f"server-{self._server}"
        for asked in range(1, MAX_QUESTIONS + 1):
            self._outbox.tell(f"login {wanted.public_key}", wanted, group=group)
            deadline = self._clock.monotonic() + self._backoff.after(asked)
            with self._changed:
                while (answer := self._waiting[wanted.public_key]) is None:
                    if is_ended():
                        raise AskingEnded("a login is not needed any more")
                    left = deadline - self._clock.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(timeout=min(left, 1.0))
            if answer is not None:
                return answer
        raise TransientError(f"image {wanted.image}: nobody says who may pull it")
