"""
Runs submitted code in children of a process that has never seen any.

A fork of the untouched parent is a fresh process with the libraries loaded already: what a module
remembers in one child is unknown to the next. Where the surroundings must be others from the
beginning, the child is a new interpreter. A child that dies takes no record with it, and nothing it
sends back is unpickled.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NoReturn

from elnigma import errors
from elnigma.errors import Aborted, ContractError, ElnigmaError, SubmissionError

if TYPE_CHECKING:
    import numpy as np

_LENGTH = struct.Struct("!Q")
_MAX_REPLY_BYTES = 512 * 1024**2
_BY_CLASS: dict[str, type[ElnigmaError]] = {
    kind.error_class: kind
    for kind in (
        errors.ConfigError,
        errors.SubmissionError,
        errors.ContractError,
        errors.DivergedError,
        errors.DataError,
        errors.OutOfMemoryError,
        errors.StorageError,
        errors.DeviceError,
    )
}


@dataclass(frozen=True, kw_only=True)
class Reply:
    """
    What a child sends back.

    :param facts: Plain JSON.
    :param array: Numbers, if there are any.
    """

    facts: dict[str, Any] = field(default_factory=dict)
    array: np.ndarray | None = None

    def numbers(self) -> np.ndarray:
        """
        Return the array.

        :raises ContractError: If there is none: the reply is not from our own code.
        """
        if self.array is None:
            raise ContractError(
                "contract: the module replied in place of the trainer; return from its function"
            )
        return self.array


class Child:
    """
    One child at work.

    :param pid: The child, which this process started.
    :param reader: Where its reply comes from.
    """

    def __init__(self, pid: int, reader: int) -> None:
        self._pid = pid
        self._reader = reader

    @classmethod
    def fork(cls, work: Callable[[], Reply]) -> Child:
        """
        Begin a forked child.

        :param work: Called in the child; what it returns or raises reaches :meth:`result`.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            reply_and_end(work, writer)
        os.close(writer)
        return cls(pid, reader)

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """
        Begin a new process, which replies through the descriptor that its last argument names.

        :param command: Without that argument.
        :param environment: All of its environment.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        try:
            pid = os.posix_spawn(command[0], [*command, str(writer)], environment)
        finally:
            os.close(writer)
        return cls(pid, reader)

    def result(self) -> Reply:
        """
        Wait for the child.

        :raises ElnigmaError: What the child raised.
        :raises ContractError: If it ended without a word: the module ended the process.
        """
        with os.fdopen(self._reader, "rb") as stream:
            try:
                facts = json.loads(_read_part(stream))
                content = _read_part(stream)
            except (EOFError, ValueError):
                self._fail_silent()
        os.waitpid(self._pid, 0)
        if "error" in facts:
            raise _rebuild_error(facts["error"])
        array = None
        if content:
            import numpy as np

            array = np.load(io.BytesIO(content), allow_pickle=False)
        return Reply(facts=facts["facts"], array=array)

    def _fail_silent(self) -> NoReturn:
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code == -signal.SIGKILL:
            # The runner looks whether the memory limit did it and says so instead.
            raise ContractError("the module's process was killed")
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        raise ContractError(
            f"contract: the module ended the process itself ({how}) and left no valid result; "
            "raise an exception instead"
        )


def run_isolated(work: Callable[[], Reply]) -> Reply:
    """Run ``work`` in a forked child and return what it replied; see :class:`Child`."""
    return Child.fork(work).result()


def reply_and_end(work: Callable[[], Reply], writer: int) -> NoReturn:
    """
    Do a child's work and end its process.

    :param work: What it returns or raises is the reply.
    :param writer: Where the reply goes.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        content = b""
        try:
            reply = work()
            document: dict[str, Any] = {"facts": reply.facts}
            if reply.array is not None:
                import numpy as np

                buffer = io.BytesIO()
                np.save(buffer, reply.array, allow_pickle=False)
                content = buffer.getvalue()
        except BaseException as error:  # the parent raises it again
            traceback.print_exc()
            document = {"error": _flatten_error(error)}
        sys.stdout.flush()
        sys.stderr.flush()
        with os.fdopen(writer, "wb") as stream:
            for part in (json.dumps(document).encode(), content):
                stream.write(_LENGTH.pack(len(part)) + part)
    except BaseException:  # nothing may run beyond this frame in a forked child
        code = 1
    finally:
        os._exit(code)


def _read_part(stream: IO[bytes]) -> bytes:
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (length,) = _LENGTH.unpack(header)
    if length > _MAX_REPLY_BYTES:
        raise ValueError("reply too long")
    content = stream.read(length)
    if len(content) < length:
        raise EOFError
    return content


def _flatten_error(error: BaseException) -> dict[str, str]:
    if isinstance(error, MemoryError):
        kind, message = errors.OutOfMemoryError.error_class, "out of memory: an allocation failed"
    elif isinstance(error, ElnigmaError):
        kind, message = error.error_class, str(error)
    else:
        kind, message = SubmissionError.error_class, f"{type(error).__name__}: {error}"
    return {"class": kind, "message": message, "traceback": traceback.format_exc()[-20_000:]}


def _rebuild_error(facts: dict[str, str]) -> BaseException:
    if facts["class"] == Aborted.error_class:
        return Aborted()
    error = _BY_CLASS.get(facts["class"], SubmissionError)(facts["message"])
    error.inner_traceback = facts["traceback"]
    return error
