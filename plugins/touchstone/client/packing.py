"""A local folder as an archive: the same files give the same bytes, on every machine."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from touchstone_agent.protocol.errors import ConfigurationError

EXCLUDED = (
    ".*_cache",
    ".DS_Store",
    ".env",
    ".git",
    ".hg",
    ".idea",
    ".ipynb_checkpoints",
    ".svn",
    ".tox",
    ".venv",
    ".vscode",
    "*.egg-info",
    "*.py[co]",
    "__pycache__",
    "node_modules",
    "venv",
)
"""Names that are never part of a module, and ``.env``, which tends to hold secrets."""


_GIT_URL = re.compile(r"(https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")


def is_remote(source: str) -> bool:
    """Tell whether a source is fetched by the installation, and not sent from here."""
    return _GIT_URL.match(source) is not None or source.startswith("upload:")


def pack(source: Path, limit: int) -> bytes:
    """
    Return a folder's archive, or an archive's bytes as they are.

    :param source: A folder, or a ``.tar.gz``.
    :param limit: Bytes that the result may have.
    :raises ConfigurationError: If there is nothing to pack, or too much, or something that is
        neither a file nor a folder.
    """
    if source.is_dir():
        return pack_folder(source, limit)
    if not source.name.endswith((".tar.gz", ".tgz")):
        raise ConfigurationError(
            f"{source} is neither a folder nor a .tar.gz; give {_suggest(source)}"
        )
    size = source.stat().st_size
    if size > limit:
        raise ConfigurationError(
            f"{source} has {_mib(size)}, of at most {_mib(limit)}; leave large files out of it"
        )
    return source.read_bytes()


def pack_folder(folder: Path, limit: int) -> bytes:
    """
    Return a folder's files as a ``.tar.gz`` that depends on their names and contents alone.

    :param folder: The folder; its own name does not matter.
    :param limit: Bytes that the files may have together, and that the archive may have.
    :raises ConfigurationError: As for :func:`pack`.
    """
    paths = sorted(_find_files(folder), key=lambda path: path.relative_to(folder).parts)
    if not paths:
        raise ConfigurationError(
            f"{folder} has no file that is submitted; put the module's files there"
        )
    sizes = {path: path.stat().st_size for path in paths}
    # As ``register`` would refuse it; said before it is sent.
    if sum(sizes.values()) > limit:
        raise _too_large(folder, sum(sizes.values()), limit, sizes)
    packed = io.BytesIO()
    # No name and no time in the header; a fixed level, because the default may change.
    with (
        gzip.GzipFile(filename="", fileobj=packed, mode="wb", compresslevel=6, mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for path in paths:
            body = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = len(body)
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(body))
    if packed.tell() > limit:
        raise _too_large(folder, packed.tell(), limit, sizes)
    return packed.getvalue()


def _find_files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if any(fnmatch(path.name, pattern) for pattern in EXCLUDED):
            continue
        if path.is_symlink():
            raise ConfigurationError(f"{path} is a link: links are not submitted; copy the file")
        if path.is_dir():
            yield from _find_files(path)
        elif path.is_file():
            yield path
        else:
            raise ConfigurationError(f"{path} is neither a file nor a folder; leave it out")


def _too_large(folder: Path, size: int, limit: int, sizes: dict[Path, int]) -> ConfigurationError:
    largest = sorted(sizes, key=lambda path: sizes[path], reverse=True)[:3]
    named = ", ".join(f"{path.relative_to(folder)} ({_mib(sizes[path])})" for path in largest)
    return ConfigurationError(
        f"{folder} has {_mib(size)}, of at most {_mib(limit)}; leave out what the module does not "
        f"need: the largest files are {named}"
    )


def _suggest(source: Path) -> str:
    """Return what to give in place of a file that is no archive."""
    if source.suffix == ".py":
        return f"the folder that {source.name} is in, {source.resolve().parent}"
    return "a folder, a .tar.gz or a git URL"


def _mib(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB"
