"""An attempt's console, put together from the chunks its agent has uploaded."""

from __future__ import annotations

import codecs
from datetime import datetime, timedelta
from functools import partial

from touchstone.core.answers import LogPage
from touchstone.core.records.tasks import Attempt, Task
from touchstone.stores.consoles import iterate_chunks
from touchstone.stores.objects import ObjectStore
from touchstone.stores.tables import RecordNotFound
from touchstone_agent.protocol.messages import FINAL_PHASES, AttemptPhase, AttemptRef

PAGE_BYTES = 256 * 1024
PAGE_CHUNKS = 100
"""Objects that are read for a page: one that is short because they are comes at once."""

_LATE = timedelta(seconds=60)
"""How long after a task's end the rest of its console is still waited for."""


def find_attempt(task: Task, attempt: str | None) -> Attempt | None:
    """
    Return an attempt of a task, the newest unless one is named.

    :param task: The task.
    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :return: The attempt; ``None`` if there has been no attempt yet.
    :raises RecordNotFound: If there is no such attempt; names those there are.
    """
    # A task that is to run again keeps its fence, but has no attempt until it is placed.
    known = {_name(each): each for each in (*task.past, task.newest) if each.number}
    if attempt is None:
        return task.newest if task.has_attempt else None
    if attempt not in known:
        raise RecordNotFound(
            f"task {task.task_id} has no attempt {attempt!r}; "
            f"it has {', '.join(known) or 'none yet'}"
        )
    return known[attempt]


def read_page(
    objects: ObjectStore,
    bucket: str,
    task: Task,
    *,
    attempt: str | None,
    offset: int,
    now: datetime,
    has_clock: bool = True,
) -> LogPage:
    """
    Return the console from an offset on, as far as it has been uploaded.

    :param bucket: The logs bucket.
    :param task: The task.
    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :param offset: Byte to begin at, as an earlier page's ``next_offset`` gave it.
    :param now: The time, UTC.
    :param has_clock: Whether the state tells for how long it has been so.
    :raises RecordNotFound: If there is no such attempt.
    """
    chosen = find_attempt(task, attempt)
    told_at = now if has_clock else None
    if chosen is None:
        state = _describe_newest(task, now=told_at, has_output=False)
        return LogPage(
            attempt=None, offset=0, next_offset=0, text="", complete=task.is_ended, state=state
        )
    ref = AttemptRef(
        submission_id=task.submission_id,
        task_id=task.task_id,
        attempt=chosen.number,
        fence=chosen.fence,
    )
    is_newest = chosen is task.newest
    ended = not is_newest or _has_ended(task, now)
    describe = partial(_describe_newest, task) if is_newest else partial(describe_state, chosen)
    data, position, at_end = _collect(objects, bucket, ref, offset, ended=ended)
    # A character may be cut in two by the page, or by what has been uploaded so far.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=ended and at_end)
    position -= len(decoder.getstate()[0])
    return LogPage(
        attempt=_name(chosen),
        offset=offset,
        next_offset=position,
        text=text,
        complete=ended and at_end,
        state=describe(now=told_at, has_output=position > 0),
    )


def _describe_newest(task: Task, *, now: datetime | None, has_output: bool) -> str:
    if task.is_ended and task.newest.outcome is None:
        return _describe_console(task.status, is_ended=True, has_output=has_output)
    return describe_state(task.newest, now=now, has_output=has_output)


def describe_state(attempt: Attempt, *, now: datetime | None, has_output: bool) -> str:
    """
    Say what an attempt is doing, so that an empty console explains itself.

    :param attempt: The attempt.
    :param now: The time, UTC; ``None`` to leave out for how long it has been so.
    :param has_output: Whether there is any console.
    """
    phase = attempt.phase
    if attempt.outcome is not None:
        state = attempt.outcome.value
    elif phase is AttemptPhase.RUNNING:
        state = f"running{_since(attempt.running_at, now)}"
    elif phase is AttemptPhase.PREPARING:
        state = f"container preparing{_since(attempt.preparing_at, now)}"
    elif phase is AttemptPhase.ACCEPTED:
        state = f"accepted by {attempt.server or 'its server'}"
    elif phase is AttemptPhase.EXITED:
        state = "uploading"
    elif attempt.number:
        state = f"sent to {attempt.server or 'its server'}"
    else:
        state = attempt.reason or "waiting for a slot"
    return _describe_console(state, is_ended=attempt.outcome is not None, has_output=has_output)


def _describe_console(state: str, *, is_ended: bool, has_output: bool) -> str:
    if has_output:
        return state
    return f"no output ({state})" if is_ended else f"no output yet ({state})"


def _name(attempt: Attempt) -> str:
    return f"{attempt.number}-{attempt.fence}"


def _has_ended(task: Task, now: datetime) -> bool:
    """Tell whether all that will ever be uploaded of the newest attempt has been."""
    if task.newest.phase in FINAL_PHASES:
        return True
    if not task.is_ended:
        return False
    ended_at = task.newest.ended_at
    return ended_at is None or now - ended_at > _LATE


def _collect(
    objects: ObjectStore, bucket: str, ref: AttemptRef, offset: int, *, ended: bool
) -> tuple[bytes, int, bool]:
    """
    Return the bytes from ``offset`` on, where they end, and whether that is the end for now.

    Chunks may overlap (an agent that restarted does not know how far it had got) and, while the
    attempt goes on, arrive out of order: a gap is waited for until the attempt has ended.
    """
    data, position, read = bytearray(), offset, 0
    for chunk in iterate_chunks(objects, bucket, ref, offset=offset):
        if chunk.end <= position:
            continue
        if read == PAGE_CHUNKS:
            return bytes(data), position, False
        if chunk.offset > position:
            if not ended:
                break
            data += f"\n... {chunk.offset - position} bytes were not uploaded ...\n".encode()
            position = chunk.offset
        piece = objects.get_unchanging(bucket, chunk.key, max_bytes=chunk.size)
        piece = piece[position - chunk.offset :]
        piece = piece[: max(0, PAGE_BYTES - len(data))]
        data += piece
        position += len(piece)
        read += 1
        if len(data) >= PAGE_BYTES:
            return bytes(data), position, False
    return bytes(data), position, True


def find_since(attempt: Attempt) -> datetime | None:
    """Return since when an attempt has been what it is; ``None`` where its state tells no time."""
    if attempt.outcome is not None:
        return None
    moments = {
        AttemptPhase.RUNNING: attempt.running_at,
        AttemptPhase.PREPARING: attempt.preparing_at,
    }
    return moments.get(attempt.phase) if attempt.phase else None


def _since(start: datetime | None, now: datetime | None) -> str:
    if now is None:
        return ""
    seconds = 0 if start is None else max(0, int((now - start).total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f" {hours}:{minutes:02}:{seconds:02}" if hours else f" {minutes:02}:{seconds:02}"
