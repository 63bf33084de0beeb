"""
Prepares what an attempt needs, in a container with the network and without submitted code.

Its name follows from the attempt's, so that an agent that died in between finds it, ends it and
does all of it again. What it makes is kept for every attempt with the same image and inputs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from touchstone_agent.adapters.files import append_below, read_below, remove_tree
from touchstone_agent.adapters.prepared import build_key
from touchstone_agent.attempt_handle import AttemptHandle
from touchstone_agent.console import CONSOLE
from touchstone_agent.context import AgentContext, build_prepare_spec
from touchstone_agent.core.limits import (
    WALL_SLACK_SECONDS,
    Allowance,
    build_allowance,
    build_limit_facts,
    build_wall_reason,
    limit_preparation,
)
from touchstone_agent.core.ports import Exit
from touchstone_agent.evidence import read_verdict
from touchstone_agent.exits import ExitWaiter
from touchstone_agent.inputs import InputStager
from touchstone_agent.logs import Log
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.facts import ExitFacts, RunnerVerdict
from touchstone_agent.protocol.messages import Preparation
from touchstone_agent.protocol.names import build_prepare_name
from touchstone_agent.watch import LOOK_SECONDS, FolderWatch

MOST_FILES = 1_000_000
LONGEST_PAUSE_SECONDS = 30.0
WAIT_SECONDS = 0.5

log = Log("prepare")


class Preparer:
    """
    Has the prepared folder of one attempt ready.

    :param handle: The attempt.
    :param context: What it works with.
    :param stager: Fetches its inputs.
    :param is_ending: Whether the attempt is to end, or the agent to leave.
    """

    def __init__(
        self,
        handle: AttemptHandle,
        context: AgentContext,
        stager: InputStager,
        *,
        is_ending: Callable[[], bool],
    ) -> None:
        self._handle = handle
        self._context = context
        self._stager = stager
        self._is_ending = is_ending
        self._name = build_prepare_name(handle.name)
        self._folder = handle.folder.with_name(self._name)
        self._limits = limit_preparation(handle.attempt.start.limits)

    def prepare(self, wanted: Preparation) -> Mapping[str, Any] | None:
        """
        Return when it is ready, or the attempt is to end.

        :return: The facts of the attempt's exit if it cannot be made ready; else ``None``.
        :raises UnsafeArchive: If an input can never be unpacked.
        :raises PermanentError: If it cannot be done on this server.
        :raises TransientError: If it cannot be done now; all of it is done again then.
        """
        attempt = self._handle.attempt
        digests = {item.path: item.sha256 for item in attempt.start.inputs}
        key = build_key(
            str(attempt.details.get("image_digest")),
            wanted.argv,
            [(path, digests.get(path, "")) for path in wanted.inputs],
        )
        while not self._is_ending():
            if self._context.prepared.take(key, self._handle.folder) is not None:
                return None
            with self._context.prepared.building(key) as is_mine:
                # Another attempt may have done it since the look before this.
                if is_mine and self._context.prepared.take(key, self._handle.folder) is None:
                    failure = self._build(wanted, key)
                    if failure is not None:
                        return failure
            if not is_mine:
                self._wait(WAIT_SECONDS)
        return None

    def _build(self, wanted: Preparation, key: str) -> Mapping[str, Any] | None:
        log.info("prepare.begun", attempt=self._handle.name, key=key)
        remove_preparation(self._handle, self._context)
        self._stager.stage(self._folder, only=wanted.inputs)
        cache = self._context.prepared.begin(self._handle.name)
        spec = build_prepare_spec(
            self._handle,
            self._context,
            wanted,
            folder=self._folder,
            cache=cache,
            limits=self._limits,
        )
        self._context.runtime.launch(spec)
        watches = self._build_watches(cache)
        excess, ended = self._follow(watches)
        if excess is None and ended is None:
            return None  # the attempt is to end, and its end ends this as well
        failure = build_limit_facts(excess) if excess is not None else self._judge(ended)
        if failure is not None:
            self._keep_console()
        self._context.runtime.remove(self._name)
        if failure is None:
            watches[-1].find_excess(at_once=True)
            self._context.prepared.complete(self._handle.name, key, size=watches[-1].bytes)
            log.info("prepare.done", attempt=self._handle.name, key=key, bytes=watches[-1].bytes)
        else:
            self._context.prepared.discard(self._handle.name)
        remove_tree(self._folder)
        return failure

    def _build_watches(self, cache: Path) -> tuple[FolderWatch, FolderWatch]:
        most = self._context.prepared.most_bytes
        monotonic = self._context.clock.monotonic
        return (
            FolderWatch(self._folder / "out", build_allowance(self._limits), monotonic=monotonic),
            FolderWatch(
                cache,
                Allowance(bytes=most, told_bytes=most, files=MOST_FILES),
                monotonic=monotonic,
                longest_pause=LONGEST_PAUSE_SECONDS,
            ),
        )

    def _follow(self, watches: tuple[FolderWatch, ...]) -> tuple[str | None, ExitWaiter | None]:
        """Return what it was ended for, or what has seen its end; neither if the attempt ends."""
        woken = threading.Event()
        waiter = ExitWaiter(
            self._context.runtime, self._name, stopping=self._context.stopping, on_end=woken.set
        ).start()
        clock = self._context.clock
        ends = clock.monotonic() + self._limits.wall_seconds + WALL_SLACK_SECONDS
        while not waiter.has_ended:
            woken.wait(LOOK_SECONDS)
            if self._is_ending():
                return None, None
            excess = next(filter(None, (watch.find_excess() for watch in watches)), None)
            if excess is None and clock.monotonic() > ends:
                excess = build_wall_reason(self._limits.wall_seconds)
            if excess is not None:
                log.warning("prepare.over_limit", attempt=self._handle.name, reason=excess)
                self._context.runtime.kill(self._name)
                return excess, None
        return None, waiter

    def _judge(self, waiter: ExitWaiter | None) -> Mapping[str, Any] | None:
        """Return the facts of a failure; ``None`` if all went well."""
        ended = Exit(exit_code=None) if waiter is None or waiter.exit is None else waiter.exit
        found = read_verdict(
            self._folder / "out",
            output_bytes=self._limits.output_bytes + self._limits.console_bytes,
            exit_code=ended.exit_code,
        )
        verdict = found if isinstance(found, RunnerVerdict) else None
        if ended.exit_code is None:
            raise TransientError("what was to be prepared ended without an exit status")
        if ended.exit_code == 0 and verdict is not None and verdict.outcome == "succeeded":
            return None
        # Whatever the preparation has left is no output of the attempt.
        return ExitFacts(
            exit_code=ended.exit_code,
            oom_killed=ended.oom_killed,
            verdict=verdict,
            no_verdict=found if isinstance(found, str) else None,
        ).dump()

    def _keep_console(self) -> None:
        """What went wrong is the only console that the attempt will have."""
        limit = self._limits.console_bytes
        try:
            text = read_below(self._folder / "out", CONSOLE, limit=limit)
        except (FileNotFoundError, PermanentError):
            text = self._context.runtime.read_output(self._name)
        append_below(self._handle.folder / "out", CONSOLE, text)

    def _wait(self, seconds: float) -> None:
        self._handle.woken.wait(seconds)
        self._handle.woken.clear()


def remove_preparation(handle: AttemptHandle, context: AgentContext) -> None:
    """
    Remove all that is left of an attempt's preparation; a complete entry is not of it any more.

    :raises TransientError: If the engine does not answer.
    """
    name = build_prepare_name(handle.name)
    context.runtime.kill(name)
    context.runtime.remove(name)
    remove_tree(handle.folder.with_name(name))
    context.prepared.discard(handle.name)
