"""
What submitted code must not do while it is validated, refused with a message that names it.

An audit hook sees what goes through Python, not what native code does: it is here for good
reasons in the verdict. The wall is the container (no network, read-only root, no capabilities).
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elnigma.errors import SubmissionError

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_NETWORK_EVENTS = frozenset(
    {"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind", "socket.getaddrinfo",
     "socket.gethostbyname", "socket.gethostbyaddr"}
)  # fmt: skip
_PROCESS_EVENTS = frozenset(
    {"os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.system", "subprocess.Popen",
     "pty.spawn"}
)  # fmt: skip
# Events whose first argument is a path that changes.
_PATH_EVENTS = frozenset(
    {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.link", "os.symlink", "os.truncate",
     "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile"}
)  # fmt: skip
# Signals to others would end the very process that keeps the record.
_SIGNAL_EVENTS = frozenset({"os.kill", "os.killpg", "signal.pthread_kill"})


# Of the package that holds the market data: they are given to a module cut at a time.
_PRICE_SUFFIX = ".csv.gz"
_PRICE_FOLDER = re.compile(r"/arch/data/(sp500|nasdaq)/")
# What the runner and the trainer keep, and what the kernel tells of others: a process that looks
# there wants to know what it is computed for.
_PROCESS = re.compile(r"/proc/(\d+)(/|$)")
_RECORDS = ("/progress.jsonl", "/console.log")
_ADVICE = "compute from what the function is given"

NOT_ALLOWED = "not allowed in a validation"
"""In each of its messages, also where a library puts them into its own."""


class GuardError(PermissionError):
    """Submitted code tried something that a validation does not allow."""


class Guard:
    """
    Watches one process while submitted code runs in it.

    :param writable: Folders in which submitted code may write.
    :param data_folder: Of a data set, in which it may not even read; ``None`` for no such folder.
    """

    def __init__(self, *, writable: tuple[Path, ...], data_folder: str | None = None) -> None:
        self._writable = tuple(os.path.realpath(path) for path in writable)
        self._data_folder = None if data_folder is None else os.path.realpath(data_folder)
        self._active = False
        self._network_attempt: str | None = None
        self._data_attempt: str | None = None

    def install(self) -> None:
        """Add the audit hook; it stays for the life of the process and acts inside :meth:`on`."""
        sys.addaudithook(self._audit)

    @contextmanager
    def on(self) -> Iterator[None]:
        """
        Refuse what is not allowed, for as long as the block runs.

        :raises SubmissionError: After the block, if it tried to reach the network, or to read
            market data, and hid it: such a module could work differently where it can.
        """
        self._active = True
        try:
            yield
        except Exception as error:
            # The trainer's own loader would blame the machine.
            if self._data_attempt is not None and not isinstance(error, SubmissionError):
                raise SubmissionError(f"{self._data_attempt}; {_ADVICE}") from error
            raise
        finally:
            self._active = False
        hidden = self._network_attempt or self._data_attempt
        if hidden is not None:
            raise SubmissionError(f"{hidden}; {_ADVICE}")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._active:
            return
        if event == "open":
            self._check_open(*arguments)
        elif event in _NETWORK_EVENTS:
            self._refuse_network(event, arguments)
        elif event in _PROCESS_EVENTS:
            raise GuardError(f"starting processes is {NOT_ALLOWED} ({event})")
        elif event in _PATH_EVENTS and arguments:
            self._check_path(arguments[0])
        elif event in _SIGNAL_EVENTS:
            raise GuardError(f"sending signals is {NOT_ALLOWED} ({event})")

    def _check_open(self, path: Any, _mode: Any, flags: Any) -> None:
        if isinstance(flags, int) and flags & _WRITE_FLAGS:
            self._check_path(path)
        elif isinstance(path, str | bytes | os.PathLike):
            self._check_reading(os.fsdecode(path))

    def _check_reading(self, path: str) -> None:
        # Whatever is opened comes by here: the whole path is looked up for few of them.
        if path.endswith(_RECORDS):
            raise GuardError(f"reading the trainer's records is {NOT_ALLOWED}: {path}")
        if "proc" in path and (match := _PROCESS.match(os.path.realpath(path))):
            if int(match[1]) != os.getpid():
                raise GuardError(f"looking into other processes is {NOT_ALLOWED}: {path}")
            return
        if not self._is_market_data(path):
            return
        name = Path(path).name
        self._data_attempt = f"reading market data is {NOT_ALLOWED} (tried {name})"
        raise GuardError(self._data_attempt)

    def _is_market_data(self, path: str) -> bool:
        if path.endswith(_PRICE_SUFFIX) and _PRICE_FOLDER.search(os.path.realpath(path)):
            return True
        folder = self._data_folder
        return folder is not None and os.path.realpath(path).startswith(folder + os.sep)

    def _check_path(self, path: Any) -> None:
        if isinstance(path, int):  # a descriptor that is open already
            return
        real = os.path.realpath(os.fsdecode(path))
        if real == os.devnull or any(
            real == folder or real.startswith(folder + os.sep) for folder in self._writable
        ):
            return
        raise GuardError(f"writing outside the temporary folder is {NOT_ALLOWED}: {real}")

    def _refuse_network(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Local sockets have a path for an address; they are refused, but are not the network.
        address = arguments[1] if event in _SOCKET_EVENTS and len(arguments) > 1 else arguments
        if isinstance(address, str | bytes):
            raise GuardError(f"local sockets are {NOT_ALLOWED}")
        target = ":".join(str(part) for part in address[:2]) if address else "?"
        message = f"network access is {NOT_ALLOWED} (tried {target})"
        self._network_attempt = self._network_attempt or message
        raise GuardError(message)


_SOCKET_EVENTS = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"})


def build_guard(data_folder: str | None = None) -> Guard:
    """
    Return a guard that lets submitted code write to the temporary folder alone.

    :param data_folder: Where it may not even read; ``None`` for no such folder.
    """
    return Guard(writable=(Path(tempfile.gettempdir()),), data_folder=data_folder)
