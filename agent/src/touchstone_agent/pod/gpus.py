"""What ``nvidia-smi`` tells; standard library only."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from touchstone_agent.pod.home import PodHome, read_json, write_json

EVERY_SECONDS = 30
"""While an attempt is there; ``nvidia-smi`` is not free on a machine that trains."""

_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
_TIMEOUT_SECONDS = 10

Gpus = list[dict[str, Any]]


def find_gpus(
    home: PodHome, *, is_idle: bool, uptime: float, ask: Callable[[], str] | None = None
) -> Gpus:
    """
    Return the pod's GPUs; none when the driver does not answer.

    :param is_idle: Whether no attempt is there, so that they are asked anew.
    :param ask: Returns the output of ``nvidia-smi``.
    """
    kept = read_json(home.gpus_file)
    if not is_idle and kept is not None and 0 <= uptime - kept["at"] < EVERY_SECONDS:
        gpus: Gpus = kept["gpus"]
        return gpus
    gpus = parse_gpus((ask or ask_driver)())
    with suppress(OSError):  # on a full disk it is asked again
        write_json(home.gpus_file, {"at": uptime, "gpus": gpus})
    return gpus


def parse_gpus(text: str) -> Gpus:
    """Read lines of name, memory in MiB and driver; those of a broken GPU are left out."""
    return [
        {"name": row[0], "memory_mib": int(row[1]), "driver": row[2]}
        for row in csv.reader(text.splitlines(), skipinitialspace=True)
        if len(row) == 3 and row[1].strip().isdigit()
    ]


def ask_driver() -> str:
    """Return what ``nvidia-smi`` says; nothing if it fails, hangs or is not there."""
    import subprocess

    try:
        done = subprocess.run(
            ["nvidia-smi", *_QUERY],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return done.stdout
