"""What a process asks of the kernel for itself and its children."""

from __future__ import annotations

import ctypes
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_MOST_PROCESSES = 8192
"""Far beyond any training's; so many of its user's may be there in all of the machine."""

_libc = ctypes.CDLL(None)


def become_subreaper() -> None:
    """Let orphans below this process become its children, so that none is lost."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def prepare_trainer() -> None:
    """
    Set up a child between fork and exec, after it has changed its user.

    It gains no rights by what it runs, dies with its parent, leaves no core file, and cannot use
    up all processes, without which nobody could log in.
    """
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
    if most == resource.RLIM_INFINITY or most > _MOST_PROCESSES:
        resource.setrlimit(resource.RLIMIT_NPROC, (_MOST_PROCESSES, _MOST_PROCESSES))
