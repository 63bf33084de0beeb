"""Uploads of source archives."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from touchstone.confined.archives import UNPACKED_FACTOR, check_archive
from touchstone.core.answers import Uploaded
from touchstone.core.conf import UPLOAD_SCHEME
from touchstone.core.names import build_content_key
from touchstone.ui.archives import (
    IDLE_SECONDS,
    RECEIVE_SECONDS,
    Upload,
    UploadGate,
    UploadTooSlow,
    build_too_large,
)
from touchstone.ui.dependencies import CallerDep, ObjectsDep, SettingsDep, require_submitter

router = APIRouter()

_MAX_DIGITS = 18

ARCHIVE_TYPES = frozenset({"application/gzip", "application/x-gzip", "application/x-gtar"})


@lru_cache(maxsize=1)
def get_gate() -> UploadGate:
    """Return this process's count of uploads."""
    return UploadGate()


@router.post("/content", status_code=201, dependencies=[Depends(require_submitter)])
async def upload_content(
    request: Request,
    caller: CallerDep,
    objects: ObjectsDep,
    settings: SettingsDep,
    gate: Annotated[UploadGate, Depends(get_gate)],
) -> Uploaded:
    """
    Take a ``.tar.gz`` as the raw body and keep it under its digest.

    Uploading the same bytes again is not an error: they are there already. A client that sends many
    at once must wait (429): each is looked through by a process of its own.

    :return: What to give as a submission's ``source``.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared not in ARCHIVE_TYPES:
        raise HTTPException(415, "send a .tar.gz, with Content-Type: application/gzip")
    limit = settings.content_bytes
    length = request.headers.get("content-length", "")
    # Refused before it is sent, where the client says how much it is going to send.
    if length.isdecimal() and (len(length) > _MAX_DIGITS or int(length) > limit):
        raise build_too_large(limit)
    with gate.enter(caller.name), Upload() as upload:
        try:
            await upload.receive(
                aiter(request.stream()),
                limit=limit,
                idle_seconds=IDLE_SECONDS,
                seconds=RECEIVE_SECONDS,
            )
        except ClientDisconnect as error:
            # No client is left to read it, but it is no fault of the server's.
            raise UploadTooSlow("content: the connection broke before all of it came") from error
        unpacked = UNPACKED_FACTOR * limit
        await run_in_threadpool(check_archive, upload.file, "content", max_bytes=unpacked)
        await run_in_threadpool(
            objects.put_new,
            settings.content_bucket,
            build_content_key(upload.sha256),
            upload.read(),
            content_type="application/gzip",
        )
        return Uploaded(
            sha256=upload.sha256,
            size=upload.size,
            source=f"{UPLOAD_SCHEME}{upload.sha256}",
        )
