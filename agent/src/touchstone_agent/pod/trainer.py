"""The image's own runner: what it gets, how it is started, and how all of it is ended."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from touchstone_agent.adapters.processes import NOBODY, find_trainer_user, kill_descendants, send
from touchstone_agent.contract import build_limit_variables, fill_arguments
from touchstone_agent.pod.home import PodHome
from touchstone_agent.pod.prctl import prepare_runner, prepare_trainer
from touchstone_agent.protocol.messages import Limits
from touchstone_agent.protocol.pods import PodStart

GRACE_SECONDS = 15.0
"""From SIGTERM to SIGKILL; a runner leaves its verdict within ten."""

KILL_SECONDS = 20.0
READ_SECONDS = 2.0
OUTPUT_BYTES = 256 * 1024
_POLL_SECONDS = 0.1
_OOM_FIRST = "500"
_OOM_EVENTS = (
    Path("/sys/fs/cgroup/memory.events"),
    Path("/sys/fs/cgroup/memory/memory.oom_control"),
)


def build_command(start: PodStart, argv: Iterable[str], home: PodHome) -> list[str]:
    """
    Return the runner's command. Pure.

    :param argv: Its arguments: the order's own, or those of what comes first.
    """
    arguments = fill_arguments(argv, inputs=str(home.inputs), out=str(home.out))
    return [*start.command, *arguments]


def build_environment(
    start: PodStart, home: PodHome, image: Mapping[str, str], *, limits: Limits, is_apart: bool
) -> dict[str, str]:
    """
    Return all of the runner's environment. Pure.

    :param image: What the image itself sets; never a variable of the pod.
    :param limits: What it may use.
    :param is_apart: Whether the runner stays root, and starts the trainer as another user.
    """
    out, tmp = home.out, str(home.tmp)
    return {
        **image,
        **start.environment,
        **build_limit_variables(limits),
        **({"TOUCHSTONE_CACHE": str(home.cache)} if start.prepare else {}),
        **({"TOUCHSTONE_TRAINER_USER": f"{NOBODY}:{NOBODY}"} if is_apart else {}),
        "TOUCHSTONE_IN": str(home.inputs),
        "TOUCHSTONE_OUT": str(out),
        "TOUCHSTONE_PROGRESS_FILE": str(out / "progress.jsonl"),
        "HOME": tmp,
        "TMPDIR": tmp,
    }


def give_folders(home: PodHome, *, is_apart: bool) -> None:
    """
    Let the trainer's user into the attempt's folder, and where it may write.

    :param is_apart: Whether the runner is another user: then everybody may add to those folders,
        and what is the runner's is nobody else's to touch.
    """
    home.attempt.chmod(0o711)
    user = find_trainer_user()
    for folder in (home.out, home.tmp):
        if is_apart:
            os.chown(folder, 0, 0)
            folder.chmod(0o1777)
        elif user is not None:
            os.chown(folder, user, user)


class Trainer:
    """
    One run of the runner, to the last process of it.

    :param command: The command.
    :param environment: All of its environment.
    :param folder: Its working folder.
    :param output: Takes the beginning of what it prints itself.
    :param is_apart: Whether the runner stays root, and starts the trainer as another user.
    """

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        *,
        folder: Path,
        output: Path,
        is_apart: bool,
    ) -> None:
        self._is_apart = is_apart
        self._command = command
        self._environment = environment
        self._folder = folder
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._exit_code: int | None = None
        self._oom_kills = count_oom_kills()
        self._reader: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Return its process id; ``None`` before it was started."""
        return None if self._process is None else self._process.pid

    @property
    def was_short_of_memory(self) -> bool:
        """Return whether the kernel killed for memory while it ran."""
        now = count_oom_kills()
        return None not in (now, self._oom_kills) and now != self._oom_kills

    def start(self) -> None:
        """
        Start it.

        :raises OSError: If there is no such program, or it cannot be run.
        """
        user = None if self._is_apart else find_trainer_user()
        process = subprocess.Popen(
            self._command,
            env=dict(self._environment),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare_runner if self._is_apart else prepare_trainer,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        self._process = process
        with suppress(OSError):
            # When memory runs out, it goes before what has to tell of it.
            Path(f"/proc/{process.pid}/oom_score_adj").write_text(_OOM_FIRST, encoding="ascii")
        assert process.stdout is not None  # noqa: S101 - asked for above
        self._reader = threading.Thread(
            target=_keep_output, args=(process.stdout, self._output), daemon=True
        )
        self._reader.start()

    def wait(
        self, *, find_excess: Callable[[], str | None], is_stopping: Callable[[], bool]
    ) -> str | None:
        """
        Wait until it has ended, and nothing that it started is left.

        :param find_excess: Tells which limit it has gone beyond; then it is killed at once.
        :param is_stopping: Whether somebody wants it to end.
        :return: The limit that it was killed for.
        """
        excess, grace_until = None, None
        while not self._reap():
            now = time.monotonic()
            excess = find_excess()
            if excess is not None:
                break
            if grace_until is None and is_stopping():
                grace_until = now + GRACE_SECONDS
                self._send(signal.SIGTERM)
            if grace_until is not None and now > grace_until:
                break
            time.sleep(_POLL_SECONDS)
        kill_descendants(os.getpid(), seconds=KILL_SECONDS, reap=self._reap)
        self._reap()
        if self._reader is not None:
            self._reader.join(READ_SECONDS)
        return excess

    @property
    def exit_code(self) -> int | None:
        """Return its exit code as a container's would be; ``None`` if nobody saw it end."""
        code = self._exit_code
        return code if code is None or code >= 0 else 128 - code

    def _reap(self) -> bool:
        """Wait for all children that have ended, orphans too; return whether it is among them."""
        process = self._process
        while process is not None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            if pid == process.pid:
                # Nobody may wait for it once more.
                self._exit_code = process.returncode = os.waitstatus_to_exitcode(status)
        return self._exit_code is not None

    def _send(self, number: signal.Signals) -> None:
        if self._process is not None:
            send(self._process.pid, number)


def count_oom_kills() -> int | None:
    """Return how often the kernel killed for memory in this container; ``None`` if unknown."""
    for path in _OOM_EVENTS:
        with suppress(OSError):
            found = re.search(r"^oom_kill (\d+)$", path.read_text(), re.MULTILINE)
            if found:
                return int(found[1])
    return None


def _keep_output(pipe: IO[bytes], path: Path) -> None:
    """Keep the beginning of what it prints itself, and drop the rest."""
    left = OUTPUT_BYTES
    # Also on a full disk somebody must read, or it waits for ever.
    with suppress(OSError), path.open("wb", buffering=0) as out:
        while block := pipe.read1(65536):  # type: ignore[attr-defined]
            if left:
                with suppress(OSError):
                    out.write(block[:left])
                left -= min(left, len(block))
