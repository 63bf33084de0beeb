"""The daemon: two queues in, one out, and a supervisor per attempt."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from touchstone_agent.adapters.files import remove_tree
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.attempt_table import AttemptTable
from touchstone_agent.commands import CommandHandler, CommandQueues
from touchstone_agent.context import AgentContext
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.gpus import DetectedGpu
from touchstone_agent.expectations import Expectations
from touchstone_agent.images import look_at_images
from touchstone_agent.logs import Log
from touchstone_agent.machine import Machine
from touchstone_agent.orphans import Orphans, build_adopted
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.errors import PermanentError, TransientError
from touchstone_agent.protocol.facts import ServerGpu
from touchstone_agent.protocol.images import ServerImage
from touchstone_agent.protocol.messages import (
    MAX_GPUS,
    MAX_RUNNING,
    AttemptPhase,
    Heartbeat,
    Hello,
    Inventory,
)
from touchstone_agent.protocol.names import build_prepare_name
from touchstone_agent.settings import AgentSettings

TICK_SECONDS = 5.0
SWEEP_SECONDS = 300.0
"""Between two looks for what nobody needs any more."""
LEAVE_SECONDS = 2.0
"""For so long an agent that ends still sends; what is left is journalled, for the next one."""

log = Log("agent")


class Agent:
    """
    Receives commands and keeps the attempts; the attempts' work is done by their supervisors.

    :param settings: The settings.
    :param keys: Public keys of the control plane.
    :param queues: The queues.
    :param journal: The journal.
    :param outbox: Where events go.
    :param context: What supervisors work with.
    :param machine: What this server is.
    :param epoch: This start of the agent.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        keys: Mapping[str, Ed25519PublicKey],
        queues: CommandQueues,
        journal: Journal,
        outbox: Outbox,
        context: AgentContext,
        machine: Machine,
        epoch: str,
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._journal = journal
        self._outbox = outbox
        self._context = context
        self._machine = machine
        self._epoch = epoch
        self._attempts = AttemptTable(settings, journal=journal, context=context)
        self._expectations = Expectations(
            settings, journal=journal, context=context, attempts=self._attempts
        )
        self._orphans = Orphans(
            context.runtime, context.clock, grace_seconds=settings.quarantine_seconds
        )
        self._commands = CommandHandler(
            settings,
            keys=keys,
            queues=queues,
            journal=journal,
            context=context,
            machine=machine,
            attempts=self._attempts,
            expectations=self._expectations,
            orphans=self._orphans,
        )
        self._images: tuple[ServerImage, ...] = ()
        self._threads: list[threading.Thread] = []

    @property
    def counts(self) -> Counter[str]:
        """Return what was ignored or refused, by kind."""
        return self._commands.counts

    # --- life -------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take over whatever an earlier agent left: journal, containers, folders, unsent events."""
        unsent = self._journal.load_outbox()
        for posted in unsent:
            self._outbox.post(posted)
        told = {(posted.event.ref, posted.event.phase) for posted in unsent}
        for attempt in self._journal.load():
            handle = self._attempts.add(attempt)
            log.info("attempt.recovered", attempt=handle.name, phase=attempt.phase)
            if (attempt.ref, attempt.phase) not in told:
                handle.announce()
        self._do(self._look_for_orphans)
        self._do(self._remove_orphan_folders)
        for handle in self._attempts.list():
            if not handle.attempt.is_final and not handle.is_supervised:
                self._attempts.supervise(handle)

    def run(self) -> None:
        """
        Work until the stopping event of the context is set.

        :raises SystemExit: If one of the loops has ended by itself: the service manager starts the
            daemon again, while half an agent would go unnoticed. Containers go on.
        """
        self._do(self._look_at_images)
        self._say_hello()
        stopping = self._context.stopping
        loops: dict[str, Callable[[], None]] = {
            queue: partial(self._poll, queue)
            for queue in (self._settings.control_queue, self._settings.request_queue)
        }
        loops["outbox"] = partial(self._outbox.run, stopping)
        self._threads = [
            threading.Thread(target=loop, name=name, daemon=True) for name, loop in loops.items()
        ]
        for thread in self._threads:
            thread.start()
        self._keep_house(stopping)

    def leave(self) -> None:
        """Let go of everything; containers go on and are taken over by the next agent."""
        self._context.stopping.set()
        for handle in self._attempts.list():
            handle.woken.set()
        self._context.grant_requester.wake()
        self._context.logins.wake()
        # In a thread: a queue that does not answer must not hold up the end.
        flush = threading.Thread(target=self._outbox.flush, args=(LEAVE_SECONDS,), daemon=True)
        flush.start()
        flush.join(LEAVE_SECONDS)

    def _poll(self, queue: str) -> None:
        backoff = Backoff(first_seconds=0.5, cap_seconds=15)
        failures = 0
        while not self._context.stopping.is_set():
            try:
                messages = self._queues.receive(queue)
            except TransientError as error:
                failures += 1
                wait = error.retry_after or backoff.after(failures)
                log.warning("queue.failed", problem=str(error), retry_in_seconds=wait)
                self._context.stopping.wait(wait)
            except Exception:
                failures += 1
                log.exception("queue.defect", queue=queue)
                self._context.stopping.wait(backoff.after(failures))
            else:
                failures = 0
                self._commands.take(queue, messages)

    # --- housekeeping -----------------------------------------------------------------------

    def _keep_house(self, stopping: threading.Event) -> None:
        """Everything that is due from time to time, in the main thread."""
        beat = self._settings.heartbeat_seconds
        tick = min(TICK_SECONDS, beat)
        chores: list[tuple[float, Callable[[], object]]] = [
            (beat, self._beat),
            (tick, self._end_overdue),
            (tick, self._attempts.supervise_again),
            (max(beat, 15.0), self._repeat_hello),
            (60.0, self._attempts.repeat_ends),
            (SWEEP_SECONDS, self._sweep),
            (SWEEP_SECONDS, self._look_at_images),
        ]
        started = self._context.clock.monotonic()
        due = [started + interval for interval, _ in chores]
        while not stopping.is_set():
            now = self._context.clock.monotonic()
            for number, (interval, chore) in enumerate(chores):
                if now >= due[number]:
                    due[number] = now + interval
                    self._do(chore)
            self._check_threads()
            stopping.wait(max(0.05, min(due) - self._context.clock.monotonic()))

    def _do(self, chore: Callable[[], object]) -> None:
        name = getattr(chore, "__name__", "")
        try:
            chore()
        except (TransientError, PermanentError, OSError) as error:
            log.warning("chore.failed", chore=name, problem=str(error))
        except Exception:
            # The other chores do not wait for this one: without heartbeats all is lost.
            self._commands.count("defect")
            log.exception("chore.defect", chore=name)

    def _check_threads(self) -> None:
        if self._context.stopping.is_set():
            return
        for thread in self._threads:
            if not thread.is_alive():
                log.error("thread.ended", thread=thread.name)
                raise SystemExit(f"the loop {thread.name!r} has ended")

    def _beat(self) -> None:
        heartbeat = Heartbeat(inventory=self.build_inventory())
        self._outbox.tell("heartbeat", heartbeat, group=self._settings.group)

    def _say_hello(self) -> None:
        hello = Hello(inventory=self.build_inventory())
        self._expectations.hellos.add(self._outbox.tell("hello", hello, group=self._settings.group))

    def _repeat_hello(self) -> None:
        if self._expectations.wants_hello:
            self._say_hello()

    def _end_overdue(self) -> None:
        self._expectations.end_overdue()
        self._orphans.end_overdue()

    def _sweep(self) -> None:
        self._look_for_orphans()
        self._remove_orphan_folders()
        self._context.prepared.sweep(lambda: [(c.name, c.folder) for c in self._attempts.list()])
        self._context.compiled.sweep()
        self._do(self._sweep_images)
        if not any(c.attempt.start.network for c in self._attempts.list()):
            remove_tree(self._settings.old_cache_dir)
        self._journal.forget_old_fences(self._context.clock.now())

    def _look_at_images(self) -> None:
        self._images = look_at_images(self._settings.images_allowed, self._context.runtime)

    def _sweep_images(self) -> None:
        attempts = [handle.attempt for handle in self._attempts.list()]
        self._context.runtime.sweep_images({a.start.image for a in attempts if a.holds_slot})

    def _look_for_orphans(self) -> None:
        attempts = {handle.name: handle.attempt for handle in self._attempts.list()}
        is_running = {name: attempt.holds_slot for name, attempt in attempts.items()}
        is_running |= {
            build_prepare_name(name): attempt.phase is AttemptPhase.PREPARING
            for name, attempt in attempts.items()
        }
        self._orphans.look(is_running, self._adopt)

    def _adopt(self, name: str, labels: Mapping[str, str]) -> bool:
        now = self._context.clock.now()
        attempt = build_adopted(labels, runtime=self._context.runtime.name, now=now)
        with self._attempts.lock:
            if attempt is None or not self._is_adoptable(name, attempt):
                return False
            posted = self._journal.save(attempt, now=now, announce=True)
            handle = self._attempts.add(attempt)
        if posted is not None:
            self._outbox.post(posted)
        log.warning("container.adopted", container=name)
        self._attempts.supervise(handle)
        return True

    def _is_adoptable(self, name: str, attempt: Attempt) -> bool:
        ref = attempt.ref
        mark = self._journal.get_mark(ref.task_key)
        return (
            self._attempts.find_name(ref) == name
            and ref not in self._attempts.handles
            and ref.fence > max(mark.seen, mark.cancelled)
            and (self._settings.attempts_dir / name / "out").is_dir()
        )

    def _remove_orphan_folders(self) -> None:
        names = {handle.name for handle in self._attempts.list()}
        kept = names | set(map(build_prepare_name, names)) | self._orphans.names
        for folder in self._settings.attempts_dir.iterdir():
            if folder.name not in kept:
                log.info("folder.removed", folder=folder.name)
                remove_tree(folder)

    # --- what it is -------------------------------------------------------------------------

    def build_inventory(self) -> Inventory:
        """Return what this server is and runs, now."""
        attempts = [handle.attempt for handle in self._attempts.list()]
        return Inventory(
            slots=self._settings.slots,
            validation_slots=self._settings.validation_slots,
            runtime=self._context.runtime.name,
            agent_version=metadata.version("touchstone-agent"),
            cpus=self._machine.cpus,
            memory_mib=self._machine.memory_mib,
            disk_free_mib=self._find_free_disk(),
            gpus=tuple(map(self._describe_gpu, self._machine.gpus))[:MAX_GPUS],
            running=tuple((a.ref, a.phase) for a in attempts if not a.is_final)[:MAX_RUNNING],
            images=self._images,
            private_data=self._context.private.list_held(),
        )

    def _find_free_disk(self) -> int | None:
        """Return what is free for attempts, in whole GiB, so that not every heartbeat differs."""
        try:
            free = shutil.disk_usage(self._settings.state_dir).free
        except OSError:
            return None
        return max(0, free // 1024**2 - self._settings.min_free_mib) // 1024 * 1024

    def _describe_gpu(self, gpu: DetectedGpu) -> ServerGpu:
        return ServerGpu(
            index=gpu.index,
            name=gpu.name,
            memory_mib=gpu.memory_mib,
            uuid=gpu.uuid,
            driver=gpu.driver,
            shares=self._settings.gpu_shares,
        )
