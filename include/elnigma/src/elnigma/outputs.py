"""Files of the output folder: written whole or not at all, and listed with their digests."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """
    Write a JSON file so that a reader sees the old one or the whole new one.

    :param path: Where to.
    :param document: Finite numbers only: NaN is not JSON, and readers refuse it.
    :raises ValueError: If ``document`` holds NaN or an infinity.
    """
    text = json.dumps(document, indent=1, sort_keys=True, allow_nan=False)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def describe_files(out: Path, paths: Iterable[str]) -> list[dict[str, Any]]:
    """Return path, SHA-256 and size of each file below ``out``."""
    files = []
    for path in sorted(paths):
        content = (out / path).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        files.append({"path": path, "sha256": digest, "size": len(content)})
    return files


def split_metrics(
    values: Mapping[str, tuple[float | None, str | None]],
) -> tuple[dict[str, float | None], dict[str, str]]:
    """
    Separate figures from the reasons why some are missing.

    :param values: By name: the figure, and why it is ``None`` when it is.
    :return: Figures by name with ``None`` for anything not finite, and a reason for each of those.
    """
    metrics: dict[str, float | None] = {}
    notes: dict[str, str] = {}
    for name, (value, reason) in values.items():
        finite = value is not None and math.isfinite(value)
        metrics[name] = float(value) if finite and value is not None else None
        if not finite:
            notes[name] = reason or "not a finite number"
    return metrics, notes


def utc_now() -> str:
    """Return the present time, UTC, in ISO 8601 with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
