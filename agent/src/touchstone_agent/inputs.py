"""Fetches what an attempt needs before its container starts."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from touchstone_agent.adapters.transfer import GrantExpired
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.context import AgentContext
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import Grant, GrantPurpose, Input, Want
from touchstone_agent.staging import stage_inputs

MAX_GRANTS = 4

log = Log("inputs")


class InputStager:
    """
    Puts the inputs of one attempt into its input folder.

    :param handle: The attempt.
    :param context: What it works with.
    :param is_ending: Whether the attempt is to end, or the agent to leave.
    """

    def __init__(
        self, handle: AttemptHandle, context: AgentContext, *, is_ending: Callable[[], bool]
    ) -> None:
        self._handle = handle
        self._context = context
        self._is_ending = is_ending

    def stage(self, folder: Path | None = None, *, only: Collection[str] | None = None) -> None:
        """
        Fetch inputs anew, whatever an earlier try had got.

        :param folder: Whose input folder they go to; ``None`` for the attempt's own.
        :param only: Paths of those that are wanted; ``None`` for all.

        :raises UnsafeArchive: If one of them can never be unpacked.
        :raises PermanentError: If one of them is refused or is not what was promised.
        :raises TransientError: If the store cannot be used now.
        """
        items = [i for i in self._handle.attempt.start.inputs if only is None or i.path in only]
        stage_inputs(items, folder or self._handle.folder, self._fetch)

    def _fetch(self, item: Input, target: Path) -> None:
        grant = item.grant
        for _ in range(MAX_GRANTS):
            if grant.expires_at <= self._context.clock.now():
                grant = self._ask_input(item)
            try:
                self._context.transfer.fetch(
                    grant,
                    target,
                    sha256=item.sha256,
                    size=item.size,
                    is_cancelled=self._is_ending,
                )
            except GrantExpired:
                log.info("grant.expired", attempt=self._handle.name, path=item.path)
                grant = self._ask_input(item)
            else:
                return
        raise TransientError(f"the store refused {MAX_GRANTS} grants for {item.path}")

    def _ask_input(self, item: Input) -> Grant:
        want = Want(path=item.path, sha256="", size=item.size)
        answer = self._context.grant_requester.ask(
            self._handle.ref, GrantPurpose.INPUT, [want], is_ended=self._is_ending
        )
        if item.path in answer.refused:
            raise PermanentError(f"input {item.path} refused: {answer.refused[item.path]}")
        return answer.grants[item.path]
