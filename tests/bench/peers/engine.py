"""What the container engine itself says of starts and ends; the same ruler for ours and peers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import docker

from fakes.images import build_script_image, name_script_image

TRAINER = Path(__file__).parents[2] / "fakes" / "trainer.sh"
IMAGE = name_script_image("touchstone-bench-trainer", TRAINER)
"""The one image of every contestant: busybox, and a trainer that takes as long as it is told."""


def build_image(folder: Path) -> str:
    """Make the image of the benchmarks."""
    return build_script_image(IMAGE, TRAINER, folder)


@dataclass(frozen=True, kw_only=True)
class ContainerEvent:
    """
    A container that started or ended.

    :param at: By the engine's clock, seconds.
    :param action: ``start`` or ``die``.
    """

    at: float
    action: str
    name: str


class ContainerLog:
    """
    The engine's events while this listens; it remembers too few of them to be asked later.

    :param belongs: Tells by a container's labels and name whether it counts.
    """

    def __init__(self, belongs: Callable[[Mapping[str, str]], bool]) -> None:
        self._belongs = belongs
        self._client = docker.from_env()
        self.events: list[ContainerEvent] = []

    def __enter__(self) -> ContainerLog:
        # The engine takes whole seconds; what was before this moment is dropped below.
        self._since = time.time()
        self._stream = self._client.events(
            decode=True,
            since=int(self._since),
            filters={"type": "container", "event": ["start", "die"]},
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
        self._client.close()

    def _listen(self) -> None:
        # The stream ends with an error when it is closed.
        with contextlib.suppress(Exception):
            for event in self._stream:
                attributes = event["Actor"]["Attributes"]
                if event["timeNano"] / 1e9 >= self._since and self._belongs(attributes):
                    self.events.append(
                        ContainerEvent(
                            at=event["timeNano"] / 1e9,
                            action=event["Action"],
                            name=attributes.get("name", ""),
                        )
                    )


def find_hand_overs(events: Iterable[ContainerEvent]) -> list[float]:
    """
    Return the seconds that freed slots stood empty until somebody used them again.

    Each start takes the slot that has been empty longest; the first ones take slots that were
    never used, and the last slots are never taken again. Neither count.
    """
    freed: deque[float] = deque()
    spans = []
    for event in sorted(events, key=lambda event: event.at):
        if event.action == "die":
            freed.append(event.at)
        elif freed:
            spans.append(event.at - freed.popleft())
    return spans


def find_percentile(values: Sequence[float], share: float) -> float:
    """Return the value that this share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]
