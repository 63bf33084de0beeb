"""Runs the judge of this server: a process of its own that knows nothing of the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from touchstone_agent.protocol.errors import PermanentError

# As the control plane bounds its own; it takes a CPU second.
_SECONDS: Final = 300
_CPU_SECONDS: Final = 30
_MEMORY_BYTES: Final = 2 * 1024**3
_ANSWER_BYTES: Final = 32 * 1024**2
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}


class JudgeFailed(PermanentError):
    """The judge gave no answer; why is for this server's log alone."""


def ask_judge(python: Path, question: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return what the judge answers.

    It closes the door behind itself before it looks into what a training has left: from then on it
    can open neither a file nor a connection.

    :param python: The interpreter of its environment.
    :param question: What ``touchstone_judge recompute`` reads.
    :raises JudgeFailed: If it gives no answer.
    """
    command = [
        *("nice", "-n", "5", "prlimit", f"--cpu={_CPU_SECONDS}", f"--as={_MEMORY_BYTES}"),
        *("--core=0", f"--fsize={_ANSWER_BYTES}", "--"),
        *(str(python), "-I", "-m", "touchstone_judge", "recompute"),
    ]
    # Files, not pipes: their size is bounded by the kernel, and nobody has to empty them.
    with (
        tempfile.TemporaryFile() as given,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        given.write(json.dumps(question, allow_nan=False).encode())
        given.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=given,
                stdout=output,
                stderr=errors,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise JudgeFailed(f"it cannot be started: {error.strerror}") from error
        try:
            code = process.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise JudgeFailed(f"it did not end within {_SECONDS} s") from error
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code != 0:
            errors.seek(0)
            said = errors.read(4096).decode(errors="replace").strip().splitlines()
            raise JudgeFailed(f"it ended with code {code}: {said[-1] if said else 'no word'}")
        output.seek(0)
        try:
            answer = json.load(output)
        except (ValueError, RecursionError) as error:
            raise JudgeFailed("its answer is no JSON") from error
    if not isinstance(answer, dict):
        raise JudgeFailed("its answer is no object")
    return answer
