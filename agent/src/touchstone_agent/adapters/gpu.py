"""Which GPUs this server has."""

from __future__ import annotations

import csv
import shutil
import subprocess
from typing import Any, Literal

_QUERY = ("--query-gpu=index,name,memory.total,uuid", "--format=csv,noheader,nounits")


def parse_gpus(text: str) -> tuple[dict[str, Any], ...]:
    """
    Read the answer of ``nvidia-smi``; lines that tell of a broken GPU are left out.

    :param text: CSV without header: index, name, memory in MiB, UUID.
    """
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) == 4 and row[0].isdigit() and row[2].isdigit():
            gpu = {"index": int(row[0]), "name": row[1], "memory_mib": int(row[2]), "uuid": row[3]}
            gpus.append(gpu)
    return tuple(gpus)


def detect_gpus(wanted: Literal["auto", "none"] | tuple[int, ...]) -> tuple[dict[str, Any], ...]:
    """
    Return the GPUs that may be handed to attempts; none when the driver does not answer.

    :param wanted: The setting ``gpu``.
    """
    if wanted == "none":
        return ()
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(
            [program, *_QUERY], capture_output=True, text=True, timeout=15, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    gpus = parse_gpus(done.stdout)
    return gpus if wanted == "auto" else tuple(g for g in gpus if g["index"] in wanted)
