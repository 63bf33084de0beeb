"""Puts an attempt's inputs where its runner looks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from touchstone_agent.adapters.files import make_attempt_folder, remove_tree, split_path
from touchstone_agent.adapters.transfer import unpack
from touchstone_agent.protocol.messages import Input

UNPACKED_BYTES = 2 * 1024**3


def stage_inputs(
    items: Iterable[Input], folder: Path, fetch: Callable[[Input, Path], None]
) -> None:
    """
    Fetch all inputs anew, whatever an earlier try had got.

    :param items: The inputs.
    :param folder: The attempt's folder; its ``in``, ``out`` and ``tmp`` are made.
    :param fetch: Puts one input, checked, to a path.
    :raises UnsafeArchive: If one of them can never be unpacked.
    :raises PermanentError: If one of them is refused or is not what was promised.
    :raises TransientError: If the store cannot be used now.
    """
    remove_tree(folder / "in")
    make_attempt_folder(folder)
    for item in items:
        target = (folder / "in").joinpath(*split_path(item.path))
        if item.unpack:
            archive = folder / "tmp" / "input.tar.gz"
            fetch(item, archive)
            target.mkdir(mode=0o755, parents=True, exist_ok=True)
            unpack(archive, target, max_bytes=UNPACKED_BYTES)
            archive.unlink()
        else:
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            fetch(item, target)
