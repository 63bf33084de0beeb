"""How far a pull is, by what the engine says of its layers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from touchstone_agent.protocol.messages import Refusal

MAX_LAYERS = 500
"""More than any engine accepts."""

_FETCHED = 0.7
"""The share of a layer's work that is over when it is here and not unpacked yet."""

_REFUSED = ("unauthorized", "authentication required", "no basic auth", "denied", "forbidden")
_MISSING = ("manifest unknown", "not found", "name unknown", "does not exist")
_NO_SPACE = "no space left"


@dataclass
class _Layer:
    share: float = 0.0
    size: int = 0
    fetched: int = 0


class PullProgress:
    """Adds up what an engine says of a pull, line by line."""

    def __init__(self) -> None:
        self._layers: dict[str, _Layer] = {}
        self._percent = 0.0

    def take(self, line: Mapping[str, Any]) -> None:
        """Take one line; what is none of a layer changes nothing."""
        name, status = line.get("id"), line.get("status")
        if not isinstance(name, str) or not isinstance(status, str):
            return
        if status.startswith("Pulling from"):
            return  # the id is the tag's
        if name not in self._layers and len(self._layers) >= MAX_LAYERS:
            return
        layer = self._layers.setdefault(name, _Layer())
        detail = line.get("progressDetail")
        done, total = _find_counts(detail if isinstance(detail, Mapping) else {})
        if status == "Downloading" and total:
            layer.size, layer.fetched = total, min(done, total)
            layer.share = _FETCHED * layer.fetched / total
        elif status in {"Verifying Checksum", "Download complete"}:
            layer.fetched = layer.size
            layer.share = max(layer.share, _FETCHED)
        elif status == "Extracting" and total:
            layer.share = _FETCHED + (1 - _FETCHED) * min(done, total) / total
        elif status in {"Pull complete", "Already exists"}:
            layer.fetched, layer.share = layer.size, 1.0

    @property
    def percent(self) -> float:
        """Return how much of the work is over, 0 to 100; it never falls."""
        sizes = [layer.size for layer in self._layers.values() if layer.size]
        # Of a layer that waits the size is not known yet.
        usual = sum(sizes) / len(sizes) if sizes else 1.0
        weights = [
            (layer.size or (usual if layer.share < 1 else 0.0), layer.share)
            for layer in self._layers.values()
        ]
        whole = sum(weight for weight, _ in weights)
        now = 100 * sum(weight * share for weight, share in weights) / whole if whole else 0.0
        self._percent = max(self._percent, now)
        return self._percent

    @property
    def text(self) -> str:
        """Return where it is, for people."""
        count = len(self._layers)
        if count == 0:
            return "the image's registry is asked"
        over = sum(layer.share >= 1 for layer in self._layers.values())
        return f"layer {min(over + 1, count)} of {count}"

    @property
    def missing_bytes(self) -> int:
        """Return how much is still to be fetched of what is known."""
        return sum(layer.size - layer.fetched for layer in self._layers.values())


def classify_pull_problem(problem: str) -> tuple[str, Refusal] | None:
    """
    Say what an engine's words about a failed pull mean.

    :return: What this server lacks, in words and as a class; ``None`` where it may work later.
    """
    lower = problem.lower()
    if _NO_SPACE in lower:
        return "the disk of this server's engine is full", Refusal.DISK
    if any(words in lower for words in _REFUSED):
        return "its registry does not let this server pull it", Refusal.IMAGE
    if any(words in lower for words in _MISSING):
        return "its registry has it no more", Refusal.IMAGE
    return None


def _find_counts(detail: Mapping[str, Any]) -> tuple[int, int]:
    done, total = detail.get("current"), detail.get("total")
    if not isinstance(done, int) or not isinstance(total, int):
        return 0, 0
    return max(0, done), max(0, total)
