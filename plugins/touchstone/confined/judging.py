"""Asks the judge, which lives in an environment of its own, for the figures of a training."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from touchstone.confined.running import AskedTooMuch, Bounds, TookTooLong, run_confined
from touchstone.core.judging import JudgeAnswer, build_question
from touchstone.core.records.judged import JudgingRules
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.words import build_line, describe_refusal

_BOUNDS: Final = Bounds(
    # By the clock only on a machine with far too much to do: it takes a CPU second.
    seconds=300,
    cpu_seconds=30,
    memory_bytes=2 * 1024**3,
    file_bytes=32 * 1024**2,
)
_NICENESS: Final = 5
_CHECKOUT: Final = Path(__file__).resolve().parents[3]
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    # Threads would only be address space.
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that the judge knows of this machine: no credential, no address."""


class JudgeFailed(PermanentError):
    """The judge gave no answer; that says nothing of the training."""


def find_judge(settings: Settings) -> Path:
    """Return the interpreter of the judge's environment: as set, or that of a checkout."""
    return settings.judge_python or _CHECKOUT / "judge" / ".venv" / "bin" / "python"


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
    if not python.exists():
        raise JudgeFailed("its environment is not there: `make setup` makes it")
    predictions = folder / "predictions.csv"
    question = build_question(
        rules,
        interval=interval,
        result=str(folder / "result.json"),
        predictions=str(predictions) if predictions.is_file() else None,
        data_dir=None if data_dir is None else str(data_dir),
    )
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps(question, allow_nan=False).encode())
        given.flush()
        given.seek(0)
        try:
            done = run_confined(
                [str(python), "-I", "-m", "touchstone_judge", "recompute"],
                bounds=_BOUNDS,
                environment=_ENVIRONMENT,
                given=given,
                folder="/",
                niceness=_NICENESS,
            )
        except (TookTooLong, AskedTooMuch) as error:
            raise JudgeFailed(f"it {error}") from error
        except OSError as error:
            raise JudgeFailed(f"it cannot be started: {error.strerror}") from error
    if done.code != 0:
        said = done.errors.decode(errors="replace").strip().splitlines()
        last = build_line(said[-1], 200) if said else "it said nothing"
        raise JudgeFailed(f"it ended with code {done.code}: {last}")
    try:
        return JudgeAnswer.model_validate_json(done.output)
    except ValidationError as error:
        raise JudgeFailed(f"its answer makes no sense: {describe_refusal(error)}") from error
