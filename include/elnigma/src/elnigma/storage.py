"""Faults of the disk under the trainer's own files, told apart from a submission's."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elnigma.errors import StorageError

_PROBE_BYTES = 1024**2


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """
    Say of whatever goes wrong with a file of the trainer's own that the machine is at fault.

    :param path: The file.
    :raises StorageError: For every error of the operating system.
    """
    try:
        yield
    except OSError as error:
        raise _build_error(path, error) from error


@contextmanager
def storing_by(path: Path) -> Iterator[None]:
    """
    The same, where a library writes the file together with what a submission has made.

    A library words a full disk in its own way. Whether it was one, the folder tells: it can be
    written to, or not.

    :param path: The file.
    :raises StorageError: If nothing can be written beside the file.
    """
    try:
        yield
    except Exception as error:
        problem = find_problem(path.parent)
        if problem is not None:
            raise _build_error(path, problem) from error
        raise


def find_problem(folder: Path) -> OSError | None:
    """Return why nothing can be written in a folder; ``None`` if something can."""
    probe = folder / f".probe-{secrets.token_hex(8)}"
    try:
        with probe.open("xb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error
    finally:
        probe.unlink(missing_ok=True)
    return None


def _build_error(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"temporary: this machine cannot write {path.name}: {error.strerror or error}; "
        "nothing is wrong with the submission, it is tried elsewhere"
    )
