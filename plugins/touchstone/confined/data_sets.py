"""Archives of data sets: looked through, and unpacked, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from touchstone.confined.running import AskedTooMuch, Bounds, TookTooLong, run_program
from touchstone_agent.protocol.errors import ConfigurationError, TransientError

FIELD: Final = "data"

_PROGRAM: Final = "data_set_program"
_SECONDS: Final = 300
"""Only on a machine with far too much to do."""
_CPU_SECONDS: Final = 60
_MEMORY_BYTES: Final = 512 * 1024**2
_SLACK_BYTES: Final = 1024**2


@dataclass(frozen=True, kw_only=True)
class DataArchive:
    """
    What an archive of a data set holds.

    :param text: Its ``data.toml``.
    :param digest: Of ``data.toml`` and the data file.
    :param data_bytes: The data file's size in bytes.
    """

    text: str
    digest: str
    data_bytes: int


def read_data_archive(
    file: IO[bytes], *, max_bytes: int, folder: Path | None = None
) -> DataArchive:
    """
    Look through a data set's archive; its data file is what its ``data.toml`` says.

    :param file: The archive: a file of this machine.
    :param max_bytes: Most bytes of both files together.
    :param folder: An empty folder that both are written to; ``None`` to write nothing.
    :raises ConfigurationError: Naming the member or the key, and what is wrong with it.
    :raises TransientError: If this machine is too busy, or this process is to end.
    """
    question = {
        "field": FIELD,
        "max_bytes": max_bytes,
        "folder": None if folder is None else str(folder),
    }
    bounds = Bounds(
        seconds=_SECONDS,
        cpu_seconds=_CPU_SECONDS,
        memory_bytes=_MEMORY_BYTES,
        file_bytes=max_bytes + _SLACK_BYTES,
    )
    try:
        answer = run_program(_PROGRAM, question, bounds=bounds, given=file)
    except TookTooLong as error:
        # Its CPU time is bounded far below that: it is this machine that is busy.
        raise TransientError(f"{FIELD}: looking through the archive {error}") from error
    except AskedTooMuch as error:
        raise ConfigurationError(
            f"{FIELD}: the archive {error} while it was read; `touchstone data add DIR` packs it"
        ) from error
    if answer.get("refused"):
        raise ConfigurationError(str(answer["refused"]))
    return DataArchive(
        text=str(answer["text"]),
        digest=str(answer["digest"]),
        data_bytes=int(str(answer["data_bytes"])),
    )
