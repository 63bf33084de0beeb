"""Uploads of source archives."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool

from touchstone.confined.archives import UNPACKED_FACTOR, check_archive
from touchstone.core.answers.sources import Uploaded
from touchstone.core.conf import UPLOAD_SCHEME
from touchstone.core.names import build_content_key
from touchstone.ui.archives import Upload, UploadGate, check_declared, receive_body
from touchstone.ui.dependencies import CallerDep, ObjectsDep, SettingsDep, require_submitter

router = APIRouter()


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
    limit = settings.content_bytes
    check_declared(request, limit=limit)
    with gate.enter(caller.name), Upload() as upload:
        await receive_body(request, upload, limit=limit)
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
