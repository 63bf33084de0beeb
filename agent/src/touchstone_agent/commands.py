"""What the control plane orders: each message is checked, acted on, and deleted after that."""

from __future__ import annotations

import shutil
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Protocol, assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from touchstone_agent.adapters.gpu import look_at_gpus
from touchstone_agent.adapters.journal import Journal
from touchstone_agent.adapters.sqs import Received
from touchstone_agent.attempt_table import AttemptTable
from touchstone_agent.context import AgentContext
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
from touchstone_agent.expectations import Expectations
from touchstone_agent.gpus import Holder, judge_gpus
from touchstone_agent.image_stager import ImageStager
from touchstone_agent.logs import Log
from touchstone_agent.machine import Machine
from touchstone_agent.orphans import Orphans
from touchstone_agent.protocol.envelope import CommandMessage, Header, open_command
from touchstone_agent.protocol.errors import MessageRefused, TransientError
from touchstone_agent.protocol.messages import (
    Acknowledge,
    AttemptPhase,
    AttemptRef,
    Cancel,
    Grants,
    PhaseChanged,
    Poison,
    PullLogin,
    Refusal,
    Stage,
    Start,
    Sync,
)
from touchstone_agent.settings import AgentSettings

MAX_DEFECTS = 5
"""After so many failures on one message the agent reports it to the control plane."""
MAX_DEFECTS_KNOWN = 1000
MAX_LOOKS_KNOWN = 100
"""What is remembered of messages that failed, and of GPUs that were looked at for a START: both are
of what comes again within minutes."""

log = Log("agent")


class CommandQueues(Protocol):
    """Where commands come from."""

    def receive(self, queue: str, *, wait_seconds: int = 20) -> tuple[Received, ...]:
        """Wait for messages."""
        ...

    def delete(self, queue: str, receipt: str) -> None:
        """Delete a message."""
        ...


class CommandHandler:
    """
    Acts on commands; what an attempt needs beyond that is done by its supervisor.

    What a command asks for is journalled before its message is deleted, and told after it is
    journalled: whatever dies in between, the message comes again and changes nothing more.

    :param settings: The settings.
    :param keys: Public keys of the control plane.
    :param queues: The queues.
    :param journal: The journal.
    :param context: What supervisors work with.
    :param machine: What this server is.
    :param attempts: The attempts that are here.
    :param expectations: What the control plane expects to be here.
    :param orphans: Containers that nobody knows.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        keys: Mapping[str, Ed25519PublicKey],
        queues: CommandQueues,
        journal: Journal,
        context: AgentContext,
        machine: Machine,
        attempts: AttemptTable,
        expectations: Expectations,
        orphans: Orphans,
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._queues = queues
        self._journal = journal
        self._outbox = context.outbox
        self._context = context
        self._machine = machine
        self._attempts = attempts
        self._expectations = expectations
        self._orphans = orphans
        self._capacity = Capacity(
            slots=settings.slots,
            validation_slots=settings.validation_slots,
            gpus=machine.gpus,
            gpu_shares=settings.gpu_shares,
            images_allowed=settings.image_patterns,
        )
        self._stager = ImageStager(context, allows=self._capacity.allows)
        self._defects: OrderedDict[str, int] = OrderedDict()
        self._looks: OrderedDict[AttemptRef, Mapping[str, str]] = OrderedDict()
        self.counts: Counter[str] = Counter()
        """What was ignored or refused, by kind."""

    def take(self, queue: str, messages: Iterable[Received]) -> None:
        """
        Act on messages, one after the other; what fails stays on the queue and comes again.

        Only messages of the same task must not overtake it; the agent acts on all others.

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
        self.count("defect")
        failed = self._defects.pop(message.message_id, 0) + 1
        if len(self._defects) >= MAX_DEFECTS_KNOWN:
            self._defects.popitem(last=False)
        self._defects[message.message_id] = failed
        if failed == MAX_DEFECTS:
            reason = f"the agent failed on it {failed} times: {error!r}"[:500]
            poison = Poison(reason=reason, message_id=message.message_id)
            self._outbox.tell(f"poison {message.message_id}", poison, group=self._settings.group)

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
                now=self._context.clock.now(),
            )
        except MessageRefused as error:
            self.count("refused")
            reason = str(error)[:500]
            log.warning("message.refused", queue=queue, id=received.message_id, reason=reason)
            poison = Poison(reason=reason, message_id=received.message_id)
            self._outbox.tell(f"poison {received.message_id}", poison, group=self._settings.group)
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
            case Stage():
                self._stager.stage(body.images)
            case PullLogin():
                self._on_login(body)
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
            with self._attempts.lock:
                if start.ref in self._attempts.handles:
                    raise  # it was taken; the rest is done when the message comes again
            # Without a journal nothing may be begun, and nothing be promised to be told for sure.
            event = PhaseChanged(
                ref=start.ref,
                phase=AttemptPhase.REJECTED,
                at=self._context.clock.now(),
                reason=f"disk: {error}"[:500],
                details={"refusal": Refusal.DISK.value},
            )
            key = f"refusal {start.ref.task_key} {start.ref.fence}"
            self._outbox.tell(key, event, group=start.ref.task_key)

    def _judge_start(self, start: Start) -> None:
        unusable = self._find_unusable_gpus(start)
        now = self._context.clock.now()
        with self._attempts.lock:
            self._expectations.note_command(start.ref)
            decision = self._decide_start(start, unusable)
            if isinstance(decision, Accept):
                decision = self._find_problem(start) or decision
            match decision:
                case Repeat():
                    self._attempts.handles[start.ref].announce()
                case Refuse():
                    self._tell_refusal(start.ref, decision, now)
                case Accept():
                    self._accept(start, decision, now)

    def _decide_start(self, start: Start, unusable: Mapping[str, str] = ALL_USABLE) -> Decision:
        return decide_start(
            start,
            attempts=[handle.attempt for handle in self._attempts.handles.values()],
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
        with self._attempts.lock:
            decision = self._decide_start(start)
            answered = self._looks.get(start.ref)
        if not isinstance(decision, Accept) or not decision.gpu_ids:
            return ALL_USABLE
        if answered is not None:
            return answered
        known = self._machine.gpus
        look = look_at_gpus(has_slices=any(gpu.parent for gpu in known))
        holders = [
            Holder(name=handle.name, out=handle.folder / "out", gpu_ids=handle.attempt.gpu_ids)
            for handle in self._attempts.list()
            if handle.attempt.holds_slot
        ]
        unusable = judge_gpus(known, look, holders, self._context.runtime)
        for uuid, reason in unusable.items():
            log.warning("gpu.unusable", gpu=uuid, reason=reason)
        with self._attempts.lock:
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
        handle = self._attempts.add(attempt)
        if posted is not None:
            self._outbox.post(posted)
        log.info("attempt.accepted", attempt=handle.name, image=start.image)
        for ref in decision.supersedes:
            self._attempts.handles[ref].end(f"superseded by fence {start.ref.fence}")
        self._attempts.supervise(handle)

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
        if self._attempts.find_name(start.ref) is None:
            reason = f"{start.ref.task_key} cannot be part of a container's name"
            return Refuse(phase=AttemptPhase.REJECTED, reason=reason, refusal=Refusal.NAME)
        lack = start.private_data and self._context.private.find_lack(start.private_data)
        if start.private_data is not None and start.network:
            lack = "data: private data and the network do not go together"
        if lack:
            return Refuse(phase=AttemptPhase.REJECTED, reason=lack, refusal=Refusal.DATA)
        wanted = sum(item.size for item in start.inputs) + self._settings.min_free_mib * 1024**2
        free = shutil.disk_usage(self._settings.state_dir).free
        if free < wanted and self._context.compiled.clear():
            free = shutil.disk_usage(self._settings.state_dir).free
        if free < wanted:
            reason = f"disk: {free // 1024**2} MiB free, {wanted // 1024**2} MiB wanted"
            return Refuse(phase=AttemptPhase.REJECTED, reason=reason, refusal=Refusal.DISK)
        return None

    def _on_cancel(self, cancel: Cancel) -> None:
        now = self._context.clock.now()
        with self._attempts.lock:
            self._expectations.note_command(cancel.ref)
            handles = [
                handle
                for handle in self._attempts.handles.values()
                if handle.ref.task_key == cancel.ref.task_key
                and handle.ref.fence <= cancel.ref.fence
            ]
            known = any(handle.ref == cancel.ref for handle in handles)
            # Nothing of it is here and, from this mark on, nothing will ever be.
            event = None if known else self._build_cancelled(cancel, now)
            posted = self._journal.mark(cancel.ref, now=now, cancelled=True, event=event)
        if posted is not None:
            self._outbox.post(posted)
        name = self._attempts.find_name(cancel.ref)
        if name is not None:
            self._orphans.end_soon(name)
        for handle in handles:
            if not handle.end(cancel.reason) and handle.ref == cancel.ref:
                handle.announce()

    def _build_cancelled(self, cancel: Cancel, now: datetime) -> PhaseChanged:
        return PhaseChanged(
            ref=cancel.ref, phase=AttemptPhase.CANCELLED, at=now, reason=cancel.reason
        )

    def _on_grants(self, grants: Grants) -> None:
        self._expectations.note_grants(grants.ref)
        if not self._context.grant_requester.receive(grants):
            self.count("unexpected_grants")
            log.info("grants.unexpected", task=grants.ref.task_key, fence=grants.ref.fence)

    def _on_login(self, login: PullLogin) -> None:
        if not self._context.logins.receive(login):
            self.count("unexpected_login")
            log.info("login.unexpected", task=login.ref.task_key if login.ref else None)

    def _on_acknowledge(self, acknowledge: Acknowledge) -> None:
        with self._attempts.lock:
            handle = self._attempts.handles.get(acknowledge.ref)
            if handle is None:
                return
            if handle.attempt.holds_slot:
                self.count("early_acknowledge")
                log.warning("acknowledge.early", attempt=handle.name)
            elif handle.attempt.is_final and handle.is_supervised:
                # The last lines of a cancelled attempt's console are on their way.
                handle.acknowledged.set()
            else:
                self._attempts.drop(handle)

    def _on_sync(self, sync: Sync, header: Header) -> None:
        if not self._expectations.take(sync, header):
            self.count("unexpected_sync")
            log.info("sync.unexpected", correlation_id=header.correlation_id)

    def count(self, what: str) -> None:
        """Count what was ignored or refused."""
        # Both queues are polled at once, and a Counter adds in two steps.
        with self._attempts.lock:
            self.counts[what] += 1
