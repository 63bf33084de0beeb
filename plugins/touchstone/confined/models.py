"""Looks into a model's file without loading it: what it is made of, and whether that is code."""

from __future__ import annotations

from pathlib import Path

from touchstone.confined.running import (
    AskedTooMuch,
    Bounds,
    TookTooLong,
    run_program,
)
from touchstone.core.model_config import CodeFinding

_BOUNDS = Bounds(seconds=300, cpu_seconds=20, memory_bytes=1024**3, file_bytes=1024**2)


def inspect_model(path: Path) -> CodeFinding:
    """
    Say whether an ``.h5`` file may carry code.

    :param path: The file; nothing in it is trusted, and nothing of it is run.
    :return: What was found; a file that cannot be looked into may carry anything.
    :raises TransientError: If this process is to end.
    """
    try:
        with path.open("rb") as file:
            answer = run_program("model_program", {}, bounds=_BOUNDS, given=file)
    except (TookTooLong, AskedTooMuch) as error:
        return CodeFinding(may_carry_code=True, code_reason=f"looking into it {error}")
    reason = answer["code_reason"]
    return CodeFinding(
        may_carry_code=bool(answer["may_carry_code"]),
        code_reason=None if reason is None else str(reason),
    )
