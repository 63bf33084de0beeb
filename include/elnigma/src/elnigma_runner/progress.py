"""Progress lines on their way from the trainer to their readers, checked one by one."""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from elnigma_runner import outputs
from elnigma_runner.users import TrainerUser

_MAX_LINE_BYTES = 16_384
_MAX_READ_BYTES = 256 * 1024
_MAX_METRICS = 64
_MIN_SECONDS_BETWEEN = 0.5
# A target that has grown beyond this is given the least that the contract wants.
_SLOW_AFTER_BYTES = 1024**2
_SLOW_SECONDS_BETWEEN = 30.0


class ProgressRelay:
    """
    Copies well-formed lines from the trainer's file to the output folder's.

    :param source: File that the trainer appends to.
    :param target: File that the agent follows; made at once, so that nobody else can.
    :param user: Whom the trainer runs as.
    """

    def __init__(self, source: Path, target: Path, user: TrainerUser) -> None:
        self._source = source
        self._target = target
        self._user = user
        self._written_bytes = 0
        self._offset = 0
        self._rest = b""
        self._pending: dict[str, Any] | None = None
        self._written_at = 0.0
        self._append(b"")

    def relay(self, *, final: bool = False) -> None:
        """
        Copy the newest line, at most two a second.

        :param final: Whether nothing will follow, so that the newest must not wait.
        """
        for line in self._read_lines():
            self._pending = check_line(line) or self._pending
        now = time.monotonic()
        is_slow = self._written_bytes > _SLOW_AFTER_BYTES
        pause = _SLOW_SECONDS_BETWEEN if is_slow else _MIN_SECONDS_BETWEEN
        if self._pending and (final or now - self._written_at >= pause):
            self.write(self._pending)
            self._pending = None
            self._written_at = now

    def write(self, line: dict[str, Any]) -> None:
        """Append a line."""
        self._append(json.dumps(line).encode() + b"\n")

    def _append(self, text: bytes) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._target, flags, 0o644)
        except OSError:
            return  # progress is a courtesy; the attempt goes on without
        try:
            # Nor may a full disk end the attempt here: what it means is decided at its end.
            with suppress(OSError):
                self._written_bytes += os.write(descriptor, text)
        finally:
            os.close(descriptor)

    def _read_lines(self) -> list[bytes]:
        with self._user.acting():
            descriptor = outputs.open_regular(self._source)
        if descriptor is None:
            return []
        with os.fdopen(descriptor, "rb") as file:
            file.seek(self._offset)
            block = file.read(_MAX_READ_BYTES)
        self._offset += len(block)
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > _MAX_LINE_BYTES:
            self._rest = b""
        return lines


def check_line(line: bytes) -> dict[str, Any] | None:
    """Return the line with only what the contract names, or ``None`` if it is not progress."""
    if not line or len(line) > _MAX_LINE_BYTES:
        return None
    try:
        facts = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(facts, dict) or not isinstance(facts.get("phase"), str):
        return None
    percent, eta = _find_number(facts.get("percent")), _find_number(facts.get("eta_s"))
    if percent is None:
        return None
    metrics = facts.get("metrics")
    kept = metrics.items() if isinstance(metrics, dict) else ()
    return {
        "t": time.time(),
        "phase": " ".join(facts["phase"].split())[:200],
        "percent": min(max(percent, 0.0), 100.0),
        "eta_s": None if eta is None else max(eta, 0.0),
        "metrics": {
            str(name)[:100]: _find_number(value)
            for name, value in list(kept)[:_MAX_METRICS]
            # Null says that a figure is undefined.
            if value is None or _find_number(value) is not None
        },
    }


def _find_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number may have any size in JSON
        return None
    return number if math.isfinite(number) else None
