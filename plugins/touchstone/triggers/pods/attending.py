"""Stands by an attempt in its pod: starts it, follows it, stores what it has made."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from datetime import datetime
from typing import Final

from touchstone.core import attempts
from touchstone.core.names import (
    build_attempt_prefix,
    build_console_key,
    build_output_key,
)
from touchstone.core.pod_attempts import find_pod, note_login
from touchstone.core.tasks import build_pod_start
from touchstone.hooks.parts import Parts, move_files_out
from touchstone.hooks.pods.desk import PodDesk, TaskKey
from touchstone.hooks.pods.shell import CallRefused
from touchstone.hooks.records import Record
from touchstone.hooks.starts import grant_archives
from touchstone.triggers.pods.boarding import Boarded, Boarding
from touchstone.triggers.pods.failures import PodFailed, Stopped
from touchstone.triggers.pods.preflight import check_host
from touchstone_agent.protocol.errors import TransientError
from touchstone_agent.protocol.messages import AttemptPhase, PhaseChanged
from touchstone_agent.protocol.pods import (
    PodPhase,
    PodPoll,
    PodState,
    PodUpload,
    PodUploadReport,
)
from touchstone_agent.protocol.progress import build_progress

log = logging.getLogger(__name__)

POLL_GROWTH: Final = 10
"""A training that has gone on for long is looked at this many times less often than a new one."""
UPLOAD_SECONDS: Final = 1800
PROGRESS_SECONDS: Final = 5.0
EXIT_SUBMISSION: Final = 3
RENEWALS: Final = 4
"""How often a lease is renewed within its time while something else goes on."""


class Attendant:
    """
    Follows one attempt in one pod to the point where everything it has made is stored.

    :param desk: What renting works with.
    :param key: The task.
    :param record: Its record.
    :param boarding: Logs in again when the connection is lost.
    :param boarded: The login.
    """

    def __init__(
        self, desk: PodDesk, key: TaskKey, record: Record, boarding: Boarding, boarded: Boarded
    ) -> None:
        self._desk = desk
        self._key = key
        self._record = record
        self._ref = attempts.get_ref(record)
        self._parts = Parts(desk.objects, desk.settings.content_bucket)
        self._boarding = boarding
        self._boarded = boarded
        self._heard_at = self._began_at = time.monotonic()
        self._told_at = float("-inf")
        self._offset: int | None = None
        self._facts: dict[str, object] = {}

    async def attend(self) -> None:
        """
        Follow it to the end.

        :raises PodFailed: If the pod is of no use for it, or cannot be reached any more.
        :raises Stopped: If nobody wants it any more.
        """
        try:
            state = await self._poll()
            await self._greet(state)
            while await self._take_console(state) or state.phase is not PodPhase.EXITED:
                await self._follow(state)
                await self._boarding.pause(self._find_pause(state))
                state = await self._poll()
            await self._record_exit(state)
            await self._upload(state)
        finally:
            await self._boarded.shell.close()

    # --- speaking to the pod ----------------------------------------------------------------

    async def _poll(self) -> PodState:
        """Return how it is; logs in again, wherever it has gone, when the connection is lost."""
        if self._offset is None:
            self._offset = await self._find_offset()
        lease = self._desk.settings.runpod.lease_seconds
        while True:
            message = PodPoll(lease_seconds=lease, console_offset=self._offset)
            try:
                state = await self._boarded.shell.call("poll", message, PodState)
            except CallRefused as error:
                raise PodFailed("pod", str(error)) from error
            except TransientError as error:
                log.info("%s: %s; logging in again", self._key, error)
                await self._log_in_again()
                continue
            self._heard_at = time.monotonic()
            await self._check_boot(state)
            return state

    async def _log_in_again(self) -> None:
        await self._boarded.shell.close()
        await self._boarding.pause(0.5)
        # Without a word from us for its lease the pod ends itself: then nobody need look.
        silent = time.monotonic() - self._heard_at
        left = max(1.0, self._desk.settings.runpod.lease_seconds - silent)
        self._boarded = await self._boarding.log_in(seconds=left)

    async def _check_boot(self, state: PodState) -> None:
        address = self._boarded.address
        known = (find_pod(self._record, self._ref.fence) or {}).get("boot_id")
        if known and known != state.boot_id:
            raise PodFailed("restarted", "the pod's container was started again")
        self._record = await self._desk.change(
            self._key,
            lambda found: note_login(
                found,
                fence=self._ref.fence,
                address=f"{address.username}@{address.host}:{address.port}",
                boot_id=state.boot_id,
                now=self._desk.now(),
            ),
        )

    async def _greet(self, state: PodState) -> None:
        """Look whether the host is good, and start the attempt; both but once."""
        if state.ref is None:
            spec = attempts.build_attempt_spec(self._record)
            check_host(state, spec, self._desk.settings.runpod)
        elif state.ref != self._ref:
            raise PodFailed("pod", f"the pod is busy with {state.ref.task_key}")
        if state.ref is None or state.wants_grants:
            await self._start()

    async def _start(self) -> None:
        spec = attempts.build_attempt_spec(self._record)
        grants = await asyncio.to_thread(
            grant_archives, self._desk.objects, self._desk.settings, spec
        )
        start = build_pod_start(spec, self._ref, grants)
        try:
            await self._boarded.shell.call("start", start, PodState)
        except CallRefused as error:
            raise PodFailed("pod", str(error)) from error
        await self._move(AttemptPhase.PREPARING, self._desk.now(), image=spec.image)

    # --- following --------------------------------------------------------------------------

    async def _follow(self, state: PodState) -> None:
        if state.wants_grants:
            await self._start()
        if state.running_at is not None:
            await self._move(AttemptPhase.RUNNING, state.running_at, runtime="pod")
        now = time.monotonic()
        if state.progress is not None and now - self._told_at >= PROGRESS_SECONDS:
            self._told_at = now
            progress = build_progress(
                state.progress, self._ref, now=self._desk.now(), console_bytes=state.console_size
            )
            self._record = await self._desk.change(
                self._key,
                lambda found: attempts.apply_progress(found, progress, now=self._desk.now()),
            )

    def _find_pause(self, state: PodState) -> float:
        """Look often at what has just begun, or has ended; seldom at what goes on for hours."""
        shortest = self._desk.settings.runpod.poll_seconds
        if state.phase is not PodPhase.RUNNING:
            return shortest if state.phase is not PodPhase.EXITED else 0.0
        lasted = time.monotonic() - self._began_at
        return min(max(shortest, lasted / 30), shortest * POLL_GROWTH)

    async def _move(self, phase: AttemptPhase, at: datetime, **details: object) -> None:
        event = PhaseChanged(ref=self._ref, phase=phase, at=at, details=dict(details))
        event = await asyncio.to_thread(move_files_out, event, self._parts)
        self._record = await self._desk.change(
            self._key, lambda found: attempts.apply_phase(found, event, now=self._desk.now())
        )

    # --- the console ------------------------------------------------------------------------

    async def _find_offset(self) -> int:
        """Return where the stored console ends: whoever followed before has stored up to there."""
        stored = await asyncio.to_thread(
            self._desk.objects.list,
            self._desk.settings.logs_bucket,
            build_attempt_prefix(self._ref),
        )
        if not stored:
            return 0
        last = stored[-1]
        return int(last.key.rpartition("/")[2].removesuffix(".log")) + last.size

    async def _take_console(self, state: PodState) -> bool:
        """Store what has come of the console; return whether there is more of it."""
        data = base64.b64decode(state.console)
        if data and self._offset is not None:
            is_stored = await asyncio.to_thread(
                self._desk.objects.put_new,
                self._desk.settings.logs_bucket,
                build_console_key(self._ref, self._offset),
                data,
                content_type="text/plain",
            )
            # Somebody else who follows it has been here with more or fewer bytes: look where.
            self._offset = self._offset + len(data) if is_stored else await self._find_offset()
        return (self._offset or 0) < state.console_size and bool(data)

    # --- the end ----------------------------------------------------------------------------

    async def _record_exit(self, state: PodState) -> None:
        if state.is_submissions_fault:
            # Content that can never be used is its author's business, not the pod's.
            verdict: dict[str, object] | None = {
                "contract": 1,
                "exit_code": EXIT_SUBMISSION,
                "outcome": "failed",
                "class": "submission",
                "reason": state.problem,
                "files": [],
            }
            exit_code: int | None = EXIT_SUBMISSION
        else:
            verdict, exit_code = state.verdict, state.exit_code
        if verdict is None and exit_code is None:
            raise PodFailed("pod", state.problem or "the pod does not know how it ended")
        self._facts = {
            "exit_code": exit_code,
            "oom_killed": state.oom_killed,
            "verdict": verdict,
            "files": [file.model_dump(mode="json") for file in state.files],
        }
        if state.running_at is not None:
            await self._move(AttemptPhase.RUNNING, state.running_at, runtime="pod")
        await self._move(AttemptPhase.EXITED, state.exited_at or self._desk.now(), **self._facts)

    async def _upload(self, state: PodState) -> None:
        """Let the pod store its files, each by a leave for exactly its bytes."""
        left = {file.path: file for file in state.files}
        uploaded: list[str] = []
        failed: dict[str, str] = {}
        while left:
            grants = {
                path: await asyncio.to_thread(
                    self._desk.objects.grant_put,
                    self._desk.settings.content_bucket,
                    build_output_key(self._ref, path),
                    sha256=file.sha256,
                    size=file.size,
                )
                for path, file in left.items()
            }
            try:
                report = await self._call_upload(PodUpload(grants=grants))
            except CallRefused as error:
                raise PodFailed("pod", str(error)) from error
            except TransientError as error:
                log.info("%s: %s; logging in again", self._key, error)
                await self._log_in_again()
                continue
            uploaded += report.uploaded
            failed |= report.failed
            for path in (*report.uploaded, *report.failed):
                left.pop(path, None)
            self._heard_at = time.monotonic()
            if left:
                await self._boarding.pause(self._desk.settings.runpod.poll_seconds)
        await self._move(
            AttemptPhase.UPLOADED,
            self._desk.now(),
            **self._facts,
            uploaded=uploaded,
            failed=failed,
            console_bytes=self._offset,
        )

    async def _call_upload(self, message: PodUpload) -> PodUploadReport:
        """Call for the upload, and renew the pod's lease for as long as that takes."""
        shell, lease = self._boarded.shell, self._desk.settings.runpod.lease_seconds
        call = asyncio.create_task(
            shell.call("upload", message, PodUploadReport, seconds=UPLOAD_SECONDS)
        )
        try:
            while not (await asyncio.wait({call}, timeout=lease / RENEWALS))[0]:
                # Whatever keeps this from being heard keeps the upload's answer away, too.
                with contextlib.suppress(TransientError):
                    await shell.call(
                        "poll", PodPoll(lease_seconds=lease, console_bytes=0), PodState
                    )
                    self._heard_at = time.monotonic()
                if self._boarding.is_stopping:
                    raise Stopped
        finally:
            call.cancel()
        return await call
