"""
Two users: the runner's own, and another one for what it runs.

A runner that is root starts the trainer as somebody who can neither signal it nor write its files.
It has just the capabilities for that, and none by which it could read what the trainer keeps to
itself: it looks at the trainer's files and processes as the trainer's user would.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_GET_PDEATHSIG = 2
_PR_SET_NO_NEW_PRIVS = 38
_OOM_FIRST = "900"

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, kw_only=True)
class TrainerUser:
    """
    Whom the trainer runs as.

    :param uid: User; ``None`` for the runner's own.
    :param gid: Its only group.
    """

    uid: int | None = None
    gid: int = 0

    def prepare_child(self) -> None:
        """
        Set up a child between fork and exec.

        It goes first when memory runs out: the runner must live to tell. It leaves no core file, is
        the trainer's user for good, gains nothing by what it runs, and dies with the runner.
        """
        # While the child is still the runner's user, to whom this file belongs.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(_OOM_FIRST)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if self.uid is not None:
            os.setgroups([])
            os.setresgid(self.gid, self.gid, self.gid)
            os.setresuid(self.uid, self.uid, self.uid)
            _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        # Behind the change of user, which clears it.
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    @contextmanager
    def acting(self) -> Iterator[None]:
        """
        Open, make and remove files as the trainer's user, for as long as the block runs.

        Only access to files changes, and with it what /proc tells of the trainer's processes. Whom
        the trainer may signal, trace or slow down does not depend on it.
        """
        if self.uid is None:
            yield
            return
        # A change of this kind clears what ends us with our own parent.
        death_signal = ctypes.c_int()
        _libc.prctl(_PR_GET_PDEATHSIG, ctypes.byref(death_signal), 0, 0, 0)
        try:
            _libc.setfsgid(self.gid)
            _libc.setfsuid(self.uid)
            yield
        finally:
            _libc.setfsuid(os.geteuid())
            _libc.setfsgid(os.getegid())
            _libc.prctl(_PR_SET_PDEATHSIG, death_signal.value, 0, 0, 0)
