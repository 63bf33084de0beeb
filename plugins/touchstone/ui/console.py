"""An attempt's console, put together from the chunks its agent has uploaded."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from datetime import datetime, timedelta
from functools import partial

from touchstone.core.answers.tasks import LogPage
from touchstone.core.records.tasks import Attempt, Task
from touchstone.stores.consoles import find_end, iterate_chunks
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
    known = {name_attempt(each): each for each in (*task.past, task.newest) if each.number}
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
    from_line: bool = False,
    has_clock: bool = True,
) -> LogPage:
    """
    Return the console from an offset on, as far as it has been uploaded.

    :param bucket: The logs bucket.
    :param task: The task.
    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :param offset: Byte to begin at, as an earlier page's ``next_offset`` gave it.
    :param now: The time, UTC.
    :param from_line: Whether the rest of a line that begins before the offset is left out.
    :param has_clock: Whether the state tells for how long it has been so.
    :raises RecordNotFound: If there is no such attempt.
    """
    chosen = find_attempt(task, attempt)
    told_at = now if has_clock else None
    if chosen is None:
        state = _describe_newest(task, now=told_at, has_output=False)
        return LogPage(
            attempt=None,
            offset=0,
            next_offset=0,
            line_offset=0,
            text="",
            complete=task.is_ended,
            state=state,
        )
    ref = build_ref(task, chosen)
    is_newest = chosen is task.newest
    ended = not is_newest or _has_ended(task, now)
    describe = partial(_describe_newest, task) if is_newest else partial(describe_state, chosen)
    data, position, at_end = _collect(objects, bucket, ref, offset, ended=ended)
    if from_line and offset:
        begin = data.find(b"\n") + 1
        data, offset = data[begin:], offset + begin
    # A character may be cut in two by the page, or by what has been uploaded so far.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    complete = ended and at_end
    text = decoder.decode(data, final=complete)
    rest = 0 if complete else len(data) - (data.rfind(b"\n") + 1)
    line_offset = position - rest
    position -= len(decoder.getstate()[0])
    return LogPage(
        attempt=name_attempt(chosen),
        offset=offset,
        next_offset=position,
        line_offset=min(line_offset, position),
        text=text,
        complete=complete,
        state=describe(now=told_at, has_output=position > 0),
    )


def build_ref(task: Task, attempt: Attempt) -> AttemptRef:
    """Return what an attempt's objects are named by."""
    return AttemptRef(
        submission_id=task.submission_id,
        task_id=task.task_id,
        attempt=attempt.number,
        fence=attempt.fence,
    )


def name_attempt(attempt: Attempt) -> str:
    """Return what people call an attempt: ``<try>-<fence>``."""
    return f"{attempt.number}-{attempt.fence}"


def find_tail(objects: ObjectStore, bucket: str, task: Task, *, attempt: str | None) -> int:
    """
    Return where the last page of a console begins, as far as it has been uploaded.

    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :raises RecordNotFound: If there is no such attempt.
    """
    chosen = find_attempt(task, attempt)
    if chosen is None:
        return 0
    return max(0, find_end(objects, bucket, build_ref(task, chosen)) - PAGE_BYTES)


def iterate_console(
    objects: ObjectStore, bucket: str, task: Task, *, attempt: str | None
) -> Iterator[bytes]:
    """
    Yield a whole console, as far as it has been uploaded, a chunk at a time.

    What was not uploaded is told in its place, in a line of its own.

    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :raises RecordNotFound: If there is no such attempt.
    """
    chosen = find_attempt(task, attempt)
    return iter(()) if chosen is None else _iterate(objects, bucket, build_ref(task, chosen))


def _iterate(objects: ObjectStore, bucket: str, ref: AttemptRef) -> Iterator[bytes]:
    position = 0
    for chunk in iterate_chunks(objects, bucket, ref):
        if chunk.end <= position:
            continue
        if chunk.offset > position:
            yield _tell_gap(chunk.offset - position)
            position = chunk.offset
        # Read once, so not kept: that would cost the pages that many look at their places.
        piece = objects.get(bucket, chunk.key, max_bytes=chunk.size)
        yield piece[position - chunk.offset :]
        position = chunk.end


def _tell_gap(size: int) -> bytes:
    return f"\n... {size} bytes were not uploaded ...\n".encode()


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
            data += _tell_gap(chunk.offset - position)
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
