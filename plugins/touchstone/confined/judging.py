"""Asks the judge, which lives in an environment of its own, for the figures of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from touchstone.confined.judge import NoAnswer, ask
from touchstone.confined.running import Bounds
from touchstone.core.judging import JudgeAnswer, build_question
from touchstone.core.records.judged import JudgingRules
from touchstone_agent.protocol.errors import PermanentError

_BOUNDS: Final = Bounds(
    # By the clock only on a machine with far too much to do: it takes a CPU second.
    seconds=300,
    cpu_seconds=30,
    memory_bytes=2 * 1024**3,
    file_bytes=32 * 1024**2,
)


class JudgeFailed(PermanentError):
    """The judge gave no answer; that says nothing of the training."""


def ask_judge(
    python: Path,
    folder: Path,
    rules: JudgingRules,
    interval: int,
    *,
    data_dir: Path | None = None,
) -> JudgeAnswer:
    """
    Return what the judge says of a training.

    :param python: The interpreter of its environment.
    :param folder: What the training has left, each file as its digest says.
    :param rules: By which to judge.
    :param interval: The training's prediction interval, by the record.
    :param data_dir: The data set's two files; ``None`` for the data that the judge has itself.
    :raises JudgeFailed: If it gives no answer that makes sense.
    :raises TransientError: If this process is to end.
    """
    predictions = folder / "predictions.csv"
    question = build_question(
        rules,
        interval=interval,
        result=str(folder / "result.json"),
        predictions=str(predictions) if predictions.is_file() else None,
        data_dir=None if data_dir is None else str(data_dir),
    )
    try:
        return ask(python, "recompute", question, JudgeAnswer, bounds=_BOUNDS)
    except NoAnswer as error:
        raise JudgeFailed(str(error)) from error
