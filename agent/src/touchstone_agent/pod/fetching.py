"""Fetches the inputs, with whatever grants the control plane has sent last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from touchstone_agent.adapters.transfer import GrantExpired, TransferCancelled
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.logs import Log
from touchstone_agent.pod.home import PodHome, read_json, write_json
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import Grant, Input

BACKOFF = Backoff(first_seconds=2, cap_seconds=30)
MAX_FAILURES = 6
"""Each is several tries; then the pod costs more than it is worth."""

_LOOK_SECONDS = 0.5

log = Log("fetching")


class Fetcher(Protocol):
    """What fetches one file, as ``Transfer`` does."""

    def fetch(
        self,
        grant: Grant,
        target: Path,
        *,
        sha256: str,
        size: int,
        is_cancelled: Callable[[], bool],
    ) -> None:
        """Fetch a file and check it."""
        ...


def keep_grants(home: PodHome, items: tuple[Input, ...]) -> None:
    """Write down grants that have come later than the order."""
    grants = {item.path: item.grant.model_dump(mode="json") for item in items}
    write_json(home.grants_file, grants)


def find_grant(home: PodHome, item: Input) -> Grant:
    """Return the newest grant for an input."""
    later = (read_json(home.grants_file) or {}).get(item.path)
    try:
        return item.grant if later is None else Grant.model_validate(later)
    except ValidationError:
        return item.grant


class InputFetcher:
    """
    Fetches one input after the other, however long it takes to be given a grant.

    :param home: The pod's home.
    :param transfer: Moves files.
    :param stopping: Set when the attempt is to end.
    :param want_grants: Told the inputs whose grants the store refuses; nothing when there is none.
    """

    def __init__(
        self,
        home: PodHome,
        transfer: Fetcher,
        *,
        stopping: threading.Event,
        want_grants: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._home = home
        self._transfer = transfer
        self._stopping = stopping
        self._want_grants = want_grants

    def fetch(self, item: Input, target: Path) -> None:
        """
        Fetch one input to a path.

        :raises TransferCancelled: If the attempt is to end.
        :raises PermanentError: If the bytes are not those that were promised.
        :raises TransientError: If the store could not be reached for long.
        """
        failures = 0
        while True:
            grant = find_grant(self._home, item)
            try:
                self._transfer.fetch(
                    grant,
                    target,
                    sha256=item.sha256,
                    size=item.size,
                    is_cancelled=self._stopping.is_set,
                )
            except GrantExpired:
                # Whether it has expired is the store's word: this clock may be wrong.
                log.info("grant.expired", path=item.path)
                self._await_other(item, grant)
            except TransferCancelled:
                raise
            except TransientError as error:
                failures += 1
                if failures >= MAX_FAILURES:
                    raise
                log.warning("fetch.failed", path=item.path, problem=str(error))
                self._pause(BACKOFF.after(failures))
            else:
                return

    def _await_other(self, item: Input, refused: Grant) -> None:
        self._want_grants((item.path,))
        while find_grant(self._home, item).url == refused.url:
            self._pause(_LOOK_SECONDS)
        self._want_grants(())

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise TransferCancelled("the attempt is to end")
