"""The trainer's processes: found wherever they hide, measured, and ended without exception."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import time
from pathlib import Path

import psutil

from elnigma_runner.users import TrainerUser

_PR_SET_CHILD_SUBREAPER = 36
_KILL_SECONDS = 5.0

_libc = ctypes.CDLL(None, use_errno=True)


def become_subreaper() -> None:
    """Let orphans of the trainer become children of this process, so that none is lost."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Family:
    """
    All descendants of this process.

    CPU time is exact: what a process used reaches its parent when it is waited for, and this
    process waits for every orphan.

    :param user: Whom they run as.
    """

    def __init__(self, user: TrainerUser) -> None:
        self._user = user
        self._self = psutil.Process()
        self._cpu_before = _children_cpu()
        # Processes whose parent ignores them are waited for by nobody; their last sample counts.
        self._samples: dict[tuple[int, float], float] = {}
        self.peak_memory_bytes = 0
        self.exit_codes: dict[int, int] = {}

    def find_members(self) -> list[psutil.Process]:
        """Return every living descendant."""
        try:
            return self._self.children(recursive=True)
        except psutil.Error:
            return []

    def reap(self) -> None:
        """Wait for every descendant that has ended; their exit codes go to ``exit_codes``."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.exit_codes[pid] = os.waitstatus_to_exitcode(status)

    def sample(self) -> tuple[float, int]:
        """Return CPU seconds so far, and bytes of memory now; remember the peak."""
        members = self.find_members()
        living = 0.0
        for member in members:
            try:
                times = member.cpu_times()
                self._samples[member.pid, member.create_time()] = times.user + times.system
                living += times.user + times.system + times.children_user + times.children_system
            except psutil.Error:
                continue
        waited_for = _children_cpu() - self._cpu_before
        memory = self._measure_memory(members)
        return max(waited_for + living, sum(self._samples.values())), memory

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all descendants that have ended."""
        return max(_children_cpu() - self._cpu_before, sum(self._samples.values()))

    def include_largest(self) -> None:
        """Count the peak of a process that came and went between two samples."""
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        self.peak_memory_bytes = max(self.peak_memory_bytes, largest)

    def kill(self) -> int:
        """
        End every descendant, and what it starts meanwhile.

        :return: How many there were.
        """
        killed: set[int] = set()
        deadline = time.monotonic() + _KILL_SECONDS
        while time.monotonic() < deadline:
            self.reap()
            members = [member for member in self.find_members() if _is_alive(member)]
            if not members:
                break
            # Stopped first: a process that forks faster than we kill must not win.
            for signal_number in (signal.SIGSTOP, signal.SIGKILL):
                for member in members:
                    _send(member, signal_number)
            killed |= {member.pid for member in members}
            time.sleep(0.01)
        self.reap()
        return len(killed)

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to every descendant."""
        for member in self.find_members():
            _send(member, signal_number)

    def _measure_memory(self, members: list[psutil.Process]) -> int:
        resident = sum(_resident_bytes(member) for member in members)
        if resident <= self.peak_memory_bytes:
            return resident
        # Forks share pages, which the resident size counts once for each: only where it matters,
        # the proportional size is read, which is far slower.
        with self._user.acting():
            memory = sum(_proportional_bytes(member) for member in members)
        self.peak_memory_bytes = max(self.peak_memory_bytes, memory)
        return memory


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _send(process: psutil.Process, signal_number: signal.Signals) -> None:
    # Gone already is what was wanted.
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal_number)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def _proportional_bytes(process: psutil.Process) -> int:
    try:
        text = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
        return int(fields["Pss"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return _resident_bytes(process)
