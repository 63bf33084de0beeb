"""
The ``elnigma-run`` command: every argument is the trainer's.

Only ``prepare`` is its own: it installs what a commit of el-nigma requires, and runs no trainer.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elnigma_runner import outputs
from elnigma_runner.checkout import Checkout
from elnigma_runner.compiled import CompiledCode
from elnigma_runner.console import Console
from elnigma_runner.gpu import GpuMeter
from elnigma_runner.processes import Family, become_subreaper
from elnigma_runner.progress import ProgressRelay
from elnigma_runner.settings import SettingsError, find_out, read_settings
from elnigma_runner.supervise import Supervisor
from elnigma_runner.trainer import (
    PrepareError,
    PrepareStopped,
    Trainer,
    find_own_trainer,
    tell_versions,
)
from elnigma_runner.verdict import Decision, Ending, decide, one_line, write_verdict


def main() -> int:
    """Run one attempt and return the exit code of its verdict."""
    argv = sys.argv[1:]
    started_at = _utc_now()
    try:
        out = find_out(argv, os.environ)
        out.mkdir(parents=True, exist_ok=True)
    except (SettingsError, OSError) as error:
        print(f"elnigma-run: config: {error}", file=sys.stderr)
        return 2
    try:
        return Attempt(argv, out, started_at).run()
    except Exception as error:  # the supervisor of an attempt: whatever happens, a verdict is left
        traceback.print_exc()
        decision = _blame(error)
        usage = {"wall_seconds": 0, "cpu_seconds": 0, "peak_memory_bytes": 0, "gpu": None}
        console = {"lines": 0, "bytes": 0, "kept_bytes": 0, "truncated": False}
        try:
            write_verdict(
                out, decision, started_at=started_at, ended_at=_utc_now(), usage=usage,
                console=console, files=outputs.list_files(out, only=frozenset({outputs.CONSOLE})),
            )  # fmt: skip
        except OSError as fault:
            # The disk is full, or the folder gone. The agent or pod sees the code.
            print(f"elnigma-run: temporary: no verdict can be written: {fault}", file=sys.stderr)
            return TEMPORARY if fault.errno in outputs.FAULTS else 1
        return decision.exit_code


def _blame(error: Exception) -> Decision:
    """Return what an error of the runner's own means."""
    if isinstance(error, SettingsError):
        return Decision(exit_code=2, error_class="config", reason=one_line(f"config: {error}"))
    if isinstance(error, OSError) and error.errno in outputs.FAULTS:
        return Decision(
            exit_code=TEMPORARY,
            error_class="temporary",
            reason=one_line(
                f"temporary: this machine has a fault: {error}; nothing is wrong with the "
                "submission, it is tried elsewhere"
            ),
        )
    return Decision(exit_code=1, error_class="unknown", reason=one_line(f"runner failed: {error}"))


PREPARE = "prepare"
TEMPORARY = 75
SHARED_USER = (
    "the trainer shares a user with this runner: it could stop the runner and write its files"
)


class Attempt:
    """
    One attempt, from the first line of console to the verdict.

    :param argv: Arguments of the trainer.
    :param out: Output folder.
    :param started_at: When it began, for the verdict.
    """

    def __init__(self, argv: list[str], out: Path, started_at: str) -> None:
        outputs.clear_protocol_files(out)
        outputs.reserve(out)
        self._argv = argv
        self._started_at = started_at
        self._started = time.monotonic()
        self._settings = read_settings(out, os.environ)
        self._user = self._settings.user
        with self._user.acting():
            self._work = Path(tempfile.mkdtemp(prefix="touchstone-"))
        self._console = Console(out / outputs.CONSOLE, self._settings.console_bytes)
        become_subreaper()
        self._family = Family(self._user)
        self._gpu = GpuMeter(os.environ)
        self._result: dict[str, Any] = {}
        self._waste: str | None = None
        source = self._work / outputs.PROGRESS
        self._progress = ProgressRelay(source, self._settings.progress_file, self._user)
        self._compiled = CompiledCode(self._settings, self._work, self._console.say)
        self._supervisor = Supervisor(
            self._settings, self._console, self._family, self._gpu, self._look
        )
        signal.signal(signal.SIGTERM, lambda *_: self._supervisor.abort())
        signal.signal(signal.SIGINT, lambda *_: self._supervisor.abort())

    def run(self) -> int:
        """Run the trainer and leave the verdict; return its exit code."""
        try:
            decision = self._run_trainer()
            self._progress.relay(final=True)
            if decision.exit_code == 0:
                self._waste = self._gpu.find_waste(outputs.find_parameters(self._result))
                self._compiled.keep()
            for line in (self._waste, decision.reason):
                if line:
                    self._console.say(line)
        finally:
            self._family.kill()
            outputs.release(self._settings.out)
            self._console.close()
            # Folders may be deeper inside each other than this can follow; they go with the
            # container, or with the attempt's folder.
            with self._user.acting(), suppress(RecursionError):
                shutil.rmtree(self._work, ignore_errors=True)
        self._leave_verdict(decision)
        return decision.exit_code

    def _run_trainer(self) -> Decision:
        environment = self._build_environment()
        try:
            trainer = self._prepare_trainer()
            tell_versions(trainer, self._console.say)
            if self._argv[:1] == [PREPARE]:
                return Decision(exit_code=0, error_class="ok", reason=None)
            if self._user.uid is None:
                self._console.say(SHARED_USER)
            environment |= trainer.environment | self._compiled.prepare()
            ending = self._supervisor.run([*trainer.command, *self._argv], environment, Path.cwd())
        except PrepareStopped as error:
            return self._decide(error.ending)
        except PrepareError as error:
            return error.decision
        except OSError as error:
            reason = f"contract: the trainer cannot be started: {error}"
            return Decision(exit_code=1, error_class="unknown", reason=reason)
        if ending.stop is None and (stop := self._supervisor.find_output_stop()):
            ending = Ending(exit_code=ending.exit_code, stop=stop)
        return self._decide(ending)

    def _look(self) -> None:
        self._progress.relay()
        self._compiled.look()

    def _prepare_trainer(self) -> Trainer:
        settings = self._settings
        if settings.commit is None:
            if self._argv[:1] == [PREPARE]:
                raise PrepareError("there is no commit of el-nigma to prepare", temporary=False)
            return find_own_trainer(settings)
        self._progress.write(
            {"t": time.time(), "phase": "preparing", "percent": 0.0, "eta_s": None, "metrics": {}}
        )
        return Checkout(settings, self._console, self._work, self._supervisor.run).prepare()

    def _decide(self, ending: Ending) -> Decision:
        settings = self._settings
        problem = None
        disk_fault = outputs.find_fault(settings.out)
        with self._user.acting():
            try:
                command = self._argv[0] if self._argv else ""
                self._result = outputs.check_result(
                    settings.out, command, settings.submission_id, settings.task_id
                )
            except outputs.ResultError as error:
                problem = str(error)
            error_document = outputs.read_error(settings.out)
        return decide(
            ending,
            settings,
            error=error_document,
            result_problem=problem,
            last_line="".join(self._console.last_lines()),
            disk_fault=disk_fault,
            gpu_fault=self._gpu.fault,
        )

    def _build_environment(self) -> dict[str, str]:
        temporary = self._work / "tmp"
        with self._user.acting():
            temporary.mkdir()
        return {
            **self._settings.environment,
            "TOUCHSTONE_OUT": str(self._settings.out),
            "TOUCHSTONE_PROGRESS_FILE": str(self._work / outputs.PROGRESS),
            "TMPDIR": str(temporary),
            "HOME": str(temporary),
            "MPLCONFIGDIR": str(temporary / "matplotlib"),
            # The same for everybody: the order of sets, what text is read as, and what day it is.
            "PYTHONHASHSEED": "0",
            "LC_ALL": "C.UTF-8",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _describe_gpu(self) -> dict[str, Any] | None:
        summary = self._gpu.summary()
        return summary and {**summary, "note": self._waste}

    def _leave_verdict(self, decision: Decision) -> None:
        settings = self._settings
        self._family.include_largest()
        cpu_seconds = self._family.cpu_seconds()
        # Before its files are listed: they are listed under the names that they keep.
        outputs.make_way(settings.out, outputs.VERDICT)
        too_much = self._supervisor.find_output_stop() is not None
        kept = frozenset({outputs.CONSOLE, outputs.ERROR}) if too_much else None
        usage: dict[str, Any] = {
            "wall_seconds": round(time.monotonic() - self._started, 3),
            "cpu_seconds": round(cpu_seconds, 3),
            "peak_memory_bytes": self._family.peak_memory_bytes,
            "gpu": self._describe_gpu(),
        }
        console = {
            "lines": self._console.lines,
            "bytes": self._console.bytes,
            "kept_bytes": self._console.kept_bytes,
            "truncated": self._console.truncated,
        }
        with self._user.acting():
            files = outputs.list_files(settings.out, only=kept)
        write_verdict(
            settings.out, decision, started_at=self._started_at, ended_at=_utc_now(), usage=usage,
            console=console, files=files,
        )  # fmt: skip


def _utc_now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
