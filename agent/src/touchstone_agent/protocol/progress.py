"""What a trainer writes about its progress, made fit for everybody's reader. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from touchstone_agent.protocol.messages import AttemptRef, Progress

MAX_METRICS = 100


def build_progress(
    line: Mapping[str, Any], ref: AttemptRef, *, now: datetime, console_bytes: int
) -> Progress:
    """
    Return the message for one line of progress.jsonl, whatever a trainer has put into it.

    :param line: The line, read.
    :param ref: The attempt.
    :param now: When, UTC.
    :param console_bytes: Bytes of console written so far.
    """
    metrics = line.get("metrics")
    items = metrics.items() if isinstance(metrics, dict) else ()
    figures = {str(k)[:100]: _find_number(v) for k, v in list(items)[:MAX_METRICS]}
    return Progress(
        ref=ref,
        at=now,
        phase=str(line.get("phase", ""))[:200],
        percent=min(100.0, max(0.0, _find_number(line.get("percent")) or 0.0)),
        eta_seconds=_find_number(line.get("eta_s")),
        metrics={name: value for name, value in figures.items() if value is not None},
        console_bytes=console_bytes,
    )


def _find_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
