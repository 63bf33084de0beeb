"""Stands by an attempt in its pod: starts it, follows it, stores what it has made."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable
from datetime import datetime, timedelta
from typing import Final, TypeVar

from pydantic import TypeAdapter

from touchstone.core import attempts, phases
from touchstone.core.names import build_console_key, build_output_key
from touchstone.core.pod_attempts import find_pod, note_login
from touchstone.core.records.tasks import Task
from touchstone.core.tasks import build_pod_start
from touchstone.services.pods.context import PodContext, TaskRef
from touchstone.services.pods.shell import CallRefused, SenselessAnswer
from touchstone.services.starts import grant_inputs
from touchstone.stores.consoles import find_end
from touchstone.stores.parts import Parts, find_files, find_long_list
from touchstone.triggers.pods.connecting import ConnectedPod, PodConnector
from touchstone.triggers.pods.failures import PodFailed, Stopped, check_host
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.facts import ExitFacts, Files, RunnerVerdict, UploadedFile
from touchstone_agent.protocol.messages import MAX_CHUNK_BYTES, AttemptPhase, Grant, PhaseChanged
from touchstone_agent.protocol.pods import PodPhase, PodPoll, PodState, PodUpload, PodUploadReport
from touchstone_agent.protocol.progress import build_progress

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

_FILES: TypeAdapter[tuple[UploadedFile, ...]] = TypeAdapter(Files)

POLL_GROWTH: Final = 10
"""A training that has gone on for long is looked at this many times less often than a new one."""
CALL_UPLOAD_SECONDS: Final = 1800
UPLOAD_SECONDS: Final = 3600
"""What a pod may live on after its training, to store what it has made."""
PREPARE_SECONDS: Final = 1800
"""How long it may take for its inputs."""
WALL_SLACK_SECONDS: Final = 600
"""How long after its own limit a training may still be said to run, by whatever clocks."""
CONSOLE_SLACK_BYTES: Final = 256 * 1024
"""The runner's notes about what it left out come on top of the limit."""
MAX_SENSELESS: Final = 3
"""So many answers in a row may make no sense before the pod is of no use."""
UPLOAD_BACKOFF: Final = Backoff(first_seconds=2, cap_seconds=60)
PROGRESS_SECONDS: Final = 5.0
"""Between two writes of progress to the record; each phase is written at once."""
EXIT_SUBMISSION: Final = 3
"""The exit code of the trainer for content that cannot be used; see include/elnigma/CONTRACT.md."""
RENEWALS: Final = 4
"""How often a lease is renewed within its time during an upload."""


class PodMonitor:
    """
    Follows one attempt in one pod to the point where everything it has made is stored.

    :param context: What renting works with.
    :param key: Its key.
    :param task: The task.
    :param connector: Logs in again when the connection is lost.
    :param connected: The login.
    """

    def __init__(
        self,
        context: PodContext,
        key: TaskRef,
        task: Task,
        connector: PodConnector,
        connected: ConnectedPod,
    ) -> None:
        self._context = context
        self._key = key
        self._task = task
        self._ref = task.ref
        self._parts = Parts(context.objects, context.settings.content_bucket)
        self._connector = connector
        self._connected = connected
        self._heard_at = self._began_at = time.monotonic()
        self._told_at = float("-inf")
        self._offset: int | None = None
        self._asked_bytes = 0
        self._senseless = 0
        self._facts = ExitFacts()
        self._limits = attempts.build_attempt_spec(task).limits
        self._ends_at = self._find_end()

    async def monitor(self) -> None:
        """
        Follow it to the end.

        :raises PodFailed: If the pod is of no use for it, or cannot be reached any more.
        :raises Stopped: If it is to end.
        """
        try:
            state = await self._poll()
            await self._greet(state)
            while await self._take_console(state) or state.phase is not PodPhase.EXITED:
                await self._follow(state)
                await self._connector.pause(self._find_pause(state))
                state = await self._poll()
            await self._record_exit(state)
            await self._upload()
        finally:
            await self._connected.shell.close()

    # --- speaking to the pod ----------------------------------------------------------------

    async def _poll(self) -> PodState:
        """Return how it is; logs in again, wherever it has gone, when the connection is lost."""
        if self._offset is None:
            self._offset = await self._find_offset()
        while True:
            self._asked_bytes = self._count_console_bytes()
            message = PodPoll(
                lease_seconds=self._count_lease(),
                console_offset=self._offset,
                console_bytes=self._asked_bytes,
            )
            state = await self._ask(self._connected.shell.call("poll", message, PodState))
            if state is not None:
                await self._check_boot(state)
                return state

    async def _ask(self, call: Awaitable[Answer]) -> Answer | None:
        """Return what the pod answers; ``None`` if it is to be asked again."""
        try:
            answer = await call
        except CallRefused as error:
            raise PodFailed("pod", str(error)) from error
        except SenselessAnswer as error:
            self._senseless += 1
            await self._bear(error, self._senseless)
            return None
        except TransientError as error:
            log.info("%s: %s; logging in again", self._key, error)
            await self._log_in_again(error)
            return None
        self._heard_at, self._senseless = time.monotonic(), 0
        return answer

    async def _bear(self, error: SenselessAnswer, times: int) -> None:
        """Wait before the next poll; a program that repeats such answers is not touchstone-pod."""
        if times >= MAX_SENSELESS:
            raise PodFailed("pod", str(error)) from error
        log.warning("%s: %s; asking again", self._key, error)
        await self._connector.pause(self._context.settings.runpod.poll_seconds)

    async def _log_in_again(self, error: TransientError) -> None:
        await self._connected.shell.close()
        await self._connector.pause(0.5)
        # Without a word from us for its lease the pod ends itself: then nobody need look. Nor at
        # one that lets everybody in and answers nothing.
        lease = self._context.settings.runpod.lease_seconds
        left = lease - (time.monotonic() - self._heard_at)
        if left <= 0:
            raise PodFailed("login", f"the pod has answered nothing for {lease} s: {error}")
        self._connected = await self._connector.log_in(seconds=max(1.0, left))

    # --- how long ---------------------------------------------------------------------------

    def _find_end(self) -> datetime:
        """Return when the pod must have done all it is for: as many seconds as it was told."""
        pod = find_pod(self._task, self._ref.fence)
        begun = pod.login_at if pod else None
        life = pod.life_seconds if pod else None
        most = life or self._limits.wall_seconds + UPLOAD_SECONDS
        return (begun or self._context.now()) + timedelta(seconds=most)

    def _count_lease(self) -> int:
        """
        Return for how long the pod may live on from now, never beyond its attempt's own end.

        :raises PodFailed: If that has come.
        """
        left = int((self._ends_at - self._context.now()).total_seconds())
        if left < 1:
            raise PodFailed("life", "the pod has not come to an end in the time that it may live")
        return min(self._context.settings.runpod.lease_seconds, left)

    def _check_time(self, state: PodState) -> None:
        """
        Refuse to wait for what should have come long ago, by our own clock alone.

        :raises PodFailed: If the pod prepares, or runs, for longer than is any use.
        """
        pod = find_pod(self._task, self._ref.fence)
        begun = self._task.newest.preparing_at or (pod.login_at if pod else None)
        if begun is None or state.phase is PodPhase.EXITED:
            return
        most = PREPARE_SECONDS
        if state.phase is PodPhase.RUNNING:
            most += self._limits.wall_seconds + WALL_SLACK_SECONDS
        lasted = (self._context.now() - begun).total_seconds()
        if lasted > most:
            raise PodFailed("pod", f"it says that it is {state.phase} after {lasted:.0f} s")

    def _count_console_bytes(self) -> int:
        """Return how much of the console is asked for; none beyond what a console may have."""
        most = self._limits.console_bytes + CONSOLE_SLACK_BYTES
        return min(MAX_CHUNK_BYTES, max(0, most - (self._offset or 0)))

    # --- beginning --------------------------------------------------------------------------

    async def _check_boot(self, state: PodState) -> None:
        address = self._connected.address
        pod = find_pod(self._task, self._ref.fence)
        if pod and pod.boot_id and pod.boot_id != state.boot_id:
            raise PodFailed("restarted", "the pod's container was started again")
        self._task = await self._context.change(
            self._key,
            lambda found: note_login(
                found,
                fence=self._ref.fence,
                address=f"{address.username}@{address.host}:{address.port}",
                boot_id=state.boot_id,
                now=self._context.now(),
            ),
        )

    async def _greet(self, state: PodState) -> None:
        """Look whether the host is good, and start the attempt; both but once."""
        if state.ref is None:
            spec = attempts.build_attempt_spec(self._task)
            check_host(state, spec, self._context.settings.runpod)
        elif state.ref != self._ref:
            raise PodFailed("pod", f"the pod is busy with {state.ref.task_key}")
        if state.ref is None or state.wants_grants:
            await self._start()

    async def _start(self) -> None:
        spec = attempts.build_attempt_spec(self._task)
        grants = await asyncio.to_thread(
            grant_inputs, self._context.objects, self._context.settings, spec
        )
        start = build_pod_start(spec, self._ref, grants)
        try:
            await self._connected.shell.call("start", start, PodState)
        except CallRefused as error:
            raise PodFailed("pod", str(error)) from error
        await self._move(AttemptPhase.PREPARING, self._context.now(), image=spec.image)

    # --- following --------------------------------------------------------------------------

    async def _follow(self, state: PodState) -> None:
        self._check_time(state)
        if state.wants_grants and state.phase is PodPhase.PREPARING:
            await self._start()
        if state.running_at is not None:
            await self._move(AttemptPhase.RUNNING, state.running_at, runtime="pod")
        now = time.monotonic()
        if state.progress is not None and now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            progress = build_progress(
                state.progress, self._ref, now=self._context.now(), console_bytes=state.console_size
            )
            self._task = await self._context.change(
                self._key,
                lambda found: phases.apply_progress(found, progress, now=self._context.now()),
            )

    def _find_pause(self, state: PodState) -> float:
        """Poll often after the start and after the end; seldom during hours of training."""
        shortest = self._context.settings.runpod.poll_seconds
        if state.phase is not PodPhase.RUNNING:
            return shortest if state.phase is not PodPhase.EXITED else 0.0
        lasted = time.monotonic() - self._began_at
        return min(max(shortest, lasted / 30), shortest * POLL_GROWTH)

    async def _move(self, phase: AttemptPhase, at: datetime, **details: object) -> None:
        event = PhaseChanged(ref=self._ref, phase=phase, at=at, details=dict(details))
        files = find_long_list(event)
        part = await asyncio.to_thread(self._parts.put_files, self._ref, files) if files else None
        self._task = await self._context.change(
            self._key,
            lambda found: phases.apply_phase(
                found, event, now=self._context.now(), files_part=part
            ),
        )

    # --- the console ------------------------------------------------------------------------

    async def _find_offset(self) -> int:
        """Return where the stored console ends: the driver before has stored up to there."""
        return await asyncio.to_thread(
            find_end, self._context.objects, self._context.settings.logs_bucket, self._ref
        )

    async def _take_console(self, state: PodState) -> bool:
        """Store new bytes of the console; return whether there are more."""
        data = state.console_data[: self._asked_bytes]
        if data and self._offset is not None:
            is_stored = await asyncio.to_thread(
                self._context.objects.put_new,
                self._context.settings.logs_bucket,
                build_console_key(self._ref, self._offset),
                data,
                content_type="text/plain",
            )
            # Somebody else who follows it has been here with more or fewer bytes: look where.
            self._offset = self._offset + len(data) if is_stored else await self._find_offset()
        return (self._offset or 0) < state.console_size and bool(data)

    # --- the end ----------------------------------------------------------------------------

    async def _record_exit(self, state: PodState) -> None:
        facts = state.exit_facts
        if state.is_submissions_fault:
            # Content that can never be used is its author's business, not the pod's.
            verdict = RunnerVerdict(
                exit_code=EXIT_SUBMISSION,
                outcome="failed",
                failure_class="submission",
                reason=state.problem,
            )
            facts = ExitFacts(exit_code=EXIT_SUBMISSION, verdict=verdict)
        if facts.verdict is None and facts.exit_code is None:
            raise PodFailed("pod", state.problem or "the pod does not know how it ended")
        self._facts = facts
        if state.running_at is not None:
            await self._move(AttemptPhase.RUNNING, state.running_at, runtime="pod")
        at = state.exited_at or self._context.now()
        await self._move(AttemptPhase.EXITED, at, **facts.dump())

    async def _upload(self) -> None:
        """Let the pod store the files on record, each by a leave for exactly its bytes."""
        kept = await asyncio.to_thread(find_files, self._task.newest, self._parts)
        files = _FILES.validate_python([file.dump() for file in kept])
        left = {file.path: file for file in files}
        self._ends_at = min(self._ends_at, self._find_upload_end())
        uploaded: list[str] = []
        failed: dict[str, str] = {}
        idle = 0
        while left:
            self._count_lease()
            grants = await asyncio.to_thread(self._grant, list(left.values()))
            report = await self._ask(self._call_upload(PodUpload(grants=grants)))
            if report is None:
                continue
            before = len(left)
            uploaded += [path for path in report.uploaded if left.pop(path, None)]
            failed |= {path: why for path, why in report.failed.items() if left.pop(path, None)}
            if left:
                # A store that is away is waited for, less and less eagerly.
                idle = idle + 1 if len(left) == before else 0
                await self._connector.pause(UPLOAD_BACKOFF.after(idle))
        await self._move(
            AttemptPhase.UPLOADED,
            self._context.now(),
            **self._facts.dump(),
            uploaded=uploaded,
            failed=failed,
            console_bytes=self._offset,
        )

    def _find_upload_end(self) -> datetime:
        # By our own clock, when its exit was put on record: the pod's may be wrong by years.
        since = self._task.newest.last_event_at or self._context.now()
        return since + timedelta(seconds=UPLOAD_SECONDS)

    def _grant(self, files: list[UploadedFile]) -> dict[str, Grant]:
        bucket = self._context.settings.content_bucket
        return {
            file.path: self._context.objects.grant_put(
                bucket, build_output_key(self._ref, file.path), sha256=file.sha256, size=file.size
            )
            for file in files
        }

    async def _call_upload(self, message: PodUpload) -> PodUploadReport:
        """Call for the upload, and renew the pod's lease for as long as that takes."""
        shell, lease = self._connected.shell, self._context.settings.runpod.lease_seconds
        call = asyncio.create_task(
            shell.call("upload", message, PodUploadReport, seconds=CALL_UPLOAD_SECONDS)
        )
        try:
            while not (await asyncio.wait({call}, timeout=lease / RENEWALS))[0]:
                poll = PodPoll(lease_seconds=self._count_lease(), console_bytes=0)
                # Whatever keeps this from being heard keeps the upload's answer away, too.
                with contextlib.suppress(TransientError):
                    await shell.call("poll", poll, PodState)
                    self._heard_at = time.monotonic()
                if self._connector.is_stopping:
                    raise Stopped
        finally:
            call.cancel()
        return await call
