"""What the pod tells of its attempt; standard library only."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from touchstone_agent.adapters.files import open_below, read_below, size_below
from touchstone_agent.pod.home import PodHome, Record, read_json
from touchstone_agent.pod.lease import find_lease, read_uptime
from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.errors import PermanentError, TransientError

VERSION = 1
IDLE, PREPARING, RUNNING, EXITED = "idle", "preparing", "running", "exited"
"""``PodPhase`` and ``POD_PROTOCOL_VERSION`` without their module, whose import takes longer than
all else here; a test compares them."""

CONSOLE = "console.log"
PROGRESS = "progress.jsonl"
MAX_CONSOLE_BYTES = 4 * 1024**2
MAX_PROGRESS_BYTES = 64 * 1024
MAX_DISK_BYTES = 2**60

_RECORDED = (
    *("phase", "prepared_at", "running_at", "exited_at", "exit_code", "oom_killed", "problem"),
    *("is_submissions_fault", "wants_grants", "verdict", "files"),
)


def build_state(home: PodHome, *, console_offset: int = 0, console_bytes: int = 0) -> Record:
    """
    Return how the attempt is, as ``PodState`` has it.

    :param console_offset: From which byte on the console is wanted.
    :param console_bytes: How much of it at most.
    :raises TransientError: If the pod's first process is not as far.
    """
    boot = read_json(home.boot_file)
    if boot is None:
        raise TransientError("the pod's container is still starting")
    disk = os.statvfs(home.root)
    state: Record = {
        "version": VERSION,
        "boot_id": boot["boot_id"],
        "phase": IDLE,
        # A network's file system may tell of more than there is in the world.
        "disk_free_bytes": min(disk.f_bavail * disk.f_frsize, MAX_DISK_BYTES),
        "lease_seconds_left": _count_lease(home),
    }
    order = read_json(home.order_file)
    if order is None:
        return state
    record = read_json(home.record_file) or {"phase": PREPARING}
    state["ref"] = order["start"]["ref"]
    state |= {name: record[name] for name in _RECORDED if name in record}
    if state["phase"] in (RUNNING, EXITED):
        state |= _read_console(home, console_offset, min(console_bytes, MAX_CONSOLE_BYTES))
        state["progress"] = find_progress(home)
    return state


def find_progress(home: PodHome) -> dict[str, Any] | None:
    """Return the trainer's last line of progress that is one."""
    try:
        size = size_below(home.out, PROGRESS, is_owners=True)
        start = max(0, size - MAX_PROGRESS_BYTES)
        text = read_below(home.out, PROGRESS, limit=size - start, offset=start)
    except (OSError, PermanentError):
        return None
    # What follows the last end of line is being written.
    for line in reversed(text.split(b"\n")[:-1]):
        try:
            data = parse_json(line, max_bytes=MAX_PROGRESS_BYTES)
        except DocumentRefused:
            continue
        if isinstance(data, dict):
            return data
    return None


def encode(answer: Record) -> bytes:
    """Return an answer as one line of JSON, without the half characters a trainer may write."""
    text = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace") + b"\n"


def _count_lease(home: PodHome) -> float:
    until = find_lease(home)
    if until is None or home.ending_file.exists():
        return 0.0
    return round(max(0.0, until - read_uptime()), 3)


def _read_console(home: PodHome, offset: int, limit: int) -> Record:
    try:
        with open_below(home.out, CONSOLE, is_owners=True) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(offset)
            piece = file.read(limit)
    except (OSError, PermanentError):
        return {}
    return {"console_size": size, "console": base64.b64encode(piece).decode("ascii")}
