"""Asks the judge, which lives in an environment of its own, for a forward score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from touchstone.confined.judge import ask
from touchstone.confined.running import Bounds
from touchstone.core.forward import ForwardAnswer

_BOUNDS: Final = Bounds(
    seconds=300,
    # It reads two versions of a data set, each twice.
    cpu_seconds=120,
    memory_bytes=4 * 1024**3,
    file_bytes=32 * 1024**2,
)


def ask_for_forward(python: Path, question: Mapping[str, JsonValue]) -> ForwardAnswer:
    """
    Return what the judge says of a training's later rows.

    :param python: The interpreter of the judge's environment.
    :param question: As ``touchstone_judge.forward.answer`` takes it.
    :raises NoAnswer: If it gives no answer that makes sense.
    :raises TransientError: If this process is to end.
    """
    return ask(python, "forward", question, ForwardAnswer, bounds=_BOUNDS)
