"""From an ordered pod to an open login, with a deadline for each stage."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import timedelta

from touchstone.core.pods import Pod, PodStatus, SshAddress
from touchstone.core.records.tasks import PodRecord
from touchstone.hooks.runpod.errors import PodNotFound
from touchstone.services.pods.context import PodContext
from touchstone.services.pods.keys import derive_key
from touchstone.services.pods.shell import PodShell
from touchstone.triggers.pods.failures import PodFailed, Stopped
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.pods import HOST_KEY_MARK

log = logging.getLogger(__name__)

NEW_POD_GRACE = timedelta(seconds=20)
"""For so long the service's lists and answers may not know of a new pod."""
LOOK_SECONDS = 1.0
LOGIN_BACKOFF = Backoff(first_seconds=1, cap_seconds=5)
STRIKES = 2
"""So many complete lists in a row, and the pod's own page, must deny it before it is gone."""

_ENDED = frozenset({PodStatus.EXITED, PodStatus.ERROR, PodStatus.TERMINATED})


@dataclass(frozen=True, kw_only=True)
class ConnectedPod:
    """
    An open login.

    :param shell: The connection.
    :param address: Where it leads.
    """

    shell: PodShell
    address: SshAddress


class PodConnector:
    """
    Waits until a pod runs, and logs in to it; again after each loss of the connection.

    :param context: What renting works with.
    :param pod: The pod's record.
    :param stopping: Set when the attempt is to end.
    """

    def __init__(self, context: PodContext, pod: PodRecord, stopping: asyncio.Event) -> None:
        self._context = context
        self._pod_id = str(pod.id)
        self._ordered_at = pod.ordered_at
        self._was_connected = pod.login_at is not None
        self._key = derive_key(context.secret, pod.name)
        self._stopping = stopping

    async def connect(self) -> ConnectedPod:
        """
        Wait until it runs, and log in.

        :raises PodFailed: If it does not within its time, or is gone.
        :raises Stopped: If the attempt is to end.
        """
        wanted = self._context.settings.runpod
        if self._was_connected:
            # A driver was in it before: it may train, however long ago it was ordered.
            return await self.log_in(seconds=wanted.lease_seconds)
        await self._wait_running()
        return await self.log_in(seconds=wanted.login_seconds)

    async def log_in(self, *, seconds: float) -> ConnectedPod:
        """
        Log in, wherever the pod's address has gone; the API tells it anew each time.

        :param seconds: For how long to try.
        :raises PodFailed: If it could not be reached for so long, or is gone.
        :raises Stopped: If the attempt is to end.
        """
        deadline = time.monotonic() + seconds
        failures = 0
        problem = "RunPod tells no address of its port 22"
        while True:
            try:
                pod = await self._look()
                if pod is not None and pod.ssh is not None:
                    fingerprint = await self._find_fingerprint()
                    shell = await PodShell.connect(pod.ssh, key=self._key, fingerprint=fingerprint)
                    return ConnectedPod(shell=shell, address=pod.ssh)
            except (TransientError, PermanentError) as error:
                # Also an API that refuses us altogether: the pod may well go on meanwhile.
                problem = str(error)
            if time.monotonic() > deadline:
                raise PodFailed("login", f"no login to the pod within {seconds:.0f} s: {problem}")
            failures += 1
            await self.pause(LOGIN_BACKOFF.after(failures))

    @property
    def is_stopping(self) -> bool:
        """Return whether the attempt is to end."""
        return self._stopping.is_set()

    async def pause(self, seconds: float) -> None:
        """
        Wait, but not if the attempt is to end.

        :raises Stopped: As soon as that is so.
        """
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        raise Stopped

    async def _wait_running(self) -> None:
        limit = timedelta(seconds=self._context.settings.runpod.boot_seconds)
        strikes = 0
        while True:
            try:
                found = (await self._context.lister.get()).find(self._pod_id)
            except (TransientError, PermanentError) as error:
                log.info("pod %s cannot be looked at: %s", self._pod_id, error)
            else:
                if found is not None and found.status is PodStatus.RUNNING:
                    return
                self._refuse_ended(found)
                strikes = strikes + 1 if found is None and not self._is_new() else 0
                if strikes >= STRIKES:
                    # The list alone proves nothing: whole pages of it have been lost.
                    if await self._look() is None:
                        raise PodFailed("gone", "the pod vanished while it booted")
                    strikes = 0
                # Only after a look: an API that is out of order says nothing against the pod.
                if self._context.now() - self._ordered_at > limit:
                    told = await self._read_host_log()
                    seconds = limit.total_seconds()
                    raise PodFailed("boot", f"did not boot within {seconds:.0f} s{told}")
            await self.pause(LOOK_SECONDS)

    async def _look(self) -> Pod | None:
        """Return the pod as its own page shows it; ``None`` if that denies it."""
        try:
            pod = await self._context.api.get_pod(self._pod_id)
        except PodNotFound:
            if await self._is_gone():
                raise PodFailed("gone", "the pod vanished") from None
            return None
        self._refuse_ended(pod)
        return pod

    async def _is_gone(self) -> bool:
        """Tell whether two complete lists, begun from now on, do not have the pod either."""
        if self._is_new():
            return False
        for _ in range(STRIKES):
            snapshot = await self._context.lister.get(since=time.monotonic())
            if snapshot.find(self._pod_id) is not None:
                return False
        return True

    def _is_new(self) -> bool:
        return self._context.now() - self._ordered_at < NEW_POD_GRACE

    def _refuse_ended(self, pod: Pod | None) -> None:
        if pod is not None and pod.status in _ENDED:
            raise PodFailed("stopped", f"RunPod says that the pod is {pod.status}")

    async def _find_fingerprint(self) -> str:
        """Return the newest host key that the pod has told its own log."""
        lines = await self._context.api.read_logs(self._pod_id, source="container")
        told = [line.text for line in lines if line.text.startswith(HOST_KEY_MARK)]
        if not told:
            raise TransientError("the pod has not told its host key yet")
        return told[-1].removeprefix(HOST_KEY_MARK).strip()

    async def _read_host_log(self) -> str:
        """Return the last line of the host's log, which tells of image pulls and the like."""
        try:
            lines = await self._context.api.read_logs(self._pod_id, source="system", tail=20)
        except (TransientError, PermanentError):
            return ""
        return f": {lines[-1].text[:300]}" if lines else ""
