"""How an attempt ended: one exit code, one class, one line that a submitter understands."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from signal import Signals
from typing import Any

from elnigma_runner.outputs import MAX_DEPTH, MAX_FILES, VERDICT, make_way
from elnigma_runner.settings import CONTRACT, MIB, Settings

MAX_REASON_CHARACTERS = 500
# Control sequences (colours, cursor) and operating system commands (titles, links) of ECMA-48.
_TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")


class Stop(StrEnum):
    """Why the runner itself ended the trainer."""

    WALL = "wall"
    CPU = "cpu"
    MEMORY = "memory"
    CONSOLE = "console"
    OUTPUT = "output"
    FILES = "files"
    DEPTH = "depth"
    GPU = "gpu"
    ABORT = "abort"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """
    How the trainer's process ended.

    :param exit_code: Its exit code; negative for a signal.
    :param stop: Why the runner ended it, if it did.
    :param oom_killed: Whether the kernel killed for memory meanwhile.
    :param oom_bytes: The limit that the kernel kept, if it is known.
    """

    exit_code: int
    stop: Stop | None = None
    oom_killed: bool = False
    oom_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Decision:
    """
    The part of the verdict that others act on.

    :param exit_code: The runner's own exit code.
    :param error_class: ``ok``, or the kind of failure.
    :param reason: One line; ``None`` for success.
    """

    exit_code: int
    error_class: str
    reason: str | None


# Exit codes of the contract that a trainer may give itself.
_CLASSES = {
    2: "config",
    3: "submission",
    4: "diverged",
    10: "data",
    75: "temporary",
    137: "oom",
    143: "aborted",
}
# Refinements of a submission's failure that error.json may name.
_SUBMISSION_CLASSES = frozenset({"submission", "contract", "limit"})
# These cost the submitter nothing and are tried again: a bare exit code is no proof.
_NEEDS_PROOF = frozenset({10, 75, 137, 143})
# Refinement of 75: what another machine may have.
_DEVICE = "device"
_FALLBACKS = {
    2: "config: the trainer refused its arguments or configuration",
    3: "submission: the module failed",
    4: "diverged: the training produced no finite numbers",
}


def decide(
    ending: Ending,
    settings: Settings,
    *,
    error: Mapping[str, str] | None,
    result_problem: str | None,
    last_line: str,
    disk_fault: str | None = None,
    gpu_fault: str | None = None,
) -> Decision:
    """
    Decide what an ending means.

    :param ending: How the process ended.
    :param settings: The limits, for their figures.
    :param error: ``error.json``, if it is usable.
    :param result_problem: What is wrong with ``result.json``; ``None`` if nothing is.
    :param last_line: Last line of the console, where nothing better is known.
    :param disk_fault: Why nothing can be written in the output folder, if it is so.
    :param gpu_fault: What the driver says of a GPU that was lost meanwhile, if one was.
    """
    has_failed = ending.stop is None and ending.exit_code != 0
    if gpu_fault is not None and (has_failed or ending.stop is Stop.GPU):
        # Whatever the trainer took it for.
        return Decision(
            exit_code=75,
            error_class=_DEVICE,
            reason=one_line(
                f"the GPU is lost: {gpu_fault}; nothing is wrong with the submission, it is tried "
                "elsewhere"
            ),
        )
    if ending.stop is not None:
        return _decide_stop(ending.stop, settings)
    if ending.oom_killed and ending.exit_code != 0:
        return _out_of_memory(ending.oom_bytes or settings.memory_bytes)
    if ending.exit_code == 0:
        if result_problem is None:
            return Decision(exit_code=0, error_class="ok", reason=None)
        reason = f"contract: exited 0 but wrote no valid result.json ({result_problem})"
        return Decision(exit_code=3, error_class="contract", reason=reason)
    if disk_fault is not None and error is None:
        # The trainer could not say so itself.
        return Decision(
            exit_code=75,
            error_class="temporary",
            reason=one_line(
                f"temporary: this machine cannot write the output folder: {disk_fault}; "
                "nothing is wrong with the submission, it is tried elsewhere"
            ),
        )
    return _decide_failure(ending.exit_code, error, last_line)


def _decide_stop(stop: Stop, settings: Settings) -> Decision:
    if stop is Stop.ABORT:
        return Decision(exit_code=143, error_class="aborted", reason="aborted: SIGTERM received")
    if stop is Stop.MEMORY:
        return _out_of_memory(settings.memory_bytes)
    reason = {
        Stop.WALL: f"time limit: stopped after {settings.wall_seconds:g} s",
        Stop.CPU: f"CPU limit: stopped after {settings.cpu_seconds or 0:g} CPU seconds",
        Stop.CONSOLE: f"console limit: printed more than {_mib(settings.console_hard_bytes)}",
        Stop.OUTPUT: f"output limit: wrote more than {_mib(settings.output_bytes)}",
        Stop.FILES: f"output limit: wrote more than {MAX_FILES} files",
        Stop.DEPTH: f"output limit: made folders more than {MAX_DEPTH} deep",
    }[stop]
    return Decision(exit_code=3, error_class="limit", reason=reason)


def _out_of_memory(limit: int | None) -> Decision:
    figure = f"more than {_mib(limit)}" if limit else "the machine has no more"
    return Decision(exit_code=137, error_class="oom", reason=f"out of memory: {figure}")


def _decide_failure(exit_code: int, error: Mapping[str, str] | None, last_line: str) -> Decision:
    error_class = _CLASSES.get(exit_code)
    claimed = error["class"] if error else None
    if exit_code == 75 and claimed == _DEVICE:
        error_class = claimed
    if exit_code in _NEEDS_PROOF and claimed != error_class:
        error_class = None
    if exit_code == 3 and claimed in _SUBMISSION_CLASSES:
        error_class = claimed
    if error_class is None:
        what = (
            f"killed by {Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
        )
        tail = f"; last line: {last_line}" if last_line else ""
        return Decision(
            exit_code=1, error_class="unknown", reason=one_line(f"unknown: {what}{tail}")
        )
    message = error["message"] if error else last_line or _FALLBACKS[exit_code]
    return Decision(exit_code=exit_code, error_class=error_class, reason=one_line(message))


def write_verdict(
    out: Path,
    decision: Decision,
    *,
    started_at: str,
    ended_at: str,
    usage: Mapping[str, Any],
    console: Mapping[str, Any],
    files: list[dict[str, Any]],
) -> None:
    """Write ``verdict.json`` whole, the last file of all, whatever the trainer has put there."""
    document = {
        "contract": CONTRACT,
        "exit_code": decision.exit_code,
        "outcome": "succeeded" if decision.exit_code == 0 else "failed",
        "class": decision.error_class,
        "reason": decision.reason,
        "started_at": started_at,
        "ended_at": ended_at,
        "usage": usage,
        "console": console,
        "files": files,
    }
    # Nobody can have foreseen this name, nor made it something else than a file.
    partial = out / f".{VERDICT}.{secrets.token_hex(16)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o644), "w", encoding="utf-8") as file:
        file.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
    make_way(out, VERDICT)
    partial.replace(out / VERDICT)


def one_line(text: str) -> str:
    """Return text as one printable line of bounded length, without what drives a terminal."""
    plain = _TERMINAL.sub("", text)
    printable = "".join(c if c.isprintable() else " " for c in plain)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_REASON_CHARACTERS else line[: MAX_REASON_CHARACTERS - 1] + "…"


def _mib(size: int) -> str:
    return f"{size / MIB:g} MiB"
