"""The trainer's console: all of it read, a bounded part of it kept."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections import deque
from pathlib import Path

_READ_BYTES = 1024**2
_PIPE_BYTES = 1024**2
_RECENT_BYTES = 8192


class Console:
    """
    Keeps the first and the last part of what is printed, and counts what lies between.

    The first half of the budget goes to the file as it comes, so that the file can be followed;
    the last half stays in memory and is appended when the trainer has ended. The file only grows.
    What a full disk does not take is left out: a trainer is not ended for what cannot be kept.

    :param path: ``console.log``; must not exist.
    :param keep_bytes: Budget of the file, without the line that tells what was left out.
    """

    def __init__(self, path: Path, keep_bytes: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(path, flags, 0o644), "wb", buffering=0)
        self._head_left = keep_bytes // 2
        self._tail_bytes = keep_bytes - keep_bytes // 2
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._recent = b""
        self._kept_lines = 0
        self._is_at_start = True
        self._reader: int | None = None
        self.lines = 0
        self.bytes = 0
        self.kept_bytes = 0
        self.truncated = False

    def open_pipe(self) -> int:
        """Return the writing end of a new pipe for a child; :meth:`read` takes from the other."""
        if self._reader is not None:
            os.close(self._reader)
        self._reader, writer = os.pipe()
        os.set_blocking(self._reader, False)
        # A writer of many lines waits for us less often. Where this user may not ask for so much,
        # the usual size works too.
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return writer

    def fileno(self) -> int:
        """Return the descriptor to wait on before :meth:`read`."""
        if self._reader is None:
            raise ValueError("no pipe is open")
        return self._reader

    def read(self) -> bool:
        """Take what is there; return whether there was anything."""
        try:
            block = os.read(self.fileno(), _READ_BYTES)
        except BlockingIOError:
            return False
        if block:
            self.write(block)
        return bool(block)

    def say(self, line: str) -> None:
        """Add a line of the runner's own, on a line of its own."""
        glue = "" if self._is_at_start else "\n"
        self.write(f"{glue}[runner] {line}\n".encode())

    def write(self, block: bytes) -> None:
        """Add bytes as they come."""
        self.bytes += len(block)
        self.lines += block.count(b"\n")
        if block:
            self._is_at_start = block.endswith(b"\n")
        self._remember(block)
        if self._head_left > 0:
            head, block = block[: self._head_left], block[self._head_left :]
            self._head_left -= len(head)
            self._write_out(head)
        if block:
            self._keep_tail(block)

    def last_lines(self, most: int = 1) -> list[str]:
        """Return the last lines that are not blank, oldest first."""
        lines = self._recent.decode(errors="replace").split("\n")
        # A progress bar draws over itself: of a line that was drawn again, the last state counts.
        drawn = [_find_last_state(line) for line in lines]
        return [line for line in drawn if line][-most:]

    def close(self) -> None:
        """Append the tail, and what was left out before it."""
        if self._file.closed:
            return
        tail = b"".join(self._tail)
        dropped_bytes = self.bytes - self.kept_bytes - len(tail)
        if dropped_bytes:
            self.truncated = True
            # The tail begins inside a line; what is left of that line tells nothing.
            start = tail.find(b"\n") + 1
            tail = tail[start:]
            kept_lines = self._kept_lines + tail.count(b"\n")
            self._write_out(
                f"\n... truncated: {self.lines - kept_lines} of {self.lines} lines left out ...\n"
                .encode(),
                counts=False,
            )  # fmt: skip
        self._write_out(tail)
        self._file.close()
        if self._reader is not None:
            os.close(self._reader)

    def _write_out(self, block: bytes, *, counts: bool = True) -> None:
        view = memoryview(block)
        with contextlib.suppress(OSError):
            while view:
                view = view[self._file.write(view) :]
        if counts:
            kept = block[: len(block) - len(view)]
            self.kept_bytes += len(kept)
            self._kept_lines += kept.count(b"\n")

    def _keep_tail(self, block: bytes) -> None:
        self._tail.append(block)
        self._tail_size += len(block)
        while self._tail_size - len(self._tail[0]) >= self._tail_bytes:
            self._tail_size -= len(self._tail.popleft())
        excess = self._tail_size - self._tail_bytes
        if excess > 0:
            self._tail[0] = self._tail[0][excess:]
            self._tail_size -= excess

    def _remember(self, block: bytes) -> None:
        recent = (self._recent + block[-_RECENT_BYTES:])[-_RECENT_BYTES:]
        if recent.strip():
            self._recent = recent


def _find_last_state(line: str) -> str:
    states = [state.strip() for state in line.split("\r")]
    return next((state for state in reversed(states) if state), "")
