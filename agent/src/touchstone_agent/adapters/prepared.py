"""
What was prepared for trainings, by the content that it was made from.

An entry is filled under the name of the attempt that fills it, and takes its key when it is
complete: under a key there is never half of anything, and nothing under it is ever changed. It is
not written through to the disk, which could take minutes on a busy machine: what was made before
the machine was started last is not used.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from touchstone_agent.adapters.files import remove_tree
from touchstone_agent.logs import Log

KEPT_SECONDS = 30 * 86_400
"""After which what nobody has used is removed, whether or not there is room for it."""

HOLD_FILE = "prepared"
"""In the folder of an attempt: the key of what it uses."""

_VERSION = 1
_FILES = "files"
_BYTES = "bytes"
_BOOT = "boot"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_PARTIAL = ".partial-"
_REMOVED = ".removed-"

log = Log("prepared")


def build_key(image_digest: str, argv: Iterable[str], inputs: Iterable[tuple[str, str]]) -> str:
    """
    Return the key of what an image makes of inputs.

    :param image_digest: The image, by content.
    :param argv: Its arguments.
    :param inputs: Path and SHA-256 of each input.
    """
    facts = [_VERSION, image_digest, list(argv), sorted(map(list, inputs))]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class PreparedCache:
    """
    The entries of one state folder; safe to use from several threads.

    :param root: Their folder; made when it is needed, for its owner alone.
    :param most_bytes: All of them together may take so much, but for what is in use.
    :param boot: This start of the machine; ``None`` asks the kernel.
    """

    def __init__(self, root: Path, *, most_bytes: int, boot: str | None = None) -> None:
        self._root = root
        self._boot = boot or _BOOT_ID.read_text(encoding="ascii").strip()
        self.most_bytes = most_bytes
        self._lock = threading.Lock()
        self._at_work: set[str] = set()

    def take(self, key: str, attempt: Path) -> Path | None:
        """
        Return the folder of a complete entry, which then stays while the attempt's folder does.

        :param attempt: Folder of the attempt that will use it.
        """
        with self._lock:
            entry = self._root / key
            if not self._is_whole(entry):
                return None
            (attempt / HOLD_FILE).write_text(key, encoding="ascii")
            with suppress(OSError):
                os.utime(entry)
            return entry / _FILES

    def find_assigned(self, attempt: Path) -> Path | None:
        """Return the folder of the entry that an attempt has taken."""
        key = _read_hold(attempt)
        return None if key is None else self._root / key / _FILES

    @contextmanager
    def building(self, key: str) -> Iterator[bool]:
        """Keep others from filling the same entry; yields whether nobody else is at it."""
        with self._lock:
            is_free = key not in self._at_work
            if is_free:
                self._at_work.add(key)
        try:
            yield is_free
        finally:
            if is_free:
                with self._lock:
                    self._at_work.discard(key)

    def begin(self, name: str) -> Path:
        """Return an empty folder to fill; what an earlier try has left under this name is gone."""
        partial = self._root / f"{_PARTIAL}{name}"
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        remove_tree(partial)
        # Its own folder is for this user alone, and so is the way to it.
        (partial / _FILES).mkdir(mode=0o755, parents=True)
        return partial / _FILES

    def complete(self, name: str, key: str, *, size: int) -> None:
        """
        Give what was filled its key.

        :param size: Its bytes.
        """
        partial = self._root / f"{_PARTIAL}{name}"
        (partial / _BYTES).write_text(str(size), encoding="ascii")
        (partial / _BOOT).write_text(self._boot, encoding="ascii")
        with self._lock:
            entry = self._root / key
            if self._is_whole(entry):
                remove_tree(partial)
                return
            if entry.exists():
                self._put_away(entry)
            partial.rename(entry)

    def discard(self, name: str) -> None:
        """Remove what was not completed."""
        remove_tree(self._root / f"{_PARTIAL}{name}")

    def sweep(self, list_attempts: Callable[[], Iterable[tuple[str, Path]]]) -> None:
        """
        Remove what is left of tries that are over, is old, or is too much; the least used first.

        :param list_attempts: Returns name and folder of each attempt that there is.
        """
        if not self._root.is_dir():
            return
        with self._lock:
            found = list(self._root.iterdir())
            # Looked for later, so that an attempt that has begun meanwhile is among them.
            known = dict(list_attempts())
            used = {_read_hold(folder) for folder in known.values()}
            entries, doomed = [], []
            for folder in found:
                if folder.name.startswith(_REMOVED):
                    remove_tree(folder)
                elif folder.name.startswith(_PARTIAL):
                    if folder.name.removeprefix(_PARTIAL) not in known:
                        remove_tree(folder)
                elif self._is_whole(folder):
                    entries.append((folder.stat().st_mtime, _read_size(folder), folder))
                else:
                    doomed.append(self._put_away(folder))
            total = sum(size for _, size, _ in entries)
            oldest = time.time() - KEPT_SECONDS
            for used_at, size, folder in sorted(entries):
                if folder.name in used or (total <= self.most_bytes and used_at > oldest):
                    continue
                doomed.append(self._put_away(folder))
                total -= size
                log.info("prepared.removed", key=folder.name, bytes=size)
        for folder in doomed:
            remove_tree(folder)

    def _is_whole(self, entry: Path) -> bool:
        try:
            return (entry / _BOOT).read_text(encoding="ascii") == self._boot
        except (OSError, UnicodeDecodeError):
            return False

    def _put_away(self, entry: Path) -> Path:
        """Take an entry out of sight in one step, so that nobody finds half of it."""
        return entry.rename(self._root / f"{_REMOVED}{uuid4().hex}")


def _read_hold(attempt: Path) -> str | None:
    with suppress(OSError, UnicodeDecodeError):
        return (attempt / HOLD_FILE).read_text(encoding="ascii") or None
    return None


def _read_size(entry: Path) -> int:
    with suppress(OSError, ValueError):
        return int((entry / _BYTES).read_text(encoding="ascii"))
    return 0
