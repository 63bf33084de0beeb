"""The pod's first process: lets the control plane in, and ends the pod when it stays away."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from uuid import uuid4

from touchstone_agent import logs
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.pod.attempt import end_attempt, mend_attempt
from touchstone_agent.pod.deadman import DeadMan
from touchstone_agent.pod.ending import PodTerminator, build_sender
from touchstone_agent.pod.home import PodHome, read_json, write_json
from touchstone_agent.pod.lease import find_lease, open_lease, read_kernel_boot, read_uptime
from touchstone_agent.pod.life import Life, find_end, resume_life
from touchstone_agent.pod.login import Login
from touchstone_agent.pod.prctl import become_subreaper
from touchstone_agent.pod.settings import PodSettings, read_settings, select_environment
from touchstone_agent.protocol.pods import HOST_KEY_MARK

LOOK_SECONDS = 1.0
LOOKS_PER_COMPLAINT = 60
STABLE_SECONDS = 60
"""An sshd that has run for so long has not failed at its start."""

SSHD_BACKOFF = Backoff(first_seconds=1, cap_seconds=30)
SSHD_GRACE_SECONDS = 2.0

log = logs.Log("serve")


class FirstProcess:
    """
    PID 1 of the pod.

    It never ends by itself: the service would only start the container again, and bill it on. So
    every failure is logged and survived, and what cannot be done is left to the dead-man's switch.

    :param settings: What the pod was told.
    :param home: Where it works.
    :param environ: The container's environment.
    """

    def __init__(self, settings: PodSettings, home: PodHome, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._home = home
        self._environ = environ
        self._login = Login(home)
        self._boot_id: str | None = None
        self._has_ended_attempt = False
        self._is_stopping = False
        self._sshd: subprocess.Popen[bytes] | None = None
        self._sshd_since = self._sshd_due = 0.0
        self._sshd_failures = 0
        # Good until the disk says otherwise, or for ever if it cannot be used.
        now = read_uptime()
        self._lease_until = now + settings.lease_seconds
        self._life = Life(kernel_boot="", at=now, lived=0.0, noted_at=time.time())
        self._terminator = PodTerminator(
            api_url=settings.api_url,
            pod_id=settings.pod_id,
            send=build_sender(settings.api_key),
            sleep=time.sleep,
        )
        self._dead_man = DeadMan(self._find_reason, self._end_pod)

    def run(self) -> int:
        """Serve until somebody sends SIGTERM."""
        wake = _listen(self._stop)
        become_subreaper()
        for problem in self._settings.problems:
            log.error("settings.wrong", problem=problem)
        if os.geteuid() != 0:
            log.error("user.wrong", problem="not root: nobody can log in to this pod")
        try:
            self._boot()
        except Exception:
            log.exception("boot.failed")
        failures = 0
        while not self._is_stopping:
            try:
                self._look()
            except Exception:
                # Not each time: the line that tells the host key must stay within reach.
                if failures % LOOKS_PER_COMPLAINT == 0:
                    log.exception("look.failed")
                failures += 1
            if select.select([wake], [], [], LOOK_SECONDS)[0]:
                os.read(wake, 4096)
        self._shut_down()
        return 0

    def _boot(self) -> None:
        """Take up what earlier boots have left, then open the door."""
        home, settings = self._home, self._settings
        home.make()
        kernel_boot, now = read_kernel_boot(), read_uptime()
        saved = read_json(home.life_file)
        life = resume_life(
            None if saved is None else Life.load(saved),
            kernel_boot=kernel_boot,
            uptime=now,
            unix_time=time.time(),
        )
        self._life = life
        write_json(home.life_file, life.dump())
        open_lease(home, kernel_boot=kernel_boot, until=now + settings.lease_seconds)
        write_json(home.environment_file, select_environment(self._environ))
        boot_id = uuid4().hex
        self._has_ended_attempt = mend_attempt(home, boot_id=boot_id)
        fingerprint = self._login.prepare(settings.public_keys)
        # Last of the files: where it is, all others are.
        write_json(home.boot_file, {"boot_id": boot_id})
        self._boot_id = boot_id
        print(f"{HOST_KEY_MARK} {fingerprint}", flush=True)
        log.info("boot.done", boot_id=boot_id, lived_seconds=round(life.count(now)))

    def _look(self) -> None:
        self._dead_man.look()
        self._reap()
        if self._boot_id is not None:
            self._keep_sshd()
            if not self._has_ended_attempt:
                self._has_ended_attempt = mend_attempt(self._home, boot_id=self._boot_id)

    def _find_reason(self) -> str | None:
        noted = read_json(self._home.ending_file)
        if noted is not None:
            return str(noted.get("reason"))
        lease = find_lease(self._home)
        if lease is not None and self._boot_id is not None:
            self._lease_until = lease
        return find_end(
            uptime=read_uptime(),
            lease_until=self._lease_until,
            life=self._life,
            life_seconds=self._settings.life_seconds,
        )

    def _end_pod(self, reason: str) -> None:
        # On disk, so that a boot in between does not take it for a pod that may go on.
        with suppress(OSError):
            write_json(self._home.ending_file, {"reason": reason})
        self._end_attempt()
        self._terminator.run()

    def _end_attempt(self) -> None:
        try:
            end_attempt(self._home)
        except Exception:
            # What still runs ends with the pod.
            log.exception("attempt.not_ended")

    def _keep_sshd(self) -> None:
        self._login.bound_log()
        now = time.monotonic()
        if self._sshd is None and now >= self._sshd_due:
            self._sshd_since = now
            try:
                self._sshd = self._login.start(self._login.build_command(self._environ, self._home))
            except OSError as error:
                self._note_sshd_end(str(error))

    def _note_sshd_end(self, problem: str) -> None:
        now = time.monotonic()
        was_stable = now - self._sshd_since >= STABLE_SECONDS
        self._sshd_failures = 1 if was_stable else self._sshd_failures + 1
        wait = SSHD_BACKOFF.after(self._sshd_failures)
        self._sshd, self._sshd_due = None, now + wait
        log.warning("sshd.ended", problem=problem, again_in_seconds=wait)

    def _reap(self) -> None:
        """Wait for every child that has ended; orphans of all the pod come here."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._sshd is not None and pid == self._sshd.pid:
                code = os.waitstatus_to_exitcode(status)
                # Nobody may wait for it once more.
                self._sshd.returncode = code
                self._note_sshd_end(f"exit {code}")

    def _stop(self, *_: object) -> None:
        self._is_stopping = True

    def _shut_down(self) -> None:
        log.info("shutdown")
        self._end_attempt()
        if self._sshd is not None:
            self._sshd.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._sshd.wait(SSHD_GRACE_SECONDS)


def _listen(stop: Any) -> int:
    """Let signals wake the main loop; return what becomes readable then."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    # A handler of Python's own is what makes a signal wake anybody.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    return wake


def serve(environ: Mapping[str, str]) -> int:
    """Be the pod's first process."""
    logs.configure()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return FirstProcess(read_settings(environ), PodHome.find(environ), environ).run()
