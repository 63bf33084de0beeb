"""What the kernel says about memory in this container."""

from __future__ import annotations

import re
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
# Version 2, then version 1; the counter's name in each.
_COUNTERS = (
    (_ROOT / "memory.events", re.compile(r"^oom_kill (\d+)$", re.MULTILINE)),
    (_ROOT / "memory" / "memory.oom_control", re.compile(r"^oom_kill (\d+)$", re.MULTILINE)),
)
_LIMITS = (_ROOT / "memory.max", _ROOT / "memory" / "memory.limit_in_bytes")


def read_memory_limit() -> int | None:
    """Return the control group's limit in bytes; ``None`` without one."""
    for path in _LIMITS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        # "max" in version 2, a number beyond any machine in version 1.
        if text.isdecimal() and int(text) < 2**60:
            return int(text)
    return None


def count_oom_kills() -> int | None:
    """Return how often the kernel killed for memory in this control group; ``None`` if unknown."""
    for path, pattern in _COUNTERS:
        try:
            match = pattern.search(path.read_text())
        except OSError:
            continue
        if match:
            return int(match.group(1))
    return None
