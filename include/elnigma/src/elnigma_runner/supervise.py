"""One process and all it starts, run under limits."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from elnigma_runner import outputs
from elnigma_runner.cgroup import count_oom_kills, read_memory_limit
from elnigma_runner.console import Console
from elnigma_runner.gpu import GpuMeter
from elnigma_runner.processes import Family
from elnigma_runner.settings import Settings
from elnigma_runner.verdict import Ending, Stop

# Of the 10 s that an aborted attempt has, these are the trainer's; the rest is for the verdict.
ABORT_SECONDS = 7.0
_TRACEBACK_SECONDS = 0.5
_POLL_SECONDS = 0.1
# How much more memory than allowed a process can take between two samples grows with this.
_SAMPLE_SECONDS = 0.2
_OUTPUT_SECONDS = 1.0
_GPU_SECONDS = 10.0


class Supervisor:
    """
    Runs commands one after the other and ends each that goes beyond a limit.

    :param settings: The limits.
    :param console: Where everything printed goes.
    :param family: The processes that are measured.
    :param gpu: The GPU meter.
    :param relay_progress: Called a few times a second.
    """

    def __init__(
        self,
        settings: Settings,
        console: Console,
        family: Family,
        gpu: GpuMeter,
        relay_progress: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._console = console
        self._family = family
        self._gpu = gpu
        self._relay_progress = relay_progress
        self._started = time.monotonic()
        self._abort_until: float | None = None
        self._main_pid: int | None = None
        self._sampled_at = self._measured_at = self._gpu_at = float("-inf")

    @property
    def aborted(self) -> bool:
        """Return whether somebody asked to end the attempt."""
        return self._abort_until is not None

    def abort(self) -> None:
        """Ask the trainer to end; called from a signal handler, any number of times."""
        if self._abort_until is None:
            self._abort_until = time.monotonic() + ABORT_SECONDS
            if self._main_pid is not None and self._main_pid not in self._family.exit_codes:
                _signal(self._main_pid, signal.SIGTERM)

    def run(self, argv: list[str], environment: dict[str, str], folder: Path) -> Ending:
        """
        Run a command until it has ended and nothing it started is left.

        :param argv: The command.
        :param environment: All of its environment.
        :param folder: Its working folder.
        :raises OSError: If it cannot be started.
        """
        if self.aborted:
            return Ending(exit_code=143, stop=Stop.ABORT)
        oom_kills = count_oom_kills()
        user = self._settings.user
        with user.acting():
            # It belongs to the trainer's user, or that one could not open /dev/stdout.
            writer = self._console.open_pipe()
        try:
            process = subprocess.Popen(
                argv, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=writer,
                stderr=writer, start_new_session=True, preexec_fn=user.prepare_child,
            )  # fmt: skip
        finally:
            os.close(writer)
        self._main_pid = process.pid
        stop = self._wait(process.pid)
        self._gpu.finish()
        if self.aborted:
            stop = Stop.ABORT
        self._finish(stop)
        # Popen must not wait for a process that is gone already.
        process.returncode = self._family.exit_codes.get(process.pid, -signal.SIGKILL)
        self._main_pid = None
        now = count_oom_kills()
        return Ending(
            exit_code=process.returncode,
            stop=stop,
            oom_killed=oom_kills is not None and now is not None and now > oom_kills,
            oom_bytes=read_memory_limit(),
        )

    def _wait(self, pid: int) -> Stop | None:
        while pid not in self._family.exit_codes:
            ready, _, _ = select.select([self._console], [], [], _POLL_SECONDS)
            if ready and not self._console.read():
                # Everybody has closed the console; only the processes are left to wait for.
                time.sleep(_POLL_SECONDS)
            self._family.reap()
            self._relay_progress()
            stop = self._find_exceeded()
            if stop is not None:
                return stop
            if self._abort_until is not None and time.monotonic() > self._abort_until:
                return Stop.ABORT
        return None

    def _find_exceeded(self) -> Stop | None:
        settings, now = self._settings, time.monotonic()
        if self.aborted:
            return None
        if now - self._started > settings.wall_seconds:
            return Stop.WALL
        if self._console.bytes > settings.console_hard_bytes:
            return Stop.CONSOLE
        if now - self._sampled_at >= _SAMPLE_SECONDS:
            self._sampled_at = now
            cpu, memory = self._family.sample()
            if settings.cpu_seconds is not None and cpu > settings.cpu_seconds:
                return Stop.CPU
            if settings.memory_bytes is not None and memory > settings.memory_bytes:
                return Stop.MEMORY
        if now - self._measured_at >= _OUTPUT_SECONDS:
            self._measured_at = now
            return self.find_output_stop()
        if self._gpu.is_present and now - self._gpu_at >= _GPU_SECONDS:
            self._gpu_at = now
            self._gpu.sample([member.pid for member in self._family.find_members()])
            if self._gpu.fault is not None:
                # What waits for it would wait until its time is over.
                return Stop.GPU
        return None

    def find_output_stop(self) -> Stop | None:
        """Return whether the output folder holds more than it may."""
        with self._settings.user.acting():
            size = outputs.measure(self._settings.out)
        if size.is_deep:
            return Stop.DEPTH
        if size.files > outputs.MAX_FILES:
            return Stop.FILES
        return Stop.OUTPUT if size.bytes > self._settings.output_bytes else None

    def _finish(self, stop: Stop | None) -> None:
        if stop in (Stop.WALL, Stop.CPU):
            # Python's fault handler answers with the stack: where the time went.
            self._family.send(signal.SIGABRT)
            self._drain(_TRACEBACK_SECONDS)
        left = self._family.kill()
        if left and stop is None:
            self._console.say(f"ended {left} processes that were left behind")
        self._drain(0.0)
        self._family.sample()

    def _drain(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        budget = self._settings.console_hard_bytes
        while True:
            before = self._console.bytes
            while self._console.bytes - before < budget and self._console.read():
                pass
            if time.monotonic() >= deadline:
                return
            time.sleep(0.02)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
