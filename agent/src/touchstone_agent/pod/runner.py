"""
The process that looks after the pod's attempt, detached from every login.

It alone writes the attempt's record while it lives: it holds a lock for that, which goes with it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from touchstone_agent import logs
from touchstone_agent.adapters.archives import UnsafeArchive
from touchstone_agent.adapters.files import (
    append_below,
    remove_all_but,
    remove_tree,
    size_below,
)
from touchstone_agent.adapters.processes import find_trainer_user, read_start_time
from touchstone_agent.adapters.transfer import Transfer, TransferCancelled
from touchstone_agent.core.limits import (
    WALL_SLACK_SECONDS,
    build_allowance,
    build_limit_facts,
    build_wall_reason,
    limit_preparation,
)
from touchstone_agent.evidence import read_verdict
from touchstone_agent.pod.fetching import Fetcher, InputFetcher
from touchstone_agent.pod.home import PodHome, Record, keep_reserve, read_json, write_record
from touchstone_agent.pod.prctl import become_subreaper
from touchstone_agent.pod.state import CONSOLE, EXITED, PREPARING, RUNNING
from touchstone_agent.pod.trainer import (
    OUTPUT_BYTES,
    Trainer,
    build_command,
    build_environment,
    give_folders,
)
from touchstone_agent.protocol.errors import ConfigurationError, PermanentError, TransientError
from touchstone_agent.protocol.facts import RunnerVerdict
from touchstone_agent.protocol.messages import Limits
from touchstone_agent.protocol.pods import PodStart
from touchstone_agent.staging import stage_inputs
from touchstone_agent.watch import FolderWatch

ENDED_FROM_OUTSIDE = "the pod was about to end before the training began"
MAX_PROBLEM = 500
RUNNER_USER = "TOUCHSTONE_RUNNER_USER"
"""What an image sets to ``root`` whose runner starts the trainer as another user."""

log = logs.Log("runner")


class PodRunner:
    """
    Takes the attempt from its inputs to its verdict.

    :param home: The pod's home.
    :param start: What was ordered.
    :param transfer: Moves files.
    :param stopping: Set when the attempt is to end.
    :param now: The time, UTC.
    :param monotonic: A clock that never jumps, in seconds.
    :param make_trainer: Makes what runs the training; replaced in tests.
    """

    def __init__(
        self,
        home: PodHome,
        start: PodStart,
        *,
        transfer: Fetcher,
        stopping: threading.Event,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
        make_trainer: Callable[..., Trainer] = Trainer,
    ) -> None:
        self._home = home
        self._start = start
        self._transfer = transfer
        self._stopping = stopping
        self._now = now
        self._monotonic = monotonic
        self._make_trainer = make_trainer
        self._own: Record = (read_json(home.environment_file) or {}).get("own", {})
        self._record: Record = {
            "phase": PREPARING,
            "runner": {"pid": os.getpid(), "started": read_start_time(os.getpid())},
        }

    def run(self) -> None:
        """Run the attempt, and write down how it ended, whatever happens."""
        self._note()
        try:
            keep_reserve(self._home)
            end = self._run()
        except UnsafeArchive as error:
            end = {"problem": str(error), "is_submissions_fault": not _is_machines_fault(error)}
        except TransferCancelled:
            end = {"problem": ENDED_FROM_OUTSIDE}
        except (PermanentError, TransientError, OSError) as error:
            log.warning("attempt.failed", problem=str(error))
            end = {"problem": str(error) or type(error).__name__}
        except Exception as error:
            # The attempt's supervisor: a defect here must not look like a training that goes on.
            log.exception("attempt.defect")
            end = {"problem": f"the pod's runner failed: {type(error).__name__}: {error}"}
        if end.get("problem"):
            end["problem"] = " ".join(end["problem"].split())[:MAX_PROBLEM]
        self._clean_up()
        self._note(phase=EXITED, exited_at=self._tell_time(), wants_grants=[], **end)
        log.info("attempt.exited", exit_code=end.get("exit_code"), problem=end.get("problem"))

    def _run(self) -> Record:
        fetcher = InputFetcher(
            self._home,
            self._transfer,
            stopping=self._stopping,
            want_grants=lambda paths: self._note(wants_grants=list(paths)),
        )
        wanted = self._start.prepare
        if wanted is not None:
            # Nothing else is here yet: what installs has the network, and is no submitted code.
            first = [item for item in self._start.inputs if item.path in wanted.inputs]
            stage_inputs(first, self._home.attempt, fetcher.fetch)
            self._make_cache()
            limits = limit_preparation(self._start.limits)
            end = self._run_command(wanted.argv, limits, is_apart=False)
            if (end.get("verdict") or {}).get("outcome") != "succeeded":
                return end
            for folder in (self._home.out, self._home.tmp):
                remove_tree(folder)
        stage_inputs(self._start.inputs, self._home.attempt, fetcher.fetch)
        self._record["prepared_at"] = self._tell_time()
        is_apart = find_trainer_user() is not None and self._own.get(RUNNER_USER) == "root"
        return self._run_command(
            self._start.argv, self._start.limits, is_apart=is_apart, phase=RUNNING
        )

    def _make_cache(self) -> None:
        cache, user = self._home.cache, find_trainer_user()
        cache.mkdir(mode=0o755, exist_ok=True)
        if user is not None:
            os.chown(cache, user, user)

    def _run_command(
        self,
        argv: tuple[str, ...],
        limits: Limits,
        *,
        is_apart: bool,
        phase: str | None = None,
    ) -> Record:
        """Run the image's runner to its end; return what is to be written down of that."""
        give_folders(self._home, is_apart=is_apart)
        image = (read_json(self._home.environment_file) or {}).get("image", {})
        trainer = self._make_trainer(
            build_command(self._start, argv, self._home),
            build_environment(self._start, self._home, image, limits=limits, is_apart=is_apart),
            folder=self._home.tmp,
            output=self._home.state / "output.log",
            is_apart=is_apart,
        )
        if self._stopping.is_set():
            raise TransferCancelled("the attempt is to end")
        if phase is not None:
            # Before it begins: a runner that dies in between has not run, but might have.
            self._note(phase=phase, running_at=self._tell_time())
        try:
            trainer.start()
        except OSError as error:
            return {"problem": f"{self._start.command[0]} cannot be started: {error.strerror}"}
        if trainer.pid is not None:
            self._note(trainer={"pid": trainer.pid, "started": read_start_time(trainer.pid)})
        watch = FolderWatch(
            self._home.out,
            build_allowance(limits),
            monotonic=self._monotonic,
            find_main_pid=lambda: trainer.pid,
        )
        ends = self._monotonic() + limits.wall_seconds + WALL_SLACK_SECONDS

        def find_excess() -> str | None:
            is_late = self._monotonic() > ends
            return build_wall_reason(limits.wall_seconds) if is_late else watch.find_excess()

        excess = trainer.wait(find_excess=find_excess, is_stopping=self._stopping.is_set)
        excess = excess or watch.find_excess(at_once=True)
        if excess is not None:
            # The image's own runner does this first, unless what it runs has stopped it.
            remove_all_but(self._home.out, CONSOLE)
            self._keep_output()
            return build_limit_facts(excess)
        return self._read_end(trainer, limits)

    def _read_end(self, trainer: Trainer, limits: Limits) -> Record:
        code = trainer.exit_code
        end: Record = {"exit_code": code, "oom_killed": trainer.was_short_of_memory}
        if code is None:
            return {**end, "problem": "the runner could not be ended"}
        found = read_verdict(
            self._home.out,
            output_bytes=limits.output_bytes + limits.console_bytes,
            exit_code=code,
        )
        if isinstance(found, RunnerVerdict):
            files = [file.model_dump() for file in found.files]
            return {**end, "verdict": found.dump(), "files": files}
        self._keep_output()
        return {**end, "problem": found}

    def _keep_output(self) -> None:
        """Without a console, what the runner itself printed is the only trace there is."""
        if size_below(self._home.out, CONSOLE) == 0:
            with suppress(OSError):
                text = (self._home.state / "output.log").read_bytes()[:OUTPUT_BYTES]
                append_below(self._home.out, CONSOLE, text)

    def _clean_up(self) -> None:
        """Give back the disk that is not needed any more; the record is to fit on it."""
        for folder in (self._home.inputs, self._home.tmp):
            remove_tree(folder)

    def _note(self, **facts: Any) -> None:
        self._record |= facts
        write_record(self._home, self._record)

    def _tell_time(self) -> str:
        return self._now().isoformat()


def _is_machines_fault(error: UnsafeArchive) -> bool:
    """Tell an archive that is wrong from a disk that is full."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno is not None


def run(home: PodHome) -> int:
    """
    Be the runner, with the lock inherited from ``start``.

    :raises ConfigurationError: If nothing was ordered.
    """
    logs.configure()
    order = read_json(home.order_file)
    if order is None:
        raise ConfigurationError("nothing was ordered: this is called by `touchstone-pod start`")
    own = (read_json(home.environment_file) or {}).get("own", {})
    os.environ.update(own)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    become_subreaper()
    started = time.monotonic()
    PodRunner(
        home,
        PodStart.model_validate(order["start"]),
        transfer=Transfer(),
        stopping=stopping,
    ).run()
    log.info("runner.done", seconds=round(time.monotonic() - started, 1))
    return 0
