"""What a page tells of an attempt beside its console: when, where, how, what it used. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

from touchstone.client.tables import format_seconds
from touchstone.core.records.tasks import Attempt, Task

_MOMENTS = (
    ("decided", "intent_at"),
    ("accepted", "accepted_at"),
    ("image looked for", "preparing_at"),
    ("container began", "running_at"),
    ("container ended", "exited_at"),
    ("files stored", "uploaded_at"),
    ("over", "ended_at"),
)
_GIB = 1024**3


def list_moments(attempt: Attempt) -> list[tuple[str, datetime]]:
    """Return what has happened to an attempt and when, in order."""
    found = [(name, getattr(attempt, field)) for name, field in _MOMENTS]
    return sorted(((name, at) for name, at in found if at is not None), key=lambda each: each[1])


def list_facts(task: Task, attempt: Attempt) -> list[tuple[str, str]]:
    """Return by name what is known of an attempt, and of what it was told to compute."""
    facts = [*_list_place(attempt), *_list_usage(attempt), *_list_configuration(task)]
    return [(name, told) for name, told in facts if told]


def _list_place(attempt: Attempt) -> Iterator[tuple[str, str]]:
    placement = attempt.placement
    yield "placed there", placement.reason or "" if placement else ""
    yield "container", attempt.container or ""
    digest = f" ({attempt.image_digest})" if attempt.image_digest else ""
    yield "image", f"{attempt.image}{digest}" if attempt.image else ""
    yield "exit code", "" if attempt.exit_code is None else str(attempt.exit_code)
    yield "failure", attempt.failure_class or ""


def _list_usage(attempt: Attempt) -> Iterator[tuple[str, str]]:
    usage = attempt.verdict.usage if attempt.verdict else None
    if usage is None:
        return
    yield "CPU time", format_seconds(usage.cpu_seconds)
    peak = usage.peak_memory_bytes
    yield "most memory", "" if peak is None else f"{peak / _GIB:.2f} GiB"
    if usage.gpu is not None and usage.gpu.mean_utilisation_percent is not None:
        yield "GPU computing", f"{usage.gpu.mean_utilisation_percent:.0f} % of the time"


def _list_configuration(task: Task) -> Iterator[tuple[str, str]]:
    spec = task.spec
    if spec.data is not None:
        yield "data", spec.data.label
    if spec.fold is not None:
        yield "fold", f"{spec.fold.number + 1} of {spec.fold.count}"
    yield "waived columns", ", ".join(spec.waived_columns)
    if spec.interval is None:
        return
    yield "interval", str(spec.interval)
    for name, value in spec.schedule.model_dump(mode="json").items():
        told = value if isinstance(value, str) else json.dumps(value)
        yield name, "" if value in (None, [], {}, "") else told
