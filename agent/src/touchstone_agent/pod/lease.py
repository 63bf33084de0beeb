"""
The lease: until when the pod lives on without hearing of the control plane.

It is measured by the clock of the machine that also counts while it sleeps and that nobody sets.
The lease is the *time stamp* of a file, because a time stamp can be renewed when the disk is full,
and is never half written. Its content names the boot of the machine that the clock belongs to.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from touchstone_agent.pod.home import PodHome

KERNEL_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NANO = 10**9


def read_uptime() -> float:
    """Return the seconds since the machine was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def read_kernel_boot() -> str:
    """Return which start of the machine this is."""
    return KERNEL_BOOT.read_text(encoding="ascii").strip()


def open_lease(home: PodHome, *, kernel_boot: str, until: float) -> None:
    """
    Begin a lease, unless an earlier boot of the container has begun one.

    :param kernel_boot: Which start of the machine this is; a lease of another one says nothing.
    :param until: Uptime until which it lasts.
    """
    try:
        if home.lease_file.read_text(encoding="ascii") == kernel_boot:
            return
    except (OSError, ValueError):
        pass
    part = home.lease_file.with_name("lease.part")
    part.write_text(kernel_boot, encoding="ascii")
    _stamp(part, until)
    part.replace(home.lease_file)


def renew_lease(home: PodHome, *, until: float) -> None:
    """
    Let the lease last until then; nothing renews that of a pod that ends already.

    :raises FileNotFoundError: If the pod's first process has not begun one.
    """
    if not home.ending_file.exists():
        _stamp(home.lease_file, until)


def find_lease(home: PodHome) -> float | None:
    """Return the uptime until which the lease lasts; ``None`` if it cannot be read."""
    try:
        return home.lease_file.stat().st_mtime_ns / _NANO
    except OSError:
        return None


def _stamp(path: Path, until: float) -> None:
    moment = int(until * _NANO)
    os.utime(path, ns=(moment, moment))
