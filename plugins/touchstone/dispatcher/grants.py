"""What a server may read and write for an attempt of its own: presigned requests."""

from __future__ import annotations

from pydantic import ValidationError

from touchstone.core.names import build_console_key, build_output_key
from touchstone.core.records.tasks import Task
from touchstone.core.tasks import find_held_data, list_inputs
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectStore
from touchstone_agent.protocol.facts import UploadedFile
from touchstone_agent.protocol.messages import (
    MAX_CHUNK_BYTES,
    Grant,
    GrantPurpose,
    Grants,
    GrantsWanted,
    Want,
)


def answer_grants(
    objects: ObjectStore,
    settings: Settings,
    server: str,
    event: GrantsWanted,
    task: Task | None,
) -> Grants:
    """
    Return the answer to a server that wants to read or write objects: all of them, or none.

    :param objects: Signs for objects.
    :param settings: Names of the buckets.
    :param server: Who asks, by its signature.
    :param event: What is wanted.
    :param task: The attempt's task; ``None`` if there is none.
    """
    refusal = _find_refusal(task, server, event)
    grants: dict[str, Grant] = {}
    refused: dict[str, str] = {}
    for want in event.wants:
        if refusal is None and task is not None:
            grants[want.path] = _grant(objects, settings, task, event, want)
        else:
            refused[want.path] = str(refusal)
    return Grants(ref=event.ref, purpose=event.purpose, grants=grants, refused=refused)


def _find_refusal(task: Task | None, server: str, event: GrantsWanted) -> str | None:
    if task is None:
        return "there is no such task"
    if not any(
        attempt.fence == event.ref.fence and attempt.server == server
        for attempt in (task.newest, *task.past)
    ):
        return "this server has no such attempt"
    if task.fence != event.ref.fence and event.purpose is not GrantPurpose.CONSOLE:
        return "a newer attempt has taken its place"
    is_input = event.purpose is GrantPurpose.INPUT
    if find_held_data(task.spec) is not None and not is_input:
        return "no file of an attempt on private data is taken"
    inputs = list_inputs(task.spec) if is_input else {}
    for want in event.wants:
        is_console = event.purpose is GrantPurpose.CONSOLE
        if not (want.path in inputs if is_input else _is_safe(want, event.purpose)):
            return f"{want.path!r} is not a path for {event.purpose}"
        if is_console and want.size > MAX_CHUNK_BYTES:
            return f"a piece of a console is not longer than {MAX_CHUNK_BYTES} bytes"
    return None


def _grant(
    objects: ObjectStore, settings: Settings, task: Task, event: GrantsWanted, want: Want
) -> Grant:
    ref, purpose = event.ref, event.purpose
    if purpose is GrantPurpose.INPUT:
        return objects.grant_get(settings.content_bucket, list_inputs(task.spec)[want.path].key)
    if purpose is GrantPurpose.CONSOLE:
        bucket, key = settings.logs_bucket, build_console_key(ref, int(want.path))
    else:
        bucket, key = settings.content_bucket, build_output_key(ref, want.path)
    return objects.grant_put(bucket, key, sha256=want.sha256, size=want.size)


def _is_safe(want: Want, purpose: GrantPurpose) -> bool:
    if purpose is GrantPurpose.CONSOLE:
        return want.path.isascii() and want.path.isdigit() and len(want.path) == 12
    try:
        UploadedFile(path=want.path, sha256=want.sha256, size=want.size)
    except ValidationError:
        return False
    return True
