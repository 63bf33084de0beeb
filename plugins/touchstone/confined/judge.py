"""Runs a program of the judge, which has an environment of its own, and reads its answer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from io import TextIOWrapper
from pathlib import Path
from typing import Final, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from touchstone.confined.running import AskedTooMuch, Bounds, TookTooLong, run_confined
from touchstone.settings import Settings
from touchstone_agent.protocol.errors import PermanentError
from touchstone_agent.protocol.words import build_line, describe_refusal

Answer = TypeVar("Answer", bound=BaseModel)

_NICENESS: Final = 5
_CHECKOUT: Final = Path(__file__).resolve().parents[3]
_ENVIRONMENT: Final = {
    "PATH": "/usr/bin:/bin",
    "LC_ALL": "C.UTF-8",
    # More threads are more address space, and the machine has other work.
    "OPENBLAS_NUM_THREADS": "1",
}
"""All that the judge knows of this machine: no credential, no address."""


class NoAnswer(PermanentError):
    """The judge gave no answer that makes sense; the message says why."""


def find_judge(settings: Settings) -> Path:
    """Return the interpreter of the judge's environment: as set, or that of a checkout."""
    return settings.judge_python or _CHECKOUT / "judge" / ".venv" / "bin" / "python"


def ask(
    python: Path,
    program: str,
    question: Mapping[str, JsonValue],
    answer: type[Answer],
    *,
    bounds: Bounds,
    variables: Mapping[str, str] | None = None,
) -> Answer:
    """
    Return what a program of the judge's answers.

    :param python: The interpreter of the judge's environment.
    :param program: Its name, as ``python -m touchstone_judge`` takes it.
    :param question: What it reads, as JSON.
    :param answer: What its answer must be.
    :param bounds: What it may use.
    :param variables: Further environment variables.
    :raises NoAnswer: If there is no such answer.
    :raises TransientError: If this process is to end.
    """
    if not python.exists():
        raise NoAnswer("its environment is not there: `make setup` makes it")
    with tempfile.TemporaryFile() as given:
        # Piece by piece: a thousand entries are more than 200 MB of text.
        writer = TextIOWrapper(given, encoding="ascii")
        json.dump(question, writer, allow_nan=False)
        writer.detach()
        given.seek(0)
        try:
            done = run_confined(
                [str(python), "-I", "-m", "touchstone_judge", program],
                bounds=bounds,
                environment={**_ENVIRONMENT, **(variables or {})},
                given=given,
                folder="/",
                niceness=_NICENESS,
            )
        except (TookTooLong, AskedTooMuch) as error:
            raise NoAnswer(f"it {error}") from error
        except OSError as error:
            raise NoAnswer(f"it cannot be started: {error.strerror}") from error
    if done.code != 0:
        said = done.errors.decode(errors="replace").strip().splitlines()
        last = build_line(said[-1], 200) if said else "it said nothing"
        raise NoAnswer(f"it ended with code {done.code}: {last}")
    try:
        return answer.model_validate_json(done.output)
    except ValidationError as error:
        raise NoAnswer(f"its answer makes no sense: {describe_refusal(error)}") from error
