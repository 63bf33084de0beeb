"""
Images that this agent has pulled itself, by when each was needed last.

Only these are ever removed: what an admin has built or pulled is not here. An entry is written when
its pull is over, so a crash may leave an image that nobody removes, and never takes one that is
somebody else's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

from touchstone_agent.logs import Log
from touchstone_agent.protocol.references import MAX_REFERENCE

RECENT_SECONDS = 600
"""What was needed so lately is not removed: somebody may be about to start it."""

MAX_IMAGES = 1000
_MAX_FILE_BYTES = 2 * 1024**2

log = Log("images")


class PulledImages:
    """
    Keeps count; safe to use from several threads.

    :param file: Where it is written down.
    :param most_bytes: All of them together may take so much, but for what is in use.
    :param now: The time, in seconds since the epoch.
    """

    def __init__(
        self, file: Path, *, most_bytes: int, now: Callable[[], float] = time.time
    ) -> None:
        self._file = file
        self._most_bytes = most_bytes
        self._now = now
        self._lock = threading.Lock()
        self._used_at: dict[str, float] | None = None

    def add(self, name: str) -> None:
        """Write down an image that was just pulled here."""
        with self._lock:
            known = self._load()
            if len(known) < MAX_IMAGES:
                known[name] = self._now()
                self._save(known)

    def touch(self, name: str) -> None:
        """Write down that an image is needed, if it is one of these."""
        with self._lock:
            known = self._load()
            if name in known:
                known[name] = self._now()
                self._save(known)

    def sweep(
        self,
        *,
        in_use: Collection[str],
        measure: Callable[[str], int | None],
        remove: Callable[[str], bool],
    ) -> None:
        """
        Remove what was needed longest ago, until the rest is small enough.

        :param in_use: Names that are needed whatever they take.
        :param measure: Returns an image's size; ``None`` for one that is there no more.
        :param remove: Removes one; ``False`` if something else of this machine uses it.
        """
        with self._lock:
            known = self._load()
            sizes = {name: measure(name) for name in known}
            gone = [name for name, size in sizes.items() if size is None]
            total = sum(size or 0 for size in sizes.values())
            too_young = self._now() - RECENT_SECONDS
            for name in sorted(known, key=lambda name: known[name]):
                if total <= self._most_bytes:
                    break
                if name in gone or name in in_use or known[name] > too_young:
                    continue
                if remove(name):
                    log.info("image.removed", image=name, bytes=sizes[name])
                    total -= sizes[name] or 0
                    gone.append(name)
            for name in gone:
                del known[name]
            if gone:
                self._save(known)

    def _load(self) -> dict[str, float]:
        if self._used_at is None:
            self._used_at = _read(self._file)
        return self._used_at

    def _save(self, known: dict[str, float]) -> None:
        part = self._file.with_suffix(".part")
        try:
            part.write_text(json.dumps(known))
            part.replace(self._file)
        except OSError as error:
            # Then less is removed than could be.
            log.warning("images.not_written", problem=type(error).__name__)


def _read(file: Path) -> dict[str, float]:
    try:
        if file.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError
        found = json.loads(file.read_text())
        entries = list(found.items())[:MAX_IMAGES]
        return {name[:MAX_REFERENCE]: float(at) for name, at in entries}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        log.warning("images.unreadable", file=file.name)
        return {}
