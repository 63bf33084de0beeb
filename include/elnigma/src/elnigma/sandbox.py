"""
What the kernel refuses to a process that holds submitted code, whatever language that is in.

Two walls, neither of which takes a right, and which hold for root as well. Landlock: files, other
processes' memory, and TCP; on newer kernels signals and abstract sockets, too. A seccomp filter:
what outlives a process or reaches another one without a file. Where a kernel has one of them only,
that one holds; :func:`describe_lack` says what is missing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from elnigma.errors import StorageError

_PR_SET_NO_NEW_PRIVS = 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION = 1
_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_FIRST_RIGHTS = (1 << 13) - 1
_RIGHTS_BY_VERSION = {1: _FIRST_RIGHTS, 2: _FIRST_RIGHTS | _REFER}
# Not what a device is told with an ioctl, by which a GPU is used.
_MOST_RIGHTS = _FIRST_RIGHTS | _REFER | _TRUNCATE
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
_READING = _EXECUTE | _READ_FILE | _READ_DIR
_TCP = 0b11
_TCP_VERSION = 4
_SIGNALS_AND_ABSTRACT_SOCKETS = 0b11
_SCOPE_VERSION = 6

_PROCESSES = "/proc"
# What a library asks of its own process. Not its mounts: their sources have the attempt's name.
_OWN = ("cmdline", "comm", "environ", "fd", "limits", "maps", "smaps", "stat", "statm", "status")
# What other processes may have left in, or will read.
_SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/sys/fs/cgroup")  # noqa: S108
_WRITABLE_DEVICES = ("null", "zero", "full", "dri", "dxg")
_GPU_DEVICES = "nvidia"
_PRICES = "arch/data/*/*.csv.gz"

_hidden: tuple[str, ...] = ()
_is_confined = False
_pinned: list[int] = []
"""Of this process's own files in /proc: with the entries that are in the kernel's memory their
rules would go, and nothing of them could be read."""


def hide(*paths: Path | None) -> None:
    """
    Keep folders from all processes that this one will begin, and they will confine.

    :param paths: Their paths; ``None`` is none.
    """
    global _hidden  # Of the process: it is known before anything else is.
    _hidden += tuple(str(path) for path in paths if path is not None)


def list_hidden() -> tuple[str, ...]:
    """Return what :func:`hide` was given."""
    return _hidden


def describe_lack() -> str | None:
    """Return, in words, what this kernel does not refuse; ``None`` if it refuses all of it."""
    lacks = []
    if _find_version() == 0:
        lacks.append("Landlock: native code may read files and other processes' arguments")
    if not _has_filter():
        lacks.append("a filter of system calls: native code may signal, and leave things behind")
    return "; ".join(lacks) or None


def confine(
    *,
    folders: Sequence[str],
    readable: Sequence[str] = (),
    hidden: Sequence[str | None] = (),
    may_fork: bool = False,
) -> None:
    """
    Close this process, which has one thread, and all that it will begin, for good.

    It may read what a container has but for places that processes share, what is hidden, and other
    processes; and write in its own folder and to devices that keep nothing. The second time changes
    nothing.

    :param folders: Where it may write.
    :param readable: What it may read even where a place is closed, such as its own module.
    :param hidden: What it may not even read, wherever that is; ``None`` is nothing.
    :param may_fork: Whether it may begin other processes; threads it may.
    :raises StorageError: If the kernel has a wall, and does not put it up: that is no fault of a
        submission, which is not imported without.
    """
    global _is_confined  # Of the process, and it cannot be undone.
    if _is_confined:
        return
    _is_confined = True
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    version = _find_version()
    closed = [path for path in hidden if path is not None]
    try:
        if version:
            _restrict_paths(libc, version, folders, [*sys.path, sys.prefix, *readable], closed)
        if _SYSTEM_CALLS is not None and _has_filter():
            _filter_calls(libc, _SYSTEM_CALLS, may_fork=may_fork)
    except OSError as error:
        raise StorageError(
            f"temporary: this machine's kernel does not confine submitted code: {error.strerror}"
        ) from error


def _find_version() -> int:
    """Return the version of Landlock; 0 if there is none."""
    libc = ctypes.CDLL(None, use_errno=True)
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)))


def _has_filter() -> bool:
    """Return whether system calls can be filtered."""
    if _SYSTEM_CALLS is None:
        return False
    action = ctypes.c_uint32(_REFUSE)
    number = _SECCOMP[platform.machine()]
    return bool(ctypes.CDLL(None).syscall(number, _IS_AVAILABLE, 0, ctypes.byref(action)) == 0)


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _restrict_paths(
    libc: ctypes.CDLL,
    version: int,
    folders: Sequence[str],
    readable: Sequence[str],
    hidden: Sequence[str],
) -> None:
    rights = _RIGHTS_BY_VERSION.get(version, _MOST_RIGHTS)
    attributes = _Ruleset(
        files=rights,
        network=_TCP if version >= _TCP_VERSION else 0,
        scoped=_SIGNALS_AND_ABSTRACT_SOCKETS if version >= _SCOPE_VERSION else 0,
    )
    size = 24 if version >= _SCOPE_VERSION else 16 if version >= _TCP_VERSION else 8
    ruleset = libc.syscall(
        _CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0)
    )
    _check(ruleset)
    try:
        for name in _OWN:
            with suppress(OSError):
                _pinned.append(os.open(f"{_PROCESSES}/{os.getpid()}/{name}", os.O_PATH))
        for path, wanted in _list_rules(folders, readable, hidden):
            _add_rule(libc, ruleset, path, wanted & rights)
        _check(libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)))
    finally:
        os.close(ruleset)


def _list_rules(
    folders: Sequence[str], readable: Sequence[str], hidden: Sequence[str]
) -> Iterator[tuple[str, int]]:
    """Yield what may be done where: a rule is for all that is beneath, and takes nothing back."""
    roots = {os.path.realpath(each) for each in readable if each}
    libraries = {os.path.realpath(each) for each in sys.path if each}
    prices = [str(path) for root in libraries for path in Path(root).glob(_PRICES)]
    closed = {os.path.realpath(path) for path in (*_SHARED, *_hidden, *hidden, *prices)}
    closed.add(f"{_PROCESSES}/{os.getpid()}")
    above = {str(parent) for path in closed for parent in Path(path).parents}
    for path in _list_open("/", closed, above):
        yield path, _READING
    # Wherever they are: a place that is closed may hold them, and they may hold what is closed.
    for root in _list_outermost(roots, closed):
        for path in _list_open(root, closed, above):
            yield path, _READING
    # Where only some is open, Python looks what there is.
    for library in sorted(libraries & above - {"/"}):
        yield library, _READ_DIR
    for name in _OWN:
        yield f"{_PROCESSES}/{os.getpid()}/{name}", _READING
    for folder in folders:
        yield os.path.realpath(folder), _MOST_RIGHTS
    for name in _list_names("/dev"):
        if name in _WRITABLE_DEVICES or name.startswith(_GPU_DEVICES):
            yield f"/dev/{name}", _READING | _WRITE_FILE


def _list_names(folder: str) -> list[str]:
    try:
        return sorted(path.name for path in Path(folder).iterdir())
    except OSError:
        return []


def _list_outermost(paths: set[str], closed: set[str]) -> Iterator[str]:
    """Yield those that are not open with another one."""
    for path in sorted(paths):
        around = set(map(str, Path(path).parents))
        if not paths & around or closed & around:
            yield path


def _list_open(folder: str, closed: set[str], above: set[str]) -> Iterator[str]:
    """Yield what is in a folder but for what is closed, by as few paths as that takes."""
    if folder not in above:
        yield folder
        return
    with suppress(OSError):
        for entry in os.scandir(folder):
            # Each process that there is, also one that begins just now.
            is_process = folder == _PROCESSES and entry.name.isdigit()
            # A link's target is closed, or is open by its own path.
            if entry.path not in closed and not is_process and not entry.is_symlink():
                yield from _list_open(entry.path, closed, above)


def _add_rule(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # Gone, or nothing of this user's.
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = _Beneath(allowed=rights, parent=descriptor)
        _check(libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(descriptor)


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


# --- system calls ------------------------------------------------------------------------------

_X86 = {
    "arch": 0xC000003E, "kill": 62, "tgkill": 234, "socket": 41, "clone": 56, "clone3": 435,
    "fork": 57, "vfork": 58,
    # Other processes: their memory, files, signals.
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
    "kcmp": 312, "perf_event_open": 298, "tkill": 200, "rt_sigqueueinfo": 129,
    "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424,
    # What outlives a process without being a file.
    "shmget": 29, "shmat": 30, "shmctl": 31, "semget": 64, "msgget": 68, "mq_open": 240,
    "add_key": 248, "request_key": 249, "keyctl": 250,
    # What can be noted beside a file that has the same owner. Its mode is left: libraries set it.
    "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "setxattrat": 463, "chown": 92,
    "fchown": 93, "lchown": 94, "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261,
    "utimensat": 280,
    # Whose mounts these are, where /proc does not tell; and what does all of that in another way.
    "statmount": 457, "listmount": 458, "io_uring_setup": 425,
}  # fmt: skip
_ARM = {
    "arch": 0xC00000B7, "kill": 129, "tgkill": 131, "socket": 198, "clone": 220, "clone3": 435,
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
    "kcmp": 272, "perf_event_open": 241, "tkill": 130, "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424,
    "shmget": 194, "shmat": 196, "shmctl": 195, "semget": 190, "msgget": 186, "mq_open": 180,
    "add_key": 217, "request_key": 218, "keyctl": 219,
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "setxattrat": 463, "fchown": 55,
    "fchownat": 54, "utimensat": 88,
    "statmount": 457, "listmount": 458, "io_uring_setup": 425,
}  # fmt: skip
_SYSTEM_CALLS = {"x86_64": _X86, "aarch64": _ARM}.get(platform.machine())
_SPECIAL = ("arch", "kill", "tgkill", "socket", "clone", "clone3", "fork", "vfork")
_AF_UNIX, _AF_NETLINK = 1, 16
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENT_AT = 0, 4, 16
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_FILTER, _ALL_THREADS, _IS_AVAILABLE = 1, 1, 2
_Step = tuple[int, int, int, int]


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(_Instruction)))


def _filter_calls(libc: ctypes.CDLL, calls: dict[str, int], *, may_fork: bool) -> None:
    steps = _build_filter(calls, own=os.getpid(), may_fork=may_fork)
    program = (_Instruction * len(steps))(*(_Instruction(*step) for step in steps))
    whole = _Program(length=len(steps), steps=program)
    number = _SECCOMP[platform.machine()]
    # The other threads as well, if a library has begun some; the number of one that does not take
    # it would be the answer.
    result = libc.syscall(number, _SET_FILTER, _ALL_THREADS, ctypes.byref(whole))
    _check(-1 if result > 0 else result)


def _build_filter(calls: dict[str, int], *, own: int, may_fork: bool) -> list[_Step]:
    """
    Return the steps of the filter; each is code, how many to skip if true, if not, and a value.

    :param calls: Numbers of the system calls.
    :param own: This process, which may send signals to itself.
    :param may_fork: Whether it may begin other processes.
    """
    refused, missing = _REFUSE | errno.EPERM, _REFUSE | errno.ENOSYS
    steps: list[_Step] = [
        (_LOAD, 0, 0, _ARCH_AT),
        (_EQUAL, 1, 0, calls["arch"]),
        (_RETURN, 0, 0, refused),
        (_LOAD, 0, 0, _NUMBER_AT),
    ]
    if calls is _X86:
        steps += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, refused)]
    for name, number in calls.items():
        if name not in _SPECIAL:
            steps += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, refused)]
    for name in ("kill", "tgkill"):
        steps += _allow_argument(calls[name], (_EQUAL,), (own,), refused)
    steps += _allow_argument(calls["socket"], (_EQUAL, _EQUAL), (_AF_UNIX, _AF_NETLINK), refused)
    if not may_fork:
        steps += _allow_argument(calls["clone"], (_ANY_BIT,), (_CLONE_THREAD,), refused)
        # Its flags cannot be seen; without it, libraries take the one before.
        steps += [(_EQUAL, 0, 1, calls["clone3"]), (_RETURN, 0, 0, missing)]
        for name in ("fork", "vfork"):
            if name in calls:
                steps += [(_EQUAL, 0, 1, calls[name]), (_RETURN, 0, 0, refused)]
    return [*steps, (_RETURN, 0, 0, _ALLOW)]


def _allow_argument(
    number: int, tests: Sequence[int], values: Sequence[int], refused: int
) -> list[_Step]:
    """Allow one system call only if a test of its first argument holds."""
    steps: list[_Step] = [(_LOAD, 0, 0, _ARGUMENT_AT)]
    for at, (test, value) in enumerate(zip(tests, values, strict=True)):
        steps.append((test, len(tests) - at, 0, value))
    steps += [(_RETURN, 0, 0, refused), (_RETURN, 0, 0, _ALLOW)]
    return [(_EQUAL, 0, len(steps), number), *steps]
