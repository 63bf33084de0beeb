"""Parts of records that are larger than a record may be: objects, named by their digest."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

from pydantic import ValidationError

from touchstone.core.names import build_attempt_prefix
from touchstone.core.results import join_published
from touchstone.hooks.objects import ObjectCorrupt, ObjectNotFound, ObjectStore
from touchstone.settings import Settings
from touchstone_agent.protocol.facts import ExitFacts
from touchstone_agent.protocol.messages import AttemptRef, PhaseChanged

log = logging.getLogger(__name__)

INLINE_BYTES: Final = 16 * 1024
"""A list of files up to this size stays in the record: nearly every one does."""

PREFIX: Final = "records/"


class Parts:
    """
    Writes and reads parts of records.

    A part is written before the record that names it, and never changed: whoever dies in between
    leaves an object that nobody names, and whoever writes the same again names the same.

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

    def put(self, prefix: str, document: Any) -> dict[str, Any]:
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
        return {"key": key, "sha256": sha256, "size": len(body)}

    def put_files(self, ref: AttemptRef, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """
        Write the list of an attempt's files.

        :return: What a record keeps of it.
        """
        return self.put(f"files/{build_attempt_prefix(ref)}", files)

    def get(self, part: Mapping[str, Any]) -> Any:
        """
        Return a part.

        :param part: What :meth:`put` returned.
        :raises ObjectNotFound: If it is gone.
        :raises ObjectCorrupt: If it is not what was written.
        """
        return json.loads(
            self._objects.get(self._bucket, str(part["key"]), sha256=str(part["sha256"]))
        )


def find_long_list(event: PhaseChanged) -> list[dict[str, Any]] | None:
    """
    Return the list of files of an event, if a record has no room for it.

    What makes no sense is left alone: whoever applies the event says what is wrong with it.

    :param event: What an agent, or a pod, says of an attempt.
    :return: ``None`` if the record has room for it.
    """
    if not event.details.get("files"):
        return None
    try:
        said = ExitFacts.model_validate(event.details)
    except ValidationError:
        return None
    files = [file.model_dump(mode="json") for file in said.files]
    return files if len(json.dumps(files)) > INLINE_BYTES else None


def find_files(record: Mapping[str, Any], parts: Parts) -> list[dict[str, Any]]:
    """Return the files that a task's newest attempt has left, wherever their list is."""
    part = record.get("files_part")
    return list(parts.get(part) if part else record.get("files") or [])


def read_published(record: Mapping[str, Any], parts: Parts) -> dict[str, Any] | None:
    """Return what a task has published, with all its figures as far as they can still be read."""
    published: dict[str, Any] | None = record.get("published")
    if not published or not published.get("details"):
        return published
    try:
        return join_published(published, parts.get(published["details"]))
    except (ObjectNotFound, ObjectCorrupt) as error:
        # The main figures are on record, and better than nothing.
        key = f"{record['submission_id']}/{record['task_id']}"
        log.warning("what %s has published is incomplete: %s", key, error)
        return published
