"""Forms as they arrive: so large at most, and never more in memory than that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final
from urllib.parse import parse_qsl

from fastapi import Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from touchstone.confined.archives import UNPACKED_FACTOR, check_archive
from touchstone.core.conf import UPLOAD_SCHEME
from touchstone.core.names import build_content_key
from touchstone.stores.objects import ObjectStore
from touchstone.ui.app import find_field
from touchstone.ui.archives import (
    Upload,
    UploadGate,
    build_too_large,
    receive_body,
)
from touchstone_agent.protocol.errors import ConfigurationError

MAX_FORM_BYTES: Final = 256 * 1024
"""Of a form without a file: a whole conf, of which each byte may be written as three."""
MAX_FIELDS: Final = 120
_BLOCK: Final = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class Posted:
    """
    What somebody has typed into a form.

    :param values: Each field's values, as text.
    """

    values: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """Return a field's first value, without blanks around it; empty for none."""
        found = self.values.get(name) or [""]
        return found[0].strip()


async def read_posted(request: Request) -> Posted:
    """
    Return a form that was sent without a file.

    :raises HTTPException: If it is none, or too large.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "application/x-www-form-urlencoded":
        raise HTTPException(415, "this address takes a form")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, f"the form has more than {MAX_FORM_BYTES // 1024} KiB")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS, errors="replace"
        )
    except ValueError as error:
        raise HTTPException(422, f"the form has more than {MAX_FIELDS} fields") from error
    return Posted(values=_group(pairs))


PostedDep = Annotated[Posted, Depends(read_posted)]


def _group(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    return values


def name_error(error: Exception, fields: Container[str]) -> dict[str, str]:
    """
    Return what is wrong under the field of a form that it stands beside.

    :param error: Its message begins with a field's name, or is about none.
    :param fields: The form's fields; under an empty name stands what is about none of them.
    """
    text = str(error)
    name = (find_field(text) or "").partition(".")[0]
    return {name: text.partition(": ")[2]} if name in fields else {"": text}


@dataclass(frozen=True, kw_only=True)
class TakenArchive:
    """
    An archive that came with a form.

    :param source: What stands for it as a submission's source; ``None`` if it was not taken.
    :param problem: Why not.
    """

    source: str | None = None
    problem: str | None = None


async def read_posted_with_archive(
    request: Request,
    *,
    user: str,
    gate: UploadGate,
    objects: ObjectStore,
    bucket: str,
    limit: int,
) -> tuple[Posted, TakenArchive | None]:
    """
    Return a form and the archive that was sent with it, which is stored under its digest.

    A refusal of the archive comes beside the form's values, so that the page shows them again.

    :param user: Who sends it.
    :param gate: Counts who uploads.
    :param objects: Where archives are stored.
    :param bucket: Its bucket.
    :param limit: Most bytes of the archive.
    :raises UploadsBusy: If there are enough uploads under way.
    :raises UploadTooLarge: If there is more of it than is taken.
    :raises UploadTooSlow: If it takes too long.
    :raises HTTPException: If it is no such form.
    """
    declared = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if declared != "multipart/form-data":
        return await read_posted(request), None
    # All of it passes through a file first: it may stop, and be of any length, as an upload may.
    with gate.enter(user), Upload() as body:
        most = limit + MAX_FORM_BYTES
        length = request.headers.get("content-length", "")
        if length.isdecimal() and len(length) < 19 and int(length) > most:
            raise build_too_large(limit)
        await receive_body(request, body, limit=most)
        body.file.seek(0)

        async def read() -> AsyncGenerator[bytes, None]:
            while chunk := await run_in_threadpool(body.file.read, _BLOCK):
                yield chunk

        parser = MultiPartParser(
            request.headers,
            read(),
            max_files=1,
            max_fields=MAX_FIELDS,
            max_part_size=MAX_FORM_BYTES,
        )
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HTTPException(422, f"the form makes no sense: {error.message}") from error
        pairs = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        try:
            taken = await _take(files, objects, bucket, limit)
        finally:
            await form.close()
    return Posted(values=_group(pairs)), taken


async def _take(
    files: Sequence[UploadFile], objects: ObjectStore, bucket: str, limit: int
) -> TakenArchive | None:
    # A browser sends a file without a name where none was chosen.
    chosen = [each for each in files if each.filename]
    if not chosen:
        return None
    with Upload() as upload:
        while chunk := await chosen[0].read(_BLOCK):
            if upload.size + len(chunk) > limit:
                return TakenArchive(problem=str(build_too_large(limit)))
            upload.write(chunk)
        try:
            await run_in_threadpool(
                check_archive, upload.file, "archive", max_bytes=UNPACKED_FACTOR * limit
            )
        except ConfigurationError as error:
            return TakenArchive(problem=str(error))
        await run_in_threadpool(
            objects.put_new,
            bucket,
            build_content_key(upload.sha256),
            upload.read(),
            content_type="application/gzip",
        )
        return TakenArchive(source=f"{UPLOAD_SCHEME}{upload.sha256}")
