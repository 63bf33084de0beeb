"""Looks from outside whether an attempt keeps to its limits: its runner may have been stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from touchstone_agent.adapters.usage import measure_folder, measure_unlinked
from touchstone_agent.core.limits import Allowance, find_excess

LOOK_SECONDS = 0.5
"""Between two looks at a folder that takes no time to look at."""

LONGEST_PAUSE_SECONDS = 1.0
"""Between two looks at an output folder, however full: an end may take another second."""

_SHARE = 20


class FolderWatch:
    """
    Compares one folder with what it may come to.

    The longer a look takes the longer is the pause behind it, within limits.

    :param folder: The folder.
    :param allowed: What it may come to.
    :param monotonic: A clock that never jumps, in seconds.
    :param find_main_pid: Returns the first process of what fills it; ``None`` where that cannot be
        looked at.
    :param longest_pause: Most seconds between two looks.
    """

    def __init__(
        self,
        folder: Path,
        allowed: Allowance,
        *,
        monotonic: Callable[[], float],
        find_main_pid: Callable[[], int | None] = lambda: None,
        longest_pause: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._folder = folder
        self._allowed = allowed
        self._monotonic = monotonic
        self._find_main_pid = find_main_pid
        self._longest_pause = longest_pause
        self._due = float("-inf")
        self.bytes = 0
        """Bytes found by the last look."""

    def find_excess(self, *, at_once: bool = False) -> str | None:
        """
        Return in one line which limit is exceeded; ``None`` if none is, or none is due.

        :param at_once: Look whether or not it is due.
        """
        began = self._monotonic()
        if began < self._due and not at_once:
            return None
        usage = measure_folder(self._folder, self._allowed)
        excess = find_excess(usage, self._allowed)
        main_pid = self._find_main_pid() if excess is None else None
        if main_pid is not None:
            nameless = measure_unlinked(main_pid, self._folder)
            usage = replace(
                usage,
                bytes=usage.bytes + nameless.bytes,
                files=usage.files + nameless.files,
                handles=nameless.handles,
            )
            excess = find_excess(usage, self._allowed)
        self.bytes = usage.bytes
        now = self._monotonic()
        self._due = now + min(self._longest_pause, max(LOOK_SECONDS, _SHARE * (now - began)))
        return excess
