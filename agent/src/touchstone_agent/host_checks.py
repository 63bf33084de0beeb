"""What a server itself must have, whatever control plane it will belong to."""

from __future__ import annotations

import ctypes
import platform
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import psutil

from touchstone_agent.core.ports import EngineFacts
from touchstone_agent.protocol.envelope import CLOCK_TOLERANCE

ASK_SECONDS = 10.0
MIN_PYTHON, TOO_NEW_PYTHON = (3, 11), (3, 13)
MIN_MEMORY_MIB = 1024
"""Below this not even a small training fits beside the agent and the engine."""
CROWDED_MEMORY = 0.1
SLOW_DRIVERS = {
    "vfs": "copies every layer of an image for each container",
    "devicemapper": "was given up by the engine",
    "aufs": "was given up by the engine",
}
_CREATE_RULESET = 444
"""The system call ``landlock_create_ruleset``, whose number is the same on all processors."""
_GPU_HOOK = "nvidia-container-runtime-hook"
_CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))


class Warned(str):
    """Found, and not as it should be."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """
    What a store answered to a request without credentials.

    :param skew: By how much this machine's clock is ahead of the store's; ``None`` if that tells
        no time.
    """

    skew: timedelta | None


def ask_origin(url: str) -> Origin:
    """
    Ask a store for anything at all; whatever it answers shows that it can be reached.

    :raises OSError: If there is no answer.
    """
    asked = time.monotonic()
    try:
        answer = httpx.head(url, timeout=ASK_SECONDS, follow_redirects=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise OSError(
            f"{url} cannot be reached ({str(error)[:200] or type(error).__name__}): let this "
            "server connect out to it (firewall, DNS, HTTPS_PROXY)"
        ) from None
    now, took = datetime.now(UTC), timedelta(seconds=time.monotonic() - asked)
    try:
        said = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:
        return Origin(skew=None)
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    return Origin(skew=now - took / 2 - said)


def check_python() -> str:
    """
    Look at the interpreter that runs this.

    :raises OSError: If it is of a version that the agent is not made for.
    """
    version = platform.python_version_tuple()
    if not MIN_PYTHON <= (int(version[0]), int(version[1])) < TOO_NEW_PYTHON:
        raise OSError(f"{platform.python_version()}; install Python 3.11 or 3.12")
    return platform.python_version()


def check_kernel() -> str | Warned:
    """Look whether the kernel refuses files to submitted code, as trainers ask it to."""
    # Asked for its version, it makes nothing.
    version = int(ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    if version > 0:
        return f"{platform.release()}, Landlock {version}"
    return Warned(
        f"{platform.release()} has no Landlock: native code in a submission can read its "
        "training's market data and leave files for later; take Linux 5.13 or newer, with "
        '"landlock" among lsm= of its command line'
    )


def judge_clock(origin: Origin) -> str | Warned:
    """
    Compare this machine's clock with a store's.

    :raises OSError: If they differ by more than messages allow for.
    """
    if origin.skew is None:
        return Warned("the queues tell no time to compare it with")
    seconds = origin.skew.total_seconds()
    if abs(origin.skew) > CLOCK_TOLERANCE:
        side = "ahead" if seconds > 0 else "behind"
        raise OSError(
            f"{abs(seconds):.0f} s {side} of the queues', and messages are refused from "
            f"{CLOCK_TOLERANCE.total_seconds():.0f} s on: synchronise it "
            "(`timedatectl set-ntp true`, or chrony)"
        )
    return f"{abs(seconds):.0f} s apart from the queues'"


def judge_storage(engine: EngineFacts) -> str | Warned:
    """Say how the engine keeps images."""
    why = SLOW_DRIVERS.get(engine.storage_driver)
    if why is not None:
        return Warned(
            f"{engine.storage_driver} {why}: set "
            '"storage-driver": "overlay2" in the engine\'s daemon.json'
        )
    return engine.storage_driver or Warned("the engine does not say which")


def judge_live_restore(engine: EngineFacts) -> str | Warned:
    """Say whether trainings outlive a restart of the engine."""
    if engine.has_live_restore:
        return "on"
    return Warned(
        'off: a restart of the engine ends all trainings; set "live-restore": true in its '
        "daemon.json and reload it"
    )


def check_engine_disk(engine: EngineFacts, min_free_mib: int) -> str:
    """
    Look at the disk that images and containers are on.

    :raises OSError: If it is full.
    """
    if not engine.root.exists():
        return f"{engine.root} is not seen from here"
    free = shutil.disk_usage(engine.root).free // 1024**2
    if free < min_free_mib:
        raise OSError(
            f"{free} MiB free in {engine.root}; {min_free_mib} MiB wanted: remove images "
            "(`docker image prune`) or give it a larger disk"
        )
    return f"{free} MiB free in {engine.root}"


def check_memory() -> str | Warned:
    """
    Look at this machine's memory.

    :raises OSError: If it has too little for any training.
    """
    memory = psutil.virtual_memory()
    total, free = memory.total // 1024**2, memory.available // 1024**2
    if total < MIN_MEMORY_MIB:
        raise OSError(f"{total} MiB; {MIN_MEMORY_MIB} MiB wanted: this machine is too small")
    said = f"{free} of {total} MiB free"
    if free < total * CROWDED_MEMORY:
        return Warned(f"{said}: something else uses the rest, which trainings will lack")
    return said


def judge_gpu_runtime(engine: EngineFacts, *, has_gpus: bool) -> str:
    """
    Look whether the engine can hand GPUs to containers.

    :raises OSError: If there are GPUs and it cannot.
    """
    if not has_gpus:
        return "not needed"
    if "nvidia" in engine.runtimes:
        return "nvidia"
    if shutil.which(_GPU_HOOK) is not None:
        return "NVIDIA's hook"
    if any(folder.is_dir() and any(folder.iterdir()) for folder in _CDI_FOLDERS):
        return "CDI"
    raise OSError(
        "there are GPUs, and the engine cannot hand them over: install the NVIDIA Container "
        'Toolkit and restart the engine, or set gpu = "none" in agent.toml'
    )
