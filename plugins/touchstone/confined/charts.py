"""Asks the judge, which lives in an environment of its own, to draw its figures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pydantic import JsonValue, ValidationError

from touchstone.confined.running import AskedTooMuch, Bounds, TookTooLong, run_confined
from touchstone.core.charts import DrawnCharts
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.words import build_line, describe_refusal

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
    if not python.exists():
        raise NotDrawn("its environment is not there: `make setup` makes it")
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryDirectory(prefix="touchstone-charts-") as folder,
    ):
        given.write(json.dumps(question, allow_nan=False).encode())
        given.flush()
        given.seek(0)
        try:
            done = run_confined(
                [str(python), "-I", "-m", "touchstone_judge", "draw"],
                bounds=_BOUNDS,
                environment={
                    "PATH": "/usr/bin:/bin",
                    "LC_ALL": "C.UTF-8",
                    "OPENBLAS_NUM_THREADS": "1",
                    # Where matplotlib notes which fonts there are; nothing of it is kept.
                    "MPLCONFIGDIR": folder,
                },
                given=given,
                folder="/",
                niceness=5,
            )
        except (TookTooLong, AskedTooMuch) as error:
            raise NotDrawn(f"it {error}") from error
        except OSError as error:
            raise NotDrawn(f"it cannot be started: {error.strerror}") from error
    if done.code != 0:
        said = done.errors.decode(errors="replace").strip().splitlines()
        last = build_line(said[-1], 200) if said else "it said nothing"
        raise NotDrawn(f"it ended with code {done.code}: {last}")
    try:
        return DrawnCharts.model_validate_json(done.output)
    except ValidationError as error:
        raise NotDrawn(f"its answer makes no sense: {describe_refusal(error)}") from error
