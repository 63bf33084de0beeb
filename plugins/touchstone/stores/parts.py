"""Parts of records that are larger than a record may be: objects, named by their digest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from typing import Final, Self

from pydantic import JsonValue, ValidationError

from touchstone.core.names import build_attempt_prefix
from touchstone.core.records.judged import Judged, JudgedSeries
from touchstone.core.records.kept import StoredPart
from touchstone.core.records.stored import RecordUnreadable
from touchstone.core.records.tasks import Attempt, Published, StoredFile, Task
from touchstone.core.results import join_published
from touchstone.settings import Settings
from touchstone.stores.objects import ObjectCorrupt, ObjectNotFound, ObjectStore
from touchstone_agent.protocol.facts import ExitFacts, UploadedFile
from touchstone_agent.protocol.messages import AttemptRef, PhaseChanged

log = logging.getLogger(__name__)

INLINE_BYTES: Final = 16 * 1024
"""A list of files up to this size stays in the record: nearly every one does."""

PREFIX: Final = "records/"


class Parts:
    """
    Writes and reads parts of records.

    A part is written before the record that names it, and never changed. A process that dies in
    between leaves an object that nothing names; writing the same again names the same object.

    :param objects: Where they are.
    :param bucket: In which bucket: that of the content.
    """

    def __init__(self, objects: ObjectStore, bucket: str) -> None:
        self._objects = objects
        self._bucket = bucket

    @classmethod
    def connect(cls, settings: Settings) -> Self:
        """Return the parts of the installation's records."""
        return cls(ObjectStore.connect(settings), settings.content_bucket)

    def put(self, prefix: str, document: object) -> StoredPart:
        """
        Write a part.

        :param prefix: What its key begins with, ``/`` at the end; says whose it is.
        :param document: JSON values.
        :return: What a record keeps of it.
        """
        body = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
        sha256 = hashlib.sha256(body).hexdigest()
        key = f"{PREFIX}{prefix}{sha256}.json"
        self._objects.put_new(self._bucket, key, body, content_type="application/json")
        return StoredPart(key=key, sha256=sha256, size=len(body))

    def put_series(self, ref: AttemptRef, series: JudgedSeries) -> StoredPart:
        """
        Write the judged rows of an attempt; :func:`read_series` reads them.

        :return: What a record keeps of them.
        """
        return self.put(f"judged/{build_attempt_prefix(ref)}", series.model_dump(mode="json"))

    def put_files(self, ref: AttemptRef, files: Sequence[UploadedFile]) -> StoredPart:
        """
        Write the list of an attempt's files.

        :return: What a record keeps of it.
        """
        return self.put(f"files/{build_attempt_prefix(ref)}", _dump_files(files))

    def get(self, part: StoredPart) -> JsonValue:
        """
        Return a part.

        :param part: What :meth:`put` returned.
        :raises ObjectNotFound: If it is gone.
        :raises ObjectCorrupt: If it is not what was written.
        """
        text = self._objects.get(self._bucket, part.key, sha256=part.sha256)
        found: JsonValue = json.loads(text)
        return found

    def get_table(self, part: StoredPart) -> dict[str, JsonValue]:
        """Return a part that is an object; raises as :meth:`get`, also for one that is not."""
        found = self.get(part)
        if not isinstance(found, dict):
            raise ObjectCorrupt(f"{part.key} is no object")
        return found


def find_long_list(event: PhaseChanged) -> tuple[UploadedFile, ...] | None:
    """
    Return the list of files of an event, if a record has no room for it.

    What makes no sense is left alone: the code that applies the event says what is wrong.

    :param event: What an agent, or a pod, says of an attempt.
    :return: ``None`` if the record has room for it.
    """
    if not event.details.get("files"):
        return None
    try:
        said = ExitFacts.model_validate(event.details)
    except ValidationError:
        return None
    return said.files if len(json.dumps(_dump_files(said.files))) > INLINE_BYTES else None


def _dump_files(files: Iterable[UploadedFile]) -> list[JsonValue]:
    return [file.model_dump(mode="json") for file in files]


def find_files(attempt: Attempt, parts: Parts) -> tuple[StoredFile, ...]:
    """Return the files that an attempt has left, wherever their list is."""
    if attempt.files_part is None:
        return attempt.files
    found = parts.get(attempt.files_part)
    if not isinstance(found, list):
        raise ObjectCorrupt(f"{attempt.files_part.key} is no list")
    return tuple(_load_file(item, attempt.files_part) for item in found)


def _load_file(item: JsonValue, part: StoredPart) -> StoredFile:
    if not isinstance(item, dict):
        raise ObjectCorrupt(f"{part.key} lists what is no file")
    return StoredFile.load(item)


def read_published(task: Task, parts: Parts) -> Published | None:
    """Return what a task has published, with all its figures as far as they can still be read."""
    published = task.newest.published
    if published is None or published.details is None:
        return published
    try:
        return join_published(published, parts.get_table(published.details))
    except (ObjectNotFound, ObjectCorrupt) as error:
        # The main figures are on record, and better than nothing.
        log.warning("what %s has published is incomplete: %s", task.name, error)
        return published


def read_series(parts: Parts, judged: Judged) -> JudgedSeries:
    """
    Return the judged rows of a training.

    :param parts: Where they are.
    :param judged: What is on record of the training.
    :raises RecordUnreadable: If it has none, not being judged, or they are not those on record.
    :raises ObjectNotFound: If they are gone.
    :raises ObjectCorrupt: If they are not what was written.
    """
    if judged.series is None:
        raise RecordUnreadable(f"judged series: there is none: {judged.reason or judged.status}")
    series = JudgedSeries.load(parts.get(judged.series))
    if series.rows_digest != judged.rows_digest:
        raise RecordUnreadable("judged series: its rows are not those on record")
    return series
