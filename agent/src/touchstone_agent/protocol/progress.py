"""What a trainer writes about its progress, made fit for everybody's reader. Pure."""

from __future__ import annotations

from datetime import datetime

from touchstone_agent.protocol.facts import ProgressLine
from touchstone_agent.protocol.messages import AttemptRef, Progress


def build_progress(
    line: ProgressLine, ref: AttemptRef, *, now: datetime, console_bytes: int
) -> Progress:
    """
    Return the message for one line of progress.jsonl.

    :param line: The line, read.
    :param ref: The attempt.
    :param now: When, UTC.
    :param console_bytes: Bytes of console written so far.
    """
    return Progress(
        ref=ref,
        at=now,
        phase=line.phase,
        percent=line.percent,
        eta_seconds=line.eta_s,
        metrics=line.metrics,
        console_bytes=console_bytes,
    )
