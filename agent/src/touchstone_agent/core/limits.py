"""What an attempt may leave on the disk, and for how long it may run, as seen from outside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from touchstone_agent.protocol.facts import ExitFacts, RunnerVerdict
from touchstone_agent.protocol.messages import Limits

MIB = 1024**2
MAX_FILES = 10_000
"""Files, folders and links in an output folder; the runner has the same limit."""

MAX_DEPTH = 32
"""Folders inside each other. What lies deeper would be out of sight, so nothing may."""

MAX_HANDLES = 200_000
"""Open files and mappings of an attempt; beyond it nobody can look through them in time."""

OUTPUT_SLACK_BYTES = 16 * MIB
"""What the runner writes for itself besides the console: progress, verdict, notes."""

WALL_SLACK_SECONDS = 10
"""In which a runner that keeps its own time limit ends the trainer and writes its verdict."""

PREPARE_SECONDS = 1800
"""Most that a preparation may take, whatever the attempt itself may."""

EXIT_LIMIT = 3
"""The contract's exit code of what has gone beyond a limit."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """
    What was found of an attempt's files; counted up to the first limit that is exceeded.

    :param bytes: What they take of the disk, or their sizes where those are larger.
    :param files: Files, folders and links.
    :param depth: Folders inside each other.
    :param handles: Open files and mappings that were looked at.
    :param closed: A folder that nobody could look into; ``None`` if there is none.
    """

    bytes: int = 0
    files: int = 0
    depth: int = 0
    handles: int = 0
    closed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """
    What a folder may come to.

    :param bytes: Most bytes before the attempt that fills it is ended.
    :param told_bytes: The figure of the limit itself, for the message.
    :param files: Most files, folders and links.
    """

    bytes: int
    told_bytes: int
    files: int = MAX_FILES


def build_allowance(limits: Limits) -> Allowance:
    """Return what the output folder of an attempt with these limits may come to."""
    return Allowance(
        bytes=limits.output_bytes + limits.console_bytes + OUTPUT_SLACK_BYTES,
        told_bytes=limits.output_bytes,
    )


def limit_preparation(limits: Limits) -> Limits:
    """Return what the preparation of an attempt with these limits may use."""
    return limits.model_copy(update={"wall_seconds": min(limits.wall_seconds, PREPARE_SECONDS)})


def find_excess(usage: Usage, allowed: Allowance) -> str | None:
    """Return in one line which limit is exceeded; ``None`` if none is."""
    if usage.bytes > allowed.bytes:
        return f"output limit: stopped after more than {allowed.told_bytes / MIB:g} MiB"
    if usage.files > allowed.files:
        return f"output limit: stopped after more than {allowed.files} files"
    if usage.depth > MAX_DEPTH:
        return f"output limit: stopped, with folders more than {MAX_DEPTH} deep"
    if usage.handles > MAX_HANDLES:
        return f"output limit: stopped, with more than {MAX_HANDLES} open files and mappings"
    if usage.closed is not None:
        return f"output limit: stopped, with a folder that nobody can look into: {usage.closed}"
    return None


def build_wall_reason(wall_seconds: float) -> str:
    """Return what is said of an attempt that has taken too long."""
    return f"time limit: stopped after {wall_seconds:g} s"


def build_limit_facts(reason: str) -> dict[str, Any]:
    """
    Return the facts of an exit that was decided from outside.

    Nothing that was found in the attempt's folder is among them: an attempt that goes beyond what
    its own runner should have stopped may have written that, too.
    """
    return build_failure("limit", EXIT_LIMIT, reason)


def build_failure(error_class: str, exit_code: int, reason: str) -> dict[str, Any]:
    """Return the facts of an exit with a verdict that no runner has written."""
    verdict = RunnerVerdict(
        exit_code=exit_code, outcome="failed", failure_class=error_class, reason=reason
    )
    return ExitFacts(exit_code=exit_code, verdict=verdict).dump()
