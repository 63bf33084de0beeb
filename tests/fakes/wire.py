"""A cable between a client and a server that can be pulled after so many bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self

from fakes.ports import find_free_port

_BLOCK = 16 * 1024


class Wire:
    """
    Hands on what a client sends to a port of this machine, and what comes back.

    :param target: The server's port on loopback.
    :param cut_after: How many bytes of the client's first connection reach the server before both
        ends see it closed; connections after that one are whole.
    """

    def __init__(self, target: int, *, cut_after: int) -> None:
        self.port = find_free_port()
        self.cuts = 0
        self._target = target
        self._left: int | None = cut_after
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._ends += [near, far]
                left, self._left = self._left, None
                for source, sink, most in ((near, far, left), (far, near, None)):
                    arguments = (source, sink, most)
                    threading.Thread(target=self._carry, args=arguments, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while block := source.recv(_BLOCK):
                sink.sendall(block if left is None else block[:left])
                if left is not None:
                    left -= len(block)
                    if left <= 0:
                        self.cuts += 1
                        break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
