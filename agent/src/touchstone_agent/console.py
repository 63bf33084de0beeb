"""Sends a console to the store while it is being written."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace

from touchstone_agent.adapters.files import open_below, read_below, size_below
from touchstone_agent.adapters.transfer import Transfer, TransferCancelled
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.cursor import Chunk, plan_spans
from touchstone_agent.grants import AskingEnded, GrantRequester
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.messages import GrantPurpose, Want

CONSOLE = "console.log"
SLACK_BYTES = 256 * 1024
"""The runner's notes about what it left out come on top of the limit."""

log = Log("console")


class ConsoleUploader:
    """
    Uploads what is behind the cursor, again and again, until the file is complete.

    :param handle: The attempt.
    :param grant_requester: Asks for presigned requests.
    :param transfer: Moves the bytes.
    :param flush_seconds: Between two looks at the file.
    :param is_stopping: Whether the agent is about to leave; the next one goes on at the cursor.
    """

    def __init__(
        self,
        handle: AttemptHandle,
        *,
        grant_requester: GrantRequester,
        transfer: Transfer,
        flush_seconds: float,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._handle = handle
        self._grant_requester = grant_requester
        self._transfer = transfer
        self._flush_seconds = flush_seconds
        self._is_stopping = is_stopping
        self._out = handle.folder / "out"
        self._complete = threading.Event()
        self._backoff = Backoff(first_seconds=1, cap_seconds=60)

    def complete(self) -> None:
        """Say that the file will not grow any more."""
        self._complete.set()

    def run(self) -> None:
        """Upload until the complete file is uploaded, refused, or not wanted any more."""
        if self._handle.attempt.is_private:
            log.error("console.withheld", attempt=self._handle.name)
            return
        failures = 0
        while not self._is_ended():
            complete = self._complete.is_set()  # looked at before the size, or the end is lost
            try:
                pending = self._upload_pending()
            except (AskingEnded, TransferCancelled):
                return
            except TransientError as error:
                failures += 1
                wait = self._backoff.after(failures)
                log.warning("console.delayed", attempt=self._handle.name, problem=str(error))
                self._handle.dropped.wait(wait)
                continue
            except (FileNotFoundError, PermanentError) as error:
                log.error("console.unreadable", attempt=self._handle.name, problem=str(error))
                self._handle.update(lambda a: replace(a, chunks=(), console_closed=True))
            failures = 0
            if self._handle.attempt.console_closed:
                return
            if not pending and complete:
                self._handle.update(lambda a: replace(a, console_closed=True))
                return
            if not pending:
                self._complete.wait(self._flush_seconds)

    def _is_ended(self) -> bool:
        return self._is_stopping() or self._handle.dropped.is_set()

    def _upload_pending(self) -> bool:
        """Upload one round of chunks; tell whether there was any."""
        if not self._handle.attempt.chunks:
            self._plan()
        chunks = self._handle.attempt.chunks
        if chunks:
            self._upload(chunks)
        return bool(chunks)

    def _plan(self) -> None:
        attempt = self._handle.attempt
        # The runner keeps to the limit; submitted code that writes the file itself may not.
        most = attempt.start.limits.console_bytes + SLACK_BYTES
        size = size_below(self._out, CONSOLE, is_owners=True)
        spans = plan_spans(attempt.console_cursor, min(most, size))
        chunks = []
        for offset, size in spans:
            data = read_below(self._out, CONSOLE, limit=size, offset=offset, is_owners=True)
            digest = hashlib.sha256(data).hexdigest()
            chunks.append(Chunk(offset=offset, size=len(data), sha256=digest))
        if chunks:
            self._handle.update(lambda a: replace(a, chunks=tuple(chunks)))

    def _upload(self, chunks: tuple[Chunk, ...]) -> None:
        wants = [Want(path=c.path, sha256=c.sha256, size=c.size) for c in chunks]
        answer = self._grant_requester.ask(
            self._handle.ref, GrantPurpose.CONSOLE, wants, is_ended=self._is_ended
        )
        if answer.refused:
            reason = next(iter(answer.refused.values()))
            log.warning("console.refused", attempt=self._handle.name, reason=reason)
            self._handle.update(lambda a: replace(a, chunks=(), console_closed=True))
            return
        with open_below(self._out, CONSOLE, is_owners=True) as file:
            for chunk in chunks:
                # An expired grant ends this round; the next asks again for what is left.
                self._transfer.put(
                    answer.grants[chunk.path],
                    file,
                    offset=chunk.offset,
                    size=chunk.size,
                    is_cancelled=self._is_ended,
                )
                self._pass(chunk)

    def _pass(self, chunk: Chunk) -> None:
        self._handle.update(lambda a: replace(a, console_cursor=chunk.end, chunks=a.chunks[1:]))
