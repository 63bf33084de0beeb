"""Ports for servers of tests."""

from __future__ import annotations

import itertools
import random
import socket

_FIRST, _LAST = 10_000, 19_999
"""
Below what systems hand out to outgoing connections: a server that is stopped and started again
finds its port free. And below what stacks choose from.
"""

_numbers = itertools.count(random.SystemRandom().randrange(_LAST - _FIRST))
"""One after the other, from somewhere: no two servers of a process are told the same port."""

_claims: list[socket.socket] = []
"""Names that this process holds for as long as it lives, one for each of its ports."""


def find_free_port() -> int:
    """
    Return a port of this machine that was free just now, and that no other test is told.

    Its server may take seconds to listen there, in which another process of tests would find it
    free as well.
    """
    for number in _numbers:
        port = _FIRST + number % (_LAST - _FIRST + 1)
        if _claim(port) and _is_free(port):
            return port
    raise AssertionError("the numbers have no end")


def _claim(port: int) -> bool:
    claim = socket.socket(socket.AF_UNIX)
    try:
        # An abstract name: it has one holder on this machine, and is gone with its process.
        claim.bind(f"\0touchstone-test-port-{port}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still winding down is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
