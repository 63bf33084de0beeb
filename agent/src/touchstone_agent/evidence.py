"""What a container left behind: progress while it runs, the verdict when it has ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from touchstone_agent.adapters.files import read_below, size_below, split_path
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.messages import AttemptRef, Progress, UploadedFile
from touchstone_agent.protocol.progress import build_progress

VERDICT = "verdict.json"
PROGRESS = "progress.jsonl"
MAX_VERDICT_BYTES = 160 * 1024
"""It travels in one message together with its list of files, and its quotes double twice."""

MAX_FILES = 500
MAX_LINE_BYTES = 64 * 1024

_FILES: TypeAdapter[tuple[UploadedFile, ...]] = TypeAdapter(tuple[UploadedFile, ...])


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """
    The runner's last word.

    :param content: The content of verdict.json.
    :param files: Its files, checked to be below the output folder and no larger than allowed.
    """

    content: Mapping[str, Any]
    files: tuple[UploadedFile, ...]


def read_verdict(out: Path, *, output_bytes: int, exit_code: int | None = None) -> Verdict | str:
    """
    Read the verdict of a container that has ended.

    :param out: The attempt's output folder.
    :param output_bytes: Most bytes of all its files together.
    :param exit_code: Exit code of the container; ``None`` if nobody saw it.
    :return: The verdict, or one line that says why there is none.
    """
    try:
        raw = read_below(out, VERDICT, limit=MAX_VERDICT_BYTES + 1, is_owners=True)
        if len(raw) > MAX_VERDICT_BYTES:
            return f"verdict.json has more than {MAX_VERDICT_BYTES} bytes"
        content = json.loads(raw, parse_constant=_refuse_constant)
        if not isinstance(content, dict) or not isinstance(content.get("exit_code"), int):
            return "verdict.json has no exit code"
        files = _FILES.validate_python(content.get("files", ()))
        for file in files:
            split_path(file.path)
    except FileNotFoundError:
        return "no verdict.json: the runner was ended before it could write one"
    except (PermanentError, ValidationError, ValueError, RecursionError) as error:
        return f"verdict.json is not usable: {str(error).splitlines()[0]}"
    if exit_code is not None and content["exit_code"] != exit_code:
        # The runner ends with its verdict's code; another code means that it was ended by
        # something else, or that somebody else wrote the verdict.
        return f"verdict.json says {content['exit_code']}, the container ended with {exit_code}"
    if len(files) > MAX_FILES or sum(f.size for f in files) > output_bytes:
        return f"verdict.json lists more than {MAX_FILES} files or {output_bytes} bytes"
    return Verdict(content=content, files=files)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class ProgressReader:
    """
    Reads the latest line of progress.jsonl.

    :param ref: The attempt.
    :param out: Its output folder.
    """

    def __init__(self, ref: AttemptRef, out: Path) -> None:
        self._ref = ref
        self._out = out
        self._seen = 0

    def find_news(self, now: datetime, console_bytes: int) -> Progress | None:
        """
        Return the latest progress, if there is any since the last call.

        :param now: The time, UTC.
        :param console_bytes: Bytes of console written so far.
        """
        size = size_below(self._out, PROGRESS, is_owners=True)
        if size <= self._seen:
            return None
        try:
            start = max(self._seen, size - MAX_LINE_BYTES)
            text = read_below(self._out, PROGRESS, limit=size - start, offset=start)
        except (FileNotFoundError, PermanentError):
            return None
        end = text.rfind(b"\n")
        if end < 0:
            return None  # the line is being written
        self._seen = start + end + 1
        return parse_progress(
            text[:end].rpartition(b"\n")[2], self._ref, now=now, console_bytes=console_bytes
        )


def parse_progress(
    line: bytes, ref: AttemptRef, *, now: datetime, console_bytes: int
) -> Progress | None:
    """Read one line of progress.jsonl; ``None`` if it is not one."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict):
        return None
    return build_progress(data, ref, now=now, console_bytes=console_bytes)
