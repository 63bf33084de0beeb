"""The daemon: two queues in, one out, and a supervisor per attempt."""

from __future__ import annotations

import shutil
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from functools import partial
from importlib import metadata
from typing import Protocol, TypeVar, assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from touchstone_agent.adapters.files import make_attempt_folder, remove_tree
from touchstone_agent.adapters.gpu import look_at_gpus
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.adapters.sqs import Received
from touchstone_agent.cell import AttemptCell
from touchstone_agent.core.admission import (
    ALL_USABLE,
    Accept,
    Capacity,
    Decision,
    Refuse,
    Repeat,
    decide_start,
)
from touchstone_agent.core.attempts import Attempt
from touchstone_agent.core.backoff import Backoff
from touchstone_agent.core.gpus import DetectedGpu
from touchstone_agent.core.resync import plan_sync
from touchstone_agent.gpus import Holder, judge_gpus
from touchstone_agent.logs import Log
from touchstone_agent.machine import Machine
from touchstone_agent.outbox import Outbox
from touchstone_agent.protocol.envelope import CommandMessage, Header, open_command
from touchstone_agent.protocol.errors import (
    MessageRefused,
    PermanentError,
    TransientError,
)
from touchstone_agent.protocol.facts import ServerGpu
from touchstone_agent.protocol.messages import (
    MAX_GPUS,
    MAX_RUNNING,
    Acknowledge,
    AttemptPhase,
    AttemptRef,
    Cancel,
    Grants,
    Heartbeat,
    Hello,
    Inventory,
    PhaseChanged,
    Poison,
    Refusal,
    Start,
    Sync,
)
from touchstone_agent.protocol.names import build_prepare_name
from touchstone_agent.settings import AgentSettings
from touchstone_agent.strangers import Strangers, build_adopted
from touchstone_agent.supervisor import Supervisor
from touchstone_agent.workshop import Workshop

TICK_SECONDS = 5.0
SWEEP_SECONDS = 300.0
REPEAT_SECONDS = 600.0
"""Before an end that nobody acknowledges is told again: the event queue may have lost it."""

LEAVE_SECONDS = 2.0

MAX_DEFECTS = 5
"""After so many failures on one message the control plane is told of it."""
MAX_DEFECTS_KNOWN = 1000
MAX_LOOKS_KNOWN = 100

log = Log("agent")

K = TypeVar("K")


class CommandQueues(Protocol):
    """Where commands come from."""

    def receive(self, queue: str, *, wait_seconds: int = 20) -> tuple[Received, ...]:
        """Wait for messages."""
        ...

    def delete(self, queue: str, receipt: str) -> None:
        """Delete a message."""
        ...


class Agent:
    """
    Receives commands and keeps the attempts; the attempts' work is done by their supervisors.

    :param settings: The settings.
    :param keys: Public keys of the control plane.
    :param queues: The queues.
    :param journal: The journal.
    :param outbox: Where events go.
    :param shop: What supervisors work with.
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
        shop: Workshop,
        machine: Machine,
        epoch: str,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._queues = queues
        self._journal = journal
        self._outbox = outbox
        self._shop = shop
        self._machine = machine
        self._epoch = epoch
        self._capacity = Capacity(
            slots=settings.slots,
            validation_slots=settings.validation_slots,
            gpus=machine.gpus,
            gpu_shares=settings.gpu_shares,
            images_allowed=settings.image_patterns,
        )
        self._lock = threading.RLock()
        self._cells: dict[AttemptRef, AttemptCell] = {}
        self._hellos: set[str] = set()
        self._synced = False
        self._quarantine: dict[AttemptRef, float] = {}
        self._missing: dict[AttemptRef, float] = {}
        self._strangers = Strangers(
            shop.runtime, shop.clock, grace_seconds=settings.quarantine_seconds
        )
        self._told_at: dict[AttemptRef, float] = {}
        self._defects: OrderedDict[str, int] = OrderedDict()
        self._looks: OrderedDict[AttemptRef, Mapping[str, str]] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self.counts: Counter[str] = Counter()
        """What was ignored or refused, by kind."""

    # --- life -------------------------------------------------------------------------------

    def recover(self) -> None:
        """Take over whatever an earlier agent left: journal, containers, folders, unsent events."""
        unsent = self._journal.load_outbox()
        for posted in unsent:
            self._outbox.post(posted)
        told = {(posted.event.ref, posted.event.phase) for posted in unsent}
        for attempt in self._journal.load():
            cell = self._add_cell(attempt)
            log.info("attempt.recovered", attempt=cell.name, phase=attempt.phase)
            if (attempt.ref, attempt.phase) not in told:
                cell.announce()
        self._do(self._look_for_strangers)
        self._do(self._remove_orphan_folders)
        for cell in self._list_cells():
            if not cell.attempt.is_final and not cell.is_supervised:
                self._supervise(cell)

    def run(self) -> None:
        """
        Work until the stopping event of the workshop is set.

        :raises SystemExit: If one of the loops has ended by itself: whoever looks after the daemon
            starts it again, while half an agent would go unnoticed. Containers go on.
        """
        self._say_hello()
        stopping = self._shop.stopping
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
        self._shop.stopping.set()
        for cell in self._list_cells():
            cell.woken.set()
        self._shop.desk.wake()
        # In a thread: a queue that does not answer must not hold up the end.
        flush = threading.Thread(target=self._outbox.flush, args=(LEAVE_SECONDS,), daemon=True)
        flush.start()
        flush.join(LEAVE_SECONDS)

    def _poll(self, queue: str) -> None:
        backoff = Backoff(first_seconds=0.5, cap_seconds=15)
        failures = 0
        while not self._shop.stopping.is_set():
            try:
                messages = self._queues.receive(queue)
            except TransientError as error:
                failures += 1
                wait = error.retry_after or backoff.after(failures)
                log.warning("queue.failed", problem=str(error), retry_in_seconds=wait)
                self._shop.stopping.wait(wait)
            except Exception:
                failures += 1
                log.exception("queue.defect", queue=queue)
                self._shop.stopping.wait(backoff.after(failures))
            else:
                failures = 0
                self.take(queue, messages)

    def take(self, queue: str, messages: Iterable[Received]) -> None:
        """
        Act on messages, one after the other; what fails stays on the queue and comes again.

        Only what is of the same task must not overtake it: all others are acted on.

        :param queue: Where they are from.
        :param messages: As they were received.
        """
        waiting: set[str] = set()
        for message in messages:
            if message.group in waiting:
                continue
            try:
                self.handle(queue, message)
                self._defects.pop(message.message_id, None)
            except TransientError as error:
                log.warning("message.delayed", id=message.message_id, problem=str(error))
                waiting.add(message.group)
            except Exception as error:
                log.exception("message.defect", queue=queue, id=message.message_id)
                waiting.add(message.group)
                self._count_defect(message, error)

    def _count_defect(self, message: Received, error: Exception) -> None:
        """Tell of a message that failed too often; the queue sets it aside soon after that."""
        self._count("defect")
        failed = self._defects.pop(message.message_id, 0) + 1
        if len(self._defects) >= MAX_DEFECTS_KNOWN:
            self._defects.popitem(last=False)
        self._defects[message.message_id] = failed
        if failed == MAX_DEFECTS:
            reason = f"the agent failed on it {failed} times: {error!r}"[:500]
            poison = Poison(reason=reason, message_id=message.message_id)
            self._outbox.tell(f"poison {message.message_id}", poison, group=self._group)

    # --- commands ---------------------------------------------------------------------------

    def handle(self, queue: str, received: Received) -> None:
        """
        Act on one message, then delete it: what it asks for is journalled by then.

        :raises TransientError: If it could not be deleted; it comes again and changes nothing.
        """
        try:
            message = open_command(
                received.body,
                keys=self._keys,
                env=self._settings.env,
                server=self._settings.server,
                now=self._shop.clock.now(),
            )
        except MessageRefused as error:
            self._count("refused")
            reason = str(error)[:500]
            log.warning("message.refused", queue=queue, id=received.message_id, reason=reason)
            poison = Poison(reason=reason, message_id=received.message_id)
            self._outbox.tell(f"poison {received.message_id}", poison, group=self._group)
        else:
            self._dispatch(message)
        self._queues.delete(queue, received.receipt)

    def _dispatch(self, message: CommandMessage) -> None:
        body = message.body
        log.info("message.received", kind=body.kind, message_id=message.header.message_id)
        match body:
            case Start():
                self._on_start(body)
            case Cancel():
                self._on_cancel(body)
            case Grants():
                self._on_grants(body)
            case Acknowledge():
                self._on_acknowledge(body)
            case Sync():
                self._on_sync(body, message.header)
            case _ as never:
                assert_never(never)

    def _on_start(self, start: Start) -> None:
        try:
            self._judge_start(start)
        except TransientError as error:
            with self._lock:
                if start.ref in self._cells:
                    raise  # it was taken; the rest is done when the message comes again
            # Without a journal nothing may be begun, and nothing be promised to be told for sure.
            event = PhaseChanged(
                ref=start.ref,
                phase=AttemptPhase.REJECTED,
                at=self._shop.clock.now(),
                reason=f"disk: {error}"[:500],
                details={"refusal": Refusal.DISK.value},
            )
            key = f"refusal {start.ref.task_key} {start.ref.fence}"
            self._outbox.tell(key, event, group=start.ref.task_key)

    def _judge_start(self, start: Start) -> None:
        unusable = self._find_unusable_gpus(start)
        now = self._shop.clock.now()
        with self._lock:
            self._missing.pop(start.ref, None)
            decision = self._decide_start(start, unusable)
            if isinstance(decision, Accept):
                decision = self._find_problem(start) or decision
            match decision:
                case Repeat():
                    self._cells[start.ref].announce()
                case Refuse():
                    self._tell_refusal(start.ref, decision, now)
                case Accept():
                    self._accept(start, decision, now)

    def _decide_start(self, start: Start, unusable: Mapping[str, str] = ALL_USABLE) -> Decision:
        return decide_start(
            start,
            attempts=[cell.attempt for cell in self._cells.values()],
            mark=self._journal.get_mark(start.ref.task_key),
            capacity=self._capacity,
            unusable=unusable,
        )

    def _find_unusable_gpus(self, start: Start) -> Mapping[str, str]:
        """
        Ask the driver once which GPUs a START must not get, if it would get any.

        Nobody waits for that but other STARTs: a driver may take seconds, or hang. By then this
        START may have come a second time, which changes nothing of the answer.
        """
        with self._lock:
            decision = self._decide_start(start)
            answered = self._looks.get(start.ref)
        if not isinstance(decision, Accept) or not decision.gpu_ids:
            return ALL_USABLE
        if answered is not None:
            return answered
        known = self._machine.gpus
        look = look_at_gpus(has_slices=any(gpu.parent for gpu in known))
        holders = [
            Holder(name=cell.name, out=cell.folder / "out", gpu_ids=cell.attempt.gpu_ids)
            for cell in self._list_cells()
            if cell.attempt.holds_slot
        ]
        unusable = judge_gpus(known, look, holders, self._shop.runtime)
        for uuid, reason in unusable.items():
            log.warning("gpu.unusable", gpu=uuid, reason=reason)
        with self._lock:
            if len(self._looks) >= MAX_LOOKS_KNOWN:
                self._looks.popitem(last=False)
            self._looks[start.ref] = unusable
        return unusable

    def _accept(self, start: Start, decision: Accept, now: datetime) -> None:
        attempt = Attempt(
            start=start,
            phase=AttemptPhase.ACCEPTED,
            phase_at=now,
            accepted_at=now,
            gpu_ids=decision.gpu_ids,
            gpu_shares=self._capacity.gpu_shares,
        )
        posted = self._journal.save(attempt, now=now, announce=True)
        cell = self._add_cell(attempt)
        if posted is not None:
            self._outbox.post(posted)
        log.info("attempt.accepted", attempt=cell.name, image=start.image)
        for ref in decision.supersedes:
            self._cells[ref].end(f"superseded by fence {start.ref.fence}")
        self._supervise(cell)

    def _tell_refusal(self, ref: AttemptRef, refusal: Refuse, now: datetime) -> None:
        log.info("attempt.refused", task=ref.task_key, fence=ref.fence, reason=refusal.reason)
        event = PhaseChanged(
            ref=ref,
            phase=refusal.phase,
            at=now,
            reason=refusal.reason,
            details={"refusal": refusal.refusal.value} if refusal.refusal else {},
        )
        self._outbox.post(self._journal.post(event))

    def _find_problem(self, start: Start) -> Refuse | None:
        if self._find_name(start.ref) is None:
            reason = f"{start.ref.task_key} cannot be part of a container's name"
            return Refuse(phase=AttemptPhase.REJECTED, reason=reason, refusal=Refusal.NAME)
        wanted = sum(item.size for item in start.inputs) + self._settings.min_free_mib * 1024**2
        free = shutil.disk_usage(self._settings.state_dir).free
        if free < wanted:
            reason = f"disk: {free // 1024**2} MiB free, {wanted // 1024**2} MiB wanted"
            return Refuse(phase=AttemptPhase.REJECTED, reason=reason, refusal=Refusal.DISK)
        return None

    def _on_cancel(self, cancel: Cancel) -> None:
        now = self._shop.clock.now()
        with self._lock:
            self._missing.pop(cancel.ref, None)
            cells = [
                cell
                for cell in self._cells.values()
                if cell.ref.task_key == cancel.ref.task_key and cell.ref.fence <= cancel.ref.fence
            ]
            known = any(cell.ref == cancel.ref for cell in cells)
            # Nothing of it is here and, from this mark on, nothing will ever be.
            event = None if known else self._build_cancelled(cancel, now)
            posted = self._journal.mark(cancel.ref, now=now, cancelled=True, event=event)
        if posted is not None:
            self._outbox.post(posted)
        name = self._find_name(cancel.ref)
        if name is not None:
            self._strangers.end_soon(name)
        for cell in cells:
            if not cell.end(cancel.reason) and cell.ref == cancel.ref:
                cell.announce()

    def _build_cancelled(self, cancel: Cancel, now: datetime) -> PhaseChanged:
        return PhaseChanged(
            ref=cancel.ref, phase=AttemptPhase.CANCELLED, at=now, reason=cancel.reason
        )

    def _on_grants(self, grants: Grants) -> None:
        # Whoever gives grants knows of the attempt.
        with self._lock:
            self._quarantine.pop(grants.ref, None)
        if not self._shop.desk.receive(grants):
            self._count("unexpected_grants")
            log.info("grants.unexpected", task=grants.ref.task_key, fence=grants.ref.fence)

    def _on_acknowledge(self, acknowledge: Acknowledge) -> None:
        with self._lock:
            cell = self._cells.get(acknowledge.ref)
            if cell is None:
                return
            if cell.attempt.holds_slot:
                self._count("early_acknowledge")
                log.warning("acknowledge.early", attempt=cell.name)
            elif cell.attempt.is_final and cell.is_supervised:
                # The last lines of a cancelled attempt's console are on their way.
                cell.acknowledged.set()
            else:
                self._drop(cell)

    def _on_done(self, cell: AttemptCell) -> None:
        with self._lock:
            cell.is_supervised = False
            if cell.acknowledged.is_set() and not self._shop.stopping.is_set():
                self._drop(cell)

    def _on_sync(self, sync: Sync, header: Header) -> None:
        if header.correlation_id is not None and header.correlation_id not in self._hellos:
            self._count("unexpected_sync")
            log.info("sync.unexpected", correlation_id=header.correlation_id)
            return
        self._synced = True
        monotonic = self._shop.clock.monotonic()
        with self._lock:
            plan = plan_sync(
                sync.expected,
                [cell.attempt for cell in self._cells.values()],
                asked_at=header.issued_at,
            )
            for ref in plan.expected:
                self._quarantine.pop(ref, None)
                self._cells[ref].announce()
            for ref in plan.unexpected:
                if ref not in self._quarantine:
                    log.warning("attempt.quarantined", attempt=self._cells[ref].name)
                    ends = monotonic + self._settings.quarantine_seconds
                    self._quarantine[ref] = ends
            for ref in plan.missing:
                self._missing.setdefault(ref, monotonic + self._settings.sync_grace_seconds)

    def _count(self, what: str) -> None:
        # Both queues are polled at once, and a Counter adds in two steps.
        with self._lock:
            self.counts[what] += 1

    # --- housekeeping -----------------------------------------------------------------------

    def _keep_house(self, stopping: threading.Event) -> None:
        """Everything that is due from time to time, in the main thread."""
        beat = self._settings.heartbeat_seconds
        tick = min(TICK_SECONDS, beat)
        chores: list[tuple[float, Callable[[], object]]] = [
            (beat, self._beat),
            (tick, self._end_overdue),
            (tick, self._supervise_again),
            (max(beat, 15.0), self._repeat_hello),
            (60.0, self._repeat_ends),
            (SWEEP_SECONDS, self._sweep),
        ]
        started = self._shop.clock.monotonic()
        due = [started + interval for interval, _ in chores]
        while not stopping.is_set():
            now = self._shop.clock.monotonic()
            for number, (interval, chore) in enumerate(chores):
                if now >= due[number]:
                    due[number] = now + interval
                    self._do(chore)
            self._check_threads()
            stopping.wait(max(0.05, min(due) - self._shop.clock.monotonic()))

    def _do(self, chore: Callable[[], object]) -> None:
        name = getattr(chore, "__name__", "")
        try:
            chore()
        except (TransientError, PermanentError, OSError) as error:
            log.warning("chore.failed", chore=name, problem=str(error))
        except Exception:
            # The other chores do not wait for this one: without heartbeats all is lost.
            self._count("defect")
            log.exception("chore.defect", chore=name)

    def _check_threads(self) -> None:
        if self._shop.stopping.is_set():
            return
        for thread in self._threads:
            if not thread.is_alive():
                log.error("thread.ended", thread=thread.name)
                raise SystemExit(f"the loop {thread.name!r} has ended")

    def _supervise_again(self) -> None:
        """Go on with attempts whose supervisor has ended without bringing them to an end."""
        for cell in self._list_cells():
            if not cell.attempt.is_final and not cell.is_supervised:
                log.warning("attempt.supervised_again", attempt=cell.name)
                self._supervise(cell)

    def _beat(self) -> None:
        heartbeat = Heartbeat(inventory=self.build_inventory())
        self._outbox.tell("heartbeat", heartbeat, group=self._group)

    def _say_hello(self) -> None:
        hello = Hello(inventory=self.build_inventory())
        self._hellos.add(self._outbox.tell("hello", hello, group=self._group))

    def _repeat_hello(self) -> None:
        if not self._synced and len(self._hellos) < 1000:
            self._say_hello()

    def _end_overdue(self) -> None:
        now = self._shop.clock.monotonic()
        with self._lock:
            unexpected = [self._cells.get(ref) for ref in _take_due(self._quarantine, now)]
            missing = _take_due(self._missing, now)
        for cell in filter(None, unexpected):
            cell.end("the control plane does not expect it", as_phase=AttemptPhase.LOST)
        for ref in missing:
            self._report_missing(ref)
        self._strangers.end_overdue()

    def _report_missing(self, ref: AttemptRef) -> None:
        at = self._shop.clock.now()
        with self._lock:
            if ref in self._cells:
                return
            event = PhaseChanged(
                ref=ref, phase=AttemptPhase.LOST, at=at, reason="unknown to this server"
            )
            # Marked, so that its START, should it still come, does not run it after all.
            posted = self._journal.mark(ref, now=at, cancelled=False, event=event)
        if posted is not None:
            self._outbox.post(posted)
        log.warning("attempt.missing", task=ref.task_key, fence=ref.fence)

    def _repeat_ends(self) -> None:
        """Tell ends again that nobody acknowledged, and forget those that nobody ever will."""
        now, at = self._shop.clock.monotonic(), self._shop.clock.now()
        keep = timedelta(hours=self._settings.keep_hours)
        for cell in self._list_cells():
            attempt = cell.attempt
            if attempt.holds_slot:
                continue
            if at - attempt.phase_at > keep:
                log.error("attempt.expired", attempt=cell.name, phase=attempt.phase)
                self._drop(cell)
            elif now >= self._told_at.setdefault(cell.ref, now + REPEAT_SECONDS):
                self._told_at[cell.ref] = now + REPEAT_SECONDS
                cell.announce()

    def _sweep(self) -> None:
        self._look_for_strangers()
        self._remove_orphan_folders()
        self._shop.prepared.sweep(lambda: [(c.name, c.folder) for c in self._list_cells()])
        if not any(c.attempt.start.network for c in self._list_cells()):
            remove_tree(self._settings.old_cache_dir)
        self._journal.forget_old_fences(self._shop.clock.now())

    def _look_for_strangers(self) -> None:
        attempts = {cell.name: cell.attempt for cell in self._list_cells()}
        is_running = {name: attempt.holds_slot for name, attempt in attempts.items()}
        is_running |= {
            build_prepare_name(name): attempt.phase is AttemptPhase.PREPARING
            for name, attempt in attempts.items()
        }
        self._strangers.look(is_running, self._adopt)

    def _adopt(self, name: str, labels: Mapping[str, str]) -> bool:
        now = self._shop.clock.now()
        attempt = build_adopted(labels, runtime=self._shop.runtime.name, now=now)
        with self._lock:
            if attempt is None or not self._is_adoptable(name, attempt):
                return False
            posted = self._journal.save(attempt, now=now, announce=True)
            cell = self._add_cell(attempt)
        if posted is not None:
            self._outbox.post(posted)
        log.warning("container.adopted", container=name)
        self._supervise(cell)
        return True

    def _is_adoptable(self, name: str, attempt: Attempt) -> bool:
        ref = attempt.ref
        mark = self._journal.get_mark(ref.task_key)
        return (
            self._find_name(ref) == name
            and ref not in self._cells
            and ref.fence > max(mark.seen, mark.cancelled)
            and (self._settings.attempts_dir / name / "out").is_dir()
        )

    def _remove_orphan_folders(self) -> None:
        names = {cell.name for cell in self._list_cells()}
        kept = names | set(map(build_prepare_name, names)) | self._strangers.names
        for folder in self._settings.attempts_dir.iterdir():
            if folder.name not in kept:
                log.info("folder.removed", folder=folder.name)
                remove_tree(folder)

    # --- the attempts -----------------------------------------------------------------------

    @property
    def _group(self) -> str:
        return f"server-{self._settings.server}"

    def build_inventory(self) -> Inventory:
        """Return what this server is and runs, now."""
        attempts = [cell.attempt for cell in self._list_cells()]
        return Inventory(
            slots=self._settings.slots,
            validation_slots=self._settings.validation_slots,
            runtime=self._shop.runtime.name,
            agent_version=metadata.version("touchstone-agent"),
            cpus=self._machine.cpus,
            memory_mib=self._machine.memory_mib,
            gpus=tuple(map(self._describe_gpu, self._machine.gpus))[:MAX_GPUS],
            running=tuple((a.ref, a.phase) for a in attempts if not a.is_final)[:MAX_RUNNING],
        )

    def _describe_gpu(self, gpu: DetectedGpu) -> ServerGpu:
        return ServerGpu(
            index=gpu.index,
            name=gpu.name,
            memory_mib=gpu.memory_mib,
            uuid=gpu.uuid,
            driver=gpu.driver,
            shares=self._capacity.gpu_shares,
        )

    def _list_cells(self) -> tuple[AttemptCell, ...]:
        with self._lock:
            return tuple(self._cells.values())

    def _find_name(self, ref: AttemptRef) -> str | None:
        try:
            return ref.container_name(self._settings.env)
        except ValueError:
            return None  # no container can have such a name

    def _add_cell(self, attempt: Attempt) -> AttemptCell:
        name = attempt.ref.container_name(self._settings.env)
        folder = self._settings.attempts_dir / name
        make_attempt_folder(folder)
        cell = AttemptCell(
            attempt,
            name=name,
            folder=folder,
            journal=self._journal,
            outbox=self._outbox,
            clock=self._shop.clock,
        )
        with self._lock:
            self._cells[attempt.ref] = cell
        return cell

    def _supervise(self, cell: AttemptCell) -> None:
        Supervisor(
            cell,
            self._shop,
            find_blockers=partial(self._find_blockers, cell),
            on_done=self._on_done,
        ).start()

    def _find_blockers(self, cell: AttemptCell) -> Iterable[AttemptCell]:
        return [
            other
            for other in self._list_cells()
            if other.ref.task_key == cell.ref.task_key and other.ref.fence < cell.ref.fence
        ]

    def _drop(self, cell: AttemptCell) -> None:
        with self._lock:
            cell.drop()
            self._cells.pop(cell.ref, None)
            self._told_at.pop(cell.ref, None)
        log.info("attempt.forgotten", attempt=cell.name)
        remove_tree(cell.folder)
        remove_tree(cell.folder.with_name(build_prepare_name(cell.name)))


def _take_due(deadlines: dict[K, float], now: float) -> list[K]:
    due = [key for key, ends in deadlines.items() if now >= ends]
    for key in due:
        del deadlines[key]
    return due
