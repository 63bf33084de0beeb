"""
Submissions and consoles as server-sent events: what changes is sent when it does, to programs.

Our own pages ask over and over instead: a browser opens six connections to a host, and a stream in
each of six tabs would leave none for Airflow.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from touchstone.core.answers.tasks import LogPage
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.states import SubmissionStatus
from touchstone.stores.tables import RecordNotFound
from touchstone.ui.conditional import compute_tag
from touchstone.ui.console import read_page
from touchstone.ui.dependencies import (
    CallerDep,
    ClockDep,
    ObjectsDep,
    QueueReaderDep,
    RecordsDep,
    SettingsDep,
)
from touchstone.ui.queries import get_visible_submission
from touchstone.ui.routes.submissions import get_submission
from touchstone_agent.protocol.errors import TransientError

router = APIRouter()

MAX_STREAMS: Final = 50
"""Streams that one process has at a time: each is a look a second, at its cost."""
MAX_OF_USER: Final = 5
"""And of these one user."""
MAX_SECONDS: Final = 600.0
"""A stream ends then, so that a login that was taken back is; the program asks for the rest."""
PAUSE_SECONDS: Final = 1.0

_OVER: Final = frozenset(
    {
        SubmissionStatus.SUCCESS,
        SubmissionStatus.REJECTED,
        SubmissionStatus.ERROR,
        SubmissionStatus.CANCELLED,
        SubmissionStatus.RETRACTED,
    }
)
"""Nothing becomes of a submission any more by itself; an accepted one may be about to train."""

_ENDS: Final = (RecordNotFound, RecordUnreadable, TransientError)
"""What ends a stream in the middle: who asks for the rest is told why."""

LastId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=200, pattern=r"^[\x21-\x7e]*$")
]
"""The id of the last event that a program has: what follows it is sent."""


class StreamsBusy(TransientError):
    """As many streams are open as may be."""


class StreamGate:
    """
    Counts streams.

    :param total: Most at a time.
    :param of_user: Most of one user.
    """

    def __init__(self, total: int = MAX_STREAMS, of_user: int = MAX_OF_USER) -> None:
        self._total = total
        self._of_user = of_user
        self._open: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def enter(self, user: str) -> Iterator[None]:
        """
        Have a stream open.

        :raises StreamsBusy: If as many are as may be.
        """
        with self._lock:
            mine = self._open.get(user, 0)
            if mine >= self._of_user or sum(self._open.values()) >= self._total:
                raise StreamsBusy(
                    f"stream: {self._of_user} of a user and {self._total} in all are open at a "
                    "time; close one, or poll",
                    retry_after=10,
                )
            self._open[user] = mine + 1
        try:
            yield
        finally:
            with self._lock:
                self._open[user] -= 1
                if not self._open[user]:
                    del self._open[user]


@dataclass(frozen=True, kw_only=True)
class Streaming:
    """
    What streams have in common.

    :param gate: Counts them.
    :param sleep: Waits that many seconds.
    :param monotonic: Seconds that only go up.
    """

    gate: StreamGate = field(default_factory=StreamGate)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    monotonic: Callable[[], float] = time.monotonic


_STREAMING = Streaming()


async def get_streaming() -> Streaming:
    """Return what the streams of this process have in common."""
    return _STREAMING


StreamingDep = Annotated[Streaming, Depends(get_streaming)]


def open_stream(
    caller: CallerDep, records: RecordsDep, streaming: StreamingDep, submission_id: str
) -> Iterator[None]:
    """
    Let a stream of a submission begin, and count it until it ends.

    What is refused is refused here: once a stream has begun, its status is sent.
    """
    get_visible_submission(records, caller, submission_id)
    with streaming.gate.enter(caller.name):
        yield


def check_task(records: RecordsDep, submission_id: str, task_id: str) -> None:
    """Refuse a task that there is not."""
    records.get_task(submission_id, task_id)


@router.get(
    "/submissions/{submission_id}/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(open_stream)],
)
async def follow_submission(
    caller: CallerDep,
    records: RecordsDep,
    reader: QueueReaderDep,
    clock: ClockDep,
    streaming: StreamingDep,
    submission_id: str,
    last_id: LastId = None,
) -> AsyncIterator[ServerSentEvent]:
    """
    Send a submission and its tasks at once, and again whenever something of them has changed.

    Each event ``submission`` has what ``GET /submissions/ID`` answers. The event ``end`` comes when
    nothing becomes of it any more by itself. A stream lasts ten minutes; send ``Last-Event-ID``
    with the next one.
    """
    ends = streaming.monotonic() + MAX_SECONDS

    def read() -> tuple[str, object, bool]:
        document = get_submission(caller, records, reader.read(), clock, submission_id)
        tag = compute_tag(json.dumps(document, separators=(",", ":")).encode())
        told = document["submission"]
        is_over = isinstance(told, dict) and told.get("status") in _OVER
        return tag.removeprefix("W/").strip('"'), document, is_over

    while True:
        try:
            tag, document, is_over = await run_in_threadpool(read)
        except _ENDS:
            return
        if tag != last_id:
            yield ServerSentEvent(event="submission", id=tag, data=document)
            last_id = tag
        if is_over:
            yield ServerSentEvent(event="end", data={})
            return
        if streaming.monotonic() >= ends:
            return
        await streaming.sleep(PAUSE_SECONDS)


@router.get(
    "/submissions/{submission_id}/tasks/{task_id}/log/events",
    response_class=EventSourceResponse,
    dependencies=[Depends(open_stream), Depends(check_task)],
)
async def follow_log(
    caller: CallerDep,
    records: RecordsDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    clock: ClockDep,
    streaming: StreamingDep,
    submission_id: str,
    task_id: str,
    offset: Annotated[int, Query(ge=0)] = 0,
    last_id: LastId = None,
) -> AsyncIterator[ServerSentEvent]:
    """
    Send a task's console as it grows, of its newest attempt.

    Each event ``text`` has what ``GET .../log`` answers. Of another attempt the console begins anew
    at offset 0. The event ``end`` comes with the end of the task. A stream lasts ten minutes; send
    ``Last-Event-ID`` with the next one.
    """
    ends = streaming.monotonic() + MAX_SECONDS
    attempt, position = _read_place(last_id, offset)

    def read() -> tuple[LogPage, bool]:
        get_visible_submission(records, caller, submission_id)
        task = records.get_task(submission_id, task_id)
        page = read_page(
            objects, settings.logs_bucket, task, attempt=None, offset=position, now=clock()
        )
        return page, task.is_ended

    while True:
        try:
            page, is_ended = await run_in_threadpool(read)
        except _ENDS:
            return
        if attempt is not None and page.attempt != attempt and position:
            # This page was asked for at the end of the attempt before.
            attempt, position = page.attempt, 0
            continue
        attempt = page.attempt
        has_moved = page.next_offset > position
        if has_moved:
            position = page.next_offset
            yield ServerSentEvent(event="text", id=f"{attempt}:{position}", data=page)
        if page.complete and is_ended:
            yield ServerSentEvent(event="end", data={})
            return
        if streaming.monotonic() >= ends:
            return
        if not has_moved:
            await streaming.sleep(PAUSE_SECONDS)


def _read_place(last_id: str | None, offset: int) -> tuple[str | None, int]:
    """Return the attempt and the offset that an event's id names; those asked for without one."""
    attempt, _, position = (last_id or "").rpartition(":")
    if attempt and position.isdecimal() and len(position) <= 18:
        return attempt, int(position)
    return None, offset
