"""Asks the judge, which lives in an environment of its own, to draw its figures."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from touchstone.confined.judge import NoAnswer, ask
from touchstone.confined.running import Bounds
from touchstone.core.charts import DrawnCharts
from touchstone_agent.protocol.errors import PermanentError

_BOUNDS: Final = Bounds(
    # It takes two CPU seconds, half of them to find out which fonts there are.
    seconds=300,
    cpu_seconds=60,
    memory_bytes=2 * 1024**3,
    file_bytes=8 * 1024**2,
)


class NotDrawn(PermanentError):
    """The judge has drawn nothing; that says nothing of the figures."""


def ask_for_charts(python: Path, question: Mapping[str, JsonValue]) -> DrawnCharts:
    """
    Return what the judge draws.

    :param python: The interpreter of the judge's environment.
    :param question: As ``touchstone_judge.drawing.answer`` takes it.
    :raises NotDrawn: If it draws nothing.
    :raises TransientError: If this process is to end.
    """
    with tempfile.TemporaryDirectory(prefix="touchstone-charts-") as folder:
        # Where matplotlib notes which fonts there are; nothing of it is kept.
        variables = {"MPLCONFIGDIR": folder}
        try:
            return ask(python, "draw", question, DrawnCharts, bounds=_BOUNDS, variables=variables)
        except NoAnswer as error:
            raise NotDrawn(str(error)) from error
