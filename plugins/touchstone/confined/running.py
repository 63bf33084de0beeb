"""Runs a command that is bounded in everything, and leaves nothing of it behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from touchstone_agent.protocol.errors import PermanentError, TransientError

GUARD_SECONDS: Final = 2
"""How much later the command is ended by its guard, if the process that started it has died."""

_ANSWER_BYTES: Final = 256 * 1024
_ERROR_BYTES: Final = 16 * 1024
_NICENESS: Final = 5
"""What programs look through waits for what people look at."""

_FIRST_LOOK_SECONDS: Final = 0.002
_LONGEST_LOOK_SECONDS: Final = 0.05

_active: set[subprocess.Popen[bytes]] = set()
_ended: set[int] = set()


class TookTooLong(PermanentError):
    """The command had not ended when its time was over."""


class AskedTooMuch(PermanentError):
    """The command was ended for what it took: memory, CPU or bytes."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """
    What a command and all that it starts may take.

    :param seconds: Seconds by the clock.
    :param cpu_seconds: CPU seconds of one process.
    :param memory_bytes: Address space of one process.
    :param file_bytes: Size of one file, its output included.
    """

    seconds: float
    cpu_seconds: int
    memory_bytes: int
    file_bytes: int


@dataclass(frozen=True, kw_only=True)
class Done:
    """
    A command that has ended by itself.

    :param code: Its exit code; negative for a signal.
    :param output: What it wrote to its standard output.
    :param errors: The same of its standard error, of which only the end is kept.
    """

    code: int
    output: bytes
    errors: bytes


def run_confined(
    command: Sequence[str],
    *,
    bounds: Bounds,
    environment: Mapping[str, str],
    given: IO[bytes] | None = None,
    pass_fds: Sequence[int] = (),
    folder: str | None = None,
    niceness: int = 0,
) -> Done:
    """
    Run a command in a session of its own, and end all of that session with it.

    Whatever becomes of this process, the command's guard (``timeout``, which leads the session)
    ends it when its time is over.

    :param environment: Its whole environment.
    :param given: File that it reads as its standard input.
    :param pass_fds: Descriptors that it inherits.
    :param folder: Where it works; ``None`` for here.
    :param niceness: By how much it steps behind others who want the CPU.
    :raises TookTooLong: If it did not end in time.
    :raises AskedTooMuch: If it wrote, or computed, more than it may.
    :raises TransientError: If :func:`end_all` has ended it.
    """
    limits = [f"--cpu={bounds.cpu_seconds}", f"--as={bounds.memory_bytes}", "--core=0"]
    guarded = [
        *("timeout", "--signal=KILL", str(bounds.seconds + GUARD_SECONDS)),
        *("nice", "-n", str(niceness)),
        *("prlimit", *limits, f"--fsize={bounds.file_bytes}", "--", *command),
    ]
    # Files, not pipes: their size is bounded by the kernel, and nobody has to empty them.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            guarded,
            stdin=given or subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=dict(environment),
            cwd=folder,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
        _active.add(process)
        try:
            has_ended = _await_end(process, bounds.seconds)
        finally:
            _active.discard(process)
            # Also when it has ended: what it has started may go on.
            _kill_session(process)
            code = process.wait()
        if process.pid in _ended:
            _ended.discard(process.pid)
            raise TransientError(f"{Path(command[0]).name} was ended from outside")
        if not has_ended:
            raise TookTooLong(f"did not end within {bounds.seconds:g} s")
        if -code in {signal.SIGXCPU, signal.SIGXFSZ, signal.SIGKILL}:
            raise AskedTooMuch(f"was ended by {signal.Signals(-code).name}")
        return Done(code=code, output=_read(output), errors=_read_end(errors))


def end_all() -> None:
    """End every command that runs, because this process is to end; also in signal handlers."""
    for process in tuple(_active):
        _ended.add(process.pid)
        _kill_session(process)


def run_program(
    module: str,
    question: Mapping[str, object],
    *,
    bounds: Bounds,
    given: IO[bytes],
    pass_fds: Sequence[int] = (),
) -> dict[str, object]:
    """
    Ask one of the programs beside this module.

    :param module: Its name, in this package.
    :param question: What it is asked: JSON, as its one argument.
    :param given: The file that it is asked about, read from its beginning.
    :param pass_fds: Descriptors that it inherits.
    :return: Its answer.
    :raises TookTooLong: As :func:`run_confined`.
    :raises AskedTooMuch: As :func:`run_confined`, and if it had no more memory, or gave no answer.
    """
    given.flush()
    given.seek(0)
    done = run_confined(
        [sys.executable, "-I", "-m", f"{__package__}.{module}", json.dumps(question)],
        bounds=bounds,
        environment=_build_environment(),
        given=given,
        pass_fds=pass_fds,
        niceness=_NICENESS,
    )
    try:
        answer = json.loads(done.output[:_ANSWER_BYTES])
    except (ValueError, RecursionError):
        answer = None
    if done.code != 0 or not isinstance(answer, dict):
        raise AskedTooMuch(f"ended with code {done.code}, and without an answer")
    return answer


def _build_environment() -> dict[str, str]:
    """Return what a Python of this installation needs, and nothing that it could tell anybody."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    # Threads would only be address space.
    return kept | {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LC_ALL": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _await_end(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """
    Wait for a command's end, and tell whether it came in time.

    The command is not reaped by that: until it is, its session's number is nobody else's, and
    what is left of the session can be ended without a doubt.
    """
    deadline, pause = time.monotonic() + seconds, _FIRST_LOOK_SECONDS
    options = os.WEXITED | os.WNOWAIT | os.WNOHANG
    while os.waitid(os.P_PID, process.pid, options) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_LOOK_SECONDS)
    return True


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _read(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _read_end(file: IO[bytes]) -> bytes:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _ERROR_BYTES))
    return file.read()
