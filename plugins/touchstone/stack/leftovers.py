"""Processes of a stack that outlived their supervisor: found by their marker, and ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from touchstone.stack.layout import MARKER

_TERM_SECONDS = 8.0


_REMAINS_SECONDS = 900.0
_PROC = Path("/proc")
_WORKER = "airflow worker"
_IDLE = "<idle>"
"""How Airflow's local executor titles its processes."""


def list_marked(stack_id: str, proc: Path = _PROC) -> list[int]:
    """
    Return the processes that carry a stack's marker, but for this one and its ancestors.

    :param stack_id: The stack.
    :param proc: The process file system.
    """
    spared = _lineage(os.getpid(), proc)
    return sorted(
        pid
        for pid, variables in _read_environments(proc)
        if pid not in spared and variables.get(MARKER) == stack_id
    )


def find_rival(stack_id: str, env: str, proc: Path = _PROC) -> str | None:
    """
    Find another running stack of the same environment.

    :param stack_id: This stack, which is none of them.
    :param env: The environment.
    :param proc: The process file system.
    :return: The other stack's state directory, or ``None``.
    """
    for _, variables in _read_environments(proc):
        if variables.get(MARKER, stack_id) != stack_id and variables.get("TOUCHSTONE_ENV") == env:
            return variables.get("TOUCHSTONE_STATE_DIR", "another directory")
    return None


def end_marked(
    stack_id: str,
    *,
    list_pids: Callable[[str], list[int]] = list_marked,
    kill: Callable[[int, int], None] = os.kill,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """
    End every process that carries a stack's marker.

    Asks first and kills after eight seconds. Processes that start meanwhile are found as well.

    :return: How many there were.
    """
    seen: set[int] = set()
    deadline = clock() + _TERM_SECONDS
    while pids := list_pids(stack_id):
        sign = signal.SIGKILL if clock() > deadline else signal.SIGTERM
        for pid in pids:
            if pid in seen and sign is signal.SIGTERM:
                continue
            seen.add(pid)
            with contextlib.suppress(ProcessLookupError):
                kill(pid, sign)
        sleep(0.2)
    return len(seen)


def end_remains(
    stack_id: str,
    group: int,
    *,
    proc: Path = _PROC,
    kill: Callable[[int, int], None] = os.kill,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """
    End what a part that died has left in its process group.

    Its children would hold its port and its memory for ever. A worker of Airflow's that still
    runs a task is left to finish it: it reports for itself, and lost tasks come back late.

    :param stack_id: The stack.
    :param group: The process group, which is the dead process's id.
    """
    deadline = clock() + _REMAINS_SECONDS
    while members := _list_group(stack_id, group, proc):
        workers = {pid: title for pid, title in members.items() if title.startswith(_WORKER)}
        is_busy = any(_IDLE not in title for title in workers.values()) and clock() < deadline
        for pid, title in members.items():
            if not is_busy or (pid in workers and _IDLE in title):
                with contextlib.suppress(ProcessLookupError):
                    kill(pid, signal.SIGKILL)
        sleep(1)


def _list_group(stack_id: str, group: int, proc: Path) -> dict[int, str]:
    """Return the titles of a process group's members, by process."""
    members = {}
    for pid, variables in _read_environments(proc):
        with contextlib.suppress(OSError):
            if variables.get(MARKER) == stack_id and _read_stat(pid, proc)[2] == str(group):
                members[pid] = (proc / str(pid) / "cmdline").read_text().replace("\0", " ")
    return members


def _read_stat(pid: int, proc: Path) -> list[str]:
    """Return a process's state, parent, process group, and so on."""
    # The name in parentheses may hold anything, parentheses included.
    return (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _lineage(pid: int, proc: Path) -> set[int]:
    pids = set()
    while pid > 0:
        pids.add(pid)
        try:
            pid = int(_read_stat(pid, proc)[1])
        except OSError:
            break
    return pids


def _read_environments(proc: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for folder in proc.iterdir():
        if not folder.name.isdecimal():
            continue
        # A process may end, or belong to somebody else; a zombie's environment is empty.
        with contextlib.suppress(OSError):
            text = (folder / "environ").read_bytes().decode(errors="replace")
            pairs = (item.partition("=") for item in text.split("\0") if item)
            yield int(folder.name), {name: value for name, _, value in pairs}
