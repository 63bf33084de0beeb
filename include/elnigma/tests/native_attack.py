"""
What submitted code could try past Python: each attack is a system call that no audit hook sees.

The text of this file is part of a module in tests, which calls :func:`find_what_works`.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
KEY = 0x70756368
NAME = "left-by-an-attack"
MOUNTS = ("/proc/self/mountinfo", "/proc/thread-self/mountinfo", "/proc/mounts")
DATA_FILES = ("data.toml", "eurusd.csv")


def call(number: int, *arguments: int) -> int:
    return int(LIBC.syscall(number, *map(ctypes.c_long, arguments)))


def read(path: str) -> str:
    """Return up to 4 KiB of a file, natively; an empty text for nothing."""
    descriptor = LIBC.open(path.encode(), os.O_RDONLY)
    if descriptor < 0:
        return ""
    room = ctypes.create_string_buffer(4096)
    got = LIBC.read(descriptor, room, len(room))
    LIBC.close(descriptor)
    return room.raw[: max(got, 0)].decode(errors="replace")


def may_list(path: str) -> bool:
    descriptor = LIBC.open(path.encode(), os.O_RDONLY | os.O_DIRECTORY)
    if descriptor >= 0:
        LIBC.close(descriptor)
    return bool(descriptor >= 0)


def may_write(path: str) -> bool:
    descriptor = LIBC.open(path.encode(), os.O_WRONLY | os.O_CREAT, 0o600)
    if descriptor >= 0:
        LIBC.close(descriptor)
        LIBC.unlink(path.encode())
    return bool(descriptor >= 0)


def list_others() -> list[int]:
    own, parent = os.getpid(), os.getppid()
    near = {1, *range(max(1, parent - 40), own + 20)} - {own}
    return sorted(near)


def read_others(name: str) -> bool:
    return any(read(f"/proc/{pid}/{name}") for pid in list_others())


def may_fork() -> bool:
    pid = LIBC.fork()
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
    return bool(pid > 0)


def may_connect(family: int) -> bool:
    descriptor = LIBC.socket(family, 1, 0)
    if descriptor >= 0:
        LIBC.close(descriptor)
    return bool(descriptor >= 0)


def has_pidfd() -> bool:
    descriptor = call(434, os.getppid(), 0)
    return descriptor >= 0 and call(438, descriptor, 1, 0) >= 0


def may_trace() -> bool:
    # PTRACE_SEIZE stops nothing.
    return bool(LIBC.ptrace(0x4206, os.getppid(), 0, 0) == 0)


def has_removed(get: Callable[[], int], remove: Callable[[int], object]) -> bool:
    number = get()
    if number >= 0:
        remove(number)
    return number >= 0


def find_prices() -> list[str]:
    return [str(path) for entry in sys.path for path in Path(entry).glob("arch/data/*/*.csv.gz")]


def set_time(path: str) -> bool:
    return bool(LIBC.utimensat(-100, path.encode(), None, 0) == 0)


def set_attribute(path: str) -> bool:
    return bool(LIBC.setxattr(path.encode(), b"user.x", b"1", 1, 0) == 0)


def build_attacks(out: str, data: str) -> dict[str, Callable[[], object]]:
    """Return each by its name; it returns something true if it works."""
    room = str(Path(os.environ.get("TMPDIR", "/tmp")).parent)
    return {
        "the built-in prices": lambda: any(map(read, find_prices())),
        "the data set": lambda: data and any(read(f"{data}/{name}") for name in DATA_FILES),
        "its own mounts": lambda: (
            read("/proc/self/mountinfo") or read("/proc/thread-self/mountinfo")
        ),
        "others' arguments": lambda: read_others("cmdline"),
        "others' environment": lambda: read_others("environ"),
        "others' state": lambda: read_others("status"),
        "others' memory": lambda: read_others("maps"),
        "others' mounts": lambda: read_others("mountinfo"),
        "the list of processes": lambda: may_list("/proc"),
        "its control group": lambda: (
            read("/sys/fs/cgroup/memory.max") or read("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        ),
        "the output folder": lambda: may_list(out),
        "the console": lambda: read(out + "/console.log"),
        "the progress": lambda: read(out + "/progress.jsonl"),
        "a result of its own": lambda: may_write(out + "/result.json"),
        "a file for later": lambda: may_write("/tmp/" + NAME) or may_write("/var/tmp/" + NAME),
        "shared memory for later": lambda: may_write("/dev/shm/" + NAME),
        "a file beside its folder": lambda: may_write(room + "/" + NAME),
        "a segment for later": lambda: has_removed(
            lambda: LIBC.shmget(KEY, 4096, 0o1600), lambda n: LIBC.shmctl(n, 0, None)
        ),
        "a message for later": lambda: has_removed(
            lambda: LIBC.msgget(KEY, 0o1600), lambda n: LIBC.msgctl(n, 0, None)
        ),
        "a semaphore for later": lambda: has_removed(
            lambda: LIBC.semget(KEY, 1, 0o1600), lambda n: LIBC.semctl(n, 0, 0, None)
        ),
        "times of a folder": lambda: set_time(room),
        "an attribute of a folder": lambda: (
            LIBC.setxattr(room.encode(), b"user.x", b"1", 1, 0) == 0
        ),
        "a process for later": may_fork,
        "a signal to its parent": lambda: LIBC.kill(os.getppid(), 0) == 0,
        "a signal to its group": lambda: LIBC.kill(0, 0) == 0,
        "a signal to everybody": lambda: LIBC.kill(-1, 0) == 0,
        "its parent's files": has_pidfd,
        "its parent, traced": may_trace,
        "the network": lambda: may_connect(2) or may_connect(10),
    }


def find_what_works(out: str, data: str = "") -> list[str]:
    """
    Try each, print what worked, and return it.

    :param out: The attempt's output folder.
    :param data: The folder of its data set; empty for none.
    """
    attacks = build_attacks(out, data)
    got = [name for name, deed in attacks.items() if deed()]
    print("ATTACK" + json.dumps({"tried": len(attacks), "got": got}), flush=True)
    return got
