"""The output folder, written by code nobody trusts: read with limits, links never followed."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONSOLE = "console.log"
RESULT = "result.json"
ERROR = "error.json"
VERDICT = "verdict.json"
PROGRESS = "progress.jsonl"
RESERVE = ".reserve"
COMPILED = "compiled.tar"
CONTRACTS = (1, 2)
"""Versions of a result.json."""
MODELS = ("models/long.h5", "models/short.h5")
PARAMETERS = ("parameters_long", "parameters_short")

MAX_FILES = 10_000
MAX_DEPTH = 16
_MAX_JSON_BYTES = 4 * 1024**2
_READ_BYTES = 1024**2
# The runner's own; they do not count against the trainer.
_OWN = frozenset({CONSOLE, VERDICT, PROGRESS, RESERVE})
_RESERVE_BYTES = 1024**2
_PROBE_BYTES = 256 * 1024
"""More than any ``error.json`` takes: where that has no room, a trainer cannot say why it ended."""
# What a disk says of itself. What somebody may not do is not among it: that can be arranged.
FAULTS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENOENT}
    | {errno.ESTALE, errno.EMFILE, errno.ENFILE}
)


# What keeps this process from reading what is there: nothing is known of it then.
_BLIND = frozenset({errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE})


class ResultError(ValueError):
    """``result.json`` is missing, or not what the contract asks for; the message says which."""


@dataclass(frozen=True, kw_only=True)
class OutputSize:
    """
    How much the trainer has written.

    :param files: Number of files and folders, the runner's own left out.
    :param bytes: What they take of the disk, or their sizes where those are larger.
    :param is_deep: Whether there are folders too deep to look into.
    """

    files: int
    bytes: int
    is_deep: bool = False


def clear_protocol_files(out: Path) -> None:
    """Remove what an earlier attempt in the same folder could be taken for."""
    for name in (RESULT, ERROR, VERDICT, PROGRESS, CONSOLE, RESERVE, COMPILED):
        make_way(out, name)
        (out / name).unlink(missing_ok=True)


def reserve(out: Path) -> None:
    """
    Keep room for the verdict, should the disk be full when it is time for it.

    :param out: Output folder.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    # Where there is no room at the beginning, the trainer finds it out soon enough.
    with suppress(OSError):
        descriptor = os.open(out / RESERVE, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _RESERVE_BYTES)
        finally:
            os.close(descriptor)


def find_fault(out: Path) -> str | None:
    """
    Return what is wrong with the disk below the output folder; ``None`` if it can be written to.

    :param out: Output folder.
    """
    probe = out / f".probe-{secrets.token_hex(16)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        descriptor = os.open(probe, flags, 0o600)
        try:
            # All of it or nothing: a write would be content with what there is.
            os.posix_fallocate(descriptor, 0, _PROBE_BYTES)
            os.write(descriptor, bytes(4096))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink(missing_ok=True)
    except OSError as error:
        return (error.strerror or str(error)) if error.errno in FAULTS else None
    return None


def release(out: Path) -> None:
    """Give back what was kept for the verdict."""
    with suppress(OSError):
        (out / RESERVE).unlink(missing_ok=True)


def make_way(out: Path, name: str) -> None:
    """Move a folder away that has a name of ours; it may hold what we cannot remove."""
    path = out / name
    # In this order: a link of another user may not be followed, not even to look.
    if not path.is_symlink() and path.is_dir():
        path.rename(out / f"{name}.folder-{secrets.token_hex(4)}")


def measure(out: Path) -> OutputSize:
    """Return the size of everything below ``out``; stops counting beyond the most files."""
    files = size = 0
    linked: set[int] = set()
    for path, facts in _walk(out):
        if path in _OWN:
            continue
        files += 1
        is_folder = stat.S_ISDIR(facts.st_mode)
        if is_folder and path.count("/") >= MAX_DEPTH:
            return OutputSize(files=files, bytes=size, is_deep=True)
        if facts.st_nlink > 1 and not is_folder:
            if facts.st_ino in linked:
                continue
            linked.add(facts.st_ino)
        # A sparse file takes less than its size, a small one more.
        size += max(facts.st_blocks * 512, 0 if is_folder else facts.st_size)
        if files > MAX_FILES:
            break
    return OutputSize(files=files, bytes=size)


def list_files(out: Path, *, only: frozenset[str] | None = None) -> list[dict[str, Any]]:
    """
    Return path, SHA-256 and size of every regular file below ``out``, by path.

    Links, devices and names that are not UTF-8 are left out; so are the verdict, the progress and
    what was compiled.

    :param only: If given, the paths to restrict the list to.
    """
    files = []
    for path, facts in _walk(out):
        if path in (VERDICT, PROGRESS, RESERVE, COMPILED) or not stat.S_ISREG(facts.st_mode):
            continue
        if only is not None and path not in only:
            continue
        digest = _digest(out / path)
        if digest is not None and _is_plain(path):
            files.append({"path": path, "sha256": digest[0], "size": digest[1]})
    return sorted(files, key=lambda file: file["path"])


def read_error(out: Path) -> dict[str, str] | None:
    """Return class and message of ``error.json``, or ``None`` if it is missing or unusable."""
    try:
        document = _read_json(out / ERROR)
    except ResultError:
        return None
    if not isinstance(document, dict):
        return None
    facts = {name: document.get(name) for name in ("class", "message")}
    if not all(isinstance(value, str) and value.strip() for value in facts.values()):
        return None
    return {name: str(value) for name, value in facts.items()}


def check_result(out: Path, command: str, submission_id: str, task_id: str) -> dict[str, Any]:
    """
    Return ``result.json`` if it is what the contract asks for.

    :param out: Output folder.
    :param command: ``validate``, ``train`` or ``score``; they leave different results.
    :param submission_id: Must be named in the result, unless empty.
    :param task_id: Likewise.
    :raises ResultError: With what is wrong.
    """
    result = _read_json(out / RESULT)
    if not isinstance(result, dict) or result.get("contract") not in CONTRACTS:
        spoken = " or ".join(map(str, CONTRACTS))
        raise ResultError(f"result.json is not of contract {spoken}")
    for name, expected in (("submission_id", submission_id), ("task_id", task_id)):
        if expected and result.get(name) != expected:
            raise ResultError(f"result.json names another {name}")
    if command == "validate":
        if result.get("validated") is not True:
            raise ResultError("result.json does not say validated")
    elif command == "train":
        _check_training(result, out)
    elif command == "score":
        if result.get("scored") is not True:
            raise ResultError("result.json does not say scored")
        _check_files(result, out, ("predictions.csv",))
    return result


def find_parameters(result: dict[str, Any]) -> int | None:
    """Return how many parameters the larger model of a training has, if its result tells."""
    params = result.get("params")
    counts = [params.get(name) for name in PARAMETERS] if isinstance(params, dict) else []
    known = [count for count in counts if type(count) is int and 0 <= count < 2**63]
    return max(known, default=None)


def _check_training(result: dict[str, Any], out: Path) -> None:
    metrics = result.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        raise ResultError("result.json has no metrics")
    for name, value in metrics.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ResultError(f"result.json: metric {name[:100]!r} is neither a number nor null")
    _check_files(result, out, (*MODELS, "predictions.csv"))


def _check_files(result: dict[str, Any], out: Path, wanted_paths: Sequence[str]) -> None:
    listed = result.get("files")
    if not isinstance(listed, list) or not all(isinstance(file, dict) for file in listed):
        raise ResultError("result.json lists no files")
    by_path = {file.get("path"): file.get("sha256") for file in listed}
    for path in wanted_paths:
        if path not in by_path:
            raise ResultError(f"result.json does not list {path}")
    wanted = frozenset(path for path in by_path if isinstance(path, str))
    present = {file["path"]: file["sha256"] for file in list_files(out, only=wanted)}
    for path, sha256 in by_path.items():
        if present.get(path) != sha256:
            raise ResultError(f"{str(path)[:200]} is missing or not what result.json says")


def _read_json(path: Path) -> Any:
    content = _read(path, _MAX_JSON_BYTES)
    if content is None:
        raise ResultError(f"{path.name} is missing, or is no file that can be read")
    if len(content) > _MAX_JSON_BYTES:
        raise ResultError(f"{path.name} is larger than {_MAX_JSON_BYTES} bytes")
    try:
        return json.loads(content, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path.name} is not valid JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is out of range")
    return value


def _read(path: Path, limit: int) -> bytes | None:
    """Return at most one byte more than ``limit``; ``None`` for anything but a regular file."""
    descriptor = _open_regular(path)
    if descriptor is None:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(limit + 1)


def _digest(path: Path) -> tuple[str, int] | None:
    descriptor = _open_regular(path)
    if descriptor is None:
        return None
    digest, size = hashlib.sha256(), 0
    with os.fdopen(descriptor, "rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            size += len(block)
    return digest.hexdigest(), size


def open_regular(path: Path) -> int | None:
    """Open a file for reading; ``None`` for a link, a pipe, or what cannot be opened."""
    with suppress(OSError):
        return _open_regular(path)
    return None


def _open_regular(path: Path) -> int | None:
    """
    Open a file for reading; ``None`` for a link, a pipe, or what its owner lets nobody open.

    :raises OSError: If this machine cannot open it, which says nothing of the file.
    """
    # O_NONBLOCK: a named pipe would wait for a writer for ever.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _BLIND:
            raise
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _walk(out: Path, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, os.stat_result]]:
    try:
        entries = os.scandir(out / prefix)
    except OSError as error:
        if error.errno in _BLIND:
            raise
        return  # gone while we looked, or a folder its owner closed to himself
    with entries:
        # One by one: somebody may have made millions.
        for entry in entries:
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            path = f"{prefix}{entry.name}"
            yield path, facts
            if stat.S_ISDIR(facts.st_mode) and depth < MAX_DEPTH:
                yield from _walk(out, f"{path}/", depth + 1)


def _is_plain(path: str) -> bool:
    return path.isprintable() and len(path.encode()) <= 500 and "\\" not in path
