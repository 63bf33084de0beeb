"""A local folder as an archive: the same files give the same bytes, on every machine."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from touchstone.core.data_sets import FILE, MAX_TEXT_BYTES, DataSet, parse_data_set
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


_LEVEL = 6
"""Of compression; fixed, because the default may change."""

_GIT_URL = re.compile(r"(https?|ssh|git|file)://|[\w.-]+@[\w.-]+:")


@dataclass(frozen=True, kw_only=True)
class PrivateDescription:
    """
    What is told of a data set whose file stays where it is.

    :param described: The data set.
    :param text: Its ``data.toml``.
    :param digest: Of ``data.toml`` and the data file.
    :param data_bytes: The data file's size in bytes.
    """

    described: DataSet
    text: str
    digest: str
    data_bytes: int


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
    with _open_archive(packed) as archive:
        for path in paths:
            body = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size = len(body)
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            archive.addfile(member, io.BytesIO(body))
    if packed.tell() > limit:
        raise _too_large(folder, packed.tell(), limit, sizes)
    return packed.getvalue()


def describe_private_data_set(folder: Path) -> PrivateDescription:
    """
    Return what is told of a data set whose file stays where it is.

    :param folder: The folder with ``data.toml`` and the data file.
    :raises ConfigurationError: Naming the file or the key that is wrong, and the way out.
    """
    text = _read_description(folder / FILE)
    described = parse_data_set(text.decode())
    digest, found = hashlib.sha256(text), hashlib.sha256()
    with _find_data_file(folder, described).open("rb") as file:
        while block := file.read(1024**2):
            digest.update(block)
            found.update(block)
        size = file.tell()
    _check_digest(described, found.hexdigest())
    return PrivateDescription(
        described=described, text=text.decode(), digest=digest.hexdigest(), data_bytes=size
    )


def _find_data_file(folder: Path, described: DataSet) -> Path:
    data = folder / described.file
    if not data.is_file():
        raise ConfigurationError(
            f"{FILE}: file: there is no {described.file} in {folder}; put it there, or name another"
        )
    return data


def _check_digest(described: DataSet, found: str) -> None:
    if found != described.sha256:
        raise ConfigurationError(
            f"{FILE}: sha256: {described.file} has {found}, and the file says "
            f"{described.sha256}; correct one of them"
        )


def pack_data_set(folder: Path, limit: int) -> tuple[DataSet, bytes]:
    """
    Return a data set, and its two files as a ``.tar.gz`` that depends on their contents alone.

    :param folder: The folder with ``data.toml`` and the data file; what else is there stays there.
    :param limit: Bytes that the archive may have.
    :raises ConfigurationError: Naming the file or the key that is wrong, and the way out.
    """
    text = _read_description(folder / FILE)
    described = parse_data_set(text.decode())
    data = _find_data_file(folder, described)
    packed = io.BytesIO()
    with data.open("rb") as file:
        _check_digest(described, hashlib.file_digest(file, "sha256").hexdigest())
        with _open_archive(packed) as archive:
            _add(archive, FILE, len(text), io.BytesIO(text))
            _add(archive, described.file, file.seek(0, io.SEEK_END), file)
    if packed.tell() > limit:
        raise ConfigurationError(
            f"{folder} has {_mib(packed.tell())} packed, of at most {_mib(limit)} (setting "
            "TOUCHSTONE_DATA_BYTES); leave columns or rows out"
        )
    return described, packed.getvalue()


def _read_description(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_TEXT_BYTES + 1)
        text.decode()
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{FILE}: is not UTF-8 text; save it as such") from error
    except OSError as error:
        raise ConfigurationError(
            f"{path}: {error.strerror}; give the folder that {FILE} is in"
        ) from error
    return text


@contextmanager
def _open_archive(target: IO[bytes]) -> Iterator[tarfile.TarFile]:
    # No name and no time in the header.
    with (
        gzip.GzipFile(
            filename="", fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0
        ) as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        yield archive


def _add(archive: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    file.seek(0)
    archive.addfile(member, file)


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
