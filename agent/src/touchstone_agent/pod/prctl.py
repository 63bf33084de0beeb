"""What a process asks of the kernel for itself and its children."""

from __future__ import annotations

import ctypes
import resource
import signal

_PR_SET_PDEATHSIG = 1
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_CAPABILITY_VERSION = 0x20080522
_RUNNER_CAPABILITIES = (5, 6, 7)
"""KILL, SETGID, SETUID: to become the trainer's user, and to signal it."""

_MOST_CAPABILITIES = 64
_MOST_PROCESSES = 8192
"""Far beyond any training's; so many of its user's may be there in all of the machine."""

_libc = ctypes.CDLL(None)


def become_subreaper() -> None:
    """Let orphans below this process become its children, so that none is lost."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def prepare_runner() -> None:
    """
    Set up a child between fork and exec that stays root, to start a trainer that is not.

    It keeps what it takes for that: no other user's file can be read or written by it.
    """
    for number in range(_MOST_CAPABILITIES):
        if number not in _RUNNER_CAPABILITIES:
            _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)
    kept = sum(1 << number for number in _RUNNER_CAPABILITIES)
    header = _CapabilityHeader(_CAPABILITY_VERSION, 0)
    sets = (_CapabilitySets * 2)(_CapabilitySets(kept, kept, 0), _CapabilitySets(0, 0, 0))
    _libc.capset(ctypes.byref(header), ctypes.byref(sets))
    prepare_trainer()


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
