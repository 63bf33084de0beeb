"""Fetching the files that a training has left; what is there already is not fetched again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from touchstone.client.api import Client
from touchstone.client.errors import NotFound, Unreachable
from touchstone.core.answers.tasks import TaskFile
from touchstone_agent.protocol.errors import ConfigurationError
from touchstone_agent.protocol.words import check_path


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """
    A file that was fetched.

    :param path: Its path below the task's folder.
    :param place: Where it is on this machine.
    :param size: Its size in bytes.
    :param sha256: Its digest, which was checked.
    :param is_new: Whether it was not there before.
    """

    path: str
    place: Path
    size: int
    sha256: str
    is_new: bool


def download(
    client: Client,
    submission_id: str,
    task_id: str,
    folder: Path,
    *,
    only: Sequence[str] = (),
    tell: Callable[[Fetched], object] = lambda _: None,
) -> list[Fetched]:
    """
    Fetch the files of a training into a folder.

    Each file appears under its name when it is whole and its digest is right, so an interrupted
    download is gone on with by the next one.

    :param folder: Where to; made if it is not there.
    :param only: Patterns of paths, such as ``models/*``; empty for all files.
    :param tell: Takes each file that is there.
    :raises NotFound: If there are none, with why.
    :raises Unreachable: If the store does not answer, or gives something else.
    :raises ConfigurationError: If no file matches, or the folder cannot be written.
    """
    listed = client.list_files(submission_id, task_id).value
    if not listed.files:
        reason = listed.note or "it has left none"
        raise NotFound(f"{submission_id}/{task_id} has no files: {reason}", status=404)
    wanted = [
        each
        for each in listed.files
        if not only or any(fnmatchcase(each.path, pattern) for pattern in only)
    ]
    if not wanted:
        known = ", ".join(each.path for each in listed.files[:20])
        raise ConfigurationError(f"only: no file matches; there are {known}")
    fetched = []
    for file in wanted:
        try:
            done = _fetch(client, file, folder)
        except OSError as error:
            raise ConfigurationError(f"to: {folder} cannot be written: {error}") from error
        fetched.append(done)
        tell(done)
    return fetched


def _fetch(client: Client, file: TaskFile, folder: Path) -> Fetched:
    # A submission has chosen the name; the installation has checked it, and so does its reader.
    place = folder.joinpath(*check_path(file.path).split("/"))
    is_new = not (place.is_file() and _compute_digest(place) == file.sha256)
    if is_new:
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.part")
        try:
            _receive(client, file, partial)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)
    return Fetched(path=file.path, place=place, size=file.size, sha256=file.sha256, is_new=is_new)


def _receive(client: Client, file: TaskFile, place: Path) -> None:
    digest, size = hashlib.sha256(), 0
    with place.open("wb") as out:
        for piece in client.iterate_file(file.url):
            size += len(piece)
            if size > file.size:
                break
            digest.update(piece)
            out.write(piece)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise Unreachable(f"{file.path}: what the store gave is not the file on record; try again")


def _compute_digest(place: Path) -> str:
    with place.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
