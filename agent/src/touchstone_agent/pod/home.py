"""Where everything of a pod is, and how its small files are read, written and locked."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HOME_VARIABLE = "TOUCHSTONE_POD_HOME"
DEFAULT_HOME = "/workspace/touchstone"
RESERVE_BYTES = 1024**2

Record = dict[str, Any]


class PodHome:
    """
    The folders and files of a pod.

    ``state`` is for root alone: it holds grants. ``attempt`` is the trainer's, who may enter it and
    write to ``out`` and ``tmp``. ``cache`` holds what was prepared for it, and goes with the pod.

    :param root: Folder of everything.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.attempt = root / "attempt"
        self.inputs = self.attempt / "in"
        self.out = self.attempt / "out"
        self.tmp = self.attempt / "tmp"
        self.cache = root / "cache"
        self.state = root / "state"
        self.boot_file = self.state / "boot.json"
        self.life_file = self.state / "life.json"
        self.lease_file = self.state / "lease"
        self.ending_file = self.state / "ending.json"
        self.environment_file = self.state / "environment.json"
        self.order_file = self.state / "order.json"
        self.grants_file = self.state / "grants.json"
        self.record_file = self.state / "record.json"
        self.gpus_file = self.state / "gpus.json"
        self.uploaded_file = self.state / "uploaded.json"
        self.reserve_file = self.state / "reserve"
        self.start_lock = self.state / "start.lock"
        self.run_lock = self.state / "run.lock"
        self.upload_lock = self.state / "upload.lock"

    @classmethod
    def find(cls, environ: Mapping[str, str] = os.environ) -> PodHome:
        """Return the home that the environment names, or the usual one."""
        return cls(Path(environ.get(HOME_VARIABLE) or DEFAULT_HOME))

    def make(self) -> None:
        """Make the folders; those that exist are kept."""
        self.root.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.root.chmod(0o711)
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.state.chmod(0o700)


def read_json(path: Path) -> Record | None:
    """Return the content of a file that was written by :func:`write_json`; ``None`` for none."""
    try:
        data: Record = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data


def write_json(path: Path, data: Record) -> None:
    """Write a file that is either absent or whole, also after a crash of the machine."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="ascii") as file:
            json.dump(data, file, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def keep_reserve(home: PodHome) -> None:
    """Set aside what the end of an attempt takes on disk: the trainer may fill all the rest."""
    with home.reserve_file.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)


def write_record(home: PodHome, record: Record) -> None:
    """Write what is known of the attempt, if need be with the space that was set aside for it."""
    try:
        write_json(home.record_file, record)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        home.reserve_file.unlink(missing_ok=True)
        write_json(home.record_file, record)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[int | None]:
    """
    Hold a lock that is gone with its holder, and with all who have inherited it.

    :param wait: Whether to wait for it.
    :return: Its file descriptor; ``None`` if somebody else has it.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield fd
    finally:
        os.close(fd)
