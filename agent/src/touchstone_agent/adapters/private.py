"""
Data sets that stay on this server, and what attempts on them have left.

Which there are, its owner says in the agent's settings, and nobody else.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import IO, Final

from touchstone_agent.adapters.files import BLOCK_BYTES, remove_tree
from touchstone_agent.core.ports import HostLacks
from touchstone_agent.protocol.messages import Refusal
from touchstone_agent.protocol.private import HeldData, PrivateData

FILE: Final = "data.toml"
FOLDER: Final = "data"
"""Where a data set lies below an attempt's input folder."""

_MAX_TEXT_BYTES: Final = 64 * 1024
_MAX_DATA_BYTES: Final = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class HeldFolder:
    """
    A data set of this server's settings.

    :param held: Which it is.
    :param folder: Where ``data.toml`` and the data file are.
    """

    held: HeldData
    folder: Path


class PrivateStore:
    """
    Gives private data to attempts, and keeps what those leave.

    :param folders: The data sets that this server holds.
    :param kept_dir: Where what attempts have left stays, until the owner removes it.
    :param judge_python: The interpreter of the judge's environment; ``None`` where there is none.
    """

    def __init__(
        self,
        folders: Sequence[HeldFolder] = (),
        *,
        kept_dir: Path | None = None,
        judge_python: Path | None = None,
    ) -> None:
        self._folders = tuple(folders)
        self._kept_dir = kept_dir
        self.judge_python = judge_python

    def list_held(self) -> tuple[HeldData, ...]:
        """Return what this server holds, as others are told of it."""
        return tuple(each.held for each in self._folders)

    def find_lack(self, wanted: PrivateData) -> str | None:
        """Return why an attempt on a data set cannot be taken here; ``None`` if it can."""
        label = f"{wanted.name} {wanted.version}"
        if not any(each.held == wanted.held for each in self._folders):
            return f"data: this server does not hold {label} of digest {wanted.digest}"
        return None

    def find_folder(self, wanted: PrivateData) -> Path:
        """
        Return where a data set is.

        :raises HostLacks: If this server does not hold it.
        """
        found = next((each.folder for each in self._folders if each.held == wanted.held), None)
        if found is None:
            raise HostLacks(str(self.find_lack(wanted)), Refusal.DATA)
        return found

    def stage(self, wanted: PrivateData, inputs: Path) -> None:
        """
        Put a data set into an attempt's input folder, which its container gets read-only.

        A copy: it is what its digest says, whatever becomes of the owner's folder meanwhile.

        :param inputs: The input folder.
        :raises HostLacks: If this server does not hold it as it should be, or is asked to judge
            other rows than the data set's own.
        """
        folder, target = self.find_folder(wanted), inputs / FOLDER
        remove_tree(target)
        target.mkdir(mode=0o755)
        try:
            text = _read_text(folder)
            described = _Description.read(text)
            (target / FILE).write_bytes(text)
            digest = hashlib.sha256(text)
            with (
                (folder / described.file).open("rb") as source,
                (target / described.file).open("wb") as copy,
            ):
                _copy(source, copy, digest)
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else str(error)
            raise HostLacks(
                f"data: {wanted.name} {wanted.version} cannot be read here: {said}", Refusal.DATA
            ) from error
        if digest.hexdigest() != wanted.digest:
            raise HostLacks(
                f"data: the folder of {wanted.name} {wanted.version} has another content here than "
                f"its digest says",
                Refusal.DATA,
            )
        rules = wanted.rules
        asked = (rules.validation_from, rules.test_from, rules.test_to, rules.data_sha256)
        if asked != (described.validation_from, described.test_from, None, wanted.digest):
            # Figures of chosen rows would tell the prices of those, one after the other.
            raise HostLacks(
                f"data: {wanted.name} {wanted.version} is judged here on its own rows alone",
                Refusal.DATA,
            )

    def keep(self, name: str, out: Path) -> None:
        """
        Move what an attempt has left to where it stays; doing it again changes nothing.

        :param name: The attempt's.
        :param out: Its output folder.
        """
        if self._kept_dir is None:
            return
        self._kept_dir.mkdir(mode=0o700, exist_ok=True)
        target = self._kept_dir / name
        if not target.exists():
            with suppress(FileNotFoundError):
                out.rename(target)

    def find_problems(self) -> Iterable[tuple[str, str]]:
        """Yield each data set that is not as the settings say, and why."""
        for each in self._folders:
            label = f"{each.held.name} {each.held.version}"
            try:
                text = _read_text(each.folder)
                digest = hashlib.sha256(text)
                with (each.folder / _Description.read(text).file).open("rb") as source:
                    _copy(source, None, digest)
            except (OSError, ValueError) as error:
                yield label, f"{each.folder} cannot be read: {error}"
                continue
            if digest.hexdigest() != each.held.digest:
                yield label, f"{each.folder} has the digest {digest.hexdigest()}"


NOTHING_PRIVATE: Final = PrivateStore()
"""Of a server that holds no private data."""


@dataclass(frozen=True, kw_only=True)
class _Description:
    """What is read of a ``data.toml`` here; trainer and judge read all of it."""

    file: str
    validation_from: date
    test_from: date

    @classmethod
    def read(cls, text: bytes) -> _Description:
        """
        Read it.

        :raises ValueError: If it is not one.
        """
        document = tomllib.loads(text.decode())
        file, rows = document.get("file"), document.get("rows")
        if not isinstance(file, str) or "/" in file or file in {"", ".", "..", FILE}:
            raise ValueError(f"{FILE}: file is no plain name")
        return cls(
            file=file,
            validation_from=_read_day(rows, "validation_from"),
            test_from=_read_day(rows, "test_from"),
        )


def _read_day(rows: object, key: str) -> date:
    day = rows.get(key) if isinstance(rows, dict) else None
    if not isinstance(day, date) or isinstance(day, datetime):
        raise ValueError(f"{FILE}: rows.{key} is no day")
    return day


def _read_text(folder: Path) -> bytes:
    with (folder / FILE).open("rb") as file:
        text = file.read(_MAX_TEXT_BYTES + 1)
    if len(text) > _MAX_TEXT_BYTES:
        raise ValueError(f"{FILE} has more than {_MAX_TEXT_BYTES} bytes")
    return text


def _copy(source: IO[bytes], target: IO[bytes] | None, digest: hashlib._Hash) -> None:
    size = 0
    while block := source.read(BLOCK_BYTES):
        size += len(block)
        if size > _MAX_DATA_BYTES:
            raise ValueError(f"the data file has more than {_MAX_DATA_BYTES} bytes")
        digest.update(block)
        if target is not None:
            target.write(block)
