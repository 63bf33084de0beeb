"""
What trainings have compiled, one file for each submission, image and device.

What is compiled is code, and a trainer runs what it is given. So the key names the submission
itself: whatever one submission leaves, only its own next trainings get. A file is what the runner
of a training that succeeded has packed; nothing here looks into it.

A training does not need it. Nothing that goes wrong here is anything but a line in the log, and
what others need the disk for comes first.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

import psutil

from touchstone_agent.adapters.files import BLOCK_BYTES, open_below, size_below
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError

FILE = "compiled.tar"
"""In the input folder: what is given. In the output folder: what the runner leaves."""

HOLD_FILE = "compiled"
"""In the folder of an attempt: the key of what it is given, and of what it leaves."""

MOST_BYTES = 64 * 1024**2
"""Of one key."""

KEPT_SECONDS = 30 * 86_400
"""After which what nobody has used is removed, whether or not there is room for it."""

_VERSION = 1
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CPU_FILE = Path("/proc/cpuinfo")
_CPU_BYTES = 16_384
_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
_KEY = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"

log = Log("compiled")


def build_key(
    submission_id: str,
    inputs: Iterable[tuple[str, str]],
    image_digest: str,
    devices: Iterable[str],
) -> str:
    """
    Return the key of what a training compiles.

    :param submission_id: Whose training it is.
    :param inputs: Path and SHA-256 of each input.
    :param image_digest: The image, by content.
    :param devices: What it computes on, in words.
    """
    facts = [_VERSION, submission_id, sorted(map(list, inputs)), image_digest, sorted(devices)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def describe_cpu() -> str:
    """Return what tells this processor from others that run other code."""
    with suppress(OSError), _CPU_FILE.open(encoding="utf-8", errors="replace") as file:
        first = file.read(_CPU_BYTES).split("\n\n")[0]
        pairs = (line.partition(":") for line in first.splitlines())
        facts = {name.strip(): value.strip() for name, _, value in pairs}
        return json.dumps([facts.get(name, "") for name in _CPU_FACTS])
    return "unknown"


def measure_compiled(root: Path) -> int:
    """Return the bytes of all that is in a folder of this kind."""
    with suppress(OSError):
        return sum(path.lstat().st_size for path in root.iterdir())
    return 0


def read_boot() -> str:
    """Return what is another with each start of this machine."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # only Linux has it
        return str(int(psutil.boot_time()))


class CompiledCache:
    """
    The files of one state folder; safe to use from several threads.

    They are not written through to the disk, so what was left before the machine was started last
    is never used: ``boot`` is part of each key.

    :param root: Their folder; made when it is needed, for its owner alone.
    :param most_bytes: All of them together; 0 keeps and gives nothing.
    :param free_bytes: So much of the disk stays free for others.
    :param devices: Returns what the GPUs of these ids are, in words.
    :param boot: This start of the machine.
    """

    def __init__(
        self,
        root: Path,
        *,
        most_bytes: int,
        free_bytes: int,
        devices: Callable[[Iterable[str]], Iterable[str]],
        boot: str,
    ) -> None:
        self._root = root
        self._most_bytes = most_bytes
        self._free_bytes = free_bytes
        self._describe = devices
        self._cpu = describe_cpu()
        self._boot = boot
        self._lock = threading.Lock()
        self._has_failed = False

    @property
    def entry_bytes(self) -> int:
        """Return the most bytes of one key."""
        return min(MOST_BYTES, self._most_bytes)

    def give(
        self,
        attempt: Path,
        submission_id: str,
        inputs: Iterable[tuple[str, str]],
        image_digest: str,
        gpu_ids: Iterable[str],
    ) -> None:
        """
        Put a copy of what there is into an attempt's input folder, and note whose it is.

        :param attempt: Folder of the attempt, with its inputs in place.
        :param submission_id: Whose training it is; see :func:`build_key` for the others.
        :param gpu_ids: GPUs that it is handed.
        """
        target = attempt / "in" / FILE
        if not self._most_bytes or target.exists():
            return  # the name belongs to an input
        devices = [self._cpu, self._boot, *self._describe(gpu_ids)]
        key = build_key(submission_id, inputs, image_digest, devices)
        with self._noting(target):
            (attempt / HOLD_FILE).write_text(key, encoding="ascii")
            with suppress(FileNotFoundError), (self._root / key).open("rb") as source:
                with target.open("xb") as file:
                    self._copy(source, file)
                # By the open file: under its name there may be nothing any more.
                os.utime(source.fileno())
                log.info("compiled.given", attempt=attempt.name, key=key)

    def is_wanted(self, attempt: Path) -> bool:
        """Tell whether what an attempt compiles would be kept."""
        return self._read_hold(attempt) is not None

    def take(self, attempt: Path) -> None:
        """Move what the runner of an attempt that succeeded has left to here."""
        key = self._read_hold(attempt)
        out = attempt / "out"
        if key is None or not size_below(out, FILE, is_owners=True):
            return
        partial = self._root / f"{_PARTIAL}{uuid4().hex}"
        # One after the other: a sweep must not find one that is being filled.
        with self._lock, self._noting(partial):
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open_below(out, FILE, is_owners=True) as source, partial.open("xb") as file:
                size = self._copy(source, file)
            partial.rename(self._root / key)
            log.info("compiled.kept", attempt=attempt.name, key=key, bytes=size)
            self._evict()
        with suppress(OSError):
            (out / FILE).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what is old, is too much, or was left by a copy that nobody completed."""
        if not self._root.is_dir():
            return
        with self._lock, self._noting():
            for path in self._root.glob(f"{_PARTIAL}*"):
                path.unlink(missing_ok=True)
            self._evict()

    def clear(self) -> bool:
        """Remove all of it, since others need the disk; tell whether there was anything."""
        with self._lock, self._noting():
            found = list(self._root.iterdir()) if self._root.is_dir() else []
            for path in found:
                path.unlink(missing_ok=True)
            return bool(found)
        return False

    def _copy(self, source: IO[bytes], target: IO[bytes]) -> int:
        free = shutil.disk_usage(self._root).free - self._free_bytes
        most = min(self.entry_bytes, max(free, 0))
        size = 0
        while block := source.read(BLOCK_BYTES):
            size += len(block)
            if size > most:
                raise PermanentError(f"what was compiled takes more than {most} bytes")
            target.write(block)
        return size

    def _evict(self) -> None:
        """Remove the least used until the rest is within its bounds."""
        found = [(path.stat().st_mtime, path.stat().st_size, path) for path in self._root.iterdir()]
        total = sum(size for _, size, _ in found)
        oldest = time.time() - KEPT_SECONDS
        for used_at, size, path in sorted(found):
            if total <= self._most_bytes and used_at > oldest:
                continue
            path.unlink(missing_ok=True)
            total -= size
            log.info("compiled.removed", key=path.name, bytes=size)

    def _read_hold(self, attempt: Path) -> str | None:
        if not self._most_bytes:
            return None
        with suppress(OSError, UnicodeDecodeError):
            key = (attempt / HOLD_FILE).read_text(encoding="ascii")
            return key if _KEY.fullmatch(key) else None
        return None

    @contextmanager
    def _noting(self, unfinished: Path | None = None) -> Iterator[None]:
        """Go on whatever happens, and say what did once, until something goes well again."""
        try:
            yield
            self._has_failed = False
        except (OSError, PermanentError) as error:
            if unfinished is not None:
                with suppress(OSError):
                    unfinished.unlink(missing_ok=True)
            if not self._has_failed:
                log.warning("compiled.failed", problem=str(error))
            self._has_failed = True
