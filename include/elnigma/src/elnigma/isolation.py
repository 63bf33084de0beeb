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
import select
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, NoReturn, Self

import psutil

from elnigma import errors
from elnigma.errors import Aborted, ContractError, ElnigmaError, SubmissionError
from elnigma.shelter import leave_parent
from elnigma.surroundings import hide_task

if TYPE_CHECKING:
    import numpy as np

REPLIED_ITSELF = "contract: the module replied in place of the trainer; return from its function"

_LENGTH = struct.Struct("!Q")
_SAID = "said"
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
            raise ContractError(REPLIED_ITSELF)
        return self.array


Answer = Callable[[Reply], Reply]
"""Makes of a question its answer."""
Listener = Callable[[dict[str, Any]], None]
"""Takes, in plain JSON, how far an answer is."""


class Child:
    """
    One child at work; as a context, one that is ended with it.

    :param pid: The child, which this process started.
    :param reader: Where its reply comes from.
    """

    def __init__(self, pid: int, reader: int) -> None:
        self._pid = pid
        self._reader = reader
        self._is_over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def is_over(self) -> bool:
        """Return whether its result was taken, or it was ended without one."""
        return self._is_over

    @classmethod
    def fork(cls, work: Callable[[], Reply]) -> Child:
        """
        Begin a forked child.

        :param work: Called in the child; what it returns or raises reaches :meth:`result`.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            os.close(reader)
            leave_parent(parent)
            reply_and_end(work, writer)
        os.close(writer)
        return cls(pid, reader)

    @classmethod
    def start(
        cls, command: Sequence[str], environment: Mapping[str, str], *, quiet: bool = False
    ) -> Child:
        """
        Begin a new process, which replies through the descriptor that its last argument names.

        :param command: Without that argument.
        :param environment: All of its environment.
        :param quiet: Whether nothing that it prints is kept.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        reader, writer = os.pipe()
        os.set_inheritable(writer, True)
        actions = [
            (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]
        try:
            pid = os.posix_spawn(
                command[0],
                [*command, str(writer)],
                environment,
                file_actions=actions if quiet else [],
            )
        finally:
            os.close(writer)
        return cls(pid, reader)

    def is_silent(self, seconds: float) -> bool:
        """Wait for the child's reply to begin, or for its end, and return whether neither came."""
        return not select.select([self._reader], [], [], seconds)[0]

    def resident_bytes(self) -> int:
        """Return the memory that the child has now; 0 if it has ended."""
        try:
            return int(psutil.Process(self._pid).memory_info().rss)
        except psutil.Error:
            return 0

    def end(self) -> None:
        """End the child, if its result was not taken: nothing is wanted of it any more."""
        if self._is_over:
            return
        self._is_over = True
        os.close(self._reader)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self._collect()

    def result(self) -> Reply:
        """
        Wait for the child.

        :raises ElnigmaError: What the child raised.
        :raises ContractError: If it ended without a word: the module ended the process.
        """
        reply = self.read()
        self._wait()
        return reply

    def read(self) -> Reply:
        """
        Wait for one reply of a child that may send more.

        :raises ElnigmaError: What the child raised; it has ended then.
        :raises ContractError: If it ended without a word: the module ended the process.
        """
        with os.fdopen(self._reader, "rb", buffering=0, closefd=False) as stream:
            try:
                document, content = _read_document(stream)
                reply = None if "error" in document else _build_reply(document, content)
            except EOFError:
                self._fail_silent()
            except (ValueError, KeyError, TypeError) as error:
                self.end()
                raise ContractError(REPLIED_ITSELF) from error
        if reply is None:
            self._wait()
            raise _rebuild_error(document["error"])
        return reply

    def _wait(self) -> int:
        """Return the status of the child when it has ended, and forget it."""
        status = self._collect()
        self._is_over = True
        os.close(self._reader)
        return status

    def _collect(self) -> int:
        """Wait for the child to end, and return its status."""
        return os.waitpid(self._pid, 0)[1]

    def _fail_silent(self) -> NoReturn:
        code = os.waitstatus_to_exitcode(self._wait())
        if code == -signal.SIGKILL:
            # The runner looks whether the memory limit did it and says so instead.
            raise ContractError("the module's process was killed")
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        raise ContractError(
            f"contract: the module ended the process itself ({how}) and left no valid result; "
            "raise an exception instead"
        )


class Conversation:
    """
    One child that answers question after question; as a context, one that is ended with it.

    A question is of the form of a reply. The child has no file of its parent's open but what it
    prints to.

    :param child: The child, from which the answers come.
    :param writer: Where questions go.
    """

    def __init__(self, child: Child, writer: int) -> None:
        self._child = child
        self._writer = writer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @classmethod
    def fork(cls, answer: Answer, *, kept: Sequence[int] = ()) -> Conversation:
        """
        Begin a forked child.

        :param answer: Called in the child with each question.
        :param kept: Descriptors that stay open in it.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        (reader, answers), (questions, writer) = os.pipe(), os.pipe()
        parent, pid = os.getpid(), os.fork()
        if pid == 0:
            answer_apart(answer, questions, answers, parent=parent, kept=kept)
        os.close(answers)
        os.close(questions)
        return cls(Child(pid, reader), writer)

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[str, str]) -> Conversation:
        """
        Begin a new process: its last arguments name where questions are and where answers go.

        :param command: Without these two.
        :param environment: All of its environment.
        """
        questions, writer = os.pipe()
        os.set_inheritable(questions, True)
        try:
            child = Child.start([*command, str(questions)], environment)
        except BaseException:
            os.close(writer)
            raise
        finally:
            os.close(questions)
        return cls(child, writer)

    def ask(self, question: Reply, listen: Listener | None = None) -> Reply:
        """
        Return the answer to a question.

        :param listen: Takes what the child says before it answers.
        :raises ElnigmaError: What the child raised; it has ended then.
        :raises ContractError: If it ended without a word.
        """
        self.put(question)
        return self.get(listen)

    def put(self, question: Reply) -> None:
        """Ask a question, and do something else before :meth:`get`."""
        # If it has ended, it has perhaps said why.
        with (
            suppress(BrokenPipeError),
            os.fdopen(self._writer, "wb", closefd=False) as stream,
        ):
            _write_reply(stream, question)

    def get(self, listen: Listener | None = None) -> Reply:
        """Return the answer to the question that was put; see :meth:`ask`."""
        while True:
            reply = self._child.read()
            if listen is None or set(reply.facts) != {_SAID}:
                return reply
            if not isinstance(reply.facts[_SAID], dict):
                raise ContractError(REPLIED_ITSELF)
            listen(reply.facts[_SAID])

    def end(self) -> None:
        """End the child."""
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        self._child.end()


def run_isolated(work: Callable[[], Reply]) -> Reply:
    """Run ``work`` in a forked child and return what it replied; see :class:`Child`."""
    return Child.fork(work).result()


def answer_apart(
    answer: Answer, reader: int, writer: int, *, parent: int, kept: Sequence[int] = ()
) -> NoReturn:
    """
    Answer questions in a forked child that has no file of its parent's open.

    :param answer: What it returns or raises is the answer.
    :param reader: Where questions come from.
    :param writer: Where answers go.
    :param parent: The process that forked this one.
    :param kept: Descriptors that stay open beside these two.
    """
    try:
        # What other children are asked is none of this one's business.
        _close_all_but(reader, writer, *kept)
        # A caller of this program may have others, on files that are closed now.
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
        leave_parent(parent)
        hide_task()
    except BaseException:  # nothing may run beyond this frame in a forked child
        traceback.print_exc()
        os._exit(1)
    answer_and_end(answer, reader, writer)


def answer_and_end(answer: Answer, reader: int, writer: int) -> NoReturn:
    """
    Answer questions until there are no more, or one cannot be answered, and end this process.

    :param answer: What it returns or raises is the answer. What has an attribute ``say`` gets there
        what tells a :data:`Listener` how far it is.
    :param reader: Where questions come from.
    :param writer: Where answers go.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 0
    try:
        with os.fdopen(reader, "rb") as questions, os.fdopen(writer, "wb") as stream:
            if hasattr(answer, "say"):
                answer.say = lambda said: _write_reply(stream, Reply(facts={_SAID: said}))
            while True:
                try:
                    question = _read_reply(questions)
                except EOFError:
                    break
                try:
                    found = answer(question)
                except BaseException as error:  # the parent raises it again
                    traceback.print_exc()
                    _flush()
                    _write_document(stream, {"error": _flatten_error(error)}, b"")
                    break
                _flush()
                _write_reply(stream, found)
    except BaseException:  # nothing may run beyond this frame in a forked child
        code = 1
    finally:
        os._exit(code)


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
            content = _pack(reply.array)
        except BaseException as error:  # the parent raises it again
            traceback.print_exc()
            document = {"error": _flatten_error(error)}
        _flush()
        with os.fdopen(writer, "wb") as stream:
            _write_document(stream, document, content)
    except BaseException:  # nothing may run beyond this frame in a forked child
        code = 1
    finally:
        os._exit(code)


def _close_all_but(*kept: int) -> None:
    """Close whatever else is open, except standard input, output and error."""
    first = 3
    for descriptor in sorted(kept):
        os.closerange(first, descriptor)
        first = descriptor + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def _pack(array: np.ndarray | None) -> bytes:
    if array is None:
        return b""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _build_reply(document: Any, content: bytes) -> Reply:
    array = None
    if content:
        import numpy as np

        array = np.load(io.BytesIO(content), allow_pickle=False)
    return Reply(facts=document["facts"], array=array)


def _write_reply(stream: IO[bytes], reply: Reply) -> None:
    _write_document(stream, {"facts": reply.facts}, _pack(reply.array))


def _write_document(stream: IO[bytes], document: dict[str, Any], content: bytes) -> None:
    for part in (json.dumps(document).encode(), content):
        stream.write(_LENGTH.pack(len(part)))
        stream.write(part)
    stream.flush()


def _read_reply(stream: IO[bytes]) -> Reply:
    return _build_reply(*_read_document(stream))


def _read_document(stream: IO[bytes]) -> tuple[Any, bytes]:
    return json.loads(_read_part(stream)), _read_part(stream)


def _read_part(stream: IO[bytes]) -> bytes:
    (length,) = _LENGTH.unpack(_read_exactly(stream, _LENGTH.size))
    if length > _MAX_REPLY_BYTES:
        raise ValueError("reply too long")
    return _read_exactly(stream, length)


def _read_exactly(stream: IO[bytes], length: int) -> bytes:
    """Read from a stream that may give less than it is asked for."""
    parts = []
    while length:
        part = stream.read(length)
        if not part:
            raise EOFError
        parts.append(part)
        length -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


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
