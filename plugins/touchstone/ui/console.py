"""An attempt's console, put together from the chunks its agent has uploaded."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from touchstone.core.states import TASK_TERMINAL
from touchstone.hooks.consoles import iterate_chunks
from touchstone.hooks.objects import ObjectStore
from touchstone.hooks.records import Record, RecordNotFound
from touchstone_agent.protocol.messages import FINAL_PHASES, AttemptPhase, AttemptRef

PAGE_BYTES = 256 * 1024
PAGE_CHUNKS = 100
"""Objects that are read for a page: one that is short because they are comes at once."""

_LATE = timedelta(seconds=60)
"""How long after a task's end the rest of its console is still waited for."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """
    A piece of a console.

    :param attempt: ``<try>-<fence>``; ``None`` if there has been no attempt yet.
    :param offset: Byte at which the text begins.
    :param next_offset: Where to go on.
    :param text: The text; whole characters only.
    :param complete: Whether nothing follows, ever.
    :param state: What the attempt is doing, in a few words.
    """

    attempt: str | None
    offset: int
    next_offset: int
    text: str
    complete: bool
    state: str


def find_attempt(task: Record, attempt: str | None) -> Record | None:
    """
    Return an attempt of a task, the newest unless one is named.

    :param task: The task's record.
    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :return: The attempt's fields; ``None`` if there has been no attempt yet.
    :raises RecordNotFound: If there is no such attempt; names those there are.
    """
    attempts: list[Record] = [*(task.get("attempts") or ()), task]
    # A task that is to run again keeps its fence, but has no attempt until it is placed.
    known = {_name(item): item for item in attempts if item.get("attempt")}
    if attempt is None:
        return task if task.get("attempt") else None
    if attempt not in known:
        raise RecordNotFound(
            f"task {task['task_id']} has no attempt {attempt!r}; "
            f"it has {', '.join(known) or 'none yet'}"
        )
    return known[attempt]


def read_page(
    objects: ObjectStore,
    bucket: str,
    task: Record,
    *,
    attempt: str | None,
    offset: int,
    now: datetime,
) -> Page:
    """
    Return the console from an offset on, as far as it has been uploaded.

    :param bucket: The logs bucket.
    :param task: The task's record.
    :param attempt: ``<try>-<fence>``, or ``None`` for the newest.
    :param offset: Byte to begin at, as an earlier page's ``next_offset`` gave it.
    :param now: The time, UTC.
    :raises RecordNotFound: If there is no such attempt.
    """
    chosen = find_attempt(task, attempt)
    if chosen is None:
        over = task.get("status") in TASK_TERMINAL
        state = describe_state(task, now=now, has_output=False)
        return Page(attempt=None, offset=0, next_offset=0, text="", complete=over, state=state)
    ref = AttemptRef(
        submission_id=task["submission_id"],
        task_id=task["task_id"],
        attempt=chosen["attempt"],
        fence=chosen["fence"],
    )
    newest = chosen is task
    ended = not newest or _has_ended(task, now)
    data, position, at_end = _collect(objects, bucket, ref, offset, ended=ended)
    # A character may be cut in two by the page, or by what has been uploaded so far.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data, final=ended and at_end)
    position -= len(decoder.getstate()[0])
    return Page(
        attempt=_name(chosen),
        offset=offset,
        next_offset=position,
        text=text,
        complete=ended and at_end,
        state=describe_state(chosen, now=now, has_output=position > 0),
    )


def describe_state(attempt: Record, *, now: datetime, has_output: bool) -> str:
    """
    Say what an attempt is doing, so that an empty console explains itself.

    :param attempt: The fields of a task or of one of its earlier attempts.
    :param now: The time, UTC.
    :param has_output: Whether there is any console.
    """
    phase = attempt.get("phase")
    ended = attempt.get("outcome") or attempt.get("status") in TASK_TERMINAL
    if ended:
        state = str(attempt.get("outcome") or attempt["status"])
    elif phase == AttemptPhase.RUNNING:
        state = f"running {_since(attempt.get('running_at'), now)}"
    elif phase == AttemptPhase.PREPARING:
        state = f"container preparing {_since(attempt.get('preparing_at'), now)}"
    elif phase == AttemptPhase.ACCEPTED:
        state = f"accepted by {attempt.get('server') or 'its server'}"
    elif phase == AttemptPhase.EXITED:
        state = "uploading"
    elif attempt.get("attempt"):
        state = f"sent to {attempt.get('server') or 'its server'}"
    else:
        state = str(attempt.get("reason") or "waiting for a slot")
    if has_output:
        return state
    return f"no output ({state})" if ended else f"no output yet ({state})"


def _name(attempt: Record) -> str:
    return f"{attempt.get('attempt')}-{attempt.get('fence')}"


def _has_ended(task: Record, now: datetime) -> bool:
    """Tell whether all that will ever be uploaded of the newest attempt has been."""
    if task.get("phase") in FINAL_PHASES:
        return True
    if task.get("status") not in TASK_TERMINAL:
        return False
    ended_at = _parse_time(task.get("ended_at"))
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
        piece = objects.get(bucket, chunk.key, max_bytes=chunk.size)
        piece = piece[position - chunk.offset :]
        piece = piece[: max(0, PAGE_BYTES - len(data))]
        data += piece
        position += len(piece)
        read += 1
        if len(data) >= PAGE_BYTES:
            return bytes(data), position, False
    return bytes(data), position, True


def _parse_time(value: Any) -> datetime | None:
    return datetime.fromisoformat(value) if isinstance(value, str) and value else None


def _since(value: Any, now: datetime) -> str:
    start = _parse_time(value)
    seconds = 0 if start is None else max(0, int((now - start).total_seconds()))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes:02}:{seconds:02}"
