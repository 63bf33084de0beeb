"""Attempts as plain processes, for machines without a container engine. It isolates nothing."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from touchstone_agent.adapters import process_shim
from touchstone_agent.adapters.processes import kill_descendants
from touchstone_agent.core.ports import EngineFacts, Exit, LaunchSpec, show_nothing, tell_nobody
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.logins import RegistryLogin
from touchstone_agent.protocol.names import build_prefix
from touchstone_agent.settings import ProcessSettings

NAME_VARIABLE = "TOUCHSTONE_CONTAINER"
"""Set for all processes of an attempt, by which those that left the group are found."""

INHERITED = ("PATH", "LANG", "LC_ALL", "TZ")
START_SECONDS = 10
KILL_SECONDS = 3
LOG_TAIL_BYTES = 64 * 1024

log = Log("process")


class ProcessRuntime:
    """
    Runs each attempt as a process group below a shim that outlives the agent.

    :param settings: The runner's command.
    :param env: Environment of this installation.
    :param server: This server.
    :param attempts_dir: The folder of the attempts' folders.
    """

    name = "process"

    def __init__(
        self, settings: ProcessSettings, *, env: str, server: str, attempts_dir: Path
    ) -> None:
        self._settings = settings
        self._env = env
        self._server = server
        self._attempts_dir = attempts_dir
        log.warning(
            "runtime.not_isolated",
            note='runtime "process" gives submitted code the rights of the agent: no limits on '
            "memory, files or network; use it for trials only",
        )

    def check(self) -> str:
        """Return the runner's command."""
        program = self._settings.command[0]
        if not os.access(program, os.X_OK):
            raise PermanentError(f"runner {program} cannot be executed")
        return f"processes without isolation: {' '.join(self._settings.command)}"

    def read_engine(self) -> EngineFacts | None:
        """Return nothing: there is no engine."""
        return None

    def resolve_image(
        self,
        image: str,
        *,
        is_cancelled: Callable[[], bool],  # noqa: ARG002
        find_login: Callable[[], RegistryLogin | None] = show_nothing,  # noqa: ARG002
        tell: Callable[[float, str], None] = tell_nobody,  # noqa: ARG002
    ) -> str:
        """Return what stands for the image: there is none here."""
        return f"process:{image}"

    def sweep_images(self, in_use: Collection[str]) -> None:
        """Remove nothing: there are no images here."""

    def read_image_labels(self, image: str) -> Mapping[str, str]:  # noqa: ARG002
        """Return that nothing is known: there is no image here."""
        return {}

    def find_shared_user(self, image: str | None = None) -> str | None:  # noqa: ARG002
        """Return that there is but one user."""
        return "plain processes are all this agent's user"

    def launch(self, spec: LaunchSpec) -> None:
        """Start the shim; a second one finds the folder claimed and leaves."""
        folder = spec.folder
        # On disk before anything runs, so that whatever runs is found again.
        process_shim.write_json(folder / "labels.json", dict(spec.labels))
        paths = {"{in}": str(folder / "in"), "{out}": str(folder / "out")}
        command = [*self._settings.command, *(_fill(a, paths) for a in spec.argv)]
        shim = subprocess.Popen(
            [sys.executable, "-I", "-S", process_shim.__file__, str(folder), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=self._build_environment(spec),
            start_new_session=True,
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._has_started(folder):
            # Ending with 0 is not wrong: a shim of an earlier try has claimed the folder.
            if shim.poll():
                raise TransientError(f"the shim of {spec.name} ended with {shim.returncode}")
            if time.monotonic() > deadline:
                raise TransientError(f"{spec.name} did not start in {START_SECONDS} s")
            time.sleep(0.02)

    def exists(self, name: str) -> bool:
        """Tell whether it was started here."""
        return self._has_started(self._attempts_dir / name)

    def wait(self, name: str) -> Exit | None:
        """Block until the shim has ended, without polling."""
        folder = self._attempts_dir / name
        process = _read_json(folder / "process.json")
        if process is not None:
            _wait_for(int(process["pid"]), int(process["started"]))
        elif not (folder / "exit.json").exists():
            return None
        ended = _read_json(folder / "exit.json")
        if ended is None:
            # Somebody killed the shim itself, or the machine was restarted.
            self._kill_strays(name)
            return Exit(exit_code=None)
        return Exit(exit_code=int(ended["exit_code"]))

    def stop(self, name: str, *, grace_seconds: float) -> None:
        """Send SIGTERM to the command's group, and SIGKILL to everything after the grace."""
        process = _read_json(self._attempts_dir / name / "process.json")
        if process is None:
            return
        shim, started = int(process["pid"]), int(process["started"])
        if _is_alive(shim, started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(process["child"]), signal.SIGTERM)
            if not _wait_for(shim, started, timeout=grace_seconds):
                # The shim kills the rest once its child is gone, and writes the exit code.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(int(process["child"]), signal.SIGKILL)
                _wait_for(shim, started, timeout=3)
        self._kill_strays(name)

    def kill(self, name: str) -> None:
        """Send SIGKILL to all below the shim: also what has left its group and environment."""
        shim = self.find_main_pid(name, self._attempts_dir / name / "out")
        if shim is not None:
            kill_descendants(shim, seconds=KILL_SECONDS)
        self.stop(name, grace_seconds=0)

    def find_main_pid(self, name: str, out: Path) -> int | None:  # noqa: ARG002
        """Return the shim, while it lives."""
        process = _read_json(self._attempts_dir / name / "process.json")
        if process is None or not _is_alive(int(process["pid"]), int(process["started"])):
            return None
        return int(process["pid"])

    def read_output(self, name: str) -> bytes:
        """Return the tail of what the command itself printed."""
        try:
            with (self._attempts_dir / name / "output.log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LOG_TAIL_BYTES))
                return file.read(LOG_TAIL_BYTES)
        except OSError:
            return b""

    def remove(self, name: str) -> None:
        """Make sure that nothing of it runs; its files are the agent's business."""
        self._kill_strays(name)

    def list_labels(self) -> Mapping[str, Mapping[str, str]]:
        """Return the labels of each attempt that was started here and has not ended."""
        found = {}
        for file in sorted(self._attempts_dir.glob(f"{build_prefix(self._env)}*/labels.json")):
            process = _read_json(file.with_name("process.json"))
            labels = _read_json(file)
            if process is None or labels is None or labels.get("touchstone.server") != self._server:
                continue
            if _is_alive(int(process["pid"]), int(process["started"])):
                found[file.parent.name] = {str(k): str(v) for k, v in labels.items()}
        return found

    def _has_started(self, folder: Path) -> bool:
        return (folder / "process.json").exists() or (folder / "exit.json").exists()

    def _build_environment(self, spec: LaunchSpec) -> dict[str, str]:
        out, tmp = spec.folder / "out", str(spec.folder / "tmp")
        # Nothing else is inherited: the agent's environment may hold credentials.
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            **self._settings.environment,
            **spec.environment,
            "TOUCHSTONE_IN": str(spec.folder / "in"),
            "TOUCHSTONE_OUT": str(out),
            "TOUCHSTONE_PROGRESS_FILE": str(out / "progress.jsonl"),
            "HOME": tmp,
            "TMPDIR": tmp,
            NAME_VARIABLE: spec.name,
            **({"TOUCHSTONE_CACHE": str(spec.cache)} if spec.cache else {}),
            # Said also of none: else a process sees all there are.
            "CUDA_VISIBLE_DEVICES": ",".join(spec.gpu_ids),
            "NVIDIA_VISIBLE_DEVICES": ",".join(spec.gpu_ids) or "void",
        }

    def _kill_strays(self, name: str) -> None:
        """Kill what left the group or lost its shim, found by the variable all of it carries."""
        deadline = time.monotonic() + 3
        while strays := list(_find_by_variable(name)):
            for process in strays:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            _, alive = psutil.wait_procs(strays, timeout=1)
            if alive and time.monotonic() > deadline:
                raise TransientError(f"processes of {name} do not end", retry_after=1)


def _fill(argument: str, paths: Mapping[str, str]) -> str:
    for token, path in paths.items():
        argument = argument.replace(token, path)
    return argument


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return data


def _is_alive(pid: int, started: int) -> bool:
    """Tell whether it still runs: another process may have its number by now."""
    try:
        if process_shim.read_start_time(pid) != started:
            return False
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.Error):
        return False


def _wait_for(pid: int, started: int, timeout: float | None = None) -> bool:
    """Wait for a process that need not be a child, asleep; tell whether it has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if not _is_alive(pid, started):
            return True
        readable = select.poll()
        readable.register(fd, select.POLLIN)
        if not readable.poll(None if timeout is None else timeout * 1000):
            return False
    finally:
        os.close(fd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours, if this agent started it: leave no zombie
    return True


def _find_by_variable(name: str) -> Iterator[psutil.Process]:
    entry = f"{NAME_VARIABLE}={name}".encode()
    for process in psutil.process_iter():
        try:
            environ = Path(f"/proc/{process.pid}/environ").read_bytes()
            if entry in environ.split(b"\0") and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (OSError, psutil.Error):
            continue
