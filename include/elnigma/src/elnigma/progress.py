"""Progress lines: one JSON object each, appended to the file that the contract names."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elnigma.storage import storing

HEARTBEAT_SECONDS = 15.0


class Progress:
    """
    Tells how far the work is; repeats the last line while nothing new happens.

    :param path: File to append to; ``None`` tells nobody.
    :param heartbeat_seconds: Longest silence. The contract allows 30 s.
    """

    def __init__(self, path: Path | None, *, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self._path = path
        self._heartbeat_seconds = heartbeat_seconds
        self._started = time.monotonic()
        self._last: dict[str, Any] = {"phase": "starting", "percent": 0.0, "metrics": {}}
        self._lock = threading.Lock()

    def tell(self, phase: str, percent: float, metrics: Mapping[str, float] | None = None) -> None:
        """
        Append one line.

        :param phase: What is being done, in words.
        :param percent: Of the whole task, 0 to 100.
        :param metrics: Intermediate figures; one that is not finite is null in the line.
        """
        figures = {k: float(v) if math.isfinite(v) else None for k, v in (metrics or {}).items()}
        self._last = {"phase": phase, "percent": round(percent, 2), "metrics": figures}
        # What the module printed so far belongs in the log before this line does.
        sys.stdout.flush()
        self._append()

    def _append(self) -> None:
        if self._path is None:
            return
        elapsed = time.monotonic() - self._started
        percent = self._last["percent"]
        eta = round(elapsed * (100 - percent) / percent, 1) if percent > 0 else None
        line = json.dumps({"t": time.time(), **self._last, "eta_s": eta}) + "\n"
        with self._lock, storing(self._path):
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line.encode())
            finally:
                os.close(descriptor)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Repeat the last line for as long as the block runs."""
        done = threading.Event()

        def repeat() -> None:
            while not done.wait(self._heartbeat_seconds):
                self._append()

        thread = threading.Thread(target=repeat, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
