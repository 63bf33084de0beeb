"""Processes by what /proc tells of them: found wherever they hide, and ended without exception."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NOBODY = 65534
"""User and group of the trainer."""

_POLL_SECONDS = 0.05
_TELLS_CHILDREN = Path("/proc/thread-self/children").exists()


def find_trainer_user() -> int | None:
    """Return the user that the trainer runs as; ``None`` for this one, which cannot change it."""
    return NOBODY if os.geteuid() == 0 else None


def read_start_time(pid: int) -> int | None:
    """Return when a living process was started; ``None`` for none, or one that has ended."""
    fields = _read_stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def is_alive(pid: int, started: int) -> bool:
    """Tell whether a process still runs: another one may have its number by now."""
    return read_start_time(pid) == started


def find_descendants(root: int, *, user: int | None = None) -> list[int]:
    """
    Return the living processes below a process.

    :param user: Only those of this real user.
    """
    children: dict[int, list[int]] = {}
    dead = set()
    for entry in os.listdir("/proc"):  # noqa: PTH208 - thousands of them, every second
        if entry.isdigit() and (fields := _read_stat(int(entry))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry))
            if fields[0] in ("Z", "X"):
                dead.add(int(entry))
    found, open_ends = [], [root]
    while open_ends:
        below = children.get(open_ends.pop(), [])
        found += below
        open_ends += below
    return [pid for pid in found if pid not in dead and (user is None or _read_user(pid) == user)]


def list_tree(root: int) -> list[int]:
    """
    Return a process and those below it, by what the kernel tells of each one's children.

    Far cheaper than to look at all processes of the machine, where the kernel tells it. What comes
    or goes at this moment may be missing: for callers that look again soon.
    """
    if not _TELLS_CHILDREN:
        return [root, *find_descendants(root)]
    found, open_ends = [], [root]
    while open_ends:
        pid = open_ends.pop()
        found.append(pid)
        with suppress(OSError), os.scandir(f"/proc/{pid}/task") as threads:
            for thread in threads:
                with suppress(OSError), open(f"{thread.path}/children", "rb") as file:  # noqa: PTH123
                    open_ends += map(int, file.read().split())
    return found


def kill_descendants(
    root: int,
    *,
    seconds: float,
    user: int | None = None,
    reap: Callable[[], object] = lambda: None,
) -> bool:
    """
    Kill everything below a process, and what it starts meanwhile.

    :param seconds: For how long to try: one that hangs in the kernel cannot be killed.
    :param user: Only what runs as this user.
    :param reap: Called between two looks.
    :return: Whether nothing is left.
    """
    deadline = time.monotonic() + seconds
    while found := find_descendants(root, user=user):
        # Stopped first: a process that forks faster than we kill must not win.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                send(pid, number)
        reap()
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def send(pid: int, number: signal.Signals) -> None:
    """Send a signal; gone already is what was wanted."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until_gone(pid: int, started: int, *, seconds: float) -> bool:
    """Wait for a process that need not be a child; tell whether it has ended in time."""
    deadline = time.monotonic() + seconds
    while is_alive(pid, started):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _read_stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may hold anything; after it: state, parent, ...
    return text.rpartition(")")[2].split()


def _read_user(pid: int) -> int | None:
    # Not the owner of the folder: that is root's for a process which nobody may look into.
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Uid:"):
            return int(line.split()[1])
    return None
