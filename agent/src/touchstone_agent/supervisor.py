"""Takes one attempt from accepted to its end; each step can be repeated after a crash."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from touchstone_agent.adapters.archives import UnsafeArchive
from touchstone_agent.adapters.files import append_below, remove_all_but, remove_tree, size_below
from touchstone_agent.adapters.transfer import TransferCancelled
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.compiling import give_compiled, keep_compiled
from touchstone_agent.console import CONSOLE, ConsoleUploader
from touchstone_agent.context import AgentContext, build_spec
from touchstone_agent.core.attempts import move
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.limits import (
    WALL_SLACK_SECONDS,
    build_allowance,
    build_failure,
    build_limit_facts,
    build_wall_reason,
    limit_preparation,
)
from touchstone_agent.core.ports import Exit, HostLacks, RegistryAway
from touchstone_agent.evidence import ProgressReader, read_verdict
from touchstone_agent.exits import ExitWaiter
from touchstone_agent.grants import AskingEnded
from touchstone_agent.inputs import InputStager
from touchstone_agent.logs import Log
from touchstone_agent.outputs import OutputUploader
from touchstone_agent.preparing import Preparer, remove_preparation
from touchstone_agent.private_judging import describe_judged, judge_attempt
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.facts import ExitFacts, RunnerVerdict
from touchstone_agent.protocol.messages import AttemptPhase, Progress, Refusal
from touchstone_agent.watch import LOOK_SECONDS, FolderWatch

STOP_GRACE_SECONDS = 5
"""What a runner gets between SIGTERM and SIGKILL, to write its verdict."""
PREPARE_BUDGET = timedelta(minutes=15)
CANCELLED_CONSOLE_SECONDS = 60
PROGRESS_SECONDS = 2.0
PULL_BUDGET_SECONDS = 300.0
"""How long a slot waits for a registry that does not answer, from its first failure on."""
MAX_DEFECTS = 5
EXIT_SUBMISSION = 3
"""The exit code of the trainer for content that cannot be used; see include/elnigma/CONTRACT.md."""

log = Log("supervisor")


class Supervisor:
    """
    Works on one attempt in a thread of its own.

    :param handle: The attempt.
    :param context: What it works with.
    :param find_blockers: Older attempts of the task that still hold a slot.
    :param on_done: Called when there is nothing left to do for the attempt here.
    """

    def __init__(
        self,
        handle: AttemptHandle,
        context: AgentContext,
        *,
        find_blockers: Callable[[], Iterable[AttemptHandle]],
        on_done: Callable[[AttemptHandle], None],
    ) -> None:
        self._handle = handle
        self._context = context
        self._find_blockers = find_blockers
        self._on_done = on_done
        self._backoff = Backoff(first_seconds=1, cap_seconds=60)
        self._console: tuple[ConsoleUploader, threading.Thread] | None = None
        self._waiter: ExitWaiter | None = None
        self._excess: str | None = None
        self._lacks: dict[str, Any] = {}
        self._pull_failed_at: float | None = None
        self._pull_told_at = -PROGRESS_SECONDS

    def start(self) -> None:
        """Begin, in the background."""
        self._handle.is_supervised = True
        threading.Thread(target=self._run, name=self._handle.name, daemon=True).start()

    def _run(self) -> None:
        try:
            self.run()
        except BaseException:
            # Housekeeping begins anew with what is not at its end and has nobody.
            log.exception("supervisor.ended", attempt=self._handle.name)
            self._handle.is_supervised = False

    def run(self) -> None:
        """Take step after step until the attempt has ended or the agent leaves."""
        failures = defects = 0
        while not self._is_done():
            try:
                self._step()
            except (AskingEnded, TransferCancelled):
                continue  # asked to end, or leaving: the loop looks which
            except TransientError as error:
                failures += 1
                self._delay(error, failures)
            except PermanentError as error:
                failures += 1
                if isinstance(error, HostLacks):
                    self._lacks = {"refusal": error.refusal.value}
                self._lose(error, failures)
            except Exception as error:
                # The attempt's last line of defence: a defect must not leave it without an end.
                defects += 1
                log.exception("attempt.defect", attempt=self._handle.name)
                if defects >= MAX_DEFECTS:
                    self._give_up(f"the agent failed on it: {type(error).__name__}")
                    return
                self._sleep(self._backoff.after(defects))
            else:
                failures = defects = 0
        self._finish_cancelled_console()
        self._on_done(self._handle)

    # --- steps ------------------------------------------------------------------------------

    def _step(self) -> None:
        attempt = self._handle.attempt
        if attempt.holds_slot and attempt.cancel_reason is not None:
            self._end()
        elif attempt.phase is AttemptPhase.ACCEPTED:
            self._prepare()
        elif attempt.phase is AttemptPhase.PREPARING:
            self._launch()
        elif attempt.phase is AttemptPhase.RUNNING:
            self._watch()
        else:
            self._deliver()

    def _prepare(self) -> None:
        for blocker in self._find_blockers():
            while blocker.attempt.holds_slot:
                if self._is_ending():
                    return
                self._sleep(0.1)
        image = self._handle.attempt.start.image
        try:
            digest = self._context.runtime.resolve_image(
                image,
                is_cancelled=self._is_ending,
                find_login=partial(
                    self._context.logins.ask, self._handle.ref, image, is_ended=self._is_ending
                ),
                tell=self._tell_pull,
            )
        except RegistryAway as error:
            self._wait_for_registry(error)
            raise
        if not self._is_ending():
            self._move(AttemptPhase.PREPARING, image=image, image_digest=digest)

    def _wait_for_registry(self, error: RegistryAway) -> None:
        """
        Raise that this server lacks the image, once that has lasted too long for a slot to wait.

        :raises HostLacks: If so: another server may have it.
        """
        now = self._context.clock.monotonic()
        if self._pull_failed_at is None:
            self._pull_failed_at = now
        elif now - self._pull_failed_at > PULL_BUDGET_SECONDS and not self._is_ending():
            raise HostLacks(str(error), Refusal.IMAGE) from error

    def _tell_pull(self, percent: float, text: str) -> None:
        """Tell how far a pull is, as a trainer tells how far it is."""
        now = self._context.clock.monotonic()
        if now < self._pull_told_at + PROGRESS_SECONDS:
            return
        self._pull_told_at = now
        ref = self._handle.ref
        news = Progress(ref=ref, at=self._context.clock.now(), phase=text, percent=percent)
        self._context.outbox.tell(f"progress {ref.task_key} {ref.fence}", news, group=ref.task_key)

    def _launch(self) -> None:
        runtime = self._context.runtime
        if not runtime.exists(self._handle.name):
            stager = InputStager(self._handle, self._context, is_ending=self._is_ending)
            wanted = self._handle.attempt.start.prepare
            try:
                if wanted is not None:
                    preparer = Preparer(
                        self._handle, self._context, stager, is_ending=self._is_ending
                    )
                    failure = preparer.prepare(wanted)
                    if failure is not None:
                        self._move(AttemptPhase.EXITED, **failure)
                        return
                # Whatever else there is comes when nothing has the network any more.
                stager.stage()
                private = self._handle.attempt.start.private_data
                if private is not None:
                    self._context.private.stage(private, self._handle.folder / "in")
                give_compiled(self._handle, self._context)
            except UnsafeArchive as error:
                self._refuse_content(str(error))
                return
        if self._is_ending():
            return
        runtime.launch(build_spec(self._handle, self._context))
        self._move(AttemptPhase.RUNNING, container=self._handle.name, runtime=runtime.name)

    def _watch(self) -> None:
        if self._console is None and not self._handle.attempt.is_private:
            self._console = self._start_console()
        if self._waiter is None:
            self._waiter = ExitWaiter(
                self._context.runtime,
                self._handle.name,
                stopping=self._context.stopping,
                on_end=self._handle.woken.set,
            ).start()
        clock = self._context.clock
        progress = ProgressReader(self._handle.ref, self._out)
        watch = self._build_watch()
        # Known in time, so that it can be ended without the engine.
        self._find_main_pid()
        wall_ends = clock.monotonic() + self._count_wall_seconds_left()
        relay_at = clock.monotonic() + PROGRESS_SECONDS
        while not self._waiter.has_ended:
            self._handle.woken.wait(LOOK_SECONDS)
            self._handle.woken.clear()
            if self._is_ending():
                return
            self._check_output_folder()
            # Its own runner does all of this first; unless what it runs has stopped it.
            excess = watch.find_excess()
            if excess is not None:
                self._kill_over_limit(excess)
                return
            if clock.monotonic() > wall_ends:
                wall_seconds = self._handle.attempt.start.limits.wall_seconds
                self._end_over_limit(build_wall_reason(wall_seconds))
                return
            if clock.monotonic() >= relay_at:
                relay_at = clock.monotonic() + PROGRESS_SECONDS
                self._relay(progress)
        self._relay(progress)
        excess = self._excess or watch.find_excess(at_once=True)
        if excess is None:
            self._record_exit(self._waiter.exit)
        else:
            self._end_over_limit(excess)

    def _deliver(self) -> None:
        """Everything after the exit: nothing here holds a slot."""
        # First of all: the submission's next training may be about to start.
        keep_compiled(self._handle, self._context)
        self._clean_up()
        if self._handle.attempt.is_private:
            self._deliver_figures()
            return
        if self._console is None:
            self._console = self._start_console()
        self._join_console(*self._console)
        if not self._is_gone():
            OutputUploader(self._handle, self._context, is_ended=self._is_gone).upload()
            attempt = self._handle.attempt
            # With the facts of the exit: this may be the first that the control plane hears of it.
            delivered = {
                "uploaded": list(attempt.uploaded),
                "failed": dict(attempt.failed),
                "console_bytes": attempt.console_cursor,
            }
            self._move(AttemptPhase.UPLOADED, **(dict(attempt.details) | delivered))

    def _deliver_figures(self) -> None:
        """Tell the judge's figures, and keep everything else that an attempt has left here."""
        details = dict(self._handle.attempt.details)
        if "judged" not in details:
            judged = judge_attempt(self._handle, self._context)
            details["judged"] = None if judged is None else describe_judged(judged)
            # Journalled before the files are moved: the next agent would not find them.
            self._handle.update(lambda a: replace(a, details=details))
        self._context.private.keep(self._handle.name, self._out)
        if not self._is_gone():
            self._move(AttemptPhase.UPLOADED, **details)

    def _end(self) -> None:
        """Stop it, look that it is gone, and only then say so."""
        attempt = self._handle.attempt
        is_over_limit = attempt.end_as is AttemptPhase.EXITED
        grace_seconds = 0 if is_over_limit else STOP_GRACE_SECONDS
        self._context.runtime.stop(self._handle.name, grace_seconds=grace_seconds)
        if attempt.start.prepare is not None:
            remove_preparation(self._handle, self._context)
        if is_over_limit:
            # Nobody will look at it, and others may need the disk.
            remove_all_but(self._out, CONSOLE)
            self._keep_runtime_output()
        self._context.runtime.remove(self._handle.name)
        if is_over_limit:
            self._move(AttemptPhase.EXITED, **build_limit_facts(str(attempt.cancel_reason)))
            return
        if self._console is not None:
            self._console[0].complete()
        self._handle.update(
            lambda a: move(
                a,
                attempt.end_as,
                at=self._context.clock.now(),
                reason=attempt.cancel_reason,
                details=self._lacks,
            )
        )
        remove_tree(self._handle.folder / "in")

    # --- preparing --------------------------------------------------------------------------

    def _refuse_content(self, reason: str) -> None:
        """Content that can never be used is its author's business, not the server's."""
        self._move(AttemptPhase.EXITED, **build_failure("submission", EXIT_SUBMISSION, reason))

    # --- running ----------------------------------------------------------------------------

    def _start_console(self) -> tuple[ConsoleUploader, threading.Thread]:
        uploader = ConsoleUploader(
            self._handle,
            grant_requester=self._context.grant_requester,
            transfer=self._context.transfer,
            flush_seconds=self._context.flush_seconds,
            is_stopping=self._context.stopping.is_set,
        )
        thread = threading.Thread(
            target=uploader.run, name=f"{self._handle.name} console", daemon=True
        )
        thread.start()
        return uploader, thread

    def _build_watch(self) -> FolderWatch:
        return FolderWatch(
            self._out,
            build_allowance(self._handle.attempt.start.limits),
            monotonic=self._context.clock.monotonic,
            find_main_pid=self._find_main_pid,
        )

    def _find_main_pid(self) -> int | None:
        try:
            return self._context.runtime.find_main_pid(self._handle.name, self._out)
        except (TransientError, PermanentError):
            return None  # what has a name is looked at all the same

    def _kill_over_limit(self, reason: str) -> None:
        """End what fills the disk before anything is written there, which might take long."""
        self._excess = reason
        self._context.runtime.kill(self._handle.name)
        self._end_over_limit(reason)

    def _end_over_limit(self, reason: str) -> None:
        """Decide how it has ended; its supervisor, this one or the next, does the rest."""
        log.warning("attempt.over_limit", attempt=self._handle.name, reason=reason)
        self._excess = reason
        try:
            self._handle.end(reason, as_phase=AttemptPhase.EXITED)
        except TransientError:
            # The disk may be full of what it has written: then there is no journal without this.
            self._context.runtime.kill(self._handle.name)
            remove_all_but(self._out, CONSOLE)
            raise

    def _count_wall_seconds_left(self) -> float:
        attempt = self._handle.attempt
        run = (self._context.clock.now() - attempt.phase_at).total_seconds()
        left: float = attempt.start.limits.wall_seconds + WALL_SLACK_SECONDS - max(0.0, run)
        return left

    def _relay(self, reader: ProgressReader) -> None:
        if self._handle.attempt.is_private:
            return
        news = reader.find_news(self._context.clock.now(), size_below(self._out, CONSOLE))
        if news is not None:
            ref = self._handle.ref
            key = f"progress {ref.task_key} {ref.fence}"
            self._context.outbox.tell(key, news, group=ref.task_key)

    def _record_exit(self, ended: Exit | None) -> None:
        self._check_output_folder()
        limits = self._handle.attempt.start.limits
        exit_code = None if ended is None else ended.exit_code
        found = read_verdict(
            self._out,
            output_bytes=limits.output_bytes + limits.console_bytes,
            exit_code=exit_code,
        )
        verdict = found if isinstance(found, RunnerVerdict) else None
        if exit_code is None and verdict is not None:
            exit_code = verdict.exit_code
        if exit_code is None:
            raise PermanentError(
                "its container is gone" if ended is None else "it ended without an exit status"
            )
        facts = ExitFacts(
            exit_code=exit_code,
            oom_killed=ended is not None and ended.oom_killed,
            verdict=verdict,
            no_verdict=found if isinstance(found, str) else None,
            files=verdict.files if verdict else (),
        )
        if verdict is None:
            self._keep_runtime_output()
        self._move(AttemptPhase.EXITED, **facts.dump())

    def _check_output_folder(self) -> None:
        """Nothing that it computes from now on could be kept."""
        if not self._out.is_dir():
            raise PermanentError("its output folder has vanished from this server")

    def _keep_runtime_output(self) -> None:
        """Without a console, what the engine has is the only trace of what went wrong."""
        if size_below(self._out, CONSOLE) == 0:
            text = self._context.runtime.read_output(self._handle.name)
            if text:
                append_below(self._out, CONSOLE, text)

    # --- after the exit ---------------------------------------------------------------------

    def _clean_up(self) -> None:
        try:
            self._context.runtime.remove(self._handle.name)
        except (TransientError, PermanentError) as error:
            # Housekeeping tries again; the results need not wait for it.
            log.warning("container.not_removed", attempt=self._handle.name, problem=str(error))
        for name in ("in", "tmp", "cache"):
            remove_tree(self._handle.folder / name)

    def _join_console(self, uploader: ConsoleUploader, thread: threading.Thread) -> None:
        uploader.complete()
        while thread.is_alive():
            thread.join(0.5)
            if self._is_gone():
                return

    def _finish_cancelled_console(self) -> None:
        """The last lines of what was cancelled are often why it was."""
        if self._console is None or self._is_gone():
            return
        uploader, thread = self._console
        uploader.complete()
        thread.join(CANCELLED_CONSOLE_SECONDS)

    # --- helpers ----------------------------------------------------------------------------

    @property
    def _out(self) -> Path:
        return self._handle.folder / "out"

    def _is_gone(self) -> bool:
        return self._context.stopping.is_set() or self._handle.dropped.is_set()

    def _is_ending(self) -> bool:
        return self._is_gone() or self._handle.attempt.cancel_reason is not None

    def _is_done(self) -> bool:
        return self._is_gone() or self._handle.attempt.is_final

    def _move(self, phase: AttemptPhase, *, reason: str | None = None, **details: Any) -> None:
        at = self._context.clock.now()
        self._handle.update(lambda a: move(a, phase, at=at, reason=reason, details=details))

    def _lose(self, error: PermanentError, failures: int) -> None:
        """It cannot go on here: whatever there is of it is removed before that is said."""
        attempt = self._handle.attempt
        if not attempt.holds_slot or attempt.cancel_reason is not None:
            # Already ending, or past it: only what cannot be given up is left to do.
            self._delay(TransientError(str(error)), failures)
            return
        log.warning("attempt.lost", attempt=self._handle.name, reason=str(error))
        self._handle.end(str(error), as_phase=AttemptPhase.LOST)

    def _give_up(self, reason: str) -> None:
        if self._handle.attempt.holds_slot:
            self._move(AttemptPhase.LOST, reason=reason)

    def _delay(self, error: TransientError, failures: int) -> None:
        attempt = self._handle.attempt
        waited = self._context.clock.now() - attempt.phase_at
        starting = attempt.phase in (AttemptPhase.ACCEPTED, AttemptPhase.PREPARING)
        budget = PREPARE_BUDGET
        if attempt.start.prepare is not None:
            budget += timedelta(seconds=limit_preparation(attempt.start.limits).wall_seconds)
        if starting and attempt.cancel_reason is None and waited > budget:
            self._handle.end(
                f"could not be started in {budget}: {error}", as_phase=AttemptPhase.LOST
            )
            return
        wait = error.retry_after or self._backoff.after(failures)
        if attempt.cancel_reason is not None and attempt.holds_slot:
            wait = min(wait, 1.0)  # somebody waits for its end
        log.warning(
            "attempt.delayed", attempt=self._handle.name, problem=str(error), retry_in_seconds=wait
        )
        self._sleep(wait)

    def _sleep(self, seconds: float) -> None:
        """Sleep, unless something happens to the attempt or the agent."""
        self._handle.woken.wait(seconds)
        self._handle.woken.clear()
