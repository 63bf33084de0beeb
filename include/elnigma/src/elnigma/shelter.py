"""
What processes of one user can see of each other, and who ends whom.

The process that holds outcomes and the processes of submitted code have one user. What the kernel
shows of the former to the latter is closed here, as far as a process can do that without rights.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_STAT = Path("/proc/self/stat")
# Counted behind the name of the program, which may hold spaces.
_ARGUMENTS_AT = 45
_KILL_SECONDS = 5.0
_WAIT_SECONDS = 0.01


def hide_process() -> None:
    """
    Close this process's memory to others of its user, and make its arguments say nothing.

    What it was started with stands in memory that its forks inherit, and which anybody may read as
    ``/proc/PID/cmdline``: whether it validates or trains, for which task. Its own ``sys.argv`` and
    ``os.environ`` stay as they are. Whatever its children leave behind becomes its own child.
    """
    _forget_beginning()
    _control(_PR_SET_DUMPABLE, 0)
    _control(_PR_SET_CHILD_SUBREAPER, 1)
    del sys.orig_argv[1:]


def leave_parent(parent: int) -> None:
    """
    Make a forked child one that ends with its parent, reads nothing, and may be measured.

    :param parent: Its parent, as that one knew itself.
    """
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # It ended before the kernel was told.
    _control(_PR_SET_DUMPABLE, 1)
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)


def end_descendants() -> int:
    """
    End every process that comes of this one, and what it starts meanwhile.

    :return: How many there were.
    """
    ended: set[int] = set()
    deadline = time.monotonic() + _KILL_SECONDS
    while time.monotonic() < deadline:
        living = [process for process in _find_descendants() if _is_alive(process)]
        if not living:
            break
        # Stopped first: a process that forks faster than it is ended must not win.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for process in living:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(number)
        ended |= {process.pid for process in living}
        time.sleep(_WAIT_SECONDS)
    return len(ended)


def _find_descendants() -> list[psutil.Process]:
    try:
        return list(psutil.Process().children(recursive=True))
    except psutil.Error:
        return []


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _forget_beginning() -> None:
    """Overwrite the arguments and the environment that this process was started with."""
    try:
        fields = _STAT.read_text().rpartition(")")[2].split()
        first, end, first_variable, end_variable = map(int, fields[_ARGUMENTS_AT:][:4])
    except (OSError, ValueError):
        return  # Not of this operating system: there is nothing to read, either.
    if not 0 < first < end or not 0 < first_variable < end_variable:
        return
    # Set once more, they stand elsewhere: what is overwritten is read by nobody.
    for name, value in list(os.environ.items()):
        os.environ[name] = value
    program = (Path(sys.argv[0]).name if sys.argv else "").encode() or b"python"
    room = end - first
    shown = program[: room - 2]
    # Without a null byte at its very end the kernel shows what stands before the first one, and
    # not how long the arguments once were.
    ctypes.memmove(first, shown + bytes(room - len(shown) - 1) + b" ", room)
    ctypes.memset(first_variable, 0, end_variable - first_variable)


def _control(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
