"""
A process that has neither data nor submitted code, and forks of it that get both.

It is begun before its parent has read anything, even its arguments: its forks inherit nothing that
would tell one task from another. A fork costs no import of what it has loaded.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Self

from elnigma.errors import ElnigmaError
from elnigma.isolation import Answer, Child, Conversation, Reply, answer_apart

_FORK = b"fork"


class Nursery:
    """
    Such a process; as a context, one that is ended with it, and its forks as well.

    :param make: Makes, in a fork, what answers there; gets what :meth:`fork` was given.
    :param modules: What the process imports before its first fork.
    """

    def __init__(self, make: Callable[..., Answer], modules: Sequence[str] = ()) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            mother = _Mother(make, theirs.fileno(), modules)
            self._conversation = Conversation.fork(mother, kept=[theirs.fileno()])
        self._is_loading = self._is_loaded = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """End the process and its forks."""
        self._socket.close()
        self._conversation.end()

    def begin_loading(self) -> None:
        """Let it import what it is to import while this process does something else."""
        if not self._is_loading:
            self._is_loading = True
            self._conversation.put(Reply(facts={"do": "load"}))

    def fork(self, **arguments: Any) -> Conversation:
        """
        Begin a fork.

        :param arguments: For what answers there; plain JSON.
        """
        self.begin_loading()
        if not self._is_loaded:
            self._conversation.get()
            self._is_loaded = True
        (answers, replying), (asked, questions) = os.pipe(), os.pipe()
        try:
            socket.send_fds(self._socket, [_FORK], [asked, replying])
            question = Reply(facts={"do": "fork", "arguments": arguments})
            pid = self._conversation.ask(question).facts["pid"]
        except BaseException:
            os.close(answers)
            os.close(questions)
            raise
        finally:
            os.close(asked)
            os.close(replying)
        return Conversation(_Grandchild(pid, answers, self._conversation), questions)


class _Grandchild(Child):
    """A child's child: only its parent can tell how it ended."""

    def __init__(self, pid: int, reader: int, mother: Conversation) -> None:
        super().__init__(pid, reader)
        self._mother = mother

    def _collect(self) -> int:
        try:
            facts = self._mother.ask(Reply(facts={"do": "wait", "pid": self._pid})).facts
        except (ElnigmaError, OSError):
            return int(signal.SIGKILL)  # Its parent was ended, and it with that.
        return int(facts["status"])


class _Mother:
    """That process's own side."""

    def __init__(
        self, make: Callable[..., Answer], descriptor: int, modules: Sequence[str]
    ) -> None:
        self._make = make
        self._descriptor = descriptor
        self._modules = modules
        self._socket: socket.socket | None = None

    def __call__(self, question: Reply) -> Reply:
        """Import, fork, or wait for a fork."""
        facts = question.facts
        if facts["do"] == "load":
            for name in self._modules:
                importlib.import_module(name)
            return Reply()
        if facts["do"] == "wait":
            return Reply(facts={"status": os.waitpid(facts["pid"], 0)[1]})
        if self._socket is None:
            self._socket = socket.socket(fileno=self._descriptor)
        _, (reader, writer), _, _ = socket.recv_fds(self._socket, len(_FORK), 2)
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # JAX warns of its threads. It has none before it computes.
            warnings.simplefilter("ignore")
            parent, pid = os.getpid(), os.fork()
        if pid == 0:
            answer = self._make(**facts["arguments"])
            answer_apart(answer, reader, writer, parent=parent)
        os.close(reader)
        os.close(writer)
        return Reply(facts={"pid": pid})
