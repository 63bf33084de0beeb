"""What a container left behind: progress while it runs, the verdict when it has ended."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from touchstone_agent.adapters.files import read_below, size_below
from touchstone_agent.protocol.documents import DocumentRefused, parse_json
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.facts import ProgressLine, RunnerVerdict
from touchstone_agent.protocol.messages import AttemptRef, Progress
from touchstone_agent.protocol.progress import build_progress
from touchstone_agent.protocol.words import describe_refusal

VERDICT = "verdict.json"
PROGRESS = "progress.jsonl"
MAX_VERDICT_BYTES = 160 * 1024
"""It travels in one message together with its list of files, and its quotes double twice."""

MAX_LINE_BYTES = 64 * 1024


def read_verdict(
    out: Path, *, output_bytes: int, exit_code: int | None = None
) -> RunnerVerdict | str:
    """
    Read the verdict of a container that has ended.

    :param out: The attempt's output folder.
    :param output_bytes: Most bytes of all its files together.
    :param exit_code: Exit code of the container; ``None`` if nobody saw it.
    :return: The verdict, or one line that says why there is none.
    """
    try:
        raw = read_below(out, VERDICT, limit=MAX_VERDICT_BYTES + 1, is_owners=True)
        verdict = RunnerVerdict.model_validate(parse_json(raw, max_bytes=MAX_VERDICT_BYTES))
    except FileNotFoundError:
        return "no verdict.json: the runner was ended before it could write one"
    except ValidationError as error:
        return f"verdict.json is not usable: {describe_refusal(error)}"
    except DocumentRefused as error:
        return f"verdict.json is not usable: {error}"
    except PermanentError as error:
        return str(error)
    if verdict.exit_code is None:
        return "verdict.json has no exit code"
    if exit_code is not None and verdict.exit_code != exit_code:
        # The runner ends with its verdict's code; another code means that it was ended by
        # something else, or that somebody else wrote the verdict.
        return f"verdict.json says {verdict.exit_code}, the container ended with {exit_code}"
    if sum(file.size for file in verdict.files) > output_bytes:
        return f"verdict.json lists more than {output_bytes} bytes"
    return verdict


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
        read = ProgressLine.model_validate(parse_json(line, max_bytes=MAX_LINE_BYTES))
    except (DocumentRefused, ValidationError):
        return None
    return build_progress(read, ref, now=now, console_bytes=console_bytes)
