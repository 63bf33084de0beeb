"""Uploads of source archives."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from touchstone.core.conf import UPLOAD_SCHEME
from touchstone.core.names import build_content_key
from touchstone.ui.archives import Upload, check_archive
from touchstone.ui.dependencies import ObjectsDep, SettingsDep, require_submitter

router = APIRouter()

ARCHIVE_TYPES = frozenset({"application/gzip", "application/x-gzip", "application/x-gtar"})


@router.post("/content", status_code=201, dependencies=[Depends(require_submitter)])
async def upload_content(
    request: Request, objects: ObjectsDep, settings: SettingsDep
) -> dict[str, Any]:
    """
    Take a ``.tar.gz`` as the raw body and keep it under its digest.

    Uploading the same bytes again is not an error: they are there already.

    :return: What to give as a submission's ``source``.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared not in ARCHIVE_TYPES:
        raise HTTPException(415, "send a .tar.gz, with Content-Type: application/gzip")
    limit = settings.content_bytes
    length = request.headers.get("content-length", "")
    # Refused before it is sent, where the client says how much it is going to send.
    if length.isdecimal() and int(length) > limit:
        raise _too_large(limit)
    with Upload() as upload:
        async for chunk in request.stream():
            if upload.size + len(chunk) > limit:
                raise _too_large(limit)
            upload.write(chunk)
        await run_in_threadpool(check_archive, upload.file)
        await run_in_threadpool(
            objects.put_new,
            settings.content_bucket,
            build_content_key(upload.sha256),
            upload.read(),
            content_type="application/gzip",
        )
        return {
            "sha256": upload.sha256,
            "size": upload.size,
            "source": f"{UPLOAD_SCHEME}{upload.sha256}",
        }


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"the archive is larger than {limit / 1024**2:.0f} MiB")
